//! Which pod of an attempt failed by itself, and what that means. When one rank is lost the others end as well: they are victims, and what they say is not why.

use crate::observe::{ObservedPod, PodFailure, PodState};
use fathom_spec::assignment::ExitCode;
use fathom_spec::status::{FailureCause, MAX_MESSAGE_BYTES};
use jiff::{SignedDuration, Timestamp};

/// How long the pod that failed by itself may be reported later than its victims.
const PATIENCE: SignedDuration = SignedDuration::from_secs(5);

/// What is known of a failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Culprit {
    /// What its failure means.
    pub class: FailureCause,
    /// Exit code of its container, if that ran.
    pub exit_code: Option<i32>,
    /// Its name.
    pub pod: String,
    /// Its node.
    pub node: Option<String>,
    /// For people.
    pub message: String,
}

/// What the pods of an attempt say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// None has failed.
    Sound,
    /// Victims have; who failed by himself is still to be reported.
    Unclear,
    /// This one has.
    Failed(Culprit),
}

/// Looks for the pod that failed first by itself.
#[must_use]
pub fn find(pods: &[&ObservedPod], now: Timestamp) -> Finding {
    let mut failed: Vec<(&ObservedPod, &PodFailure)> = pods
        .iter()
        .filter_map(|pod| match &pod.state {
            PodState::Failed(failure) => Some((*pod, failure)),
            PodState::Waiting { .. } | PodState::Running | PodState::Succeeded { .. } => None,
        })
        .collect();
    failed.sort_by_key(|(pod, failure)| (failure.at, pod.rank));
    let own = failed.iter().find(|(_, failure)| !is_victim(failure));
    if let Some((pod, failure)) = own {
        return Finding::Failed(culprit(pod, failure));
    }
    // A pod that is being deleted was taken away; it may still say how it ended.
    let taken = pods
        .iter()
        .find(|pod| pod.deleting && !matches!(pod.state, PodState::Failed(_) | PodState::Succeeded { .. }));
    if let Some(pod) = taken {
        return Finding::Failed(Culprit {
            class: FailureCause::Infrastructure,
            exit_code: None,
            pod: pod.name.clone(),
            node: pod.node.clone(),
            message: format!("rank {}: its pod was deleted", pod.rank),
        });
    }
    let Some((pod, failure)) = failed.first() else {
        return Finding::Sound;
    };
    let going = pods
        .iter()
        .any(|pod| matches!(pod.state, PodState::Running | PodState::Waiting { .. }));
    if going && failure.at.is_some_and(|at| now.duration_since(at) < PATIENCE) {
        return Finding::Unclear;
    }
    Finding::Failed(culprit(pod, failure))
}

/// Whether a pod ended because another one did, or because it was told to.
fn is_victim(failure: &PodFailure) -> bool {
    const VICTIMS: [i32; 4] = [
        ExitCode::PeerLost as i32,
        ExitCode::Rendezvous as i32,
        ExitCode::Stopped as i32,
        143,
    ];
    failure.exit_code.is_some_and(|code| VICTIMS.contains(&code))
}

fn culprit(pod: &ObservedPod, failure: &PodFailure) -> Culprit {
    let PodFailure {
        exit_code,
        reason,
        message,
        at: _,
        disrupted: _,
    } = failure;
    let how = match (exit_code, reason.as_str()) {
        (Some(code), "" | "Error") => format!("exited with code {code}"),
        (Some(code), reason) => format!("exited with code {code} ({reason})"),
        (None, "") => "failed".into(),
        (None, reason) => format!("failed ({reason})"),
    };
    let last = message.trim();
    let words = if last.is_empty() { String::new() } else { format!(": {last}") };
    Culprit {
        class: class(failure),
        exit_code: *exit_code,
        pod: pod.name.clone(),
        node: pod.node.clone(),
        message: shorten(&format!("rank {} {how}{words}", pod.rank), MAX_MESSAGE_BYTES),
    }
}

/// What a failure means; the exit codes are those of [`ExitCode`].
fn class(failure: &PodFailure) -> FailureCause {
    match (failure.exit_code, failure.reason.as_str()) {
        (Some(64 | 65), _) => FailureCause::Permanent,
        (Some(70), _) => FailureCause::Diverged,
        (Some(75), _) => FailureCause::Preempted,
        (_, "OOMKilled") => FailureCause::Application,
        (_, "Evicted" | "NodeLost" | "NodeShutdown" | "Terminated" | "Shutdown" | "UnexpectedAdmissionError") => {
            FailureCause::Infrastructure
        }
        _ if failure.disrupted => FailureCause::Infrastructure,
        // Killed from outside, or the peer that was lost left no trace.
        (None | Some(76 | 78 | 137 | 143), _) => FailureCause::Infrastructure,
        (Some(_), _) => FailureCause::Application,
    }
}

/// The end of a text, where it says what happened, in at most `bytes` bytes.
#[must_use]
pub fn shorten(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    const MARK: &str = " ... ";
    let head = floor(text, bytes / 4);
    let mut tail = text.len() - (bytes - head - MARK.len());
    while !text.is_char_boundary(tail) {
        tail += 1;
    }
    format!("{}{MARK}{}", &text[..head], &text[tail..])
}

fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000;

    fn pod(rank: u32, state: PodState) -> ObservedPod {
        ObservedPod {
            name: format!("pod-{rank}"),
            attempt: "a1".into(),
            rank,
            node: Some("node".into()),
            deleting: false,
            state,
        }
    }

    fn failed(rank: u32, exit_code: i32, at: i64) -> ObservedPod {
        let failure = PodFailure {
            exit_code: Some(exit_code),
            reason: "Error".into(),
            message: "last words".into(),
            at: Some(Timestamp::from_second(at).unwrap()),
            disrupted: false,
        };
        pod(rank, PodState::Failed(failure))
    }

    fn find_in(pods: &[ObservedPod]) -> Finding {
        find(&pods.iter().collect::<Vec<_>>(), Timestamp::from_second(NOW).unwrap())
    }

    #[test]
    fn who_failed_by_himself_is_the_culprit() {
        use FailureCause::{Application, Diverged, Infrastructure, Permanent, Preempted};
        for (pods, expected) in [
            // The victim is seen first.
            (vec![failed(0, 76, 990), failed(1, 137, 991)], Some((1, Infrastructure))),
            (vec![failed(0, 1, 991), failed(1, 65, 990)], Some((1, Permanent))),
            // At the same second the lower rank is named.
            (vec![failed(1, 1, 990), failed(0, 101, 990)], Some((0, Application))),
            (vec![failed(0, 143, 990), failed(1, 70, 992)], Some((1, Diverged))),
            (vec![failed(0, 75, 990), failed(1, 75, 990)], Some((0, Preempted))),
            // Victims alone, and nobody is left to explain it.
            (vec![failed(0, 76, 999), failed(1, 76, 999)], Some((0, Infrastructure))),
            (vec![failed(0, 76, 999), pod(1, PodState::Running)], None),
            (vec![failed(0, 76, 990), pod(1, PodState::Running)], Some((0, Infrastructure))),
        ] {
            match (find_in(&pods), expected) {
                (Finding::Failed(culprit), Some((rank, class))) => {
                    assert_eq!((culprit.pod, culprit.class), (format!("pod-{rank}"), class), "{pods:?}");
                }
                (Finding::Unclear, None) => {}
                (finding, _) => panic!("{finding:?} of {pods:?}"),
            }
        }
        let running = [pod(0, PodState::Running), pod(1, PodState::Waiting { message: String::new() })];
        assert_eq!(find_in(&running), Finding::Sound);
    }

    #[test]
    fn a_pod_that_is_taken_away_has_failed() {
        let mut pods = [pod(0, PodState::Running), pod(1, PodState::Running)];
        pods[1].deleting = true;
        let Finding::Failed(culprit) = find_in(&pods) else {
            panic!("{pods:?}")
        };
        assert_eq!((culprit.pod.as_str(), culprit.class), ("pod-1", FailureCause::Infrastructure));
    }

    #[test]
    fn kubernetes_reasons_decide_before_codes() {
        for (exit_code, reason, disrupted, expected) in [
            (Some(137), "OOMKilled", false, FailureCause::Application),
            (Some(137), "Error", false, FailureCause::Infrastructure),
            (None, "Evicted", false, FailureCause::Infrastructure),
            (Some(1), "Error", true, FailureCause::Infrastructure),
            (Some(1), "Error", false, FailureCause::Application),
            (Some(64), "Error", true, FailureCause::Permanent),
        ] {
            let failure = PodFailure {
                exit_code,
                reason: reason.into(),
                message: String::new(),
                at: None,
                disrupted,
            };
            assert_eq!(class(&failure), expected, "{exit_code:?} {reason} {disrupted}");
        }
    }

    #[test]
    fn messages_keep_their_end() {
        let long = format!("rank 0 exited: {} the disk is full", "ä".repeat(500));
        let short = shorten(&long, 100);
        assert!(
            short.len() <= 100 && short.starts_with("rank 0") && short.ends_with("the disk is full"),
            "{short}"
        );
        assert_eq!(shorten("short", 100), "short");
    }
}
