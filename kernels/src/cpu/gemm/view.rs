//! Operands and outputs in memory.

use crate::formats::{Activation, Bf16, DataType};
use std::marker::PhantomData;

/// A strided view of a matrix inside a slice: element `(i, j)` is `data[offset + i * row + j * column]`.
#[derive(Clone, Copy)]
pub struct View<'a, T = f32> {
    /// The elements.
    pub data: &'a [T],
    /// Index of element (0, 0).
    pub offset: usize,
    /// Distance between rows.
    pub row: usize,
    /// Distance between columns.
    pub column: usize,
}

impl<'a, T: Copy> View<'a, T> {
    /// Row-major.
    pub const fn rows(data: &'a [T], width: usize) -> Self {
        Self {
            data,
            offset: 0,
            row: width,
            column: 1,
        }
    }

    /// The transpose of a row-major matrix of `width` columns.
    pub const fn transposed(data: &'a [T], width: usize) -> Self {
        Self {
            data,
            offset: 0,
            row: 1,
            column: width,
        }
    }

    /// The same from row `i` on.
    pub const fn skip_rows(self, i: usize) -> Self {
        Self {
            offset: self.offset + i * self.row,
            ..self
        }
    }

    /// The same from column `j` on.
    pub const fn skip_columns(self, j: usize) -> Self {
        Self {
            offset: self.offset + j * self.column,
            ..self
        }
    }

    /// Panics unless all of `rows x columns` is inside the data.
    pub fn check(&self, rows: usize, columns: usize) {
        if rows > 0 && columns > 0 {
            let last = self.offset + (rows - 1) * self.row + (columns - 1) * self.column;
            assert!(
                last < self.data.len(),
                "a {rows} x {columns} view reaches element {last} of {}",
                self.data.len()
            );
        }
    }
}

/// Elements of an output.
#[derive(Clone, Copy)]
pub enum Pointer {
    /// FP32.
    F32(*mut f32),
    /// BF16.
    Bf16(*mut Bf16),
}

impl Pointer {
    /// The element `count` further on, which need not exist.
    #[inline(always)]
    pub const fn skip(self, count: usize) -> Self {
        match self {
            Self::F32(pointer) => Self::F32(pointer.wrapping_add(count)),
            Self::Bf16(pointer) => Self::Bf16(pointer.wrapping_add(count)),
        }
    }
}

/// A row-major output that several tasks write to, each its own block. Its type is known at run time, so that products are compiled once.
#[derive(Clone, Copy)]
pub struct Output<'a> {
    /// Element (0, 0).
    pub pointer: Pointer,
    len: usize,
    /// Distance between rows.
    pub row: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: it stands for the exclusive borrow, and tasks write disjoint blocks: `tasks` makes each block once.
unsafe impl Send for Output<'_> {}
// SAFETY: as above.
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    /// All of `data`, in rows of `width`. Products that run at the same time must not share rows.
    pub fn new<Y: Activation>(data: &'a mut [Y], width: usize) -> Self {
        let pointer = data.as_mut_ptr();
        Self {
            pointer: match Y::DATA_TYPE {
                DataType::F32 => Pointer::F32(pointer.cast()),
                DataType::Bf16 => Pointer::Bf16(pointer.cast()),
            },
            len: data.len(),
            row: width,
            borrow: PhantomData,
        }
    }

    /// The same from row `i` on.
    pub fn skip_rows(self, i: usize) -> Self {
        let skip = i * self.row;
        assert!(skip <= self.len, "row {i} of {} elements in rows of {}", self.len, self.row);
        Self {
            pointer: self.pointer.skip(skip),
            len: self.len - skip,
            ..self
        }
    }

    /// Panics unless `rows x columns` is inside.
    pub fn check(&self, rows: usize, columns: usize) {
        if rows > 0 && columns > 0 {
            let last = (rows - 1) * self.row + columns - 1;
            assert!(
                columns <= self.row && last < self.len,
                "a {rows} x {columns} block reaches element {last} of {}",
                self.len
            );
        }
    }
}
