//! Bodies: read within a time and a size, decompressed within a size, and understood.

use crate::config::Config;
use crate::problem::{Code, Problem, shorten};
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use serde::de::DeserializeOwned;
use std::io::Read;
use std::time::Duration;
use tokio_stream::StreamExt;

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    Identity,
    Gzip,
    Zstd,
}

impl Coding {
    /// The coding that the headers name.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let name = headers
            .get(header::CONTENT_ENCODING)
            .map_or(Ok("identity"), HeaderValue::to_str)
            .unwrap_or("?");
        match name.trim().to_ascii_lowercase().as_str() {
            "identity" | "" => Ok(Self::Identity),
            "gzip" | "x-gzip" => Ok(Self::Gzip),
            "zstd" => Ok(Self::Zstd),
            other => {
                let detail = format!("The content coding `{}` is not supported.", shorten(other));
                let known = HeaderValue::from_static("zstd, gzip, identity");
                Err(Problem::new(Code::UNSUPPORTED_MEDIA_TYPE, detail).header(header::ACCEPT_ENCODING, known))
            }
        }
    }

    /// The plain bytes, of which there may be at most `limit`. A small body that expands without end is given up at the limit.
    pub(crate) fn decode(self, body: Vec<u8>, limit: usize) -> Result<Vec<u8>, Problem> {
        match self {
            Self::Identity => Ok(body),
            Self::Gzip => read_bounded(flate2::read::MultiGzDecoder::new(body.as_slice()), limit),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(body.as_slice()).map_err(|error| undecodable(&error))?;
                // The window is what the decoder reserves before it has seen a byte of content: 8 MiB.
                decoder.window_log_max(23).map_err(|error| undecodable(&error))?;
                read_bounded(decoder, limit)
            }
        }
    }
}

fn read_bounded(reader: impl Read, limit: usize) -> Result<Vec<u8>, Problem> {
    let mut plain = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    reader.take(most).read_to_end(&mut plain).map_err(|error| undecodable(&error))?;
    if plain.len() > limit {
        return Err(too_large(limit));
    }
    Ok(plain)
}

fn undecodable(error: &std::io::Error) -> Problem {
    Problem::new(Code::INVALID_BODY, format!("The body cannot be decompressed: {error}."))
}

pub(crate) fn too_large(limit: usize) -> Problem {
    Problem::new(
        Code::TOO_LARGE,
        format!("The body may have at most {limit} bytes, after decompression."),
    )
}

/// Reads a whole body of at most `limit` bytes.
pub(crate) async fn read(config: &Config, headers: &HeaderMap, body: Body, limit: usize) -> Result<Vec<u8>, Problem> {
    let declared = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok())
        .and_then(|length| length.parse::<u64>().ok());
    if declared.is_some_and(|length| usize::try_from(length).map_or(true, |length| length > limit)) {
        return Err(too_large(limit));
    }
    let seconds = config.limits.body_seconds;
    let reading = read_to_end(body, limit, declared);
    tokio::time::timeout(Duration::from_secs(seconds), reading)
        .await
        .map_err(|_| Problem::new(Code::REQUEST_TIMEOUT, format!("The body did not arrive within {seconds} s.")))?
}

async fn read_to_end(body: Body, limit: usize, declared: Option<u64>) -> Result<Vec<u8>, Problem> {
    let mut stream = body.into_data_stream();
    let mut whole = Vec::with_capacity(declared.map_or(0, |length| usize::try_from(length).unwrap_or(0)));
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|_| Problem::new(Code::INVALID_BODY, "The body ended early."))?;
        if whole.len() + chunk.len() > limit {
            return Err(too_large(limit));
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole)
}

/// The media type of a body, without parameters, in lower case.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let value = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    value.split(';').next().unwrap_or("").trim().to_ascii_lowercase()
}

/// A type that is not taken here, and those that are.
pub(crate) fn unsupported(found: &str, known: &'static str) -> Problem {
    let detail = format!("The body has the type `{}`; expected {known}.", shorten(found));
    Problem::new(Code::UNSUPPORTED_MEDIA_TYPE, detail).header(header::ACCEPT, HeaderValue::from_static(known))
}

/// Reads JSON.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes)
        .map_err(|error| Problem::new(Code::INVALID_BODY, format!("The body is not what is expected here: {error}.")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn codings_round_trip() {
        let plain = b"records".repeat(100);
        assert_eq!(Coding::Gzip.decode(gzip(&plain), 700).unwrap(), plain);
        assert_eq!(
            Coding::Zstd.decode(zstd::encode_all(plain.as_slice(), 3).unwrap(), 700).unwrap(),
            plain
        );
        assert_eq!(Coding::Identity.decode(plain.clone(), 700).unwrap(), plain);
    }

    #[test]
    fn bombs_are_given_up() {
        let zeros = vec![0; 16 << 20];
        for (coding, bomb) in [
            (Coding::Gzip, gzip(&zeros)),
            (Coding::Zstd, zstd::encode_all(zeros.as_slice(), 19).unwrap()),
        ] {
            assert!(bomb.len() < 1 << 16);
            assert_eq!(coding.decode(bomb, 1 << 20).unwrap_err().code(), "tooLarge");
        }
    }

    #[test]
    fn rubbish_is_refused() {
        for coding in [Coding::Gzip, Coding::Zstd] {
            assert_eq!(coding.decode(b"rubbish".to_vec(), 100).unwrap_err().code(), "invalidBody");
        }
        let mut cut = zstd::encode_all(b"abc".repeat(100).as_slice(), 3).unwrap();
        cut.truncate(cut.len() - 3);
        assert_eq!(Coding::Zstd.decode(cut, 1000).unwrap_err().code(), "invalidBody");
    }

    #[test]
    fn codings_and_types_by_header() {
        let mut headers = HeaderMap::new();
        assert_eq!(Coding::of(&headers).unwrap(), Coding::Identity);
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("ZSTD"));
        assert_eq!(Coding::of(&headers).unwrap(), Coding::Zstd);
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("br"));
        assert_eq!(Coding::of(&headers).unwrap_err().code(), "unsupportedMediaType");
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("Application/JSON; charset=utf-8"));
        assert_eq!(media_type(&headers), "application/json");
    }
}
