//! What the cluster changes on the machine outside its directory: an interface, forwarding, packet filters, mounts, cgroups. All of it is
//! taken back.

use super::config::{INTERFACE, Layout, NETWORK, node_address};
use super::processes::containers;
use super::programs::file_error;
use crate::error::Error;
use crate::process;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";
/// The first node's address comes with the whole network, so that no packet to a service, or to a pod that is gone, takes the default route
/// and leaves the machine.
const WHOLE_NETWORK: &str = "/16";

/// Gives the nodes their addresses and lets the machine forward between pods.
pub fn connect(layout: &Layout, nodes: u8) -> Result<(), Error> {
    let addresses = process::output(Command::new("ip").args(["-o", "-4", "address"]))?;
    if let Some(other) = foreign_interface(&addresses) {
        return Err(Error::Missing(format!(
            "the interface {other} has an address in {NETWORK}, the cluster's network; two of that cannot be on one machine"
        )));
    }
    if !Path::new("/sys/class/net").join(INTERFACE).exists() {
        process::run(Command::new("ip").args(["link", "add", INTERFACE, "type", "bridge"]))?;
    }
    process::run(Command::new("ip").args(["link", "set", INTERFACE, "up"]))?;
    for node in 1..=nodes {
        let width = if node == 1 { WHOLE_NETWORK } else { "/32" };
        let address = format!("{}{width}", node_address(node));
        process::run(Command::new("ip").args(["address", "replace", &address, "dev", INTERFACE]))?;
    }
    let before = std::fs::read_to_string(FORWARDING).map_err(file_error(Path::new(FORWARDING)))?;
    if before.trim() != "1" {
        let kept = kept_forwarding(layout);
        std::fs::write(&kept, &before).map_err(file_error(&kept))?;
        std::fs::write(FORWARDING, "1").map_err(file_error(Path::new(FORWARDING)))?;
    }
    Ok(())
}

/// An interface of somebody else in our network, in the output of `ip -o -4 address`. The pods' links have their gateway's address.
fn foreign_interface(addresses: &str) -> Option<&str> {
    let prefix = NETWORK.split_once(".0.0/").map_or("", |(prefix, _)| prefix);
    addresses.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.nth(1)?;
        let address = words.nth(1)?;
        let ours = name == INTERFACE || name.starts_with("veth");
        (!ours && address.starts_with(&format!("{prefix}."))).then_some(name)
    })
}

fn kept_forwarding(layout: &Layout) -> PathBuf {
    layout.state.join("ip_forward.before")
}

/// Takes everything back, after all processes have ended.
pub fn release(layout: &Layout) -> Result<(), Error> {
    let containers = containers(layout);
    unmount(&layout.state)?;
    for container in &containers {
        // Written by containerd: the socket of the process that held the container.
        let address = std::fs::read_to_string(container.join("address")).unwrap_or_default();
        if let Some(socket) = address.trim().strip_prefix("unix://") {
            let _ = std::fs::remove_file(socket);
        }
        remove_cgroups(container);
    }
    remove_log_links(layout);
    if Path::new("/sys/class/net").join(INTERFACE).exists() {
        process::run(Command::new("ip").args(["link", "delete", INTERFACE]))?;
    }
    for family in ["ip", "ip6"] {
        // There is none where kube-proxy has never run.
        let _ = Command::new("nft")
            .args(["delete", "table", family, "kube-proxy"])
            .stderr(Stdio::null())
            .status();
    }
    if let Ok(before) = std::fs::read_to_string(kept_forwarding(layout)) {
        std::fs::write(FORWARDING, before.trim()).map_err(file_error(Path::new(FORWARDING)))?;
    }
    if layout.state.exists() {
        std::fs::remove_dir_all(&layout.state).map_err(file_error(&layout.state))?;
    }
    Ok(())
}

/// Unmounts what is mounted below a directory, and fails if something remains: what is under a mount is not ours to delete.
fn unmount(folder: &Path) -> Result<(), Error> {
    let file = Path::new("/proc/self/mountinfo");
    let read = || std::fs::read_to_string(file).map_err(file_error(file));
    for point in mounts_below(&read()?, folder).iter().rev() {
        process::run(Command::new("umount").arg("--lazy").arg(point))?;
    }
    match mounts_below(&read()?, folder).first() {
        None => Ok(()),
        Some(point) => Err(Error::Missing(format!(
            "{} is still mounted; unmount it, then run this again",
            point.display()
        ))),
    }
}

/// The mount points below a directory in a `mountinfo`, outer ones first.
fn mounts_below(mountinfo: &str, folder: &Path) -> Vec<PathBuf> {
    let mut points: Vec<PathBuf> = mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(point.replace("\\040", " ")))
        .filter(|point| point.starts_with(folder) && point != folder)
        .collect();
    points.sort();
    points
}

/// Removes the empty cgroups of a container, in every hierarchy.
fn remove_cgroups(container: &Path) {
    let Some(id) = container.file_name() else {
        return;
    };
    let top = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(top).into_iter().flatten().flatten().map(|entry| entry.path());
    for hierarchy in hierarchies.chain([top.to_path_buf()]) {
        remove_tree_of_cgroups(&hierarchy.join("k8s.io").join(id));
        // Only an empty one goes: another containerd may have containers there.
        let _ = std::fs::remove_dir(hierarchy.join("k8s.io"));
    }
}

/// A cgroup's files cannot be removed, and vanish with it.
fn remove_tree_of_cgroups(folder: &Path) {
    let inner = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in inner.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_tree_of_cgroups(&entry.path());
    }
    let _ = std::fs::remove_dir(folder);
}

/// The kubelet's links to logs have a fixed place.
fn remove_log_links(layout: &Layout) {
    let entries = std::fs::read_dir("/var/log/containers").into_iter().flatten().flatten();
    for link in entries.map(|entry| entry.path()) {
        if std::fs::read_link(&link).is_ok_and(|target| target.starts_with(&layout.state)) {
            let _ = std::fs::remove_file(&link);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_taken_down_from_the_inside() {
        let mountinfo = "\
22 1 254:0 / / rw - ext4 /dev/vda rw
30 22 0:30 / /c/state rw - tmpfs tmpfs rw
31 30 0:31 / /c/state/node1 rw - tmpfs tmpfs rw
32 31 0:32 / /c/state/node1/pods/a\\040b rw - tmpfs tmpfs rw
33 22 0:33 / /c/state-of-another rw - tmpfs tmpfs rw
";
        assert_eq!(
            mounts_below(mountinfo, Path::new("/c/state")),
            [PathBuf::from("/c/state/node1"), PathBuf::from("/c/state/node1/pods/a b")]
        );
    }

    #[test]
    fn somebody_elses_interface_in_the_network_is_found() {
        let line = |name: &str, address: &str| format!("7: {name}    inet {address}/16 brd 10.86.255.255 scope global {name}\\ valid\n");
        assert_eq!(foreign_interface(&line("eth0", "192.0.2.2")), None);
        assert_eq!(foreign_interface(&line(INTERFACE, "10.86.1.1")), None);
        assert_eq!(foreign_interface(&line("veth12ab", "10.86.1.1")), None);
        assert_eq!(foreign_interface(&line("eth1", "10.86.200.3")), Some("eth1"));
        assert_eq!(foreign_interface(&line("eth1", "10.8.6.3")), None);
    }
}
