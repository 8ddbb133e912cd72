//! Streaming writer: the header from the list of tensors, then each tensor's values as the caller produces them, hashed on the way.

use super::header::{METADATA_KEY, build, byte_length};
use super::{Dtype, header::MAX_HEADER_BYTES};
use crate::error::{Error, Result};
use fathom_kernels::formats::{Bf16, DataType};
use fathom_spec::artifact::FileDigest;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Size above which a model is split into several files: Hugging Face's default, 5 GB.
pub const DEFAULT_SHARD_BYTES: u64 = 5_000_000_000;

/// Bytes gathered before they are hashed and written.
const BLOCK: usize = 4 << 20;

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name in the file.
    pub name: String,
    /// Element type: `F32`, `BF16` or `F8_E4M3`.
    pub dtype: Dtype,
    /// Sizes, the outermost first.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// A tensor of 32-bit floats.
    pub fn f32(name: impl Into<String>, shape: &[usize]) -> Self {
        Self::new(name, DataType::F32, shape)
    }

    /// A tensor of a type that activations and moments have.
    pub fn new(name: impl Into<String>, data_type: DataType, shape: &[usize]) -> Self {
        let dtype = match data_type {
            DataType::F32 => Dtype::F32,
            DataType::Bf16 => Dtype::BF16,
        };
        Self {
            name: name.into(),
            dtype,
            shape: shape.to_vec(),
        }
    }
}

/// A file that [`save`] wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenFile {
    /// Name inside the directory.
    pub name: String,
    /// Size and BLAKE3 digest.
    pub digest: FileDigest,
}

/// Takes the values of one tensor, in one piece or in several.
pub struct TensorSink<'a> {
    file: &'a mut HashingFile,
    remaining: u64,
    spec: &'a TensorSpec,
}

impl TensorSink<'_> {
    /// Appends values, row-major, rounded to the tensor's type.
    ///
    /// # Errors
    /// [`Error::Io`] if writing fails; [`Error::Config`] if there are more values than the shape holds, or the tensor is one of codes.
    pub fn write(&mut self, values: &[f32]) -> Result<()> {
        match self.spec.dtype {
            Dtype::F32 => self.write_bytes(bytemuck::cast_slice(values)),
            Dtype::BF16 => {
                let rounded: Vec<Bf16> = values.iter().map(|&value| Bf16::from_f32(value)).collect();
                self.write_bytes(bytemuck::cast_slice(&rounded))
            }
            _ => Err(wrong(self.spec, "holds codes, not values")),
        }
    }

    /// Appends E4M3 codes, row-major.
    ///
    /// # Errors
    /// [`Error::Io`] if writing fails; [`Error::Config`] if there are more codes than the shape holds, or the tensor is not `F8_E4M3`.
    pub fn write_codes(&mut self, codes: &[u8]) -> Result<()> {
        if self.spec.dtype != Dtype::F8_E4M3 {
            return Err(wrong(self.spec, "holds values, not codes"));
        }
        self.write_bytes(codes)
    }

    fn write_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.remaining = self
            .remaining
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| wrong(self.spec, "received more values than its shape holds"))?;
        self.file.write(bytes)
    }
}

/// Writes tensors to `directory`: to `STEM.safetensors` if their data fits `shard_bytes`, otherwise to `STEM-00001-of-0000N.safetensors`
/// and so on with `STEM.safetensors.index.json` (a tensor is never split, so one larger than the limit has a file of its own). The values
/// come from `fill`, called once per tensor in list order, so the tensors are never in memory together. The files are synced on return.
///
/// # Errors
/// [`Error::Io`] naming the file (disk full included), [`Error::Config`] for a list that cannot be written, and whatever `fill` returns.
pub fn save(
    directory: &Path,
    stem: &str,
    tensors: &[TensorSpec],
    shard_bytes: u64,
    mut fill: impl FnMut(&TensorSpec, &mut TensorSink<'_>) -> Result<()>,
) -> Result<Vec<WrittenFile>> {
    let sizes = check(tensors)?;
    let shards = shard(&sizes, shard_bytes);
    let count = shards.len();
    let mut written = Vec::with_capacity(count + 1);
    let mut weight_map = BTreeMap::new();
    for (index, range) in shards.into_iter().enumerate() {
        let name = if count == 1 {
            format!("{stem}.safetensors")
        } else {
            format!("{stem}-{:05}-of-{count:05}.safetensors", index + 1)
        };
        weight_map.extend(tensors[range.clone()].iter().map(|tensor| (tensor.name.as_str(), name.clone())));
        let digest = write_shard(&directory.join(&name), &tensors[range.clone()], &sizes[range], &mut fill)?;
        written.push(WrittenFile { name, digest });
    }
    if count > 1 {
        written.push(write_index(directory, stem, sizes.iter().sum(), &weight_map)?);
    }
    Ok(written)
}

/// Checks the list and returns each tensor's size in bytes.
fn check(tensors: &[TensorSpec]) -> Result<Vec<u64>> {
    let mut names = BTreeSet::new();
    let mut total = 0u64;
    tensors
        .iter()
        .map(|tensor| {
            if tensor.name == METADATA_KEY || tensor.name.is_empty() {
                return Err(wrong(tensor, "has a name that the format reserves"));
            }
            if !matches!(tensor.dtype, Dtype::F32 | Dtype::BF16 | Dtype::F8_E4M3) {
                return Err(wrong(tensor, "has a type that cannot be written; only F32, BF16 and F8_E4M3 can"));
            }
            if !names.insert(&tensor.name) {
                return Err(wrong(tensor, "is listed twice"));
            }
            let bytes = byte_length(tensor.dtype, &tensor.shape).ok_or_else(|| wrong(tensor, "is too large"))?;
            total = total.checked_add(bytes).ok_or_else(|| wrong(tensor, "makes the file too large"))?;
            Ok(bytes)
        })
        .collect()
}

fn wrong(tensor: &TensorSpec, problem: &str) -> Error {
    Error::Config {
        problem: format!("tensor `{}` of shape {:?} {problem}", tensor.name, tensor.shape),
        cure: "correct the list of tensors given to the checkpoint writer".into(),
    }
}

/// Splits the list into consecutive ranges of at most `limit` bytes, at least one tensor each; one (perhaps empty) range at least.
fn shard(sizes: &[u64], limit: u64) -> Vec<std::ops::Range<usize>> {
    let mut shards = Vec::new();
    let (mut start, mut bytes) = (0, 0u64);
    for (index, &size) in sizes.iter().enumerate() {
        if index > start && bytes + size > limit {
            shards.push(start..index);
            (start, bytes) = (index, 0);
        }
        bytes += size;
    }
    shards.push(start..sizes.len());
    shards
}

fn write_shard(
    path: &Path,
    tensors: &[TensorSpec],
    sizes: &[u64],
    fill: &mut impl FnMut(&TensorSpec, &mut TensorSink<'_>) -> Result<()>,
) -> Result<FileDigest> {
    let header = build(tensors.iter().zip(sizes.iter().copied()));
    if header.len() as u64 > MAX_HEADER_BYTES {
        return Err(Error::Config {
            problem: format!(
                "{} tensors need a header of {} bytes, above the format's limit",
                tensors.len(),
                header.len()
            ),
            cure: "use a smaller shard size".into(),
        });
    }
    let mut file = HashingFile::create(path)?;
    file.write(&header)?;
    for (tensor, &size) in tensors.iter().zip(sizes) {
        let mut sink = TensorSink {
            file: &mut file,
            remaining: size,
            spec: tensor,
        };
        fill(tensor, &mut sink)?;
        if sink.remaining != 0 {
            return Err(wrong(tensor, "received fewer values than its shape holds"));
        }
    }
    file.finish()
}

fn write_index(directory: &Path, stem: &str, total: u64, weight_map: &BTreeMap<&str, String>) -> Result<WrittenFile> {
    let name = format!("{stem}.safetensors.index.json");
    let index = serde_json::json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
    let mut file = HashingFile::create(&directory.join(&name))?;
    file.write(format!("{index:#}\n").as_bytes())?;
    Ok(WrittenFile {
        name,
        digest: file.finish()?,
    })
}

/// A new file that is hashed while it is written, in blocks.
struct HashingFile {
    path: PathBuf,
    file: File,
    block: Vec<u8>,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl HashingFile {
    fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).map_err(Error::io("create", path))?;
        Ok(Self {
            path: path.to_path_buf(),
            file,
            block: Vec::with_capacity(BLOCK),
            hasher: blake3::Hasher::new(),
            bytes: 0,
        })
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - self.block.len()));
            self.block.extend_from_slice(now);
            bytes = later;
            if self.block.len() == BLOCK {
                self.drain()?;
            }
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<()> {
        self.hasher.update_rayon(&self.block);
        self.bytes += self.block.len() as u64;
        self.file.write_all(&self.block).map_err(Error::io("write", &self.path))?;
        self.block.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<FileDigest> {
        self.drain()?;
        self.file.sync_all().map_err(Error::io("sync", &self.path))?;
        Ok(FileDigest {
            bytes: self.bytes,
            blake3: self.hasher.finalize().to_hex().to_string(),
        })
    }
}
