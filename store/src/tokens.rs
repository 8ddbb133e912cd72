//! Table `tokens`: what programs authenticate with. The store sees digests only.

use crate::{Error, Result, Store};
use chrono::{DateTime, Utc};

/// A token without its secret.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenRow {
    /// Database id.
    pub id: i64,
    /// Name.
    pub name: String,
    /// What it allows.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
}

impl Store {
    /// Stores a token's digest.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the name is taken, [`Error::Invalid`], [`Error::Database`].
    pub async fn add_token(&self, name: &str, digest: &[u8], scopes: &[String], expires_at: DateTime<Utc>) -> Result<TokenRow> {
        let row = sqlx::query_as!(
            TokenRow,
            "INSERT INTO tokens (name, digest, scopes, created_at, expires_at) VALUES ($1, $2, $3, now(), $4)
             RETURNING id, name, scopes, created_at, expires_at",
            name,
            digest,
            scopes,
            expires_at
        );
        Ok(row.fetch_one(&self.pool).await?)
    }

    /// The token with this digest, if it has not ended.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn token(&self, digest: &[u8], now: DateTime<Utc>) -> Result<Option<TokenRow>> {
        let row = sqlx::query_as!(
            TokenRow,
            "SELECT id, name, scopes, created_at, expires_at FROM tokens WHERE digest = $1 AND expires_at > $2",
            digest,
            now
        );
        Ok(row.fetch_optional(&self.pool).await?)
    }

    /// All tokens by name, at most 1,000.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn tokens(&self) -> Result<Vec<TokenRow>> {
        let rows = sqlx::query_as!(
            TokenRow,
            "SELECT id, name, scopes, created_at, expires_at FROM tokens ORDER BY name LIMIT 1000"
        );
        Ok(rows.fetch_all(&self.pool).await?)
    }

    /// Ends a token.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Database`].
    pub async fn delete_token(&self, id: i64) -> Result<()> {
        let deleted = sqlx::query!("DELETE FROM tokens WHERE id = $1", id).execute(&self.pool).await?;
        match deleted.rows_affected() {
            0 => Err(Error::NotFound {
                what: "token",
                name: id.to_string(),
            }),
            _ => Ok(()),
        }
    }
}
