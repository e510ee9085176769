//! Says what is wrong with a manifest that was just edited, where the editor will see it: in the demo's state, from which
//! the live view and `meshctl check` take it. The controller keeps the last good content, and tells only its log.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::SystemTime;

use tokio::process::Command;

/// Watches the manifests of one demo.
#[derive(Debug)]
pub(super) struct ManifestCheck {
    controller: PathBuf,
    directory: PathBuf,
    seen: Option<Vec<Seen>>,
}

/// Name, time of change and length of a file.
type Seen = (PathBuf, Option<SystemTime>, u64);

impl ManifestCheck {
    /// `controller` is the program that reads the manifests in `directory`.
    pub(super) fn new(controller: PathBuf, directory: PathBuf) -> Self {
        Self { controller, directory, seen: None }
    }

    /// What is wrong now, where something changed since the last look.
    pub(super) async fn look(&mut self) -> Option<Vec<String>> {
        let now = listing(&self.directory);
        if self.seen.as_ref() == Some(&now) {
            return None;
        }
        let read = Command::new(&self.controller)
            .arg("check")
            .arg(&self.directory)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await;
        self.seen = Some(now);
        Some(match read {
            Ok(output) if output.stderr.is_empty() => problems(&String::from_utf8_lossy(&output.stdout)),
            Ok(output) => vec![String::from_utf8_lossy(&output.stderr).trim().to_owned()],
            Err(error) => vec![format!("{} cannot be started: {error}", self.controller.display())],
        })
    }
}

/// Errors; where there is none, warnings. Objects of a broken file are missing from what is checked further, so beside an
/// error a warning may be wrong.
fn problems(report: &str) -> Vec<String> {
    let those = |kind: &str| -> Vec<String> {
        report.lines().filter_map(|line| line.strip_prefix(kind)).map(str::to_owned).collect()
    };
    let errors = those("error: ");
    if errors.is_empty() {
        return those("warning: ");
    }
    errors.into_iter().map(|error| format!("{error} (the file's last good content stays in force)")).collect()
}

fn listing(directory: &Path) -> Vec<Seen> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files: Vec<Seen> = entries
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
        .map(|(path, metadata)| (path, metadata.modified().ok(), metadata.len()))
        .collect();
    files.sort_unstable();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_come_alone() {
        let report = "error: a.yaml:3: odd\nwarning: b.yaml:1: none\n2 objects, 1 error, 1 warning\n";
        assert_eq!(problems(report), ["a.yaml:3: odd (the file's last good content stays in force)"]);
        assert_eq!(problems("warning: b.yaml:1: none\n2 objects, 0 errors, 1 warning\n"), ["b.yaml:1: none"]);
        assert_eq!(problems("2 objects, 0 errors, 0 warnings\n"), [""; 0]);
    }

    #[tokio::test]
    async fn it_reads_again_only_what_changed() {
        let directory = tempfile::tempdir().unwrap();
        let mut check = ManifestCheck::new("/does/not/exist".into(), directory.path().to_owned());
        assert!(check.look().await.unwrap()[0].contains("cannot be started"));
        assert_eq!(check.look().await, None);
        std::fs::write(directory.path().join("a.yaml"), "kind: x").unwrap();
        assert!(check.look().await.is_some());
        assert_eq!(check.look().await, None);
    }
}
