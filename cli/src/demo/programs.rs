//! Finds the programs of the mesh beside this one.

use std::path::{Path, PathBuf};

/// The programs, all in one directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Programs {
    /// Where they are.
    pub(super) directory: PathBuf,
}

/// Not all of them are there.
#[derive(Debug, thiserror::Error)]
#[error("{missing} is not beside meshctl in {directory}; build all programs with: {build}")]
pub(super) struct ProgramsError {
    missing: String,
    directory: PathBuf,
    build: &'static str,
}

impl Programs {
    /// Looks for `names` in a directory.
    pub(super) fn find(directory: &Path, names: &[&str]) -> Result<Self, ProgramsError> {
        let missing: Vec<&str> = names.iter().copied().filter(|name| !directory.join(name).is_file()).collect();
        if missing.is_empty() {
            return Ok(Self { directory: directory.to_owned() });
        }
        let release = directory.components().any(|component| component.as_os_str() == "release");
        Err(ProgramsError {
            missing: missing.join(", "),
            directory: directory.to_owned(),
            build: if release { "cargo build --release" } else { "cargo build" },
        })
    }

    /// Where a program is.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// The sidecar.
pub(super) const PROXY: &str = "mesh-proxy";
/// The certificate authority.
pub(super) const IDENTITY: &str = "mesh-identity";
/// Discovery.
pub(super) const CONTROLLER: &str = "mesh-controller";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_the_command_that_builds_it() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(PROXY), "").unwrap();
        assert!(Programs::find(directory.path(), &[PROXY]).is_ok());
        let error = Programs::find(directory.path(), &[PROXY, IDENTITY]).unwrap_err().to_string();
        assert!(error.starts_with("mesh-identity is not beside") && error.ends_with("cargo build"), "{error}");
    }
}
