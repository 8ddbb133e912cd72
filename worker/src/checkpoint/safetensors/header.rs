//! The JSON header: building it, and parsing it with every bound checked.

use super::{Dtype, TensorSpec};
use crate::error::{Error, Result};
use serde::Deserialize;
use serde::de::value::{Error as ValueError, StrDeserializer};
use serde::de::{Deserializer, Error as _, IntoDeserializer, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::path::Path;

/// Limit of a header's length in bytes, the same as the reference implementation's.
pub(super) const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Key of free-form metadata; no tensor may have this name.
pub(super) const METADATA_KEY: &str = "__metadata__";

/// Where one tensor lies in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// First byte, relative to the end of the header.
    pub(super) start: u64,
    /// One past the last byte, relative to the end of the header.
    pub(super) end: u64,
}

impl Entry {
    /// Number of elements. Cannot overflow: the product was checked against the byte length.
    pub(super) fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Bytes of a tensor, if the number exists and is whole.
pub(super) fn byte_length(dtype: Dtype, shape: &[usize]) -> Option<u64> {
    let elements = shape.iter().try_fold(1u64, |product, &size| product.checked_mul(size as u64))?;
    let bits = elements.checked_mul(dtype.bitsize() as u64)?;
    (bits % 8 == 0).then_some(bits / 8)
}

/// The length prefix and header of a file that holds these tensors in this order, padded with spaces to a multiple of 8 bytes.
pub(super) fn build<'a>(tensors: impl Iterator<Item = (&'a TensorSpec, u64)>) -> Vec<u8> {
    // `format` is what transformers demands of a checkpoint file.
    let mut json = format!("{{\"{METADATA_KEY}\":{{\"format\":\"pt\"}}");
    let mut start = 0;
    for (tensor, bytes) in tensors {
        let end = start + bytes;
        let name = serde_json::Value::from(tensor.name.as_str());
        json.push_str(&format!(
            ",{name}:{{\"dtype\":\"{}\",\"shape\":{:?},\"data_offsets\":[{start},{end}]}}",
            tensor.dtype, tensor.shape
        ));
        start = end;
    }
    json.push('}');
    while json.len() % 8 != 0 {
        json.push(' ');
    }
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json.as_bytes());
    bytes
}

/// Parses the JSON of a header whose file has `data_bytes` bytes after it.
///
/// # Errors
/// [`Error::Data`] naming the file and the tensor for anything but a complete, gapless and non-overlapping set of tensors of known types.
pub(super) fn parse(path: &Path, json: &[u8], data_bytes: u64) -> Result<BTreeMap<String, Entry>> {
    let RawHeader(raw) = serde_json::from_slice(json).map_err(|error| bad(path, format!("the header is wrong: {error}")))?;
    let mut entries = BTreeMap::new();
    for (name, tensor) in raw {
        let entry = checked(&tensor).map_err(|problem| bad(path, format!("tensor `{name}`: {problem}")))?;
        if entries.insert(name.clone(), entry).is_some() {
            return Err(bad(path, format!("tensor `{name}` is declared twice")));
        }
    }
    check_coverage(path, &entries, data_bytes)?;
    Ok(entries)
}

/// An [`Error::Data`] about a tensor file.
pub(super) fn bad(path: &Path, problem: String) -> Error {
    let cure = "the file is damaged, incomplete or not a SafeTensors file: fetch or write it again".into();
    Error::Data {
        place: path.display().to_string(),
        problem,
        cure,
    }
}

fn checked(tensor: &RawTensor) -> Result<Entry, String> {
    let text: StrDeserializer<'_, ValueError> = tensor.dtype.as_str().into_deserializer();
    let dtype = Dtype::deserialize(text).map_err(|_| format!("unknown dtype `{}`", tensor.dtype))?;
    let [start, end] = tensor.data_offsets;
    let expected = byte_length(dtype, &tensor.shape).ok_or_else(|| {
        format!(
            "shape {:?} of {dtype} does not have a whole number of bytes below 2^64",
            tensor.shape
        )
    })?;
    if end.checked_sub(start) != Some(expected) {
        return Err(format!(
            "data offsets [{start}, {end}] do not match shape {:?} of {dtype}, {expected} bytes",
            tensor.shape
        ));
    }
    Ok(Entry {
        dtype,
        shape: tensor.shape.clone(),
        start,
        end,
    })
}

/// The tensors must cover the data exactly: the format forbids holes, and a truncated file shows here.
fn check_coverage(path: &Path, entries: &BTreeMap<String, Entry>, data_bytes: u64) -> Result<()> {
    let mut order: Vec<_> = entries.iter().collect();
    order.sort_by_key(|(_, entry)| (entry.start, entry.end));
    let (mut previous, mut covered) = ("the header", 0);
    for (name, entry) in order {
        if entry.start < covered {
            return Err(bad(path, format!("tensors `{previous}` and `{name}` overlap")));
        }
        if entry.start > covered {
            return Err(bad(
                path,
                format!(
                    "{} bytes between {previous} and tensor `{name}` belong to no tensor",
                    entry.start - covered
                ),
            ));
        }
        if entry.end > data_bytes {
            let problem = format!(
                "tensor `{name}` ends at byte {} of the data, which has {data_bytes} bytes",
                entry.end
            );
            return Err(bad(path, problem));
        }
        (previous, covered) = (name, entry.end);
    }
    if covered != data_bytes {
        return Err(bad(
            path,
            format!("{} bytes after the last tensor belong to no tensor", data_bytes - covered),
        ));
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTensor {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

/// The header as written, in file order, duplicates included.
struct RawHeader(Vec<(String, RawTensor)>);

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeaderVisitor;
        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = RawHeader;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a map from tensor names to dtype, shape and data_offsets")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut tensors = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == METADATA_KEY {
                        map.next_value::<BTreeMap<String, String>>()?;
                    } else {
                        let tensor = map
                            .next_value()
                            .map_err(|error| A::Error::custom(format!("tensor `{name}`: {error}")))?;
                        tensors.push((name, tensor));
                    }
                }
                Ok(RawHeader(tensors))
            }
        }
        deserializer.deserialize_map(HeaderVisitor)
    }
}
