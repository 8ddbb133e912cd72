//! Artifacts on real files: whole or absent, verified by size or content, never at the cost of a stranger's files.

use super::*;
use serde_json::json;
use std::path::PathBuf;

fn description(key: &str) -> Description {
    Description {
        kind: ArtifactKind::Corpus,
        phase: "corpus".into(),
        key: key.into(),
        lineage: BTreeMap::from([(ArtifactKind::Tokenizer, "t".repeat(64))]),
        step: None,
        statistics: json!({ "tokens": 12, "share": 0.1 }),
    }
}

fn fill(directory: &Path, content: &str) {
    fs::create_dir_all(directory.join("shards")).unwrap();
    fs::write(directory.join("corpus.json"), content).unwrap();
    fs::write(directory.join("shards/train.bin"), content.repeat(1000)).unwrap();
}

fn paths() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let (staging, destination) = (root.path().join("staging"), root.path().join("artifact"));
    (root, staging, destination)
}

#[test]
fn a_committed_artifact_is_opened_with_its_description() {
    let (_root, staging, destination) = paths();
    fill(&staging, "abc");
    let committed = commit(&staging, &destination, description("key")).unwrap();
    assert!(!staging.exists());
    assert_eq!(committed.files.keys().collect::<Vec<_>>(), ["corpus.json", "shards/train.bin"]);
    assert_eq!(committed.files["corpus.json"].blake3, blake3::hash(b"abc").to_hex().to_string());
    for depth in [Depth::Sizes, Depth::Digests] {
        assert_eq!(open(&destination, depth).unwrap(), committed);
    }
}

#[test]
fn half_an_artifact_does_not_exist() {
    let (_root, staging, destination) = paths();
    assert!(matches!(open(&destination, Depth::Sizes), Err(Corruption::NoManifest(_))));
    fill(&staging, "abc");
    assert!(matches!(open(&staging, Depth::Sizes), Err(Corruption::NoManifest(_))));
}

#[test]
fn sizes_find_lost_files_and_digests_find_altered_ones() {
    let (_root, staging, destination) = paths();
    fill(&staging, "abc");
    commit(&staging, &destination, description("key")).unwrap();
    fs::write(destination.join("corpus.json"), "abd").unwrap();
    assert!(open(&destination, Depth::Sizes).is_ok());
    let corruption = open(&destination, Depth::Digests).unwrap_err();
    assert!(
        matches!(&corruption, Corruption::Altered { path, .. } if path.ends_with("corpus.json")),
        "{corruption}"
    );
    fs::remove_file(destination.join("shards/train.bin")).unwrap();
    let corruption = open(&destination, Depth::Sizes).unwrap_err();
    assert!(
        matches!(&corruption, Corruption::Missing(path) if path.ends_with("shards/train.bin")),
        "{corruption}"
    );
    let error = corruption.into_error("run the phase again");
    assert!(
        matches!(error, Error::Data { .. }) && error.to_string().ends_with("is missing; run the phase again"),
        "{error}"
    );
}

#[test]
fn a_phase_may_work_in_its_output_and_its_work_files_go_after_the_commit() {
    let (_root, _, destination) = paths();
    fill(&destination, "abc");
    fs::create_dir(destination.join(".checkpoints")).unwrap();
    fs::write(destination.join(".checkpoints/state"), "large").unwrap();
    let committed = commit(&destination, &destination, description("key")).unwrap();
    assert_eq!(committed.files.keys().collect::<Vec<_>>(), ["corpus.json", "shards/train.bin"]);
    assert!(!destination.join(".checkpoints").exists());
    assert_eq!(open(&destination, Depth::Digests).unwrap(), committed);
    let again = commit(&destination, &destination, description("other")).unwrap();
    assert_eq!(again.files, committed.files);
}

#[test]
fn an_artifact_is_replaced_and_anything_else_is_left_alone() {
    let (_root, staging, destination) = paths();
    for content in ["old", "new!"] {
        fill(&staging, content);
        commit(&staging, &destination, description(content)).unwrap();
        assert_eq!(fs::read_to_string(destination.join("corpus.json")).unwrap(), content);
        assert!(!staging.exists());
    }
    fs::remove_file(destination.join(ARTIFACT_MANIFEST)).unwrap();
    fill(&staging, "newest");
    let error = commit(&staging, &destination, description("key")).unwrap_err();
    assert!(
        matches!(error, Error::Config { .. }) && error.to_string().contains("exists and is not an artifact"),
        "{error}"
    );
    assert_eq!(fs::read_to_string(destination.join("corpus.json")).unwrap(), "new!");
    fs::remove_dir_all(&destination).unwrap();
    fs::create_dir(&destination).unwrap();
    commit(&staging, &destination, description("key")).unwrap();
    assert!(open(&destination, Depth::Digests).is_ok());
}

#[test]
fn links_and_unknown_manifests_are_refused() {
    let (_root, staging, destination) = paths();
    fill(&staging, "abc");
    std::os::unix::fs::symlink("/etc/passwd", staging.join("link")).unwrap();
    let error = commit(&staging, &destination, description("key")).unwrap_err().to_string();
    assert!(
        error.contains("link") && error.contains("neither a regular file nor a directory"),
        "{error}"
    );
    fs::remove_file(staging.join("link")).unwrap();
    commit(&staging, &destination, description("key")).unwrap();
    let path = destination.join(ARTIFACT_MANIFEST);
    let good = fs::read_to_string(&path).unwrap();
    for (from, to, expected) in [
        ("\"version\": 1", "\"version\": 2", "has format version 2"),
        (
            "\"corpus.json\"",
            "\"../corpus.json\"",
            "names the file `../corpus.json`, outside the artifact",
        ),
        ("\"phase\"", "\"fase\"", "unknown field `fase`"),
    ] {
        fs::write(&path, good.replace(from, to)).unwrap();
        let corruption = open(&destination, Depth::Sizes).unwrap_err().to_string();
        assert!(corruption.contains(expected), "{expected:?} in {corruption}");
    }
}
