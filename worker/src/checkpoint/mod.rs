//! Checkpoints: named host tensors in SafeTensors files, and directories that exist whole or not at all.
//!
//! # Why `kill -9`, a full disk or a power cut leaves no half checkpoint
//!
//! A checkpoint is the directory `step-0000000123/`. [`store::Store::commit`] makes it in this order:
//!
//! 1. every file is written under `.tmp-step-0000000123/`, a name that no reader looks at;
//! 2. every file is synced, then `manifest.json` (size and BLAKE3 digest of each file, and the trainer's state) and
//!    `manifest.json.b3` (the digest of the manifest itself) are written and synced, then the directories;
//! 3. the directory is renamed to its final name, which is atomic, and the parent directory is synced, which makes the name durable.
//!
//! A death before 3 leaves a `.tmp-` directory, which the next [`store::Store::open`] removes; a death after 3 leaves a complete
//! checkpoint. A directory that replaces one of the same step is exchanged with it in one system call. Deletion works backwards: rename to
//! `.trash-...` first, remove after. What these steps cannot prevent (a disk that lies about `fsync`, a flipped bit, an operator's
//! `rm`) the digests detect, and [`store::newest_valid`] falls back to the checkpoint before, loudly.
//!
//! Tensor bytes are little-endian by format and are moved without conversion, so big-endian hosts are refused at compile time.

#[cfg(target_endian = "big")]
compile_error!("SafeTensors data is little-endian and is read and written without conversion: big-endian hosts are not supported");

mod corruption;
pub(crate) mod durable;
pub mod safetensors;
pub mod store;

pub use corruption::Corruption;
