//! `/tokens`: credentials for programs. A token is shown once; the database has its digest.

use crate::Api;
use crate::auth::{Scope, TOKEN_PREFIX, token_digest};
use crate::extract::Json;
use crate::page::List;
use crate::problem::{Code, Problem};
use crate::secret::hex;
use crate::view::time;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::TimeDelta;
use fathom_store::tokens::TokenRow;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Longest life of a token.
const MOST_DAYS: u32 = 366;

/// A token without its secret.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Token {
    /// Id.
    id: i64,
    /// Name.
    name: String,
    /// What it allows.
    #[schema(value_type = Vec<Scope>)]
    scopes: Vec<String>,
    /// RFC 3339.
    created_at: String,
    /// RFC 3339.
    expires_at: String,
    /// The secret; only in the answer to its creation.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

/// A token to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NewToken {
    /// Name, 1 to 100 characters.
    #[schema(min_length = 1, max_length = 100)]
    name: String,
    /// What it allows.
    #[schema(min_items = 1)]
    scopes: Vec<Scope>,
    /// Days until it expires, 1 to 366.
    #[schema(minimum = 1, maximum = 366)]
    expires_in_days: u32,
}

/// All tokens, without their secrets.
#[utoipa::path(get, path = "/tokens", operation_id = "listTokens", tag = "service", responses((status = 200, body = List<Token>)))]
pub(super) async fn list(State(api): State<Api>) -> Result<axum::Json<List<Token>>, Problem> {
    let rows = api.timed("tokens", api.store.tokens()).await?;
    Ok(axum::Json(List {
        items: rows.into_iter().map(|row| view(row, None)).collect(),
        next_cursor: None,
    }))
}

/// Makes a token. Its secret is in this answer only.
#[utoipa::path(post, path = "/tokens", operation_id = "createToken", tag = "service", request_body = NewToken,
    responses((status = 201, body = Token, headers(("Location" = String))),
              (status = 409),
              (status = 422)))]
pub(super) async fn create(State(api): State<Api>, Json(new): Json<NewToken>) -> Result<Response, Problem> {
    let token = make(&api, new).await?;
    let location = format!("/api/v1/tokens/{}", token.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], axum::Json(token)).into_response())
}

impl Api {
    /// Makes a token for whoever has the database itself: the first one of a server cannot be asked for with another. The JSON is that of
    /// `POST /tokens`.
    ///
    /// # Errors
    /// As `POST /tokens`.
    pub async fn create_token(&self, name: &str, scopes: &[String], expires_in_days: u32) -> Result<serde_json::Value, Problem> {
        let known = scopes.iter().map(|scope| Scope::parse(scope)).collect::<Option<Vec<_>>>();
        let new = NewToken {
            name: name.to_owned(),
            scopes: known.ok_or_else(|| wrong("/scopes", "expected jobs:write, runs:read, metrics:write or admin"))?,
            expires_in_days,
        };
        let token = make(self, new).await?;
        serde_json::to_value(token).map_err(|error| Problem::internal("cannot write JSON", &error))
    }
}

fn wrong(pointer: &str, detail: &str) -> Problem {
    Problem::new(Code::INVALID, "The token cannot be made.").at(pointer, detail)
}

async fn make(api: &Api, new: NewToken) -> Result<Token, Problem> {
    let NewToken {
        name,
        mut scopes,
        expires_in_days,
    } = new;
    if name.trim().is_empty() || name.chars().count() > 100 {
        return Err(wrong("/name", "expected 1 to 100 characters"));
    }
    if scopes.is_empty() {
        return Err(wrong("/scopes", "expected at least one"));
    }
    if !(1..=MOST_DAYS).contains(&expires_in_days) {
        return Err(wrong("/expiresInDays", "expected 1 to 366"));
    }
    scopes.sort();
    scopes.dedup();
    let scopes: Vec<String> = scopes.into_iter().map(|scope| scope.name().to_owned()).collect();
    let now = (api.config.clock)();
    let token = format!("{TOKEN_PREFIX}{}", hex(&api.secrets.fresh("token", now.timestamp_micros())));
    let expires_at = now + TimeDelta::days(i64::from(expires_in_days));
    let digest = token_digest(&token);
    let stored = api.store.add_token(&name, &digest, &scopes, expires_at);
    let row = api.timed("add_token", stored).await?;
    Ok(view(row, Some(token)))
}

/// Ends a token.
#[utoipa::path(delete, path = "/tokens/{id}", operation_id = "deleteToken", tag = "service", params(("id" = i64, Path)),
    responses((status = 204, description = "It is gone.")))]
pub(super) async fn delete(State(api): State<Api>, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    let number = id.parse().map_err(|_| Problem::not_found("token", &id))?;
    api.timed("delete_token", api.store.delete_token(number)).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn view(row: TokenRow, token: Option<String>) -> Token {
    let TokenRow {
        id,
        name,
        scopes,
        created_at,
        expires_at,
    } = row;
    Token {
        id,
        name,
        scopes,
        created_at: time(created_at),
        expires_at: time(expires_at),
        token,
    }
}
