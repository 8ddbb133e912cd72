//! `config.json` of a model directory.

use crate::error::{Error, Result};
use fathom_spec::architecture::Architecture;
use std::path::Path;

/// Reads `config.json` of a model directory.
///
/// # Errors
/// [`Error::Io`] if it cannot be read, [`Error::Config`] if it is not a supported DeepSeek-V3 configuration.
pub fn read(directory: &Path) -> Result<Architecture> {
    let path = directory.join("config.json");
    let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    Architecture::from_config_json(&text).map_err(|problem| Error::Config {
        problem: format!("{}: {problem}", path.display()),
        cure: "give the config.json of a DeepSeek-V3 model".into(),
    })
}
