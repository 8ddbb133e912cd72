//! One module per command: its arguments and what it does.

pub mod bench;
pub mod ckpt;
pub mod compare;
pub mod completion;
pub mod debug;
pub mod explain;
pub mod generate;
pub mod health;
pub mod init;
pub mod logs;
pub mod matrix;
pub mod metrics;
pub mod operator;
pub mod plan;
pub mod pod;
pub mod run;
pub mod schema;
pub mod server;
pub mod status;
pub mod top;
pub mod ui;
pub mod validate;
pub mod version;
pub mod worker;

use crate::failure::{Exit, Failure};
use fathom_spec::manifest::Precision;

/// A failure of the worker library inside this process.
pub fn worker_failure(error: &fathom_worker::error::Error) -> Failure {
    Failure::new(Exit::Failed, error.to_string()).causes_of(error)
}

/// `--precision`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum PrecisionArg {
    /// 32-bit floating point.
    F32,
    /// BF16 operands, FP32 sums.
    Bf16,
    /// E4M3 operands with tile and block scales, FP32 sums.
    Fp8,
}

impl From<PrecisionArg> for Precision {
    fn from(argument: PrecisionArg) -> Self {
        match argument {
            PrecisionArg::F32 => Self::F32,
            PrecisionArg::Bf16 => Self::Bf16,
            PrecisionArg::Fp8 => Self::Fp8,
        }
    }
}
