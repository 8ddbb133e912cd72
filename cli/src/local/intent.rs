//! How the API reaches what runs jobs on this machine: the queue and the wishes, which are files.

use super::queue::Queue;
use super::wish::{self, Wish};
use crate::commands::plan;
use crate::failure::{Exit, Failure};
use crate::runner::directory::{Directory, JobDirectory};
use crate::runner::lock::Lock;
use crate::runner::status;
use fathom_api::{Answer, CreateJob, ForkJob, Intent, IntentError};
use fathom_spec::parse_manifest;
use fathom_spec::state::JobState;
use serde_json::Value;

/// The one project of a local directory.
const PROJECT: &str = "default";

/// The jobs of a local directory.
#[derive(Clone, Debug)]
pub struct LocalIntent {
    directory: Directory,
    queue: Queue,
}

impl LocalIntent {
    /// The jobs of `directory`.
    pub fn new(directory: Directory) -> Self {
        Self {
            queue: Queue::new(directory.clone()),
            directory,
        }
    }

    /// Does something with files on a thread that may wait for them.
    fn answer<'a, T: Send + 'static>(
        &self,
        project: &str,
        work: impl FnOnce(&Self) -> Result<T, IntentError> + Send + 'static,
    ) -> Answer<'a, T> {
        let own = self.clone();
        let known = project == PROJECT;
        Box::pin(async move {
            if !known {
                return Err(IntentError::NotFound);
            }
            let done = tokio::task::spawn_blocking(move || work(&own)).await;
            done.unwrap_or_else(|_| Err(IntentError::Unavailable("the request was cut off".into())))
        })
    }

    fn running(&self, name: &str) -> bool {
        Lock::holder(&self.directory).is_some_and(|holder| holder.job == name)
    }

    fn files(&self, name: &str) -> Result<JobDirectory, IntentError> {
        let jobs = self.directory.jobs().map_err(refused)?;
        if jobs.iter().any(|job| job == name) {
            Ok(self.directory.job(name))
        } else {
            Err(IntentError::NotFound)
        }
    }

    /// Makes a job wait to be run. Returns its uid.
    fn enqueue(&self, name: &str, manifest: &str) -> Result<String, IntentError> {
        if let Err(problems) = parse_manifest(manifest) {
            let parts = problems
                .iter()
                .map(|problem| (format!("/{}", problem.path.replace('.', "/")), problem.message.clone()));
            return Err(IntentError::Invalid(parts.collect()));
        }
        if self.running(name) {
            return Err(IntentError::Conflict(format!("Job `{name}` is running; pause or cancel it first.")));
        }
        self.queue.add(name, manifest).map_err(refused)?;
        Ok(uid(name))
    }

    /// Pauses or cancels: a job that waits leaves the queue, one that runs stops after a checkpoint.
    fn end(&self, name: &str, wish: Wish) -> Result<(), IntentError> {
        let waiting = self.queue.waiting().map_err(refused)?.iter().any(|entry| entry.job == name);
        let running = self.running(name);
        let files = if waiting { self.directory.job(name) } else { self.files(name)? };
        let ended = status::read(&files.status()).map_err(refused)?.map(|status| status.state());
        let finished = matches!(ended, Some(JobState::Succeeded));
        if !running && !waiting && (finished || wish == Wish::Pause) {
            return Err(IntentError::Conflict(format!("Job `{name}` is not running.")));
        }
        // First the wish, which the run obeys; then the entry, which only matters to a run that has not begun.
        wish::write(&files, wish).map_err(refused)?;
        if !running {
            self.queue.remove(name).map_err(refused)?;
        }
        Ok(())
    }
}

/// Identity of a job. In a local directory a name stands for one job for good.
pub fn uid(name: &str) -> String {
    format!("local:{name}")
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that `map_err` wants")]
fn refused(failure: Failure) -> IntentError {
    let mut text = Vec::new();
    // Writing to memory does not fail.
    let _ = failure.print(&mut text, false);
    let text = String::from_utf8_lossy(&text).trim().trim_start_matches("error: ").to_owned();
    match failure.exit() {
        Exit::Conflict => IntentError::Conflict(text),
        Exit::NotFound => IntentError::NotFound,
        Exit::InvalidManifest => IntentError::Invalid(vec![(String::new(), text)]),
        _ => IntentError::Unavailable(text),
    }
}

impl Intent for LocalIntent {
    fn create(&self, job: CreateJob) -> Answer<'_, String> {
        self.answer(&job.project.clone(), move |own| own.enqueue(&job.name, &job.manifest))
    }

    fn pause<'a>(&'a self, project: &'a str, name: &'a str) -> Answer<'a, ()> {
        let name = name.to_owned();
        self.answer(project, move |own| own.end(&name, Wish::Pause))
    }

    fn resume<'a>(&'a self, project: &'a str, name: &'a str) -> Answer<'a, ()> {
        let name = name.to_owned();
        self.answer(project, move |own| {
            let manifest = own.files(&name)?.manifest();
            let text = std::fs::read_to_string(&manifest).map_err(|error| refused(Failure::io("read", &manifest, &error)))?;
            own.enqueue(&name, &text).map(|_| ())
        })
    }

    fn cancel<'a>(&'a self, project: &'a str, name: &'a str) -> Answer<'a, ()> {
        let name = name.to_owned();
        self.answer(project, move |own| own.end(&name, Wish::Cancel))
    }

    fn fork(&self, fork: ForkJob) -> Answer<'_, String> {
        self.answer(&fork.project.clone(), move |own| {
            if fork.at_step.is_some() {
                let text = "this version forks between phases: phases that the patch does not touch are re-used; leave atStep out";
                return Err(IntentError::Invalid(vec![("/atStep".into(), text.into())]));
            }
            own.enqueue(&fork.name, &fork.manifest)
        })
    }

    fn plan<'a>(&'a self, project: &'a str, manifest: &'a str) -> Answer<'a, Value> {
        let manifest = manifest.to_owned();
        self.answer(project, move |own| plan::as_json(&manifest, &own.directory).map_err(refused))
    }

    fn delete<'a>(&'a self, project: &'a str, name: &'a str) -> Answer<'a, ()> {
        let name = name.to_owned();
        self.answer(project, move |own| {
            let files = own.files(&name)?;
            if own.running(&name) {
                return Err(IntentError::Conflict(format!("Job `{name}` is running; cancel it first.")));
            }
            own.queue.remove(&name).map_err(refused)?;
            // Out of sight at once, then piece by piece: a kill between the two leaves no half of a job.
            let trash = own.directory.root().join("trash");
            let aside = trash.join(format!("{name}-{}", std::process::id()));
            std::fs::create_dir_all(&trash)
                .and_then(|()| std::fs::rename(files.root(), &aside))
                .and_then(|()| std::fs::remove_dir_all(&aside))
                .map_err(|error| refused(Failure::io("delete", files.root(), &error)))
        })
    }
}
