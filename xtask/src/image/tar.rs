//! Tar archives (ustar) whose bytes depend on their content only: no times, no names of users.

const BLOCK: usize = 512;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    File,
    /// A directory.
    Directory,
}

/// An entry's rights and owner.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// Permissions, as `chmod` takes them.
    pub mode: u32,
    /// User and group.
    pub owner: u32,
}

/// The archive as it grows.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
}

impl Archive {
    /// Adds a file or, with no content, a directory.
    ///
    /// # Panics
    /// If the path does not fit: more than 100 bytes.
    pub fn add(&mut self, path: &str, kind: Kind, access: Access, content: &[u8]) {
        self.bytes.extend(header(path, kind, access, content.len()));
        self.bytes.extend(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
    }

    /// The whole archive: two empty blocks end it.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        self.bytes
    }
}

fn header(path: &str, kind: Kind, access: Access, size: usize) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |start: usize, text: &[u8]| block[start..start + text.len()].copy_from_slice(text);
    assert!(path.len() <= 100, "{path}: longer than a tar header has room for");
    put(0, path.as_bytes());
    put(100, format!("{:07o}\0", access.mode).as_bytes());
    put(108, format!("{:07o}\0", access.owner).as_bytes());
    put(116, format!("{:07o}\0", access.owner).as_bytes());
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    // The sum counts its own field as spaces.
    put(148, b"        ");
    put(
        156,
        match kind {
            Kind::File => b"0",
            Kind::Directory => b"5",
        },
    );
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    fn tar(arguments: &[&str], archive: &[u8]) -> String {
        let mut child = Command::new("tar")
            .args(arguments)
            .env("TZ", "UTC")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(archive).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn tar_reads_what_is_written() {
        let mut archive = Archive::default();
        let access = |mode, owner| Access { mode, owner };
        archive.add("tmp/", Kind::Directory, access(0o1777, 0), b"");
        archive.add("tmp/a", Kind::File, access(0o644, 65532), b"one line\n");
        archive.add("tmp/block", Kind::File, access(0o755, 0), &[b'x'; BLOCK]);
        let bytes = archive.finish();
        assert_eq!(bytes.len() % BLOCK, 0);
        let listed = tar(&["-tv", "--numeric-owner", "-f", "-"], &bytes);
        let lines: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            lines,
            [
                vec!["drwxrwxrwt", "0/0", "0", "1970-01-01", "00:00", "tmp/"],
                vec!["-rw-r--r--", "65532/65532", "9", "1970-01-01", "00:00", "tmp/a"],
                vec!["-rwxr-xr-x", "0/0", "512", "1970-01-01", "00:00", "tmp/block"],
            ]
        );
        assert_eq!(tar(&["-x", "-O", "-f", "-", "tmp/a"], &bytes), "one line\n");
    }

    #[test]
    #[should_panic(expected = "longer than")]
    fn a_path_that_does_not_fit_is_refused() {
        Archive::default().add(&"x".repeat(101), Kind::File, Access { mode: 0o644, owner: 0 }, b"");
    }
}
