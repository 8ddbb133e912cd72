//! Help, exit codes and errors of every command, as users see them.

mod common;

use common::{Sandbox, golden, repository};

const COMMANDS: [&[&str]; 29] = [
    &[],
    &["ui"],
    &["health"],
    &["logs"],
    &["top"],
    &["compare"],
    &["matrix"],
    &["server"],
    &["run"],
    &["plan"],
    &["status"],
    &["metrics"],
    &["metrics", "ls"],
    &["metrics", "get"],
    &["metrics", "export"],
    &["generate"],
    &["ckpt"],
    &["ckpt", "export"],
    &["ckpt", "import"],
    &["init"],
    &["validate"],
    &["explain"],
    &["schema"],
    &["bench"],
    &["debug"],
    &["debug", "step"],
    &["debug", "logits"],
    &["completion"],
    &["version"],
];

#[test]
fn every_command_has_help_on_standard_output() {
    let sandbox = Sandbox::new();
    for command in COMMANDS {
        let ran = sandbox.run(&[command, &["--help"]].concat());
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{command:?}");
        let usage = format!("Usage: fathom {}", command.join(" "));
        assert!(ran.stdout.contains(usage.trim_end()), "{command:?}: {}", ran.stdout);
        assert!(!ran.stdout.contains("\n\n\n"), "{command:?} has gaps: {}", ran.stdout);
    }
}

#[test]
fn help_tells_the_exit_codes() {
    golden("help.txt", &Sandbox::new().run(&["--help"]).stdout);
}

#[test]
fn errors_have_the_exit_codes_of_the_contract() {
    let sandbox = Sandbox::new();
    sandbox.write("bad.yaml", "kind: Nonsense\n");
    sandbox.write("there.yaml", "");
    sandbox.write("later.yaml", include_str!("../../examples/v3.yaml"));
    for (arguments, code, stderr) in [
        (vec!["frobnicate"], 2, "unrecognized subcommand"),
        (vec!["run"], 2, "required arguments"),
        (vec!["plan", "there.yaml", "--flops=-3"], 2, "positive number"),
        (vec!["validate", "bad.yaml"], 3, "bad.yaml: "),
        (vec!["validate", "there.yaml"], 3, "the manifest is empty"),
        (vec!["run", "later.yaml"], 3, "not supported by this version"),
        (vec!["run", "missing.yaml"], 5, "fathom init missing.yaml"),
        (vec!["explain", "spec.phases.pretrain.tokns"], 5, "did you mean `tokens`?"),
        (vec!["status"], 5, "there is no job in .fathom"),
        (vec!["metrics", "ls", "nobody"], 5, "there is no job in .fathom"),
        (vec!["init", "there.yaml"], 6, "--force"),
        (vec!["init", "there.yaml", "--force"], 0, "Wrote there.yaml"),
    ] {
        let ran = sandbox.run(&arguments);
        assert_eq!(ran.code, Some(code), "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(stderr), "{arguments:?}: {}", ran.stderr);
        assert_eq!(ran.stdout, "", "{arguments:?}: data only on standard output");
    }
}

#[test]
fn problems_of_a_manifest_are_shown_at_their_places() {
    let sandbox = Sandbox::new();
    let text = std::fs::read_to_string(repository().join("cli/tests/golden/wrong.yaml")).unwrap();
    sandbox.write("wrong.yaml", &text);
    let ran = sandbox.run(&["validate", "wrong.yaml"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(3), ""));
    golden("wrong.txt", &ran.stderr);
    let json = sandbox.run(&["validate", "wrong.yaml", "-o", "json"]);
    let verdict: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((json.code, verdict["valid"].as_bool()), (Some(3), Some(false)));
    assert!(
        verdict["problems"]
            .as_array()
            .unwrap()
            .iter()
            .any(|problem| problem["suggestion"] == "nano")
    );
}

#[test]
fn colour_is_used_when_asked_for_only() {
    let sandbox = Sandbox::new();
    sandbox.write("bad.yaml", "kind: Nonsense\n");
    assert!(!sandbox.run(&["validate", "bad.yaml"]).stderr.contains('\x1b'));
    assert!(sandbox.run(&["validate", "bad.yaml", "--color", "always"]).stderr.contains('\x1b'));
    let mut no_color = sandbox.command(&["validate", "bad.yaml"]);
    no_color.env("NO_COLOR", "1");
    assert!(!common::Ran::from(no_color.output().unwrap()).stderr.contains('\x1b'));
}

#[test]
fn every_example_is_valid() {
    let sandbox = Sandbox::new();
    let mut count = 0;
    for entry in std::fs::read_dir(repository().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let ran = sandbox.run(&["validate", path.to_str().unwrap()]);
            assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{}", path.display());
            count += 1;
        }
    }
    assert!(count >= 3);
}

#[test]
fn init_writes_manifests_that_are_valid() {
    let sandbox = Sandbox::new();
    for preset in ["unit", "nano", "small", "proxy-1b", "v2-lite", "v3"] {
        let file = format!("{preset}.yaml");
        assert_eq!(sandbox.run(&["init", &file, "--preset", preset]).code, Some(0));
        let ran = sandbox.run(&["validate", &file]);
        assert_eq!(ran.code, Some(0), "{preset}: {}", ran.stderr);
    }
    assert_eq!(sandbox.run(&["init", "--preset", "huge"]).code, Some(2));
}

#[test]
fn the_plan_of_the_full_model_has_the_figures_of_the_report() {
    let ran = Sandbox::new().run(&["plan", repository().join("examples/v3.yaml").to_str().unwrap()]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    golden("plan-v3.txt", &ran.stdout);
}

#[test]
fn the_plan_of_a_small_job_says_what_would_be_done() {
    let sandbox = Sandbox::new();
    let file = common::job::prepare(&sandbox, "small-job", 12_800);
    let ran = sandbox.run(&["plan", &file, "--flops", "1e9", "--price", "3600"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    golden("plan-small.txt", &ran.stdout);
    for format in ["json", "yaml"] {
        let ran = sandbox.run(&["plan", &file, "--flops", "1e9", "-o", format]);
        assert_eq!(ran.code, Some(0));
        assert!(ran.stdout.contains("trainingFlopsPerToken"), "{}", ran.stdout);
    }
    assert!(!sandbox.path(".fathom").exists(), "planning leaves nothing behind");
}

#[test]
fn completions_are_generated_for_every_shell() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let ran = sandbox.run(&["completion", shell]);
        assert_eq!(ran.code, Some(0));
        assert!(ran.stdout.contains("validate"), "{shell}");
    }
}

#[test]
fn the_schema_is_json() {
    let schema: serde_json::Value = serde_json::from_str(&Sandbox::new().run(&["schema"]).stdout).unwrap();
    assert_eq!(schema["title"], "DeepSeekV3Job");
}
