//! The dashboard's files, put into the binary by `build.rs`. A binary that was built without them has one page that says so.

use crate::etag::none_match;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// A file of the dashboard.
struct Asset {
    /// Path without the leading slash.
    path: &'static str,
    mime: &'static str,
    /// Strong entity tag of the plain bytes.
    etag: &'static str,
    /// Whether its name has a hash of its content.
    immutable: bool,
    plain: &'static [u8],
    /// The same, compressed, where that is smaller.
    gzip: Option<&'static [u8]>,
}

include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// The page of a binary without the dashboard.
const FALLBACK: Asset = Asset {
    path: "index.html",
    mime: "text/html; charset=utf-8",
    etag: "\"fallback\"",
    immutable: false,
    plain: include_bytes!("../assets/fallback.html"),
    gzip: None,
};

/// The answer to a request for a file or for a page of the application; none if there is no such file.
pub(crate) fn answer(method: &Method, path: &str, headers: &HeaderMap) -> Option<Response> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return None;
    }
    find(ASSETS, path).map(|asset| respond(asset, headers))
}

/// A file, or the page that shows all addresses without a file extension.
fn find(assets: &'static [Asset], path: &str) -> Option<&'static Asset> {
    let path = path.trim_start_matches('/');
    let exact = assets.iter().find(|asset| asset.path == path);
    let is_page = !path.rsplit('/').next().is_some_and(|name| name.contains('.')) || path == "index.html";
    exact.or_else(|| is_page.then(|| assets.iter().find(|asset| asset.path == "index.html").unwrap_or(&FALLBACK)))
}

fn respond(asset: &Asset, headers: &HeaderMap) -> Response {
    let compressed = asset.gzip.filter(|_| accepts_gzip(headers));
    // Two representations have two tags.
    let tag = match compressed {
        Some(_) => format!("{}-gzip\"", asset.etag.trim_end_matches('"')),
        None => asset.etag.to_owned(),
    };
    let control = if asset.immutable {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    };
    let mut response = if none_match(headers, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        compressed.unwrap_or(asset.plain).into_response()
    };
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.mime));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static(control));
    fields.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if compressed.is_some() {
        fields.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    if let Ok(tag) = HeaderValue::try_from(tag) {
        fields.insert(header::ETAG, tag);
    }
    response
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let refused = |weight: &str| weight.strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0));
        parts.next() == Some("gzip") && !parts.any(refused)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: &[Asset] = &[
        Asset {
            path: "assets/app-1f.js",
            mime: "text/javascript; charset=utf-8",
            etag: "\"a\"",
            immutable: true,
            plain: b"plain",
            gzip: Some(b"gz"),
        },
        Asset {
            path: "index.html",
            mime: "text/html; charset=utf-8",
            etag: "\"i\"",
            immutable: false,
            plain: b"page",
            gzip: None,
        },
    ];

    #[test]
    fn addresses_without_extension_are_pages() {
        for (path, found) in [
            ("/", Some("index.html")),
            ("/index.html", Some("index.html")),
            ("/jobs/a/curves", Some("index.html")),
            ("/assets/app-1f.js", Some("assets/app-1f.js")),
            ("/assets/app-2e.js", None),
            ("/favicon.ico", None),
        ] {
            assert_eq!(find(FILES, path).map(|asset| asset.path), found, "{path}");
        }
        assert_eq!(find(&[], "/jobs").unwrap().etag, "\"fallback\"");
        assert!(find(&[], "/app.js").is_none());
    }

    #[test]
    fn compressed_for_those_who_accept_it() {
        let header = |value| HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(value))]);
        let gzip = respond(&FILES[0], &header("br, gzip;q=0.5"));
        assert_eq!(
            (&gzip.headers()[header::CONTENT_ENCODING], &gzip.headers()[header::ETAG]),
            (&"gzip".parse().unwrap(), &"\"a-gzip\"".parse().unwrap())
        );
        assert!(gzip.headers()[header::CACHE_CONTROL].to_str().unwrap().contains("immutable"));
        let plain = respond(&FILES[0], &header("gzip;q=0"));
        assert!(!plain.headers().contains_key(header::CONTENT_ENCODING));
        let known = HeaderMap::from_iter([(header::IF_NONE_MATCH, HeaderValue::from_static("\"i\""))]);
        assert_eq!(respond(&FILES[1], &known).status(), StatusCode::NOT_MODIFIED);
    }
}
