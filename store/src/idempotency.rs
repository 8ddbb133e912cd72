//! Table `idempotency_keys`: answers that are given again to the same request.

use crate::{Result, Store};

/// How long an answer is kept.
const KEPT_HOURS: f64 = 24.0;

/// What is known about a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Claim {
    /// Nothing: the caller has claimed it and must finish or release it.
    Claimed,
    /// A request with it is under way, or died a short while ago.
    Busy,
    /// It was used for another request.
    Other,
    /// It was used for the same request, with this answer.
    Answered(Answer),
}

/// An answer to give again.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// `Location` header.
    pub location: Option<String>,
    /// Body.
    pub body: Vec<u8>,
}

impl Store {
    /// Claims a key for a request. A claim that was not finished within a minute may be taken over: its process died.
    ///
    /// # Errors
    /// [`crate::Error::Database`].
    pub async fn claim_key(&self, principal: &str, key: &str, fingerprint: &[u8]) -> Result<Claim> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query!(
            "DELETE FROM idempotency_keys WHERE principal = $1 AND key = $2
               AND created_at < now() - CASE WHEN status IS NULL THEN interval '1 minute' ELSE make_interval(hours => $3::int) END",
            principal,
            key,
            KEPT_HOURS as i32
        )
        .execute(&mut *transaction)
        .await?;
        let claimed = sqlx::query!(
            "INSERT INTO idempotency_keys (principal, key, fingerprint, created_at) VALUES ($1, $2, $3, now())
             ON CONFLICT ON CONSTRAINT idempotency_keys_pkey DO NOTHING",
            principal,
            key,
            fingerprint
        );
        let claim = if claimed.execute(&mut *transaction).await?.rows_affected() > 0 {
            Claim::Claimed
        } else {
            let row = sqlx::query!(
                "SELECT fingerprint, status, location, body FROM idempotency_keys WHERE principal = $1 AND key = $2",
                principal,
                key
            );
            let row = row.fetch_one(&mut *transaction).await?;
            match row.status {
                _ if row.fingerprint != fingerprint => Claim::Other,
                None => Claim::Busy,
                Some(status) => Claim::Answered(Answer {
                    status: status.unsigned_abs(),
                    location: row.location,
                    body: row.body.unwrap_or_default(),
                }),
            }
        };
        transaction.commit().await?;
        Ok(claim)
    }

    /// Keeps the answer to a claimed request.
    ///
    /// # Errors
    /// [`crate::Error::Database`].
    pub async fn finish_key(&self, principal: &str, key: &str, answer: &Answer) -> Result<()> {
        sqlx::query!(
            "UPDATE idempotency_keys SET status = $3, location = $4, body = $5 WHERE principal = $1 AND key = $2",
            principal,
            key,
            answer.status.cast_signed(),
            answer.location,
            answer.body
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Gives a claimed key back: the request failed and may be tried again.
    ///
    /// # Errors
    /// [`crate::Error::Database`].
    pub async fn release_key(&self, principal: &str, key: &str) -> Result<()> {
        sqlx::query!(
            "DELETE FROM idempotency_keys WHERE principal = $1 AND key = $2 AND status IS NULL",
            principal,
            key
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}
