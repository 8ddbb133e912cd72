//! Who asks, and whether they may. Local mode: the secret of this launch, from this machine's own pages only. Everywhere: tokens.

mod guard;
mod identify;
mod scope;

pub(crate) use identify::authenticate;
pub(crate) use scope::Scope;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use std::collections::BTreeSet;

/// Prefix of every token, so that scanners recognise a leaked one.
pub(crate) const TOKEN_PREFIX: &str = "fat_";

/// The cookie that carries a secret.
pub(crate) const COOKIE: &str = "fathom_session";

/// Whoever made a request.
#[derive(Clone, Debug)]
pub(crate) struct Principal {
    /// `local`, or `token:<id>`: the key of rate limits and idempotency.
    pub(crate) key: String,
    /// For people: `local`, or the token's name.
    pub(crate) name: String,
    /// What they may do.
    pub(crate) scopes: BTreeSet<Scope>,
    /// When the token expires.
    pub(crate) expires_at: Option<chrono::DateTime<chrono::Utc>>,
}

impl Principal {
    /// The person at the machine.
    pub(crate) fn local() -> Self {
        Self {
            key: "local".into(),
            name: "local".into(),
            scopes: BTreeSet::from(Scope::ALL),
            expires_at: None,
        }
    }

    pub(crate) fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin)
    }
}

impl<S: Sync> FromRequestParts<S> for Principal {
    type Rejection = crate::Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, crate::Problem> {
        let principal = parts.extensions.get::<Self>().cloned();
        principal.ok_or_else(|| crate::Problem::new(crate::problem::Code::UNAUTHENTICATED, "The request carries no credential."))
    }
}

/// Digest of a token: what the database keeps. Tokens are 256 random bits, so a fast hash is enough.
pub(crate) fn token_digest(token: &str) -> [u8; 32] {
    blake3::derive_key("fathom.dev 2026 access tokens", token.as_bytes())
}
