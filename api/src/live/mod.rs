//! Live streams (server-sent events): one hub, one topic for everything and one per run. A message is rendered once per topic and shared by
//! all its readers.

mod coalesce;
mod hub;
mod offset;
mod stream;
mod topic;

pub use coalesce::LivePoint;
pub use hub::Hub;
pub(crate) use stream::{__path_all, __path_run};
pub(crate) use stream::{all, run};
