//! Enters namespaces of the demo's own, so that nothing of the machine is touched and nothing of the demo outlives it.
//!
//! - *network*: this process moves into an empty one, which then holds the bridge; every pod gets another.
//! - *process*: its first process is [`init`]. The kernel kills everything in there when that one ends, and it ends with this
//!   process, also after `kill -9`.
//! - *mount*: as root only, so that programs that lie below a directory closed to others (`/root`) can be run by the proxy's
//!   user: their directory is bound to one inside the demo's.
//! - *user*: only without root. It holds one user id, so proxies are told from applications by socket mark.
//!
//! A process that moved its children to another process namespace cannot start threads any more: nothing in the process that
//! runs the demo may need one (no `tokio::fs`, no name lookups).

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use nix::sched::CloneFlags;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind_recursive, mount_change, unmount};
use rustix::process::{Signal, WaitOptions, set_parent_process_death_signal, wait};

/// Which rights the demo runs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rights {
    /// Real root: proxies, applications and control plane run as users of their own.
    Root,
    /// Root of a user namespace with a single user id.
    UserNamespace,
}

/// Moves this process, which must still be single-threaded, into the demo's namespaces.
pub(super) fn enter(prefer_user_namespace: bool) -> anyhow::Result<Rights> {
    let base = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS;
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    if user.is_root() && !prefer_user_namespace && nix::sched::unshare(base).is_ok() {
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .context("the demo's mounts cannot be made private")?;
        return Ok(Rights::Root);
    }
    nix::sched::unshare(CloneFlags::CLONE_NEWUSER).map_err(|error| refused(&error))?;
    fs::write("/proc/self/setgroups", "deny").context("/proc/self/setgroups cannot be written")?;
    fs::write("/proc/self/uid_map", format!("0 {} 1", user.as_raw()))
        .context("/proc/self/uid_map cannot be written")?;
    fs::write("/proc/self/gid_map", format!("0 {} 1", group.as_raw()))
        .context("/proc/self/gid_map cannot be written")?;
    nix::sched::unshare(base).map_err(|error| refused(&error))?;
    Ok(Rights::UserNamespace)
}

/// Makes the directory `programs` visible as `place` too, for this process and its children.
pub(super) fn bind_programs(programs: &Path, place: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(place).with_context(|| format!("{} cannot be made", place.display()))?;
    mount_bind_recursive(programs, place)
        .with_context(|| format!("{} cannot be bound to {}", programs.display(), place.display()))
}

/// Undoes [`bind_programs`]: what is bound must be gone before anybody removes the directory it is bound in.
pub(super) fn unbind_programs(place: &Path) -> anyhow::Result<()> {
    unmount(place, UnmountFlags::DETACH).with_context(|| format!("{} cannot be unmounted", place.display()))
}

/// Runs as the first process of the demo's process namespace: reaps orphans until standard input closes.
pub(super) fn init() -> ExitCode {
    if set_parent_process_death_signal(Some(Signal::KILL)).is_err() {
        return ExitCode::FAILURE;
    }
    // Standard input closes when the parent is gone, also where it went before the line above. Nothing is ever sent.
    std::thread::spawn(|| {
        let mut byte = [0];
        while matches!(std::io::stdin().read(&mut byte), Ok(1)) {}
        std::process::exit(0);
    });
    loop {
        if wait(WaitOptions::empty()).is_err() {
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// Moves this process, which must still be single-threaded, into an empty network namespace.
pub(super) fn enter_pod() -> anyhow::Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNET).context("the pod's network namespace cannot be made")
}

fn refused(error: &nix::Error) -> anyhow::Error {
    anyhow::anyhow!("the kernel refuses to make namespaces ({error}); run it as root: sudo meshctl demo")
}
