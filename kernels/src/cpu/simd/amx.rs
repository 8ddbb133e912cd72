//! Tiles of AMX (Intel SDM, volume 1, chapter 18): eight registers of 16 rows x 64 bytes, and a product of two of them.
//!
//! `tdpbf16ps` adds the product of a 16 x 32 and a 32 x 16 matrix of BF16 values to 16 x 16 sums. Rust's intrinsics are not stable, and its
//! registers are unknown to the compiler, so that whole products are written in assembly: what is in a register does not outlive a block of it.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::sync::LazyLock;

/// Rows of a tile.
pub const ROWS: usize = 16;
/// Terms that a product of tiles sums.
pub const TERMS: usize = 32;
/// Bytes of a tile.
pub const BYTES: usize = 1024;

/// Whether this machine multiplies BF16 tiles, and the operating system lets this process.
pub fn available() -> bool {
    static AVAILABLE: LazyLock<bool> = LazyLock::new(|| detected() && granted());
    *AVAILABLE
}

fn detected() -> bool {
    /// Of leaf 7, register EDX.
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    /// Of leaf 1, register ECX: the operating system saves extended state.
    const OSXSAVE: u32 = 1 << 27;
    /// Of the extended state: configuration and data of tiles.
    const TILES: u64 = 0b11 << 17;
    if __cpuid(0).eax < 7 || __cpuid(1).ecx & OSXSAVE == 0 {
        return false;
    }
    let features = __cpuid_count(7, 0).edx;
    // SAFETY: the operating system has enabled it, as read above.
    let saved = unsafe { xgetbv() };
    features & (AMX_BF16 | AMX_TILE) == AMX_BF16 | AMX_TILE && saved & TILES == TILES
}

/// # Safety
/// The operating system has enabled XSAVE.
#[target_feature(enable = "xsave")]
fn xgetbv() -> u64 {
    // SAFETY: passed on from the caller.
    unsafe { _xgetbv(0) }
}

/// Asks Linux for the state of tiles, which makes signal frames larger: for this process and its threads, once.
#[cfg(target_os = "linux")]
fn granted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XFEATURE_XTILEDATA: i64 = 18;
    let result: i64;
    // SAFETY: the call writes to no memory; these are its number, its arguments and the registers that calls change.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn granted() -> bool {
    false
}

/// Makes all registers tiles of [`ROWS`] full rows, until [`release`].
///
/// # Safety
/// [`available`].
pub unsafe fn configure() {
    /// As `ldtilecfg` reads it: palette 1, bytes of a row and rows of each register.
    #[repr(C, align(64))]
    struct Configuration {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }
    static CONFIGURATION: Configuration = {
        let (mut row_bytes, mut rows, mut register) = ([0; 16], [0; 16], 0);
        while register < 8 {
            row_bytes[register] = (BYTES / ROWS) as u16;
            rows[register] = ROWS as u8;
            register += 1;
        }
        Configuration {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes,
            rows,
        }
    };
    // SAFETY: the machine has it, as the caller guarantees.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(nostack, readonly, preserves_flags)) };
}

/// Ends the use of tiles: the operating system need not save them any more.
///
/// # Safety
/// [`available`].
pub unsafe fn release() {
    // SAFETY: the machine has it, as the caller guarantees.
    unsafe {
        asm!("tilerelease", out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _, out("tmm6") _,
            out("tmm7") _, options(nostack, nomem, preserves_flags));
    }
}

/// Floating-point operations of one round of [`multiply_registers`].
pub const ROUND_FLOPS: usize = 4 * 2 * ROWS * ROWS * TERMS;

/// So many rounds of products of registers alone, at least one.
///
/// # Safety
/// Inside [`configure`] and [`release`].
pub unsafe fn multiply_registers(rounds: usize) {
    // SAFETY: the caller guarantees the configuration; every register that changes is listed.
    unsafe {
        asm!(
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            "tilezero tmm4", "tilezero tmm5", "tilezero tmm6", "tilezero tmm7",
            "2:",
            "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7", "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7",
            "dec {rounds}",
            "jnz 2b",
            rounds = inout(reg) rounds => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, nomem),
        );
    }
}

/// A product of panels of tiles: `sums (=|+=) a b`.
#[derive(Clone, Copy)]
pub struct TileProduct {
    /// The first 32 terms of the first 16 rows.
    pub a: *const u8,
    /// Bytes between rows, and between each 32 terms: 64 and 1,024 in tiles `[ROWS rows][TERMS terms]`.
    pub a_row: usize,
    pub a_step: usize,
    /// Bytes from there to those of the next 16 rows.
    pub a_next: usize,
    /// Tiles `[TERMS / 2 pairs][ROWS columns][2 terms]` of the first 16 columns, in order of their terms.
    pub b: *const u8,
    /// Bytes from there to those of the next 16 columns.
    pub b_next: usize,
    /// Tiles of each, at least one.
    pub steps: usize,
    /// Row-major.
    pub sums: *mut f32,
    /// Bytes between rows of sums.
    pub sums_row: usize,
    /// Whether sums begin with what they hold, or with zero.
    pub accumulate: bool,
}

/// A function for so many tiles of rows and columns: how sums begin, a step, how they are stored.
macro_rules! product {
    ($name:ident, [$($load:literal)+], [$($zero:literal)+], [$($step:literal)+], [$($store:literal)+]) => {
        /// # Safety
        /// As for [`TileProduct::run`].
        #[inline]
        unsafe fn $name(product: TileProduct) {
            let TileProduct { a, a_row, a_step, a_next, b, b_next, steps, sums, sums_row, accumulate } = product;
            // SAFETY: the caller guarantees the memory and the configuration; every register that changes is listed.
            unsafe {
                asm!(
                    "test {accumulate}, {accumulate}",
                    "jz 2f",
                    $($load,)+
                    "jmp 3f",
                    "2:",
                    $($zero,)+
                    "3:",
                    $($step,)+
                    "add {a}, {a_step}",
                    "add {a1}, {a_step}",
                    "add {b}, 1024",
                    "add {b1}, 1024",
                    "dec {steps}",
                    "jnz 3b",
                    $($store,)+
                    accumulate = in(reg) u64::from(accumulate),
                    a = inout(reg) a => _,
                    a1 = inout(reg) a.wrapping_add(a_next) => _,
                    b = inout(reg) b => _,
                    b1 = inout(reg) b.wrapping_add(b_next) => _,
                    steps = inout(reg) steps => _,
                    a_row = in(reg) a_row,
                    a_step = in(reg) a_step,
                    row = in(reg) 64_usize,
                    sums = in(reg) sums,
                    sums1 = in(reg) sums.wrapping_byte_add(ROWS * sums_row),
                    sums_row = in(reg) sums_row,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

product! { product_2x2,
    ["tileloadd tmm0, [{sums} + {sums_row}*1]" "tileloadd tmm1, [{sums} + {sums_row}*1 + 64]"
     "tileloadd tmm2, [{sums1} + {sums_row}*1]" "tileloadd tmm3, [{sums1} + {sums_row}*1 + 64]"],
    ["tilezero tmm0" "tilezero tmm1" "tilezero tmm2" "tilezero tmm3"],
    ["tileloadd tmm4, [{a} + {a_row}*1]" "tileloadd tmm6, [{b} + {row}*1]" "tdpbf16ps tmm0, tmm4, tmm6"
     "tileloadd tmm7, [{b1} + {row}*1]" "tdpbf16ps tmm1, tmm4, tmm7"
     "tileloadd tmm5, [{a1} + {a_row}*1]" "tdpbf16ps tmm2, tmm5, tmm6" "tdpbf16ps tmm3, tmm5, tmm7"],
    ["tilestored [{sums} + {sums_row}*1], tmm0" "tilestored [{sums} + {sums_row}*1 + 64], tmm1"
     "tilestored [{sums1} + {sums_row}*1], tmm2" "tilestored [{sums1} + {sums_row}*1 + 64], tmm3"]
}

product! { product_2x1,
    ["tileloadd tmm0, [{sums} + {sums_row}*1]" "tileloadd tmm2, [{sums1} + {sums_row}*1]"],
    ["tilezero tmm0" "tilezero tmm2"],
    ["tileloadd tmm4, [{a} + {a_row}*1]" "tileloadd tmm6, [{b} + {row}*1]" "tdpbf16ps tmm0, tmm4, tmm6"
     "tileloadd tmm5, [{a1} + {a_row}*1]" "tdpbf16ps tmm2, tmm5, tmm6"],
    ["tilestored [{sums} + {sums_row}*1], tmm0" "tilestored [{sums1} + {sums_row}*1], tmm2"]
}

product! { product_1x2,
    ["tileloadd tmm0, [{sums} + {sums_row}*1]" "tileloadd tmm1, [{sums} + {sums_row}*1 + 64]"],
    ["tilezero tmm0" "tilezero tmm1"],
    ["tileloadd tmm4, [{a} + {a_row}*1]" "tileloadd tmm6, [{b} + {row}*1]" "tdpbf16ps tmm0, tmm4, tmm6"
     "tileloadd tmm7, [{b1} + {row}*1]" "tdpbf16ps tmm1, tmm4, tmm7"],
    // The rows below are not stored.
    ["tilestored [{sums} + {sums_row}*1], tmm0" "tilestored [{sums} + {sums_row}*1 + 64], tmm1" "/* {sums1} */"]
}

product! { product_1x1,
    ["tileloadd tmm0, [{sums} + {sums_row}*1]"],
    ["tilezero tmm0"],
    ["tileloadd tmm4, [{a} + {a_row}*1]" "tileloadd tmm6, [{b} + {row}*1]" "tdpbf16ps tmm0, tmm4, tmm6"],
    ["tilestored [{sums} + {sums_row}*1], tmm0" "/* {sums1} */"]
}

impl TileProduct {
    /// Runs it for one or two tiles of rows and of columns.
    ///
    /// # Safety
    /// Inside [`configure`] and [`release`]; the pointers are valid for so many tiles.
    #[inline]
    pub unsafe fn run(self, two_rows: bool, two_columns: bool) {
        // SAFETY: passed on from the caller.
        unsafe {
            match (two_rows, two_columns) {
                (true, true) => product_2x2(self),
                (true, false) => product_2x1(self),
                (false, true) => product_1x2(self),
                (false, false) => product_1x1(self),
            }
        }
    }
}
