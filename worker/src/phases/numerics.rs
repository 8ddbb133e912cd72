//! What quantisation saw in a step, as metrics.

use super::pretrain::matrix;
use fathom_kernels::formats::Statistics;
use fathom_spec::record::Matrix;

/// How much of a format's range is unused, in powers of two: 0 if the largest element of every group is the largest value.
fn headroom(statistics: &Statistics) -> f64 {
    statistics.headroom().log2()
}

/// Share of elements that were coded as the largest value.
fn saturated(statistics: &Statistics) -> f64 {
    statistics.saturated as f64 / statistics.elements as f64
}

/// Share of elements that were not zero and were coded as zero.
fn underflowed(statistics: &Statistics) -> f64 {
    statistics.underflowed as f64 / statistics.elements as f64
}

/// Over all layers and classes.
pub fn scalars(numerics: &[Vec<Statistics>]) -> [(&'static str, f64); 3] {
    let all = numerics.iter().flatten().fold(Statistics::default(), |all, &one| all.merge(one));
    [
        ("numerics.headroom.mean", headroom(&all)),
        ("numerics.saturated.mean", saturated(&all)),
        ("numerics.underflowed.mean", underflowed(&all)),
    ]
}

/// A row per layer (those of MTP modules last), a column per class of [`crate::model::TensorClass::ALL`]; NaN where a layer has no such tensor.
pub fn matrices(numerics: &[Vec<Statistics>]) -> [(&'static str, Matrix); 3] {
    let map = |value: fn(&Statistics) -> f64| {
        let row = |classes: &Vec<Statistics>| {
            let cell = |statistics: &Statistics| {
                if statistics.elements == 0 {
                    f32::NAN
                } else {
                    value(statistics) as f32
                }
            };
            classes.iter().map(cell).collect()
        };
        matrix(numerics.iter().map(row).collect())
    };
    [
        ("numerics.headroom", map(headroom)),
        ("numerics.saturated", map(saturated)),
        ("numerics.underflowed", map(underflowed)),
    ]
}
