//! Local mode: one server per local directory, what is wished of its jobs, and the queue of those that wait to be run.
//!
//! ```text
//! .fathom/
//!   postgres/                     the embedded database
//!   server.lock                   held by the one server of the directory
//!   server.json                   where it is and the secret that opens it; readable by its owner only
//!   queue/<when>-<job>.yaml       manifests of jobs that wait to be run, oldest first; removed when their run has ended
//!   jobs/<job>/wish.json          what is wished of a job: to pause, to be cancelled
//! ```

pub mod child;
pub mod endpoint;
pub mod intent;
pub mod queue;
pub mod serve;
pub mod wish;
