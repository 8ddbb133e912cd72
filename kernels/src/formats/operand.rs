//! Operands of products of quantised matrices.

use super::{GROUP, Grouping, e4m3};

/// The dimension of an operand that a product sums over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Along {
    /// The terms of a sum lie in one row.
    Columns,
    /// The terms of a sum lie in one column.
    Rows,
}

/// The order in which the products of the terms of a group are added up, each step rounded to the nearest FP32 value: what the hardware's
/// instruction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SumOrder {
    /// `vdpbf16ps`: pairs of terms `(2i, 2i + 1)`, ascending; of a pair the odd term is added first, then the even one.
    Pairs,
    /// `tdpbf16ps`: runs of 32 terms, ascending; of a run the even terms have a sum and the odd terms have one, both ascending from 0, and the sum of the two is
    /// added.
    Tiles,
}

/// An E4M3 matrix in a product.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a> {
    /// Row-major.
    pub codes: &'a [u8],
    /// One per group.
    pub scales: &'a [f32],
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Which elements share a scale: constant over [`GROUP`] terms of a sum.
    pub grouping: Grouping,
    /// Where the terms of a sum lie.
    pub along: Along,
}

impl Operand<'_> {
    /// Vectors that are multiplied: rows or columns of the matrix.
    #[must_use]
    pub const fn vectors(&self) -> usize {
        match self.along {
            Along::Columns => self.rows,
            Along::Rows => self.columns,
        }
    }

    /// Terms of each sum.
    #[must_use]
    pub const fn terms(&self) -> usize {
        match self.along {
            Along::Columns => self.columns,
            Along::Rows => self.rows,
        }
    }

    /// Panics unless the lengths follow from the sizes and the scales are constant over [`GROUP`] terms.
    pub fn check(&self) {
        let (rows, columns) = self.grouping.scales(self.rows, self.columns);
        let sizes = (self.rows, self.columns, self.grouping);
        assert_eq!(self.codes.len(), self.rows * self.columns, "codes of an operand of {sizes:?}");
        assert_eq!(self.scales.len(), rows * columns, "scales of an operand of {sizes:?}");
        let fits = match self.along {
            Along::Columns => self.grouping != Grouping::Column,
            Along::Rows => self.grouping != Grouping::Row,
        };
        assert!(
            fits,
            "an operand summed along its {:?} has a scale per {:?}",
            self.along, self.grouping
        );
    }

    /// Row and column of a term.
    const fn place(&self, vector: usize, term: usize) -> (usize, usize) {
        match self.along {
            Along::Columns => (vector, term),
            Along::Rows => (term, vector),
        }
    }

    /// The decoded code of a term, without its scale.
    #[must_use]
    pub fn code_value(&self, vector: usize, term: usize) -> f32 {
        let (row, column) = self.place(vector, term);
        e4m3::decode(self.codes[row * self.columns + column])
    }

    /// The scale of the terms `block * GROUP` and following.
    #[must_use]
    pub fn scale(&self, vector: usize, block: usize) -> f32 {
        let (row, column) = self.place(vector, block * GROUP);
        let (height, width) = self.grouping.size();
        self.scales[row / height * self.columns.div_ceil(width) + column / width]
    }
}
