//! `cargo xtask image`: the one image of Fathom, made of its binary and of what that needs of this machine; no container engine is involved.
//! `Containerfile` makes the same with one.

mod layout;
mod tar;

use crate::cluster;
use crate::cluster::file_error;
use crate::error::Error;
use crate::process::{self, Context};
use crate::quickstart;
use layout::{Built, Image};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use tar::Access;

const HELP: &str = "\
Makes the image of Fathom, an OCI image layout in a tar, and loads it into the nodes of the cluster if that is up.

Usage: cargo xtask image [--binary PATH] [--name NAME] [--output FILE]

Options:
  --binary PATH  This binary instead of a release build of the clone
  --name NAME    Full name of the image (default: docker.io/local/fathom:dev)
  --output FILE  Where the tar goes (default: image/fathom.tar in the cache directory)

Pods use it with `image: local/fathom:dev` and `imagePullPolicy: Never`. The same binary on the same system gives the same digest.
";

const NAME: &str = "docker.io/local/fathom:dev";
/// Nobody in particular; the number is that of the \"distroless\" images' user.
const USER: u32 = 65532;
/// Where distributions keep the certificates of authorities, in one file.
const CERTIFICATES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

struct Options {
    binary: Option<PathBuf>,
    name: String,
    output: PathBuf,
}

/// Makes the image and loads it.
pub fn run(context: &Context, arguments: &[String]) -> Result<ExitCode, Error> {
    let Some(options) = parse(context, arguments)? else {
        print!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    };
    let binary = match options.binary {
        Some(binary) => binary,
        None => {
            context.claim_target()?;
            quickstart::build(context)?;
            context.fathom("release")
        }
    };
    let Built { archive, digest } = of_binary(&binary)?.build(&options.name)?;
    write(&options.output, &archive)?;
    eprintln!("{}@{digest}, {} MiB", options.name, archive.len() >> 20);
    // Where no cluster was ever started there is nothing to load into, and nothing has to be installed for it.
    if cfg!(target_os = "linux") {
        let cluster = cluster::layout(context)?;
        for node in cluster::nodes_that_run(&cluster) {
            cluster::load(&cluster, node, &options.output)?;
            eprintln!("loaded into node {node}");
        }
    }
    println!("{}", options.output.display());
    Ok(ExitCode::SUCCESS)
}

/// Nothing if help is wanted.
fn parse(context: &Context, arguments: &[String]) -> Result<Option<Options>, Error> {
    let mut options = Options {
        binary: None,
        name: NAME.into(),
        output: context.cache.join("image").join("fathom.tar"),
    };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let mut value = || {
            words
                .next()
                .ok_or_else(|| Error::Usage(format!("`{word}` needs a value; `cargo xtask image --help` lists the options")))
        };
        match word.as_str() {
            "-h" | "--help" => return Ok(None),
            "--binary" => options.binary = Some(PathBuf::from(value()?)),
            "--name" => options.name = full_name(value()?)?,
            "--output" => options.output = PathBuf::from(value()?),
            other => return Err(Error::Usage(format!("unexpected argument `{other}` of `image`"))),
        }
    }
    Ok(Some(options))
}

/// Checks that a name has a registry, a path and a tag: a node takes a name without a registry for one of docker.io.
fn full_name(name: &str) -> Result<String, Error> {
    let parts = name
        .split_once('/')
        .and_then(|(registry, rest)| Some((registry, rest.split_once(':')?)));
    match parts {
        Some((registry, (path, tag)))
            if registry.contains('.') && [path, tag].iter().all(|part| !part.is_empty() && !part.contains([' ', ':'])) =>
        {
            Ok(name.to_string())
        }
        _ => Err(Error::Usage(format!(
            "--name {name}: expected registry, path and tag, as in {NAME}"
        ))),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(file_error(folder))?;
    }
    std::fs::write(path, bytes).map_err(file_error(path))
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(file_error(path))
}

/// The binary, the libraries that it is linked to, and what programs expect of a system.
fn of_binary(binary: &Path) -> Result<Image, Error> {
    let home = "/var/lib/fathom";
    let mut image = Image {
        entries: BTreeMap::new(),
        config: json!({
            "User": format!("{USER}:{USER}"),
            "Entrypoint": ["/usr/local/bin/fathom"],
            "WorkingDir": home,
            "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", format!("HOME={home}")],
        }),
    };
    image.file("/usr/local/bin/fathom", 0o755, without_line_tables(binary)?);
    let mut ldd = Command::new("ldd");
    ldd.arg(binary);
    let printed = process::output(&mut ldd)?;
    for library in libraries(&printed).map_err(|problem| Error::Output {
        command: process::display(&ldd),
        problem,
    })? {
        image.file(library, 0o755, read(Path::new(library))?);
    }
    if let Some(found) = CERTIFICATES.iter().find(|path| Path::new(path).is_file()) {
        image.file(CERTIFICATES[0], 0o644, read(Path::new(found))?);
    }
    let passwd = format!("root:x:0:0:root:/:/sbin/nologin\nfathom:x:{USER}:{USER}:fathom:{home}:/sbin/nologin\n");
    image.file("/etc/passwd", 0o644, passwd.into_bytes());
    image.file("/etc/group", 0o644, format!("root:x:0:\nfathom:x:{USER}:\n").into_bytes());
    image.file(
        "/etc/nsswitch.conf",
        0o644,
        b"passwd: files\ngroup: files\nhosts: files dns\n".to_vec(),
    );
    image.folder("/tmp", Access { mode: 0o1777, owner: 0 });
    image.folder(home, Access { mode: 0o755, owner: USER });
    Ok(image)
}

/// A program without what only names the lines of backtraces, three quarters of a release build: each pod would get a copy of it.
fn without_line_tables(program: &Path) -> Result<Vec<u8>, Error> {
    let copy = std::env::temp_dir().join(format!("fathom-image-{}", std::process::id()));
    let stripped = process::succeeds(Command::new("strip").arg("--strip-debug").arg("-o").arg(&copy).arg(program));
    if !stripped {
        eprintln!("`strip` of binutils is not there: the image is larger than it has to be");
        return read(program);
    }
    let bytes = read(&copy);
    // A leftover in the temporary directory does no harm.
    let _ = std::fs::remove_file(&copy);
    bytes
}

/// The files that `ldd` names; it names the loader too. A binary that is linked to nothing needs none.
fn libraries(printed: &str) -> Result<Vec<&str>, String> {
    let mut paths = Vec::new();
    for line in printed.lines().map(str::trim) {
        if line.contains("not found") {
            return Err(format!("{line}; install it, or build the binary on this machine"));
        }
        // `libm.so.6 => /lib/libm.so.6 (0x...)`, `/lib64/ld-linux-x86-64.so.2 (0x...)`; others (`linux-vdso.so.1`) are no files.
        let place = line.split_once("=> ").map_or(line, |(_, place)| place);
        let path = place.split(" (").next().unwrap_or_default();
        if path.starts_with('/') {
            paths.push(path);
        }
    }
    Ok(paths)
}

/// Makes the image that holds a pod's namespaces, of programs that the cluster's build has made. It has the probe of `cluster check` too.
pub fn pause(context: &Context) -> Result<PathBuf, Error> {
    let mut image = Image {
        entries: BTreeMap::new(),
        config: json!({"User": format!("{USER}:{USER}"), "Entrypoint": ["/pause"]}),
    };
    let bin = cluster::programs_folder(context);
    for program in ["pause", "probe"] {
        image.file(program, 0o755, read(&bin.join(program))?);
    }
    let path = bin.join("pause.tar");
    write(&path, &image.build(cluster::PAUSE_IMAGE)?.archive)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() {
        let printed = "\tlinux-vdso.so.1 (0x00007fff)\n\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(
            libraries(printed).unwrap(),
            ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"]
        );
        assert_eq!(libraries("\tstatically linked\n").unwrap(), Vec::<&str>::new());
        assert!(libraries("\tlibfoo.so => not found\n").unwrap_err().contains("libfoo.so"));
    }

    #[test]
    fn a_name_has_registry_path_and_tag() {
        for good in [NAME, "registry.example.org/a/b:v1"] {
            assert_eq!(full_name(good).unwrap(), good);
        }
        for bad in [
            "fathom",
            "fathom:dev",
            "local/fathom:dev",
            "docker.io/fathom",
            "docker.io/a:",
            "docker.io/a b:c",
        ] {
            assert!(full_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_image_has_what_a_binary_needs() {
        let image = of_binary(Path::new("/bin/sh")).unwrap();
        let passwd = String::from_utf8(image.entries["etc/passwd"].content.clone()).unwrap();
        assert!(passwd.contains("fathom:x:65532:65532:"), "{passwd}");
        assert_eq!(image.entries["tmp"].access.mode, 0o1777);
        assert_eq!(image.entries["usr/local/bin/fathom"].access.mode, 0o755);
        assert_eq!(image.config["User"], "65532:65532");
        assert!(
            image.entries.keys().any(|path| path.contains("libc.") || path.contains("ld-")),
            "its libraries"
        );
    }
}
