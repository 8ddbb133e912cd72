//! Weights by their checkpoint names.

use crate::model::Weights;
use crate::model::layout::{Layout, Part, Tensor};
use fathom_kernels::Kernels;
use fathom_kernels::formats::Activation;

/// Fills the tensors that `select` picks, part by part. Values are rounded to the type of the weights.
///
/// # Errors
/// The first error of `read`.
pub fn upload<K: Kernels, T: Activation, E>(
    k: &K,
    layout: &Layout,
    weights: &mut Weights<K, T>,
    select: impl Fn(&Tensor) -> bool,
    mut read: impl FnMut(&Part, &mut [f32]) -> Result<(), E>,
) -> Result<(), E> {
    for id in layout.ids() {
        let tensor = layout.tensor(id);
        if !select(tensor) {
            continue;
        }
        let mut values = vec![0.0; tensor.len];
        for part in &tensor.parts {
            read(part, &mut values[part.offset..part.offset + part.len()])?;
        }
        let values: Vec<T> = values.into_iter().map(T::from_f32).collect();
        k.upload(&mut weights[id], 0, &values);
    }
    Ok(())
}

/// Visits the tensors that `select` picks, part by part, in checkpoint order.
///
/// # Errors
/// The first error of `write`.
pub fn download<K: Kernels, E>(
    k: &K,
    layout: &Layout,
    weights: &Weights<K>,
    select: impl Fn(&Tensor) -> bool,
    mut write: impl FnMut(&Part, &[f32]) -> Result<(), E>,
) -> Result<(), E> {
    for id in layout.ids() {
        let tensor = layout.tensor(id);
        if !select(tensor) {
            continue;
        }
        let mut values = vec![0.0; tensor.len];
        k.download(&mut values, &weights[id], 0);
        for part in &tensor.parts {
            write(part, &values[part.offset..part.offset + part.len()])?;
        }
    }
    Ok(())
}
