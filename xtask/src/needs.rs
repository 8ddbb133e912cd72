//! Programs of the system: on Debian as root what is missing is installed by name, elsewhere it is named.

use crate::error::Error;
use crate::process;
use std::path::Path;
use std::process::Command;

/// Something that a command needs beyond the Rust toolchain.
pub struct Need {
    /// What it is, for people.
    pub what: &'static str,
    /// Debian packages that provide it.
    pub debian: &'static [&'static str],
    /// What to do elsewhere.
    pub elsewhere: &'static str,
}

/// Installs `need` if `there` says that it is missing.
pub fn require(need: &Need, there: impl Fn() -> Result<bool, Error>) -> Result<(), Error> {
    if there()? {
        return Ok(());
    }
    install(need)?;
    if there()? {
        return Ok(());
    }
    Err(Error::Missing(format!("{} is still missing after the installation", need.what)))
}

/// On Debian as root: installs what is missing. Elsewhere: says what to do.
fn install(need: &Need) -> Result<(), Error> {
    let packages = need.debian.join(" ");
    let debian = Path::new("/etc/debian_version").exists();
    if !(debian && is_root()) {
        let cure = if debian {
            format!("as root: apt-get install --no-install-recommends {packages}")
        } else {
            need.elsewhere.to_string()
        };
        return Err(Error::Missing(format!(
            "{} is missing. Install it, then run this again. {cure}",
            need.what
        )));
    }
    eprintln!("{} is missing: installing {packages}", need.what);
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        // Standard output is for data.
        command
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(std::io::stderr());
        process::run(&mut command)
    };
    apt(&["update"])?;
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(need.debian);
    apt(&arguments)
}

/// Whether this process may do everything.
pub fn is_root() -> bool {
    process::output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}
