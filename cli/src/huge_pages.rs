//! Memory of models on huge pages (2 MiB).
//!
//! A training step reads hundreds of megabytes in long runs. In pages of 4 KiB each of them costs a walk through the page tables, in a virtual
//! machine through two. The allocator of glibc asks for huge pages if it is told so before the process starts (its manual, "Memory Allocation
//! Tunables"), and where the system lets applications ask (`madvise` in `/sys/kernel/mm/transparent_hugepage/enabled`, the usual setting) it gets them.

use std::os::unix::process::CommandExt;
use std::process::Command;

const VARIABLE: &str = "GLIBC_TUNABLES";
/// Huge pages; large blocks side by side in one heap, since the ends of mappings of their own would fill no page; and no memory given back
/// that the next step takes again.
const TUNABLES: &str = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=1073741824";

/// Starts this program again in place of itself, with the allocator so told. Nothing happens if tunables are set already, by this or by the
/// user, or if the program cannot be started again: then pages are small, and all is as it would be, only slower.
pub fn adopt() {
    if cfg!(not(all(target_os = "linux", target_env = "gnu"))) || std::env::var_os(VARIABLE).is_some() {
        return;
    }
    let mut arguments = std::env::args_os();
    let Ok(executable) = crate::runner::process::executable() else {
        return;
    };
    let mut command = Command::new(executable);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    let _refused = command.args(arguments).env(VARIABLE, TUNABLES).exec();
}
