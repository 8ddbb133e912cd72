//! A model directory, opened: where each tensor of the model is, and its values in FP32 whatever type it is stored in.

use super::{MODEL, copies, matrix, scale_name, strips};
use crate::checkpoint::safetensors::{Dtype, Reader};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::model::layout::{Layout, Part};
use fathom_kernels::Cpu;
use fathom_kernels::formats::{GROUP, Grouping, Source as Quantized};
use fathom_spec::architecture::Architecture;
use std::path::Path;

/// A model directory whose tensors all have known names, shapes and types. Nothing but their headers is in memory.
pub struct Source {
    /// Its `config.json`, with as many MTP modules as there are weights of.
    pub config: Config,
    /// The model's tensors.
    pub layout: Layout,
    /// MTP modules of `config.json` without any tensor: transformers leaves them out when it saves a model.
    pub missing_mtp: u32,
    reader: Reader,
    cpu: Cpu,
}

impl Source {
    /// Opens `config.json` and `model.safetensors` (or its shards).
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read, [`Error::Config`] for an unsupported `config.json`, [`Error::Data`] that names file and
    /// tensors for weights that are damaged, missing, unknown, or of the wrong shape or type.
    pub fn open(directory: &Path) -> Result<Self> {
        let mut config = Config::read(directory)?;
        let reader = Reader::open_stem(directory, MODEL)?;
        let architecture = &mut config.architecture;
        let layers = architecture.num_hidden_layers;
        let has_mtp = reader.names().any(|name| layer(name).is_some_and(|layer| layer >= layers));
        let missing_mtp = if has_mtp { 0 } else { architecture.num_nextn_predict_layers };
        architecture.num_nextn_predict_layers -= missing_mtp;
        check_count(directory, architecture, &reader)?;
        let source = Self {
            layout: Layout::new(architecture),
            config,
            missing_mtp,
            reader,
            cpu: Cpu::new(0),
        };
        source.check_tensors()?;
        Ok(source)
    }

    /// The tensors of the model, in checkpoint order.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        self.layout.tensors.iter().flat_map(|tensor| &tensor.parts)
    }

    /// Reads rows of a tensor from `first_row`, a multiple of 128, on: as many as `out` holds.
    ///
    /// # Errors
    /// [`Error::Io`] if reading fails, [`Error::Data`] naming file and tensor if a value is NaN or infinite.
    pub fn read_rows(&self, part: &Part, first_row: usize, out: &mut [f32]) -> Result<()> {
        self.read_stored(&part.name, matrix(part).1, first_row, out)
    }

    /// Calls `visit` with the values of a tensor, in strips of rows that begin at multiples of 128.
    ///
    /// # Errors
    /// Those of [`Source::read_rows`] and `visit`.
    pub fn visit(&self, part: &Part, mut visit: impl FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let (_, columns) = matrix(part);
        let mut values = Vec::new();
        for rows in strips(part) {
            values.resize(rows.len() * columns, 0.0);
            self.read_rows(part, rows.start, &mut values)?;
            visit(&values)?;
        }
        Ok(())
    }

    /// Compares what MTP modules repeat with what it is a copy of. The trainer has one embedding and one head.
    ///
    /// # Errors
    /// [`Error::Data`] naming file and tensor if a copy differs; as [`Source::read_rows`].
    pub fn check_copies(&self) -> Result<()> {
        for (name, original) in copies(&self.layout, &self.config.architecture) {
            if !self.reader.contains(&name) {
                continue;
            }
            let (_, columns) = matrix(original);
            for rows in strips(original) {
                let mut values = vec![0.0; rows.len() * columns];
                let mut copied = values.clone();
                self.read_rows(original, rows.start, &mut values)?;
                self.read_stored(&name, columns, rows.start, &mut copied)?;
                if let Some(index) = (0..values.len()).find(|&index| values[index].to_bits() != copied[index].to_bits()) {
                    return Err(Error::Data {
                        place: self.reader.file(&name)?.display().to_string(),
                        problem: format!(
                            "`{name}` is not a copy of `{}`: they differ in row {}",
                            original.name,
                            rows.start + index / columns
                        ),
                        cure: "an MTP module of this trainer shares both with the main model: import a model whose copies are equal".into(),
                    });
                }
            }
        }
        Ok(())
    }

    fn read_stored(&self, name: &str, columns: usize, first_row: usize, out: &mut [f32]) -> Result<()> {
        if self.reader.dtype(name)? == Dtype::F8_E4M3 {
            self.dequantize(name, columns, first_row, out)?;
        } else {
            self.reader.read_part(name, first_row * columns, out)?;
        }
        match out.iter().find(|value| !value.is_finite()) {
            None => Ok(()),
            Some(value) => Err(Error::Data {
                place: self.reader.file(name)?.display().to_string(),
                problem: format!("tensor `{name}` holds {value}"),
                cure: "weights are finite numbers: fetch or write the file again".into(),
            }),
        }
    }

    fn dequantize(&self, name: &str, columns: usize, first_row: usize, out: &mut [f32]) -> Result<()> {
        assert!(first_row.is_multiple_of(GROUP), "row {first_row} is inside a block");
        let rows = out.len() / columns;
        let (scale_rows, scale_columns) = Grouping::Block.scales(rows, columns);
        let mut codes = vec![0; out.len()];
        let mut scales = vec![0.0; scale_rows * scale_columns];
        self.reader.read_codes(name, first_row * columns, &mut codes)?;
        self.reader
            .read_part(&scale_name(name), first_row / GROUP * scale_columns, &mut scales)?;
        let quantized = Quantized::E4m3 {
            codes: &codes,
            scales: &scales,
            grouping: Grouping::Block,
        };
        self.cpu.dequantize_source(out, quantized, rows, columns);
        Ok(())
    }

    /// Names, shapes and types of everything. The copies in MTP modules may be left out.
    fn check_tensors(&self) -> Result<()> {
        let mut expected: Vec<(String, Vec<usize>)> = self.parts().map(|part| (part.name.clone(), part.shape.clone())).collect();
        let copies = copies(&self.layout, &self.config.architecture);
        let repeated = copies.into_iter().filter(|(name, _)| self.reader.contains(name));
        expected.extend(repeated.map(|(name, original)| (name, original.shape.clone())));
        let mut scales = Vec::new();
        for (name, shape) in expected.iter().filter(|(name, _)| self.reader.contains(name)) {
            match (self.reader.dtype(name)?, shape.as_slice()) {
                (Dtype::F8_E4M3, &[rows, columns]) => {
                    let (rows, columns) = Grouping::Block.scales(rows, columns);
                    scales.push((scale_name(name), vec![rows, columns]));
                }
                _ => self.check_float(name)?,
            }
        }
        let all = expected.iter().chain(&scales);
        self.reader.expect(all.map(|(name, shape)| (name.as_str(), shape.as_slice())))?;
        scales.iter().try_for_each(|(name, _)| self.check_float(name))
    }

    fn check_float(&self, name: &str) -> Result<()> {
        match self.reader.dtype(name)? {
            Dtype::F32 | Dtype::BF16 | Dtype::F16 => Ok(()),
            other => Err(Error::Data {
                place: self.reader.file(name)?.display().to_string(),
                problem: format!("tensor `{name}` is {other}"),
                cure: "store it as F32, BF16 or F16, or a matrix as F8_E4M3 with its `weight_scale_inv`".into(),
            }),
        }
    }
}

/// Refuses a `config.json` that asks for far more experts than the weights have, before a table of them is made.
fn check_count(directory: &Path, architecture: &Architecture, reader: &Reader) -> Result<()> {
    let layers = architecture.num_hidden_layers - architecture.first_k_dense_replace;
    let layers = u64::from(layers) + u64::from(architecture.num_nextn_predict_layers);
    let experts = layers.saturating_mul(3 * u64::from(architecture.n_routed_experts));
    let found = reader.names().count() as u64;
    if experts <= found {
        return Ok(());
    }
    Err(Error::Data {
        place: directory.display().to_string(),
        problem: format!("config.json describes {experts} matrices of experts, but the weights are {found} tensors"),
        cure: "give the weights of this config.json, all of their files".into(),
    })
}

/// The layer in a tensor's name.
fn layer(name: &str) -> Option<u32> {
    name.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()
}
