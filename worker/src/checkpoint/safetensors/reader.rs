//! Reader with positioned reads: nothing but the headers is held in memory.

use super::Dtype;
use super::header::{Entry, MAX_HEADER_BYTES, bad, parse};
use crate::checkpoint::durable::is_inside;
use crate::error::{Error, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes converted at a time when a tensor is not stored as it is wanted.
const CONVERT_BLOCK: usize = 64 << 10;

/// Names that an error lists before it only counts.
const LISTED_NAMES: usize = 8;

/// Tensors of one file, or of all files of an index.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    shards: Vec<Shard>,
    tensors: BTreeMap<String, (usize, Entry)>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    file: File,
    /// First byte of the data: the length prefix and the header come before.
    data: u64,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Reader {
    /// Opens a `.safetensors` file, a `.safetensors.index.json`, or a directory that holds `model.safetensors` or its index.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read, [`Error::Data`] for one that is damaged, naming file and tensor.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Self::open_stem(path, "model");
        }
        if path.extension().is_some_and(|extension| extension == "json") {
            Self::open_index(path)
        } else {
            Self::open_file(path)
        }
    }

    /// Opens what [`save`](super::save) wrote to `directory` under this stem, one file or several.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn open_stem(directory: &Path, stem: &str) -> Result<Self> {
        let single = directory.join(format!("{stem}.safetensors"));
        let index = directory.join(format!("{stem}.safetensors.index.json"));
        if !single.exists() && index.exists() {
            Self::open_index(&index)
        } else {
            Self::open_file(&single)
        }
    }

    fn open_file(path: &Path) -> Result<Self> {
        let (shard, entries) = open_shard(path)?;
        let tensors = entries.into_iter().map(|(name, entry)| (name, (0, entry))).collect();
        Ok(Self {
            path: path.to_path_buf(),
            shards: vec![shard],
            tensors,
        })
    }

    fn open_index(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let mut json = Vec::new();
        file.take(MAX_HEADER_BYTES)
            .read_to_end(&mut json)
            .map_err(Error::io("read", path))?;
        let Index { weight_map } = serde_json::from_slice(&json).map_err(|error| bad(path, format!("the index is wrong: {error}")))?;
        let mut files: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (tensor, file) in &weight_map {
            if !is_inside(file) {
                return Err(bad(
                    path,
                    format!("tensor `{tensor}` is said to be in `{file}`, outside the directory"),
                ));
            }
            files.entry(file).or_default().push(tensor);
        }
        let mut reader = Self {
            path: path.to_path_buf(),
            shards: Vec::new(),
            tensors: BTreeMap::new(),
        };
        for (file, names) in files {
            let (shard, mut entries) = open_shard(&path.with_file_name(file))?;
            for name in names {
                let entry = entries
                    .remove(name)
                    .ok_or_else(|| bad(&shard.path, format!("tensor `{name}` of the index is not in it")))?;
                reader.tensors.insert(name.to_owned(), (reader.shards.len(), entry));
            }
            if let Some(extra) = entries.keys().next() {
                return Err(bad(&shard.path, format!("tensor `{extra}` is not in the index")));
            }
            reader.shards.push(shard);
        }
        Ok(reader)
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether there is a tensor of this name.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The file that a tensor is in.
    ///
    /// # Errors
    /// [`Error::Data`] with the most similar name if there is no such tensor.
    pub fn file(&self, name: &str) -> Result<&Path> {
        self.find(name).map(|(shard, _)| shard.path.as_path())
    }

    /// Shape of a tensor, the outermost size first.
    ///
    /// # Errors
    /// [`Error::Data`] with the most similar name if there is no such tensor.
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        self.find(name).map(|(_, entry)| entry.shape.as_slice())
    }

    /// Element type of a tensor.
    ///
    /// # Errors
    /// [`Error::Data`] with the most similar name if there is no such tensor.
    pub fn dtype(&self, name: &str) -> Result<Dtype> {
        self.find(name).map(|(_, entry)| entry.dtype)
    }

    /// Reads a whole tensor as 32-bit floats; BF16 and F16 are widened, which is exact.
    ///
    /// # Errors
    /// [`Error::Data`] if there is no such tensor, it has another number of elements, or its type is none of the three; [`Error::Io`] if
    /// reading fails.
    pub fn read_into(&self, name: &str, out: &mut [f32]) -> Result<()> {
        let (shard, entry) = self.find(name)?;
        let elements = entry.elements();
        if elements != out.len() {
            return Err(shard.problem(format!("tensor `{name}` has {elements} elements instead of {}", out.len())));
        }
        self.read_part(name, 0, out)
    }

    /// Reads `out.len()` consecutive elements from `first` on, as [`Reader::read_into`] does.
    ///
    /// # Errors
    /// As [`Reader::read_into`]; [`Error::Data`] too if the range goes past the end.
    pub fn read_part(&self, name: &str, first: usize, out: &mut [f32]) -> Result<()> {
        let (shard, entry) = self.find_range(name, first, out.len())?;
        let width = entry.dtype.bitsize() / 8;
        let start = shard.data + entry.start + (first * width) as u64;
        match entry.dtype {
            Dtype::F32 => shard.read(start, bytemuck::cast_slice_mut(out)),
            Dtype::BF16 => shard.read_converted(start, out, |bytes: [u8; 2]| bf16_to_f32(u16::from_le_bytes(bytes))),
            Dtype::F16 => shard.read_converted(start, out, |bytes: [u8; 2]| f16_to_f32(u16::from_le_bytes(bytes))),
            other => Err(shard.problem(format!("tensor `{name}` is {other}; expected F32, BF16 or F16"))),
        }
    }

    /// Reads `out.len()` consecutive E4M3 codes from `first` on.
    ///
    /// # Errors
    /// As [`Reader::read_part`]; [`Error::Data`] too if the tensor is of another type.
    pub fn read_codes(&self, name: &str, first: usize, out: &mut [u8]) -> Result<()> {
        let (shard, entry) = self.find_range(name, first, out.len())?;
        if entry.dtype != Dtype::F8_E4M3 {
            return Err(shard.problem(format!("tensor `{name}` is {}; expected F8_E4M3", entry.dtype)));
        }
        shard.read(shard.data + entry.start + first as u64, out)
    }

    /// Reads a whole tensor of 32-bit integers (token ids).
    ///
    /// # Errors
    /// As [`Reader::read_into`].
    pub fn read_i32_into(&self, name: &str, out: &mut [i32]) -> Result<()> {
        let (shard, entry) = self.find(name)?;
        if entry.dtype != Dtype::I32 || entry.elements() != out.len() {
            let found = format!("{} elements of {}", entry.elements(), entry.dtype);
            return Err(shard.problem(format!("tensor `{name}` has {found} instead of {} of I32", out.len())));
        }
        shard.read(shard.data + entry.start, bytemuck::cast_slice_mut(out))
    }

    /// Checks that the file holds exactly these tensors with these shapes.
    ///
    /// # Errors
    /// [`Error::Data`] that lists every missing, unexpected and misshapen tensor (the first few of each), with the likely misspelling.
    pub fn expect<'a>(&self, expected: impl IntoIterator<Item = (&'a str, &'a [usize])>) -> Result<()> {
        let expected: BTreeMap<&str, &[usize]> = expected.into_iter().collect();
        let unexpected: Vec<String> = self
            .names()
            .filter(|name| !expected.contains_key(name))
            .map(|name| format!("`{name}`{}", self.where_in(name)))
            .collect();
        let mut missing = Vec::new();
        let mut misshapen = Vec::new();
        for (&name, &shape) in &expected {
            match self.tensors.get(name) {
                // Only for those that are listed: comparing all names with all names of a large model would take hours.
                None if missing.len() < LISTED_NAMES => {
                    missing.push(format!("`{name}`{}", self.suggestion(name, |found| !expected.contains_key(found))));
                }
                None => missing.push(format!("`{name}`")),
                Some((_, entry)) if entry.shape != shape => {
                    misshapen.push(format!("`{name}`{} is {:?} instead of {shape:?}", self.where_in(name), entry.shape));
                }
                Some(_) => {}
            }
        }
        let problems: Vec<String> = [("missing", missing), ("unexpected", unexpected), ("of the wrong shape", misshapen)]
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(what, names)| describe(what, &names))
            .collect();
        if problems.is_empty() {
            Ok(())
        } else {
            Err(self.problem(problems.join("; ")))
        }
    }

    fn find(&self, name: &str) -> Result<(&Shard, &Entry)> {
        let (shard, entry) = self
            .tensors
            .get(name)
            .ok_or_else(|| self.problem(format!("there is no tensor `{name}`{}", self.suggestion(name, |_| true))))?;
        Ok((&self.shards[*shard], entry))
    }

    /// A tensor, if it has the elements `first..first + count`.
    fn find_range(&self, name: &str, first: usize, count: usize) -> Result<(&Shard, &Entry)> {
        let (shard, entry) = self.find(name)?;
        let elements = entry.elements();
        if first.checked_add(count).is_none_or(|end| end > elements) {
            return Err(shard.problem(format!(
                "tensor `{name}` has {elements} elements; {count} from {first} on do not exist"
            )));
        }
        Ok((shard, entry))
    }

    /// ` of FILE` if there are several files.
    fn where_in(&self, name: &str) -> String {
        let shard = self.tensors.get(name).filter(|_| self.shards.len() > 1).map(|(shard, _)| *shard);
        let file = shard.and_then(|shard| self.shards[shard].path.file_name());
        file.map_or_else(String::new, |file| format!(" of {}", file.display()))
    }

    /// ` (did you mean ...?)` with the most similar name among those that `eligible` accepts, or nothing.
    fn suggestion(&self, name: &str, eligible: impl Fn(&str) -> bool) -> String {
        self.names()
            .filter(|found| eligible(found))
            .map(|found| (strsim::normalized_damerau_levenshtein(name, found), found))
            .filter(|(similarity, _)| *similarity > 0.8)
            .max_by(|left, right| left.0.total_cmp(&right.0))
            .map(|(_, found)| format!(" (did you mean `{found}`?)"))
            .unwrap_or_default()
    }

    fn problem(&self, problem: String) -> Error {
        problem_of(&self.path, problem)
    }
}

fn problem_of(path: &Path, problem: String) -> Error {
    let cure = "check that the file belongs to this model and configuration".into();
    Error::Data {
        place: path.display().to_string(),
        problem,
        cure,
    }
}

fn describe(what: &str, names: &[String]) -> String {
    let listed = names.iter().take(LISTED_NAMES).cloned().collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(LISTED_NAMES);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let plural = if names.len() == 1 { "tensor" } else { "tensors" };
    format!("{} {plural} {what}: {listed}{more}", names.len())
}

fn open_shard(path: &Path) -> Result<(Shard, BTreeMap<String, Entry>)> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let length = file.metadata().map_err(Error::io("read the size of", path))?.len();
    if length < 8 {
        return Err(bad(path, format!("has {length} bytes, less than a header")));
    }
    let mut prefix = [0; 8];
    file.read_exact_at(&mut prefix, 0).map_err(Error::io("read", path))?;
    let header = u64::from_le_bytes(prefix);
    if header > MAX_HEADER_BYTES || header > length - 8 {
        let problem = format!("its header is said to have {header} bytes; the file has {length}, the format's limit is {MAX_HEADER_BYTES}");
        return Err(bad(path, problem));
    }
    let mut json = vec![0; header as usize];
    file.read_exact_at(&mut json, 8).map_err(Error::io("read", path))?;
    let data = 8 + header;
    let entries = parse(path, &json, length - data)?;
    Ok((
        Shard {
            path: path.to_path_buf(),
            file,
            data,
        },
        entries,
    ))
}

impl Shard {
    fn problem(&self, problem: String) -> Error {
        problem_of(&self.path, problem)
    }

    fn read(&self, start: u64, out: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(out, start).map_err(Error::io("read", &self.path))
    }

    fn read_converted<const WIDTH: usize>(&self, start: u64, out: &mut [f32], convert: impl Fn([u8; WIDTH]) -> f32) -> Result<()> {
        let mut block = vec![0; CONVERT_BLOCK.min(out.len() * WIDTH)];
        let mut position = start;
        for values in out.chunks_mut(CONVERT_BLOCK / WIDTH) {
            let bytes = &mut block[..values.len() * WIDTH];
            self.read(position, bytes)?;
            position += bytes.len() as u64;
            for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<WIDTH>().0) {
                *value = convert(*bytes);
            }
        }
        Ok(())
    }
}

/// Bfloat16 is the upper half of an f32.
fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// IEEE 754 binary16: 1 sign, 5 exponent (bias 15) and 10 mantissa bits.
fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let exponent = u32::from(bits >> 10) & 0x1f;
    let mantissa = u32::from(bits & 0x3ff);
    match exponent {
        // Zero and subnormals: mantissa * 2^-24, exact in f32.
        0 => f32::from_bits(sign | (mantissa as f32 * f32::from_bits(0x3380_0000)).to_bits()),
        0x1f => f32::from_bits(sign | 0x7f80_0000 | (mantissa << 13)),
        _ => f32::from_bits(sign | ((exponent + 127 - 15) << 23) | (mantissa << 13)),
    }
}
