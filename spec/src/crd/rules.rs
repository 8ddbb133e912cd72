//! Rules of the manifest in CEL, the Common Expression Language: the API server judges them at `kubectl apply`, without a webhook. They are what the
//! schema cannot say and what users get wrong most; everything else is said by [`crate::parse_manifest`], in the CLI before and by the
//! operator afterwards.

use serde_json::{Value, json};

/// A rule at a place of the schema.
pub(super) struct Rule {
    /// JSON pointer into the structural schema of the object.
    pub at: &'static str,
    /// The expression; it is true of what is allowed.
    pub rule: &'static str,
    /// What is wrong, and the cure.
    pub message: &'static str,
    /// The field to blame, relative to the place.
    pub field: Option<&'static str>,
}

impl Rule {
    /// As an element of `x-kubernetes-validations`.
    pub(super) fn to_value(&self) -> Value {
        let mut value = json!({ "rule": self.rule, "message": self.message });
        if let Some(field) = self.field {
            value["fieldPath"] = field.into();
        }
        value
    }
}

const PHASES: &str = "/properties/spec/properties/phases";
const PHASE: &str = "/properties/spec/properties/phases/items";

/// All rules.
pub(super) const RULES: &[Rule] = &[
    Rule {
        at: "",
        rule: "size(self.metadata.name) <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        message: "metadata.name has at most 40 characters (names of pods are made of it): lower-case letters, digits and `-`, beginning with a letter",
        field: None,
    },
    // A phase that was started is what its attempts are attempts at.
    Rule {
        at: "",
        rule: "!has(oldSelf.status) || !has(oldSelf.status.phases) || oldSelf.status.phases.all(done, done.state == 'Pending' || \
               (oldSelf.spec.phases.filter(old, old.name == done.name) == self.spec.phases.filter(new, new.name == done.name)))",
        message: "a phase that has been started cannot be changed or removed; make a job of another name, which uses its finished phases again",
        field: Some(".spec.phases"),
    },
    // What every phase reads.
    Rule {
        at: "",
        rule: "!has(oldSelf.status) || !has(oldSelf.status.phases) || oldSelf.status.phases.all(done, done.state == 'Pending') || \
               (oldSelf.spec.model == self.spec.model && oldSelf.spec.seed == self.spec.seed && oldSelf.spec.precision == self.spec.precision && \
               oldSelf.spec.parallelism == self.spec.parallelism && oldSelf.spec.storage == self.spec.storage)",
        message: "model, seed, precision, parallelism and storage cannot be changed once a phase has been started; make a job of another name",
        field: Some(".spec"),
    },
    Rule {
        at: "/properties/spec/properties/model",
        rule: "has(self.preset) || has(self.architecture)",
        message: "no model is given: a `preset`, or `architecture` with the fields of a config.json",
        field: None,
    },
    Rule {
        at: "/properties/spec/properties/parallelism",
        rule: "self.pipeline < 2 || self.schedule != 'dualpipe' || (self.pipeline % 2 == 0 && self.microBatches % 2 == 0)",
        message: "DualPipe needs an even number of stages and of micro-batches",
        field: None,
    },
    Rule {
        at: "/properties/spec/properties/storage",
        rule: "self.uri.matches('^(file|pvc|s3|gs|az)://.+')",
        message: "expected file://DIRECTORY, pvc://CLAIM/PREFIX, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX",
        field: Some(".uri"),
    },
    Rule {
        at: PHASE,
        rule: "[has(self.tokenizer), has(self.corpus), has(self.pretrain), has(self.extend), has(self.sft), has(self.grpo), has(self.evaluate), \
               has(self.serve)].filter(given, given).size() == 1",
        message: "a phase has exactly one kind: tokenizer, corpus, pretrain, extend, sft, grpo, evaluate or serve",
        field: None,
    },
    Rule {
        at: PHASES,
        rule: "self.all(phase, !has(phase.from) || phase.from.all(name, name != phase.name && self.exists(other, other.name == name)))",
        message: "`from` names other phases of this job",
        field: None,
    },
];
