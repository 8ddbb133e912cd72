//! JSON Lines: the text field of one object per line. The first malformed line is an error, with its number: silently losing a part
//! of a damaged file would be worse than stopping.

use super::ReadStatistics;
use crate::error::{Error, Result};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// Longer lines are skipped and counted.
pub(crate) const MAX_LINE_BYTES: usize = 32 << 20;

pub(super) struct JsonLines {
    reader: BufReader<Box<dyn Read + Send>>,
    path: PathBuf,
    field: String,
    compressed: bool,
    line: u64,
    buffer: Vec<u8>,
}

impl JsonLines {
    pub(super) fn new(reader: Box<dyn Read + Send>, path: &Path, field: &str, compressed: bool) -> Self {
        Self {
            reader: BufReader::with_capacity(1 << 16, reader),
            path: path.to_path_buf(),
            field: field.into(),
            compressed,
            line: 0,
            buffer: Vec::new(),
        }
    }

    /// The text of the next line, empty for a null; none at the end.
    pub(super) fn next(&mut self, statistics: &mut ReadStatistics) -> Result<Option<Vec<u8>>> {
        loop {
            if !self.read_line()? {
                return Ok(None);
            }
            self.line += 1;
            if self.buffer.len() > MAX_LINE_BYTES {
                self.skip_line()?;
                statistics.oversized_lines += 1;
            } else if !self.buffer.trim_ascii().is_empty() {
                break;
            }
        }
        let mut json = serde_json::Deserializer::from_slice(&self.buffer);
        let text = FieldOf(&self.field)
            .deserialize(&mut json)
            .and_then(|text| json.end().map(|()| text))
            .map_err(|error| self.error(format!("the line is not a JSON object with a text in `{}` ({error})", self.field)))?;
        match text {
            Some(text) => Ok(Some(text)),
            None => Err(self.error(format!("the object has no field `{}`", self.field))),
        }
    }

    fn error(&self, problem: String) -> Error {
        Error::Data {
            place: format!("{}, line {}", self.path.display(), self.line),
            problem,
            cure: "correct or remove the line, or set `textField` to the field that holds the text".into(),
        }
    }

    fn read_line(&mut self) -> Result<bool> {
        self.buffer.clear();
        self.buffer.shrink_to(1 << 20);
        let limit = MAX_LINE_BYTES as u64 + 1;
        let read = (&mut self.reader).take(limit).read_until(b'\n', &mut self.buffer);
        let read = read.map_err(|error| self.read_error(error))?;
        Ok(read > 0)
    }

    /// Drops the rest of a line whose beginning is in the buffer.
    fn skip_line(&mut self) -> Result<()> {
        while !self.buffer.ends_with(b"\n") && self.read_line()? {}
        Ok(())
    }

    fn read_error(&self, error: std::io::Error) -> Error {
        if !self.compressed {
            return Error::io("read", &self.path)(error);
        }
        Error::Data {
            place: format!("{}, after line {}", self.path.display(), self.line),
            problem: format!("it cannot be decompressed ({error})"),
            cure: "the file is damaged or incomplete: download or write it again, or leave it out with `exclude`".into(),
        }
    }
}

/// Picks one field of an object, without building the others.
struct FieldOf<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for FieldOf<'_> {
    type Value = Option<Vec<u8>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FieldOf<'_> {
    type Value = Option<Vec<u8>>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(Key(key)) = map.next_key()? {
            if key == self.0.as_bytes() {
                found = Some(map.next_value::<Text>()?.0);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// An object's key as bytes.
struct Key(Vec<u8>);

impl<'de> serde::Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(BytesVisitor).map(Self)
    }
}

/// A string's bytes; none for null. As bytes, not as `str`, because lone surrogates and other bytes that are no UTF-8 occur in crawled text and
/// are repaired later.
struct Text(Vec<u8>);

impl<'de> serde::Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Nullable;
        impl<'de> Visitor<'de> for Nullable {
            type Value = Vec<u8>;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(formatter, "a string or null")
            }

            fn visit_unit<E>(self) -> Result<Vec<u8>, E> {
                Ok(Vec::new())
            }

            fn visit_none<E>(self) -> Result<Vec<u8>, E> {
                Ok(Vec::new())
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<u8>, D::Error> {
                deserializer.deserialize_bytes(BytesVisitor)
            }
        }
        deserializer.deserialize_option(Nullable).map(Self)
    }
}

struct BytesVisitor;

impl Visitor<'_> for BytesVisitor {
    type Value = Vec<u8>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "a string")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }

    fn visit_str<E>(self, text: &str) -> Result<Vec<u8>, E> {
        Ok(text.as_bytes().to_vec())
    }
}
