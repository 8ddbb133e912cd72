//! Names and labels of the children of a job. Deterministic, so that an operator that was killed finds what it created.

use std::collections::BTreeMap;

/// Who manages the children.
pub const MANAGER: &str = "fathom-operator";
/// Keeps a job until its pods are gone.
pub const FINALIZER: &str = "fathom.dev/pods-gone";
/// Label with the name of the job.
pub const JOB: &str = "fathom.dev/job";
/// Label with the UID of the job: a job that is made again under the same name does not see the children of the old one.
pub const JOB_UID: &str = "fathom.dev/job-uid";
/// Label with the name of the phase.
pub const PHASE: &str = "fathom.dev/phase";
/// Label with the number of the attempt, from 1.
pub const ATTEMPT: &str = "fathom.dev/attempt";
/// Label of Kueue: the queue that admits the pods.
pub const QUEUE: &str = "kueue.x-k8s.io/queue-name";
/// Label that says who manages an object.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// Characters of a job's name that its children carry. The host name of a pod is `<job>-<index>` and has 63 characters at most: 6 of the name, 5 of
/// the UID, 40 of the phase, and 8 for `a<attempt>` and the index.
const NAME_LENGTH: usize = 6;
const UID_LENGTH: usize = 5;

/// The part that the names of all children of a job begin with.
#[must_use]
pub fn stem(job: &str, uid: &str) -> String {
    let name: String = job.chars().take(NAME_LENGTH).collect();
    let uid: String = uid.chars().filter(char::is_ascii_alphanumeric).take(UID_LENGTH).collect();
    format!("{}-{uid}", name.trim_end_matches('-'))
}

/// The headless Service that gives the pods of a job their names.
#[must_use]
pub fn service(job: &str, uid: &str) -> String {
    stem(job, uid)
}

/// The Kubernetes Job of an attempt.
#[must_use]
pub fn attempt(job: &str, uid: &str, phase: &str, attempt: u32) -> String {
    format!("{}-{phase}-a{attempt}", stem(job, uid))
}

/// The `ConfigMap` with the order of a phase; `digest` is that of its content, so that a changed order is another object.
#[must_use]
pub fn order(job: &str, uid: &str, phase: &str, digest: &str) -> String {
    format!("{}-{phase}-{}", stem(job, uid), digest.get(..8).unwrap_or(digest))
}

/// Labels of all children of a job.
#[must_use]
pub fn labels(job: &str, uid: &str) -> BTreeMap<String, String> {
    [(MANAGED_BY, MANAGER), (JOB, job), (JOB_UID, uid)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// Labels of the children of an attempt.
#[must_use]
pub fn attempt_labels(job: &str, uid: &str, phase: &str, attempt: u32) -> BTreeMap<String, String> {
    let mut labels = labels(job, uid);
    labels.insert(PHASE.into(), phase.into());
    labels.insert(ATTEMPT.into(), attempt.to_string());
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0a1b2c3d-4e5f-6789-abcd-ef0123456789";

    #[test]
    fn host_names_of_pods_fit() {
        let job = attempt(&"j".repeat(40), UID, &"p".repeat(40), 999);
        assert!(format!("{job}-9999").len() <= 63, "{job}");
        assert!(order(&"j".repeat(40), UID, &"p".repeat(40), &"f".repeat(64)).len() <= 63);
    }

    #[test]
    fn names_are_labels_of_hosts() {
        assert_eq!(attempt("quick-start", UID, "pretrain", 2), "quick-0a1b2-pretrain-a2");
        assert_eq!(attempt("a", UID, "corpus", 1), "a-0a1b2-corpus-a1");
        assert_eq!(service("proxy-1b", UID), "proxy-0a1b2");
    }
}
