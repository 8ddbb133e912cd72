//! `fathom operator`: executes the jobs of a Kubernetes cluster.

use crate::args::Context;
use crate::failure::{Exit, Failure, Result};
use fathom_operator::{Options, Workers};
use tokio::signal::unix::{SignalKind, signal};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Environment:\n  KUBECONFIG  the cluster; inside a pod, its service account is used\n  \
                        FATHOM_LOG  what to log, as in `info,fathom_operator=debug`"
)]
pub struct Args {
    /// The only namespace to look after; all of them by default
    #[arg(long, value_name = "NAMESPACE", env = "FATHOM_NAMESPACE")]
    namespace: Option<String>,
    /// Image of workers whose job names none
    #[arg(long, value_name = "IMAGE", env = "FATHOM_IMAGE")]
    image: String,
    /// When the image is pulled: Always, `IfNotPresent` or Never
    #[arg(long, value_name = "POLICY", default_value = "IfNotPresent", env = "FATHOM_IMAGE_PULL_POLICY")]
    image_pull_policy: String,
}

/// Runs the command until SIGTERM or SIGINT. Jobs that run go on without it.
pub fn run(args: &Args, context: &Context) -> Result {
    context.terminal.start_service_log();
    let runtime = tokio::runtime::Runtime::new().map_err(|error| Failure::new(Exit::Failed, "cannot start threads").caused_by(&error))?;
    runtime.block_on(operate(args))
}

async fn operate(args: &Args) -> Result {
    let unreachable = |error: &dyn std::error::Error| {
        Failure::new(Exit::Failed, "cannot reach the Kubernetes API server")
            .cause(error.to_string())
            .help("set KUBECONFIG, or run it in a pod with a service account")
    };
    let client = fathom_operator::connect().await.map_err(|error| unreachable(&error))?;
    let signals = |error: std::io::Error| Failure::new(Exit::Failed, "cannot handle signals").caused_by(&error);
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate()).map_err(signals)?,
        signal(SignalKind::interrupt()).map_err(signals)?,
    );
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let options = Options {
        namespace: args.namespace.clone(),
        workers: Workers {
            image: args.image.clone(),
            image_pull_policy: args.image_pull_policy.clone(),
        },
    };
    fathom_operator::run(client, options, stop).await;
    Ok(())
}
