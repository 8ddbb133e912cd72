//! `fathom ckpt export` and `import`: a trained model out and in again.

mod common;

use common::Sandbox;
use common::job::{manifest, prepare};

#[test]
fn a_model_goes_out_in_every_type_and_comes_in_again() {
    let sandbox = Sandbox::new();
    let file = prepare(&sandbox, "job", 1280);
    sandbox.write(
        &file,
        &manifest("job", 1280).replace("pretrain:\n", "pretrain:\n        ema: {decay: 0.5}\n"),
    );
    let ran = sandbox.run(&["run", "--quiet", "--no-ui", &file]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let said = |arguments: &[&str]| {
        let ran = sandbox.run(arguments);
        assert_eq!(ran.code, Some(0), "{arguments:?}: {}", ran.stderr);
        ran.stdout
    };
    let text = |model: &str| said(&["generate", "--model", model, "--prompt", "a token", "--max-tokens", "12"]);
    let trained = text("job");
    for format in ["f32", "bf16", "fp8"] {
        let (imported, again) = (format!("{format}-imported"), format!("{format}-again"));
        let exported = said(&["ckpt", "export", "--to", format, "--format", format, "--max-shard-size", "200kB"]);
        assert_eq!(exported, format!("{format}\n"));
        assert!(sandbox.path(format).join("model.safetensors.index.json").exists());
        assert_eq!(said(&["ckpt", "import", format, "--to", &imported]), format!("{imported}\n"));
        assert_eq!(said(&["ckpt", "verify", &imported]), format!("whole    {imported}\n"));
        assert_eq!(text(format), text(&imported), "{format}");
        said(&[
            "ckpt",
            "export",
            &imported,
            "--to",
            &again,
            "--format",
            format,
            "--max-shard-size",
            "200kB",
        ]);
        for entry in std::fs::read_dir(sandbox.path(format)).unwrap() {
            let name = entry.unwrap().file_name();
            let [first, second] = [format, &again].map(|directory| std::fs::read(sandbox.path(directory).join(&name)).unwrap());
            assert!(first == second, "{} of {format} and {again}", name.display());
        }
    }
    assert_eq!(text("f32"), trained);
    said(&["ckpt", "export", "--ema", "--to", "average"]);
    let [average, last] = ["average", "f32-imported"].map(|model| std::fs::read(sandbox.path(model).join("model.safetensors")).unwrap());
    assert!(average.len().abs_diff(last.len()) < last.len() / 4 && average != last);
    assert!(!text("average").is_empty());

    for (arguments, code, expected) in [
        (vec!["ckpt", "export", "--to", "bf16"], 6, "bf16 exists"),
        (vec!["ckpt", "import", "f32", "--to", "bf16"], 6, "bf16 exists"),
        (vec!["ckpt", "export", "fp8", "--to", "new"], 1, "fathom ckpt import"),
        (
            vec!["ckpt", "export", "f32-imported", "--ema", "--to", "new"],
            5,
            "no moving average",
        ),
        (vec!["ckpt", "import", "nowhere", "--to", "new"], 1, "config.json"),
        (vec!["ckpt", "export", "--to", "new", "--format", "fp4"], 2, "f32, bf16, fp8"),
        (vec!["ckpt", "export", "--to", "new", "--max-shard-size", "5 apples"], 2, "64MiB"),
    ] {
        let ran = sandbox.run(&arguments);
        assert_eq!(ran.code, Some(code), "{arguments:?}: {}", ran.stderr);
        assert!(
            ran.stderr.contains(expected) && ran.stdout.is_empty(),
            "{arguments:?}: {}",
            ran.stderr
        );
    }
    let weights = sandbox.path("bf16-imported/model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let ran = sandbox.run(&["ckpt", "export", "bf16-imported", "--to", "new"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("model.safetensors was altered"), "{}", ran.stderr);
    assert!(!sandbox.path("new").exists());
}
