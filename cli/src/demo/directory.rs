//! The demo's directory: taken with a lock, emptied of what an earlier demo left, removed at the end.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::location::{self, LOCK_FILE, Liveness, STATE_FILE, State};

/// The directory while the demo runs.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    // Held for its lock.
    _lock: File,
}

impl Directory {
    /// Takes the directory named, or the first of the usual places that can be had.
    pub(super) fn take(named: Option<&Path>) -> anyhow::Result<Self> {
        if let Some(path) = named {
            let path = std::path::absolute(path)?;
            return Self::take_at(&path);
        }
        let places = location::usual_places();
        if let Some(alive) = places.iter().find(|path| owned(path) && location::liveness(path) == Liveness::Alive) {
            bail!(busy(alive));
        }
        let mut refused = None;
        for path in places {
            match Self::take_at(&path) {
                Ok(directory) => return Ok(directory),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        Err(refused.expect("there is at least one usual place"))
    }

    fn take_at(path: &Path) -> anyhow::Result<Self> {
        if path.as_os_str().len() > MAX_PATH {
            bail!("{} is too long for the sockets in it; name a shorter one with --demo-dir", path.display());
        }
        let cannot = || format!("{} cannot be used; name another directory with --demo-dir", path.display());
        match DirBuilder::new().mode(0o755).create(path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            made => made.with_context(cannot)?,
        }
        // Others must not be able to change what our programs read, so it has to be a directory, and ours.
        if !owned(path) {
            bail!("{} is not a directory of this user; name another one with --demo-dir", path.display());
        }
        let empty = fs::read_dir(path).with_context(cannot)?.next().is_none();
        if !empty && !path.join(LOCK_FILE).is_file() {
            bail!("{} holds something else than a demo; name an empty directory with --demo-dir", path.display());
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join(LOCK_FILE))
            .with_context(cannot)?;
        if !lock_within(&lock, Duration::from_secs(1)) {
            bail!(busy(path));
        }
        // The umask may have closed it; the proxies' user has to pass.
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).with_context(cannot)?;
        empty_but_lock(path).with_context(cannot)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a directory inside, owned by `user` where one is given.
    pub(super) fn make(&self, name: &str, user: Option<u32>) -> anyhow::Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        own(&path, user)?;
        Ok(path)
    }

    /// Tells other terminals and tests what runs.
    pub(super) fn write_state(&self, state: &State) -> anyhow::Result<()> {
        let path = self.path.join(STATE_FILE);
        let unfinished = path.with_extension("unfinished");
        fs::write(&unfinished, crate::output::json(state))
            .and_then(|()| fs::rename(&unfinished, &path))
            .with_context(|| format!("{} cannot be written", path.display()))
    }

    /// Removes everything.
    pub(super) fn remove(self) -> anyhow::Result<()> {
        empty_but_lock(&self.path)
            .and_then(|()| fs::remove_file(self.path.join(LOCK_FILE)))
            .and_then(|()| fs::remove_dir(&self.path))
            .with_context(|| format!("{} cannot be removed; remove it by hand", self.path.display()))
    }
}

/// Gives a path to a user, where one is given.
pub(super) fn own(path: &Path, user: Option<u32>) -> anyhow::Result<()> {
    let Some(user) = user else { return Ok(()) };
    std::os::unix::fs::chown(path, Some(user), Some(user))
        .with_context(|| format!("{} cannot be given to user {user}", path.display()))
}

fn owned(path: &Path) -> bool {
    let owner = rustix::process::geteuid().as_raw();
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == owner)
}

fn busy(path: &Path) -> String {
    let pid = location::read_state(path).map_or_else(|_| String::new(), |state| format!(" (process {})", state.pid));
    format!("a demo{pid} is already running in {}; end it, or run a second one with --demo-dir", path.display())
}

/// A `meshctl` that looks for a demo holds the lock for an instant, so one refusal is no proof.
fn lock_within(lock: &File, limit: Duration) -> bool {
    let start = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return true,
            Err(TryLockError::WouldBlock) if start.elapsed() < limit => std::thread::sleep(Duration::from_millis(20)),
            Err(_) => return false,
        }
    }
}

fn empty_but_lock(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name() == LOCK_FILE {
            continue;
        }
        // Programs are bound here, never copied: the mount point is empty once the mount namespace is gone.
        if entry.file_type()?.is_dir() && entry.file_name() == BOUND_PROGRAMS {
            fs::remove_dir(entry.path())?;
        } else if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Where the programs are bound.
pub(super) const BOUND_PROGRAMS: &str = "bin";

// A unix socket's path holds 107 bytes; the longest of ours below this is `/proxies/storefront-1/admin.sock`.
const MAX_PATH: usize = 70;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taken_once_emptied_and_removed() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("demo");
        let directory = Directory::take(Some(&path)).unwrap();
        directory.write_state(&State { pid: 42, ..State::default() }).unwrap();
        let error = Directory::take(Some(&path)).unwrap_err().to_string();
        assert!(error.contains("already running") && error.contains("(process 42)"), "{error}");
        drop(directory);

        // As an earlier one left it that was killed.
        fs::create_dir_all(path.join("proxies/a")).unwrap();
        fs::create_dir_all(path.join(BOUND_PROGRAMS)).unwrap();
        let directory = Directory::take(Some(&path)).unwrap();
        let left: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [LOCK_FILE]);
        directory.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        fs::write(parent.path().join("thesis.tex"), "").unwrap();
        let error = Directory::take(Some(parent.path())).unwrap_err().to_string();
        assert!(error.contains("something else"), "{error}");
        assert!(parent.path().join("thesis.tex").exists());
        let long = parent.path().join("x".repeat(80));
        assert!(Directory::take(Some(&long)).unwrap_err().to_string().contains("too long"));
        std::os::unix::fs::symlink(parent.path(), parent.path().join("link")).unwrap();
        assert!(Directory::take(Some(&parent.path().join("link"))).is_err());
    }
}
