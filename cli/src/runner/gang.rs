//! The worker processes of an attempt: one, or a gang of ranks that lives and dies together.

use super::directory::RunDirectory;
use super::process::Worker;
use super::supervise::{Ended, is_culprit};
use crate::failure::Result;
use fathom_spec::assignment::ExitCode;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long ranks may take to notice that one of them is lost, and to end by themselves. Those that have not found each other yet cannot notice.
const GRACE: Duration = Duration::from_secs(5);

/// The ranks of an attempt.
#[derive(Debug)]
pub struct Gang {
    ranks: Vec<Rank>,
    /// When the first rank failed.
    broken: Option<Instant>,
}

#[derive(Debug)]
struct Rank {
    worker: Worker,
    log: PathBuf,
    ended: Option<Ended>,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GangEnded {
    /// As its culprit did: the rank that failed by itself, not for want of another one.
    pub ended: Ended,
    /// The culprit.
    pub rank: usize,
    /// What it printed.
    pub log: PathBuf,
}

impl Gang {
    /// Starts `ranks` workers.
    pub fn start(run: &RunDirectory, attempt: u32, ranks: usize) -> Result<Self> {
        let start = |rank| {
            let log = run.log(attempt, rank);
            Worker::start(run, attempt, (rank, ranks)).map(|worker| Rank { worker, log, ended: None })
        };
        Ok(Self {
            ranks: (0..ranks).map(start).collect::<Result<_>>()?,
            broken: None,
        })
    }

    /// Process ids, for people.
    pub fn pids(&self) -> String {
        let pids: Vec<_> = self.ranks.iter().map(|rank| rank.worker.pid().to_string()).collect();
        pids.join(", ")
    }

    /// Asks all ranks to stop after a checkpoint.
    pub fn stop(&self) {
        self.ranks.iter().for_each(|rank| rank.worker.stop());
    }

    /// Ends all ranks at once.
    pub fn kill(&self) {
        self.ranks.iter().for_each(|rank| rank.worker.kill());
    }

    /// Whether all have ended, and how, without waiting. Ranks that outlive a lost one by far are killed.
    pub fn poll(&mut self) -> Result<Option<GangEnded>> {
        for rank in &mut self.ranks {
            if rank.ended.is_none() {
                rank.ended = rank.worker.poll()?;
            }
        }
        // Who has stopped or is done may leave rank 0 with a checkpoint to write.
        let early = |ended| ended != Ended::Exit(ExitCode::Done as i32) && ended != Ended::Exit(ExitCode::Stopped as i32);
        let failed = |rank: &Rank| rank.ended.is_some_and(early);
        if self.broken.is_none() && self.ranks.iter().any(failed) {
            self.broken = Some(Instant::now());
        }
        if self.ranks.iter().all(|rank| rank.ended.is_some()) {
            let endings: Vec<Ended> = self.ranks.iter().filter_map(|rank| rank.ended).collect();
            let rank = culprit(&endings);
            return Ok(Some(GangEnded {
                ended: endings[rank],
                rank,
                log: self.ranks[rank].log.clone(),
            }));
        }
        if self.broken.is_some_and(|since| since.elapsed() > GRACE) {
            for rank in self.ranks.iter().filter(|rank| rank.ended.is_none()) {
                rank.worker.kill();
            }
        }
        Ok(None)
    }
}

/// The rank whose end is that of the attempt: one that failed by itself, else one that stopped or lost another, else the first.
fn culprit(endings: &[Ended]) -> usize {
    let first = |is: &dyn Fn(Ended) -> bool| endings.iter().position(|&ended| is(ended));
    first(&is_culprit)
        .or_else(|| first(&|ended| ended != Ended::Exit(ExitCode::Done as i32)))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_culprit_is_who_failed_by_himself() {
        const DONE: Ended = Ended::Exit(0);
        const LOST: Ended = Ended::Exit(ExitCode::PeerLost as i32);
        const STOPPED: Ended = Ended::Exit(ExitCode::Stopped as i32);
        const KILLED: Ended = Ended::Signal(9);
        for (endings, expected) in [
            (vec![DONE], 0),
            (vec![DONE, DONE], 0),
            (vec![LOST, LOST, KILLED, LOST], 2),
            (vec![LOST, Ended::Exit(70)], 1),
            (vec![STOPPED, STOPPED], 0),
            (vec![DONE, STOPPED], 1),
            (vec![DONE, LOST], 1),
            (vec![STOPPED, KILLED], 1),
        ] {
            assert_eq!(culprit(&endings), expected, "{endings:?}");
        }
    }
}
