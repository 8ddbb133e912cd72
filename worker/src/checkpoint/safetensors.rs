//! Named tensors in SafeTensors files, one file or several with a Hugging Face index, streamed in both directions.
//!
//! Format (<https://huggingface.co/docs/safetensors>): 8 bytes little-endian header length N; N bytes of JSON that map each name to
//! `dtype`, `shape` and `data_offsets` (relative to the end of the header); the tensors' bytes, row-major, little-endian, without holes.
//! Tensors are stored in the order of the writer's list, which is the model's layout order.

mod header;
mod reader;
mod writer;

pub use ::safetensors::Dtype;
pub use reader::Reader;
pub use writer::{DEFAULT_SHARD_BYTES, TensorSink, TensorSpec, WrittenFile, save};
