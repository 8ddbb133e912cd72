//! `config.json` of a model directory.

use crate::error::{Error, Result};
use fathom_kernels::formats::GROUP;
use fathom_spec::architecture::Architecture;
use serde_json::{Value, json};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Bytes of a `config.json` that are read: one more than the parser takes, so that it sees that there are more.
const MOST_BYTES: u64 = (1 << 20) + 1;

/// What a `config.json` says of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The model's shape.
    pub architecture: Architecture,
    /// `bos_token_id`, the token that a document begins with; 0 if there is none, as in transformers.
    pub begin: u32,
    /// `eos_token_id`, the token that a document ends with, the first of several; 1 if there is none, as in transformers.
    pub end: u32,
}

impl Config {
    /// Reads `config.json` of a model directory.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::Config`] if it is not a supported DeepSeek-V3 configuration, or one of weights that are
    /// quantised in another way than to FP8 in blocks of 128 x 128.
    pub fn read(directory: &Path) -> Result<Self> {
        let path = directory.join("config.json");
        let wrong = |problem: String| Error::Config {
            problem: format!("{}: {problem}", path.display()),
            cure: "give the config.json of a DeepSeek-V3 model".into(),
        };
        let file = File::open(&path).map_err(Error::io("read", &path))?;
        let mut text = String::new();
        file.take(MOST_BYTES).read_to_string(&mut text).map_err(Error::io("read", &path))?;
        let architecture = Architecture::from_config_json(&text).map_err(|problem| wrong(problem.to_string()))?;
        let json: Value = serde_json::from_str(&text).map_err(|problem| wrong(problem.to_string()))?;
        check_quantization(&json["quantization_config"]).map_err(wrong)?;
        Ok(Self {
            begin: token(&json, "bos_token_id", 0).map_err(wrong)?,
            end: token(&json, "eos_token_id", 1).map_err(wrong)?,
            architecture,
        })
    }
}

/// Reads the architecture in `config.json` of a model directory.
///
/// # Errors
/// Those of [`Config::read`].
pub fn read(directory: &Path) -> Result<Architecture> {
    Ok(Config::read(directory)?.architecture)
}

/// `quantization_config` of weights in E4M3, as the released model has it.
#[must_use]
pub fn fp8_quantization() -> Value {
    json!({
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [GROUP, GROUP],
    })
}

/// Refuses weights that need another rule of dequantisation. An absent `fmt` is `e4m3`; how activations are quantised does not matter here.
fn check_quantization(found: &Value) -> Result<(), String> {
    let Value::Object(found) = found else {
        return if found.is_null() {
            Ok(())
        } else {
            Err("`quantization_config` must be an object or null".into())
        };
    };
    let expected = fp8_quantization();
    for field in ["quant_method", "fmt", "weight_block_size"] {
        let value = found.get(field).unwrap_or(&Value::Null);
        let absent = field == "fmt" && value.is_null();
        if !absent && *value != expected[field] {
            return Err(format!(
                "`quantization_config.{field}` is {value}, which is not supported; expected {}",
                expected[field]
            ));
        }
    }
    Ok(())
}

/// A token id, or the first of a list of them.
fn token(json: &Value, field: &str, default: u32) -> Result<u32, String> {
    let value = match &json[field] {
        Value::Array(several) => several.first().unwrap_or(&Value::Null),
        one => one,
    };
    if value.is_null() {
        return Ok(default);
    }
    let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
    id.ok_or_else(|| format!("`{field}` must be a token id, not {value}"))
}
