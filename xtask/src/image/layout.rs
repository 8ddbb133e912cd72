//! An image as the OCI's image layout in one tar: what containerd, podman, skopeo and Docker (25 and newer) load.

use super::tar::{Access, Archive, Kind};
use crate::error::Error;
use crate::process;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A file or directory of the image.
pub struct Entry {
    /// Its kind.
    pub kind: Kind,
    /// Permissions and owner.
    pub access: Access,
    /// What is in it.
    pub content: Vec<u8>,
}

/// What an image is made of; equal content gives equal bytes.
pub struct Image {
    /// By path, without the leading slash. Directories that are only on the way to a file need no entry.
    pub entries: BTreeMap<String, Entry>,
    /// How it is run: the `config` of the image's configuration.
    pub config: Value,
}

/// A written image.
pub struct Built {
    /// The tar.
    pub archive: Vec<u8>,
    /// `sha256:` and the digest of the manifest, which stands for all of it.
    pub digest: String,
}

const READABLE: Access = Access { mode: 0o644, owner: 0 };
const FOLDER: Access = Access { mode: 0o755, owner: 0 };

impl Image {
    /// A file of root.
    pub fn file(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        let access = Access { mode, owner: 0 };
        self.insert(path, Kind::File, access, content);
    }

    /// A directory.
    pub fn folder(&mut self, path: &str, access: Access) {
        self.insert(path, Kind::Directory, access, Vec::new());
    }

    fn insert(&mut self, path: &str, kind: Kind, access: Access, content: Vec<u8>) {
        self.entries
            .insert(path.trim_matches('/').to_string(), Entry { kind, access, content });
    }

    /// Writes it, under a full name (`docker.io/local/fathom:dev`).
    pub fn build(mut self, name: &str) -> Result<Built, Error> {
        self.add_folders_on_the_way();
        let layer = self.layer();
        let layer_digest = digest(&layer)?;
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
        })
        .to_string();
        let config_digest = digest(config.as_bytes())?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config_digest,
                "size": config.len(),
            },
            "layers": [{
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": layer_digest,
                "size": layer.len(),
            }],
        })
        .to_string();
        let manifest_digest = digest(manifest.as_bytes())?;
        let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": manifest_digest,
                "size": manifest.len(),
                "annotations": {
                    "io.containerd.image.name": name,
                    "org.opencontainers.image.ref.name": tag,
                },
            }],
        })
        .to_string();

        let mut archive = Archive::default();
        archive.add("oci-layout", Kind::File, READABLE, br#"{"imageLayoutVersion":"1.0.0"}"#);
        archive.add("index.json", Kind::File, READABLE, index.as_bytes());
        archive.add("blobs/", Kind::Directory, FOLDER, b"");
        archive.add("blobs/sha256/", Kind::Directory, FOLDER, b"");
        for (digest, blob) in [
            (&manifest_digest, manifest.as_bytes()),
            (&config_digest, config.as_bytes()),
            (&layer_digest, &layer),
        ] {
            archive.add(&format!("blobs/{}", digest.replace(':', "/")), Kind::File, READABLE, blob);
        }
        Ok(Built {
            archive: archive.finish(),
            digest: manifest_digest,
        })
    }

    fn add_folders_on_the_way(&mut self) {
        let paths: Vec<String> = self.entries.keys().cloned().collect();
        for path in paths {
            for (end, _) in path.match_indices('/') {
                self.entries.entry(path[..end].to_string()).or_insert(Entry {
                    kind: Kind::Directory,
                    access: FOLDER,
                    content: Vec::new(),
                });
            }
        }
    }

    /// The entries in the order of their paths, so that a directory comes before what is in it.
    fn layer(&self) -> Vec<u8> {
        let mut archive = Archive::default();
        for (path, Entry { kind, access, content }) in &self.entries {
            let slash = if *kind == Kind::Directory { "/" } else { "" };
            archive.add(&format!("{path}{slash}"), *kind, *access, content);
        }
        archive.finish()
    }
}

fn digest(bytes: &[u8]) -> Result<String, Error> {
    Ok(format!("sha256:{}", process::sha256(bytes)?))
}

/// As images call it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(content: &[u8]) -> Image {
        let mut image = Image {
            entries: BTreeMap::new(),
            config: json!({"Entrypoint": ["/usr/bin/a"]}),
        };
        image.file("/usr/bin/a", 0o755, content.to_vec());
        image.folder("/tmp", Access { mode: 0o1777, owner: 0 });
        image
    }

    #[test]
    fn equal_content_gives_equal_bytes_and_other_content_another_digest() {
        let build = |content: &[u8]| image(content).build("docker.io/local/a:1").unwrap();
        assert_eq!(build(b"x").archive, build(b"x").archive);
        assert_ne!(build(b"x").digest, build(b"y").digest);
    }

    #[test]
    fn directories_come_before_what_is_in_them() {
        let mut image = image(b"x");
        image.add_folders_on_the_way();
        let paths: Vec<&str> = image.entries.keys().map(String::as_str).collect();
        assert_eq!(paths, ["tmp", "usr", "usr/bin", "usr/bin/a"]);
        assert_eq!(image.entries["tmp"].access.mode, 0o1777, "one that was asked for keeps its rights");
    }

    #[test]
    fn every_blob_is_under_its_digest() {
        let built = image(b"x").build("docker.io/local/a:1").unwrap();
        let text = String::from_utf8_lossy(&built.archive);
        assert!(text.contains(&built.digest.replace(':', "/")));
        assert!(text.contains("\"io.containerd.image.name\":\"docker.io/local/a:1\""));
        assert!(text.contains("\"org.opencontainers.image.ref.name\":\"1\""));
    }
}
