//! Where a demo lives on this machine, and how another `meshctl` finds it.
//!
//! One directory holds everything: lock, state, sockets, manifests, logs. Its lock file is held by the running demo for as
//! long as it lives, so liveness needs no process id, and what an earlier `kill -9` left is told apart from what is in use.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What a running demo writes about itself, for other terminals and for tests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Version of the program that runs it.
    pub version: String,
    /// Process id of `meshctl demo`, which lives in the network namespace that holds the bridge.
    pub pid: u32,
    /// Milliseconds since 1970.
    pub started_ms: u64,
    /// Everything is up and traffic flows.
    pub ready: bool,
    /// Every pod, control plane included.
    pub pods: Vec<PodState>,
    /// What is wrong with the manifests, as `file:line: problem`; none until they have been looked at.
    #[serde(default)]
    pub manifest_problems: Option<Vec<String>>,
}

/// One pod of a running demo.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodState {
    /// Pod name.
    pub name: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Deployment or the like.
    pub workload: String,
    /// A proxy stands beside it.
    pub meshed: bool,
    /// IPv4, then IPv6.
    pub addresses: Vec<std::net::IpAddr>,
    /// Process that holds the network namespace: `nsenter --target PID --net` enters the pod.
    pub pid: u32,
    /// Process ids by role (`proxy`, `app`), as this machine counts them.
    pub processes: std::collections::BTreeMap<String, u32>,
}

/// Why no demo could be found.
#[derive(Debug, thiserror::Error)]
pub enum LocationError {
    /// Nothing runs.
    #[error("no demo is running here; start one with: meshctl demo")]
    NotRunning,
    /// Nothing runs at the place named.
    #[error("no demo is running in {0}; start one with: meshctl demo --demo-dir {0}")]
    NotRunningThere(PathBuf),
    /// Another user's.
    #[error("the demo in {0} belongs to another user; try again with sudo")]
    Forbidden(PathBuf),
    /// Its state cannot be read.
    #[error("{path} cannot be read ({problem}); end the demo and start it again")]
    Unreadable {
        /// The state file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// The directory of the running demo: the one named, or the first found alive.
pub fn find(named: Option<&Path>) -> Result<PathBuf, LocationError> {
    if let Some(directory) = named {
        return match liveness(directory) {
            Liveness::Alive if foreign(directory) => Err(LocationError::Forbidden(directory.to_owned())),
            Liveness::Alive => Ok(directory.to_owned()),
            // Not a demo's, but laid out like one.
            Liveness::Absent if directory.join(PROXIES).is_dir() => Ok(directory.to_owned()),
            Liveness::Forbidden => Err(LocationError::Forbidden(directory.to_owned())),
            Liveness::Stale | Liveness::Absent => Err(LocationError::NotRunningThere(directory.to_owned())),
        };
    }
    let mut forbidden = None;
    for directory in usual_places() {
        match liveness(&directory) {
            Liveness::Alive if !foreign(&directory) => return Ok(directory),
            Liveness::Alive | Liveness::Forbidden => forbidden = Some(directory),
            Liveness::Stale | Liveness::Absent => {}
        }
    }
    Err(forbidden.map_or(LocationError::NotRunning, LocationError::Forbidden))
}

/// Its sockets are shut to everybody but its owner and root: without asking, this is known from the directory.
fn foreign(directory: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let user = rustix::process::geteuid();
    !user.is_root() && fs::metadata(directory).is_ok_and(|metadata| metadata.uid() != user.as_raw())
}

/// Reads what a running demo says about itself.
pub fn read_state(directory: &Path) -> Result<State, LocationError> {
    let path = directory.join(STATE_FILE);
    let unreadable = |problem: String| LocationError::Unreadable { path: path.clone(), problem };
    let text = fs::read(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => LocationError::Forbidden(directory.to_owned()),
        _ => unreadable(error.to_string()),
    })?;
    serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))
}

/// Where demos live unless told otherwise, the one this user would start first.
///
/// Root's is under `/run` and open to all to enter, because its proxies run as another user; everybody else has a runtime
/// directory of their own, or takes one with their user id in it from the directory for temporary files.
pub fn usual_places() -> Vec<PathBuf> {
    let root = PathBuf::from("/run/meshctl-demo");
    let user = rustix::process::geteuid();
    let temporary = std::env::temp_dir().join(format!("meshctl-demo-{}", user.as_raw()));
    if user.is_root() {
        return vec![root, temporary];
    }
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    runtime.map(|path| path.join("meshctl-demo")).into_iter().chain([temporary, root]).collect()
}

/// Whether somebody runs a demo in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// Its lock is held.
    Alive,
    /// A demo was here and is gone.
    Stale,
    /// No demo was ever here.
    Absent,
    /// We may not look.
    Forbidden,
}

/// Looks at the lock of a directory.
pub fn liveness(directory: &Path) -> Liveness {
    match File::open(directory.join(LOCK_FILE)) {
        Ok(file) => match file.try_lock_shared() {
            Ok(()) => Liveness::Stale,
            Err(TryLockError::WouldBlock) => Liveness::Alive,
            Err(TryLockError::Error(_)) => Liveness::Forbidden,
        },
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Liveness::Forbidden,
        Err(_) => Liveness::Absent,
    }
}

/// Held by the running demo.
pub const LOCK_FILE: &str = "lock";
/// [`State`] as JSON.
pub const STATE_FILE: &str = "state.json";
/// One directory per proxy, with its admin socket.
pub const PROXIES: &str = "proxies";
/// Directory of the manifests.
pub const MANIFESTS: &str = "manifests";
/// Name of the admin socket in a proxy's directory.
pub const ADMIN_SOCKET: &str = "admin.sock";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_decides() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert_eq!(liveness(path), Liveness::Absent);
        assert!(matches!(find(Some(path)), Err(LocationError::NotRunningThere(_))));
        let lock = File::create(path.join(LOCK_FILE)).unwrap();
        assert_eq!(liveness(path), Liveness::Stale);
        lock.lock().unwrap();
        assert_eq!(liveness(path), Liveness::Alive);
        assert_eq!(find(Some(path)).unwrap(), path);
        drop(lock);
        assert_eq!(liveness(path), Liveness::Stale);
    }

    #[test]
    fn state_reads_back() {
        let directory = tempfile::tempdir().unwrap();
        let error = read_state(directory.path()).unwrap_err();
        assert!(error.to_string().contains("state.json"), "{error}");
        let state =
            State { pid: 7, pods: vec![PodState { name: "a".into(), ..PodState::default() }], ..State::default() };
        fs::write(directory.path().join(STATE_FILE), serde_json::to_vec(&state).unwrap()).unwrap();
        assert_eq!(read_state(directory.path()).unwrap(), state);
    }
}
