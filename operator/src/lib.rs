//! Kubernetes in, Kubernetes out. A reconciliation of a job is observe -> decide -> write the status -> act, and again until nothing is left to do; `decide` and
//! `build` are pure.
//!
//! What is to happen is in the status before it happens, names are deterministic, and each request may be repeated: so the operator may be killed between any
//! two of them.

mod apply;
pub mod build;
mod controller;
mod culprit;
pub mod decide;
pub mod names;
pub mod observe;
mod report;
pub mod resource;

/// The client of the cluster that `KUBECONFIG` names, or of the one this process is a pod of.
///
/// # Errors
/// If there is neither, or what it says cannot be used.
pub async fn connect() -> Result<kube::Client, ConnectError> {
    Ok(kube::Client::try_default().await?)
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ConnectError(#[from] kube::Error);

pub use build::Workers;
pub use controller::{Options, run};
