//! How metrics are packed. Pure: bytes in, values out; damaged bytes are an error, never a panic or a large allocation.
//!
//! | what | holds |
//! |---|---|
//! | [`Chunk`](chunk::Chunk) | some steps of all series of an attempt, as they arrived |
//! | [`Points`](points::Points) | level 0 page: the points of one series in 1,024 steps |
//! | [`Buckets`](buckets::Buckets) | level L page: 1,024 buckets of `32^L` steps |
//! | [`matrix`] | one matrix, 16 bits an element |
//!
//! All integers are LEB128 variable-length; columns of floating-point numbers are split into their bytes (all first bytes, then all second
//! bytes, ...), which zstd compresses far better than numbers. A column whose values all fit `f32` exactly is stored as `f32`.

pub mod buckets;
pub mod chunk;
mod columns;
pub mod matrix;
pub mod points;

/// log2 of the number of steps (or buckets) in a page.
pub const PAGE_BITS: u32 = 10;
/// log2 of the number of buckets that become one on the next level.
pub const LEVEL_BITS: u32 = 5;
/// The highest level: its page covers `2^(10 + 5 * 8)` steps.
pub const MAX_LEVEL: u8 = 8;
/// zstd level for what is written once and read often.
const LEVEL_STORED: i32 = 3;
/// zstd level for what is rewritten within minutes.
const LEVEL_TRANSIENT: i32 = 1;
/// No payload decodes to more.
const MAX_DECODED_BYTES: usize = 256 << 20;

/// Bytes that are not what they should be.
#[derive(Debug, thiserror::Error)]
#[error("a stored block is damaged: {0}")]
pub struct CodecError(&'static str);

/// Steps per bucket of a level.
#[must_use]
pub const fn bucket_bits(level: u8) -> u32 {
    LEVEL_BITS * level as u32
}

/// The page that holds `step` on `level`.
#[must_use]
pub const fn page_of(step: u64, level: u8) -> u64 {
    step >> (bucket_bits(level) + PAGE_BITS)
}

/// First step of a page.
#[must_use]
pub const fn page_start(page: u64, level: u8) -> u64 {
    page << (bucket_bits(level) + PAGE_BITS)
}

fn compress(raw: &[u8], level: i32) -> Vec<u8> {
    // Compression into memory has no failure but memory itself.
    zstd::bulk::compress(raw, level).unwrap_or_default()
}

fn decompress(bytes: &[u8]) -> Result<Vec<u8>, CodecError> {
    let size = zstd::zstd_safe::get_frame_content_size(bytes)
        .ok()
        .flatten()
        .and_then(|size| usize::try_from(size).ok())
        .filter(|&size| size <= MAX_DECODED_BYTES)
        .ok_or(CodecError("no acceptable size"))?;
    zstd::bulk::decompress(bytes, size).map_err(|_| CodecError("not a zstd frame"))
}
