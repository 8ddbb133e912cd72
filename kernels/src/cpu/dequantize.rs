//! Codes to values, and the transposition of codes.

use super::Cpu;
use super::codes::{load, scatter};
use super::quantize::STRIP;
use super::simd::{Job, Simd, dispatch};
use crate::dims::{at_least, size};
use crate::formats::{Activation, GROUP, Source};
use rayon::prelude::*;

impl Cpu {
    /// As [`crate::Reference::dequantize_source`].
    pub fn dequantize_source<Y: Activation>(&self, y: &mut [Y], x: Source<'_>, rows: usize, columns: usize) {
        x.check(rows, columns);
        let len = size(&[rows, columns]);
        at_least("y", y.len(), len);
        if len == 0 {
            return;
        }
        self.pool().install(|| {
            y[..len].par_chunks_mut(STRIP * columns).enumerate().for_each(|(index, y)| {
                let row = index * STRIP;
                dispatch(self.isa(), Load { y, x, row, columns });
            });
        });
    }

    /// `y = x^T`, for the codes of a matrix of `rows` x `columns`.
    pub fn transpose_codes(&self, y: &mut [u8], x: &[u8], rows: usize, columns: usize) {
        assert_eq!((y.len(), x.len()), (rows * columns, rows * columns), "codes of {rows} x {columns}");
        if y.is_empty() {
            return;
        }
        self.pool().install(|| {
            y.par_chunks_mut(GROUP * rows).enumerate().for_each(|(index, y)| {
                let columns_here = y.len() / rows;
                let mut tile = [[0; GROUP]; GROUP];
                for row in (0..rows).step_by(GROUP) {
                    let rows_here = GROUP.min(rows - row);
                    for (i, to) in tile[..rows_here].iter_mut().enumerate() {
                        let start = (row + i) * columns + index * GROUP;
                        to[..columns_here].copy_from_slice(&x[start..start + columns_here]);
                    }
                    scatter(&mut y[row..], rows, &tile, (rows_here, columns_here));
                }
            });
        });
    }
}

/// Rows of the source from `row` on, as values.
struct Load<'a, Y> {
    y: &'a mut [Y],
    x: Source<'a>,
    row: usize,
    columns: usize,
}

impl<Y: Activation> Job for Load<'_, Y> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let mut values = [0.0; GROUP];
        for (i, y) in self.y.chunks_exact_mut(self.columns).enumerate() {
            for (index, y) in y.chunks_mut(GROUP).enumerate() {
                let values = load::<S>(&mut values, &self.x, (self.row + i, index * GROUP, y.len()), self.columns);
                for (y, &value) in y.iter_mut().zip(values) {
                    *y = Y::from_f32(value);
                }
            }
        }
    }
}
