//! The checkpoint store: commits, every kind of damage, retention, failing writers.

#![allow(clippy::unwrap_used, reason = "test helpers outside #[test] functions")]

use fathom_worker::checkpoint::safetensors::{Reader, TensorSpec};
use fathom_worker::checkpoint::{Corruption, store};
use fathom_worker::error::{Error, Result};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use store::{Checkpoint, Store};

fn commit(store: &mut Store, step: u64) -> Checkpoint {
    let state = json!({ "position": step * 3, "rate": 0.1, "exact": 1e-300 });
    store
        .commit(step, step * 100, state, |staging| {
            let tensors = [TensorSpec::f32("weight", &[4, 5]), TensorSpec::f32("bias", &[5])];
            staging.write_tensors("model", &tensors, 80, |spec, sink| {
                sink.write(&vec![step as f32; spec.shape.iter().product()])
            })?;
            staging.write_file("config.json", b"{}\n")?;
            let nested = staging.path().join("optimizer");
            fs::create_dir(&nested).unwrap();
            fs::write(nested.join("moments.bin"), step.to_le_bytes()).unwrap();
            Ok(())
        })
        .unwrap()
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Flips one bit in the middle of a file.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(path, bytes).unwrap();
}

/// Steps that `newest_valid` rejected, newest first, and the one it found.
fn newest(directory: &Path) -> (Vec<String>, Option<u64>) {
    let mut rejected = Vec::new();
    let found = store::newest_valid(directory, |path, corruption| {
        assert!(corruption.path().starts_with(path), "{corruption}");
        rejected.push(path.file_name().unwrap().to_str().unwrap().to_owned());
    })
    .unwrap();
    (rejected, found.map(|checkpoint| checkpoint.manifest.step))
}

#[test]
fn a_commit_is_found_again_with_everything_in_it() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("checkpoints");
    assert_eq!(newest(&root), (vec![], None));
    let mut store = Store::open(&root).unwrap();
    commit(&mut store, 3);
    let committed = commit(&mut store, 12);
    assert_eq!(names(&root), ["step-0000000003", "step-0000000012"]);
    let found = store
        .newest_valid(|path, corruption| panic!("{}: {corruption}", path.display()))
        .unwrap()
        .unwrap();
    assert_eq!(found, committed);
    assert_eq!(
        (
            found.manifest.tokens,
            &found.manifest.state["position"],
            &found.manifest.state["exact"]
        ),
        (1200, &json!(36), &json!(1e-300))
    );
    let files: Vec<_> = found.manifest.files.keys().map(String::as_str).collect();
    let model = [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ];
    assert_eq!(files, [&["config.json"][..], &model, &["optimizer/moments.bin"]].concat());
    let mut weight = [0.0; 20];
    Reader::open(&found.path).unwrap().read_into("weight", &mut weight).unwrap();
    assert_eq!(weight, [12.0; 20]);
    let steps: Vec<u64> = store::list(&root, |_, _| ())
        .unwrap()
        .iter()
        .map(|checkpoint| checkpoint.manifest.step)
        .collect();
    assert_eq!(steps, [3, 12]);
    // Any name will do for a copy, but not that of another step.
    let copy = directory.path().join("exported");
    fs::rename(&found.path, &copy).unwrap();
    assert!(store::verify(&copy).is_ok());
    let misnamed = root.join("step-0000000013");
    fs::rename(&copy, &misnamed).unwrap();
    assert!(
        store::verify(&misnamed)
            .unwrap_err()
            .to_string()
            .contains("belongs to step-0000000012, not to step-0000000013")
    );
}

#[test]
fn every_damage_is_named_and_the_checkpoint_before_is_used() {
    type Damage = fn(&Path);
    type Expected = fn(&Corruption) -> bool;
    let cases: [(&str, Damage, Expected); 9] = [
        ("model-00001-of-00002.safetensors", flip, |found| {
            matches!(found, Corruption::Altered { .. })
        }),
        ("optimizer/moments.bin", flip, |found| matches!(found, Corruption::Altered { .. })),
        (
            "model-00002-of-00002.safetensors",
            |path| fs::remove_file(path).unwrap(),
            |found| matches!(found, Corruption::Missing(_)),
        ),
        (
            "config.json",
            |path| fs::write(path, "{").unwrap(),
            |found| matches!(found, Corruption::WrongSize { expected: 3, found: 1, .. }),
        ),
        (
            "config.json",
            |path| fs::write(path, "{}\n\n").unwrap(),
            |found| matches!(found, Corruption::WrongSize { found: 4, .. }),
        ),
        ("manifest.json", flip, |found| matches!(found, Corruption::BadManifest { .. })),
        (
            "manifest.json",
            |path| fs::write(path, "").unwrap(),
            |found| matches!(found, Corruption::BadManifest { .. }),
        ),
        (
            "manifest.json",
            |path| fs::remove_file(path).unwrap(),
            |found| matches!(found, Corruption::NoManifest(_)),
        ),
        (
            "manifest.json.b3",
            |path| fs::remove_file(path).unwrap(),
            |found| matches!(found, Corruption::Missing(_)),
        ),
    ];
    for (file, damage, expected) in cases {
        let directory = tempfile::tempdir().unwrap();
        let mut store = Store::open(directory.path()).unwrap();
        commit(&mut store, 1);
        let last = commit(&mut store, 2);
        damage(&last.path.join(file));
        let corruption = store::verify(&last.path).unwrap_err();
        assert!(expected(&corruption), "{file}: {corruption}");
        assert!(corruption.to_string().contains(file), "{file}: {corruption}");
        assert_eq!(newest(directory.path()), (vec!["step-0000000002".to_owned()], Some(1)), "{file}");
    }
}

#[test]
fn any_flipped_bit_of_any_file_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path()).unwrap();
    let checkpoint = commit(&mut store, 7);
    let files = checkpoint
        .manifest
        .files
        .keys()
        .map(String::as_str)
        .chain(["manifest.json", "manifest.json.b3"]);
    for name in files {
        let path = checkpoint.path.join(name);
        let bytes = fs::read(&path).unwrap();
        for position in (0..bytes.len()).step_by(5) {
            let mut altered = bytes.clone();
            altered[position] ^= 1 << (position % 8);
            fs::write(&path, altered).unwrap();
            assert!(store::verify(&checkpoint.path).is_err(), "{name}, byte {position}");
        }
        fs::write(&path, bytes).unwrap();
    }
    assert!(store::verify(&checkpoint.path).is_ok());
}

#[test]
fn a_manifest_cannot_reach_outside_its_directory() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path()).unwrap();
    let checkpoint = commit(&mut store, 7);
    for name in ["../secret", "/etc/passwd", "a/../../b", "."] {
        let mut manifest = checkpoint.manifest.clone();
        let digest = manifest.files["config.json"].clone();
        manifest.files.insert(name.to_owned(), digest);
        let json = serde_json::to_vec(&manifest).unwrap();
        fs::write(checkpoint.path.join("manifest.json"), &json).unwrap();
        fs::write(
            checkpoint.path.join("manifest.json.b3"),
            format!("{}  manifest.json\n", blake3::hash(&json)),
        )
        .unwrap();
        let corruption = store::verify(&checkpoint.path).unwrap_err().to_string();
        assert!(
            corruption.contains(&format!("names the file `{name}`, outside the checkpoint")),
            "{corruption}"
        );
    }
}

#[test]
fn a_failed_commit_leaves_the_store_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path()).unwrap();
    commit(&mut store, 1);
    let full = |staging: &mut store::Staging| -> Result<()> {
        std::os::unix::fs::symlink("/dev/full", staging.path().join("model.safetensors")).unwrap();
        staging.write_tensors("model", &[TensorSpec::f32("weight", &[3])], u64::MAX, |_, sink| {
            sink.write(&[0.0; 3])
        })
    };
    let error = store.commit(2, 0, json!(null), full).unwrap_err();
    assert!(
        matches!(&error, Error::Io { path, .. } if path.ends_with("model.safetensors")),
        "{error}"
    );
    assert_eq!(error.exit_code(), fathom_spec::assignment::ExitCode::Io);
    assert_eq!(names(directory.path()), ["step-0000000001"]);
    let stopped = store.commit(1, 0, json!(null), |_| Err(Error::Stopped)).unwrap_err();
    assert!(matches!(stopped, Error::Stopped));
    let reserved = store
        .commit(2, 0, json!(null), |staging| staging.write_file("manifest.json", b""))
        .unwrap_err()
        .to_string();
    assert!(reserved.contains("may not hold a file `manifest.json`"), "{reserved}");
    assert_eq!(newest(directory.path()), (vec![], Some(1)));
}

#[test]
fn leftovers_of_a_crash_are_invisible_and_removed_at_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path()).unwrap();
    let checkpoint = commit(&mut store, 1);
    for leftover in [".tmp-step-0000000002", ".trash-step-0000000000"] {
        let path = directory.path().join(leftover);
        fs::create_dir(&path).unwrap();
        fs::copy(checkpoint.path.join("manifest.json"), path.join("manifest.json")).unwrap();
    }
    fs::write(directory.path().join("notes.txt"), "a user's file").unwrap();
    fs::create_dir(directory.path().join("step-5")).unwrap();
    assert_eq!(newest(directory.path()), (vec![], Some(1)));
    Store::open(directory.path()).unwrap();
    assert_eq!(names(directory.path()), ["notes.txt", "step-0000000001", "step-5"]);
}

#[test]
fn a_step_is_committed_again_in_place_of_a_damaged_one() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path()).unwrap();
    commit(&mut store, 1);
    let damaged = commit(&mut store, 2);
    flip(&damaged.path.join("config.json"));
    assert_eq!(newest(directory.path()).1, Some(1));
    commit(&mut store, 2);
    assert_eq!(newest(directory.path()), (vec![], Some(2)));
    assert_eq!(names(directory.path()), ["step-0000000001", "step-0000000002"]);
}

fn damaged_store(directory: &Path, steps: &[u64], damaged: &[u64]) {
    let mut store = Store::open(directory).unwrap();
    for &step in steps {
        let checkpoint = commit(&mut store, step);
        if damaged.contains(&step) {
            flip(&checkpoint.path.join("model-00001-of-00002.safetensors"));
        }
    }
}

#[test]
fn retention_keeps_the_newest_valid_whatever_is_damaged() {
    type Steps = &'static [u64];
    // (steps, damaged ones, how many to keep, steps that must stay), in a store of a new process that trusts nothing.
    let cases: [(Steps, Steps, usize, Steps); 7] = [
        (&[1, 2, 3, 4], &[], 2, &[3, 4]),
        (&[1, 2, 3, 4], &[], 9, &[1, 2, 3, 4]),
        (&[1, 2, 3, 4], &[], 0, &[4]),
        (&[1, 2, 3, 4], &[4], 1, &[3, 4]),
        (&[1, 2, 3, 4], &[3, 4], 1, &[2, 3, 4]),
        (&[1, 2, 3, 4], &[1, 2, 3, 4], 1, &[1, 2, 3, 4]),
        (&[], &[], 1, &[]),
    ];
    for (steps, damaged, keep, expected) in cases {
        let directory = tempfile::tempdir().unwrap();
        damaged_store(directory.path(), steps, damaged);
        let before = newest(directory.path()).1;
        let mut store = Store::open(directory.path()).unwrap();
        let removed: Vec<PathBuf> = store.retain(keep).unwrap();
        let expected: Vec<String> = expected.iter().map(|step| format!("step-{step:010}")).collect();
        assert_eq!(names(directory.path()), expected, "{steps:?} damaged {damaged:?} keep {keep}");
        assert_eq!(removed.len(), steps.len() - expected.len());
        assert_eq!(newest(directory.path()).1, before);
    }
}
