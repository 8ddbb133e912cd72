//! Serving until told to stop.

use crate::{Api, monitor};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;

/// How long connections may take to finish after the server was told to stop.
const DRAIN: Duration = Duration::from_secs(10);

/// Serves `api` on `listener` until `shutdown`. Live streams end then, and requests that are under way get some seconds to finish.
///
/// # Errors
/// If the listener fails.
pub async fn serve(listener: TcpListener, api: Api, shutdown: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
    let (stopping, mut stopped) = tokio::sync::watch::channel(false);
    let hub = api.hub.clone();
    let watch = tokio::spawn(monitor::watch(api.clone()));
    let router = crate::router(api).into_make_service_with_connect_info::<SocketAddr>();
    let told = async move {
        shutdown.await;
        hub.close();
        // The receiver lives as long as this function.
        let _ = stopping.send(true);
    };
    let serving = axum::serve(listener, router).with_graceful_shutdown(told);
    let deadline = async move {
        let told = stopped.wait_for(|told| *told).await.is_ok();
        if told {
            tokio::time::sleep(DRAIN).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    let result = tokio::select! {
        result = async { serving.await } => result,
        () = deadline => {
            tracing::warn!(drain.s = DRAIN.as_secs(), "connections were still open after the drain time");
            Ok(())
        }
    };
    watch.abort();
    result
}
