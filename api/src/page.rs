//! Keyset pages. A cursor holds the sort key of the last item, signed and bound to its list, so that it can be neither forged nor taken
//! elsewhere.

use crate::problem::{Code, Problem};
use crate::{Api, secret::Secrets};
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Items of a page without `limit`.
const DEFAULT_LIMIT: u32 = 50;
/// Bytes of a signature.
const MAC_BYTES: usize = 16;

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct List<T> {
    /// The items, in order.
    pub(crate) items: Vec<T>,
    /// Where the next page begins; none after the last page.
    pub(crate) next_cursor: Option<String>,
}

/// A list that comes whole.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Items<T> {
    /// The items, in order.
    pub(crate) items: Vec<T>,
}

/// A page as an answer: the next one is also in the `Link` header, for clients that know only that.
pub(crate) struct Page<T> {
    pub(crate) list: List<T>,
    /// The address of the request, with the prefix that nested routers take off.
    pub(crate) uri: Uri,
}

impl<T: Serialize> IntoResponse for Page<T> {
    fn into_response(self) -> Response {
        let mut headers = HeaderMap::new();
        if let Some(cursor) = &self.list.next_cursor
            && let Ok(link) = HeaderValue::try_from(format!("<{}>; rel=\"next\"", next_uri(&self.uri, cursor)))
        {
            headers.insert(header::LINK, link);
        }
        (headers, axum::Json(self.list)).into_response()
    }
}

/// The address of the request with another cursor.
fn next_uri(uri: &Uri, cursor: &str) -> String {
    let query = uri.query().unwrap_or("");
    let kept = query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("cursor="));
    let cursor = format!("cursor={cursor}");
    let query: Vec<&str> = kept.chain([cursor.as_str()]).collect();
    format!("{}?{}", uri.path(), query.join("&"))
}

/// The number of items that a request may have.
pub(crate) fn limit(api: &Api, asked: Option<u32>) -> Result<usize, Problem> {
    let most = api.config.limits.page_items;
    match asked {
        None => Ok(DEFAULT_LIMIT.min(most) as usize),
        Some(limit) if (1..=most).contains(&limit) => Ok(limit as usize),
        Some(_) => Err(Problem::query("limit", format!("expected 1 to {most}"))),
    }
}

#[derive(Serialize, Deserialize)]
struct Payload<K> {
    key: K,
    issued: i64,
}

/// Signs and checks cursors.
#[derive(Clone)]
pub(crate) struct Cursors {
    key: [u8; 32],
    seconds: i64,
}

impl Cursors {
    pub(crate) fn new(secrets: &Secrets, seconds: u64) -> Self {
        Self {
            key: secrets.key("cursor"),
            seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
        }
    }

    /// The cursor after `key` in the list called `list`: the path with the parameters that select and sort.
    pub(crate) fn write<K: Serialize>(&self, list: &str, key: K, now: i64) -> Option<String> {
        let mut bytes = serde_json::to_vec(&Payload { key, issued: now }).ok()?;
        let mac = self.sign(list, &bytes);
        bytes.extend_from_slice(&mac);
        Some(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The key of a cursor of this list.
    pub(crate) fn read<K: DeserializeOwned>(&self, list: &str, cursor: &str, now: i64) -> Result<K, Problem> {
        let foreign = || {
            Problem::new(
                Code::INVALID_CURSOR,
                "Cursors come from `nextCursor` of the same list with the same parameters.",
            )
        };
        let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| foreign())?;
        let (payload, mac) = bytes.split_last_chunk::<MAC_BYTES>().ok_or_else(foreign)?;
        // Constant-time comparison of hashes, not of the bytes.
        if blake3::hash(mac) != blake3::hash(&self.sign(list, payload)) {
            return Err(foreign());
        }
        let Payload { key, issued } = serde_json::from_slice(payload).map_err(|_| foreign())?;
        if now.saturating_sub(issued) > self.seconds {
            let detail = format!("The cursor is older than {} s.", self.seconds);
            return Err(Problem::new(Code::GONE, detail).hint("Read the list again from its start."));
        }
        Ok(key)
    }

    fn sign(&self, list: &str, payload: &[u8]) -> [u8; MAC_BYTES] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&(list.len() as u64).to_le_bytes());
        hasher.update(list.as_bytes()).update(payload);
        let mut mac = [0; MAC_BYTES];
        mac.copy_from_slice(&hasher.finalize().as_bytes()[..MAC_BYTES]);
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursors() -> Cursors {
        Cursors::new(&Secrets::new([1; 32]), 3600)
    }

    #[test]
    fn a_cursor_works_in_its_list() {
        let cursor = cursors().write("/jobs?sort=name", ("a", 7), 1000).unwrap();
        let key: (String, i64) = cursors().read("/jobs?sort=name", &cursor, 4600).unwrap();
        assert_eq!(key, ("a".into(), 7));
    }

    #[test]
    fn others_are_refused() {
        let cursor = cursors().write("/jobs", 7, 1000).unwrap();
        let code = |list: &str, cursor: &str, now| cursors().read::<i64>(list, cursor, now).unwrap_err().code().to_owned();
        assert_eq!(code("/jobs?state=failed", &cursor, 1000), "invalidCursor");
        assert_eq!(code("/jobs", &cursor, 4601), "cursorExpired");
        for forged in ["", "abc", "!", &cursor[1..], &format!("{cursor}AAAA")] {
            assert_eq!(code("/jobs", forged, 1000), "invalidCursor", "{forged}");
        }
        let other = Cursors::new(&Secrets::new([2; 32]), 3600).write("/jobs", 7, 1000).unwrap();
        assert_eq!(code("/jobs", &other, 1000), "invalidCursor");
    }

    #[test]
    fn the_next_page_keeps_the_other_parameters() {
        let uri: Uri = "/api/v1/jobs?sort=name&cursor=old&limit=5".parse().unwrap();
        assert_eq!(next_uri(&uri, "new"), "/api/v1/jobs?sort=name&limit=5&cursor=new");
        let uri: Uri = "/api/v1/jobs".parse().unwrap();
        assert_eq!(next_uri(&uri, "new"), "/api/v1/jobs?cursor=new");
    }
}
