//! Which phase reads the artifacts of which.

use crate::artifact::ArtifactKind;
use crate::job::PhaseKind;
use crate::report::Report;
use crate::tree::Path;
use std::collections::BTreeMap;

/// What is known about a phase before its fields are looked at. Phases with problems take part as far as they can.
pub(super) struct Outline {
    pub(super) name: String,
    pub(super) kind: Option<PhaseKind>,
    pub(super) from: Vec<String>,
}

/// Inputs of one phase: the index of the phase that makes each kind.
pub(super) type Inputs = BTreeMap<ArtifactKind, usize>;

/// Connects each phase with the newest earlier artifact of each kind that it reads, or with those that its `from` names. A tokenizer that
/// `from` does not name is the one that the corpus or checkpoint was made with.
pub(super) fn connect(phases: &[Outline], path: &Path, report: &mut Report<'_>) -> Vec<Inputs> {
    let mut all: Vec<Inputs> = Vec::with_capacity(phases.len());
    for (index, phase) in phases.iter().enumerate() {
        let here = path.element(index);
        let named = named_inputs(phases, index, &here, report);
        let mut inputs = Inputs::new();
        let Some(kind) = phase.kind else {
            all.push(inputs);
            continue;
        };
        for &wanted in kind.consumes() {
            let inherited = || {
                let makers = inputs.values().copied();
                makers.filter_map(|maker| all[maker].get(&wanted).copied()).next()
            };
            let newest = || (0..index).rev().find(|&earlier| makes(&phases[earlier], wanted));
            let found = named
                .get(&wanted)
                .copied()
                .or_else(|| if wanted == ArtifactKind::Tokenizer { inherited() } else { None });
            match found.or_else(newest) {
                Some(maker) => {
                    inputs.insert(wanted, maker);
                }
                None if phases[..index].iter().any(|earlier| earlier.kind.is_none()) => {}
                None => report.error(&here.field(kind.name()), missing(kind, wanted)),
            }
        }
        check_tokenizers(phases, &all, &inputs, &here.field(kind.name()), report);
        all.push(inputs);
    }
    all
}

fn makes(phase: &Outline, wanted: ArtifactKind) -> bool {
    phase.kind.and_then(PhaseKind::produces) == Some(wanted)
}

fn missing(kind: PhaseKind, wanted: ArtifactKind) -> String {
    let cure = match wanted {
        ArtifactKind::Tokenizer => "a `tokenizer` phase",
        ArtifactKind::Corpus => "a `corpus` phase",
        ArtifactKind::Checkpoint => "a `pretrain` phase",
        ArtifactKind::Report => "an `evaluate` phase",
    };
    format!("`{kind}` needs {cure} before it")
}

/// The artifacts that `from` names.
fn named_inputs(phases: &[Outline], index: usize, path: &Path, report: &mut Report<'_>) -> Inputs {
    let phase = &phases[index];
    let mut named = Inputs::new();
    for (position, name) in phase.from.iter().enumerate() {
        let here = path.field("from").element(position);
        let Some(maker) = phases.iter().position(|other| other.name == *name) else {
            let earlier = phases[..index].iter().map(|other| other.name.as_str());
            let suggestion = crate::problem::did_you_mean(name, earlier);
            let draft = crate::report::Draft::error(format!("there is no phase `{}`", crate::tree::shorten(name)));
            report.judge(&here, draft.suggestion(suggestion));
            continue;
        };
        if maker >= index {
            report.error(&here, format!("phase `{name}` is not an earlier one; move it up"));
            continue;
        }
        let (Some(kind), Some(maker_kind)) = (phase.kind, phases[maker].kind) else {
            continue;
        };
        match maker_kind.produces().filter(|made| kind.consumes().contains(made)) {
            None => report.error(&here, format!("`{kind}` reads nothing that `{maker_kind}` makes; remove `{name}`")),
            Some(made) => {
                if let Some(other) = named.insert(made, maker) {
                    let other = &phases[other].name;
                    report.error(&here, format!("`{other}` and `{name}` make the same kind of artifact; keep one"));
                }
            }
        }
    }
    named
}

/// Token ids mean nothing to a model or corpus that was made with another tokenizer.
fn check_tokenizers(phases: &[Outline], all: &[Inputs], inputs: &Inputs, path: &Path, report: &mut Report<'_>) {
    let Some(&tokenizer) = inputs.get(&ArtifactKind::Tokenizer) else {
        return;
    };
    for (kind, &maker) in inputs {
        let theirs = all.get(maker).and_then(|theirs| theirs.get(&ArtifactKind::Tokenizer)).copied();
        if let Some(theirs) = theirs.filter(|&theirs| theirs != tokenizer) {
            let kind = match kind {
                ArtifactKind::Tokenizer => "tokenizer",
                ArtifactKind::Corpus => "corpus",
                ArtifactKind::Checkpoint => "checkpoint",
                ArtifactKind::Report => "report",
            };
            let message = format!(
                "the {kind} of `{}` was made with tokenizer `{}`, but this phase reads tokenizer `{}`; name matching phases in `from`",
                phases[maker].name, phases[theirs].name, phases[tokenizer].name
            );
            report.error(path, message);
        }
    }
}
