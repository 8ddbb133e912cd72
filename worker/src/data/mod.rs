//! The data stages: raw text to `tokenizer.json` ([`tokenizer`]), and raw text to packed rows of tokens ([`corpus`]).
//!
//! Text is streamed: a corpus is never in memory. Everything random in a document's life (whether it is held out, repeated,
//! rearranged for fill-in-the-middle) is a function of the seed and the document's hash, so that the output does not depend on the
//! number of threads.

pub mod corpus;
pub mod encode;
pub mod input;
pub mod manifest;
mod merge;
mod minhash;
mod packing;
mod pretokenize;
mod random;
mod rewrite;
pub mod shard;
mod staging;
pub mod stream;
pub mod tokenizer;
mod unicode;
pub mod vocabulary;
