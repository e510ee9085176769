//! Every command of the README works. Each is run as it stands, but for the one that never ends by itself, which gets a
//! Ctrl-C, and for the test command, which is what runs this.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use integration_tests::mesh::{Signal, eventually};
use rustix::process::{Pid, kill_process_group};

#[test]
fn every_command_of_the_readme_works() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let commands = commands(&readme);
    assert!(commands.len() >= 3, "{commands:?}");
    for command in commands {
        match command.as_str() {
            "integration-tests/run" => assert!(root.join("integration-tests/run").is_file()),
            live if live.ends_with("-- demo") => interrupted(&root, live),
            other => succeeds(&root, other),
        }
    }
}

/// Lines of the blocks marked `sh`.
fn commands(readme: &str) -> Vec<String> {
    let blocks = readme.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.flat_map(str::lines).filter(|line| !line.trim().is_empty()).map(str::to_owned).collect()
}

fn succeeds(root: &Path, command: &str) {
    let output = Command::new("bash").args(["-c", command]).current_dir(root).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs the live demo until it shows its edges, then ends it as Ctrl-C does, which has to be a success.
fn interrupted(root: &Path, command: &str) {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut child = Command::new("bash")
        .args(["-c", command])
        .current_dir(root)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(log.reopen().unwrap())
        .stderr(log.reopen().unwrap())
        .spawn()
        .unwrap();
    let shown = || {
        let mut text = String::new();
        log.reopen().unwrap().read_to_string(&mut text).is_ok() && text.contains("storefront")
    };
    let seen = eventually(Duration::from_secs(1200), shown);
    kill_process_group(Pid::from_child(&child), Signal::INT).unwrap();
    let status = child.wait().unwrap();
    seen.unwrap_or_else(|_| panic!("no table: {}", std::fs::read_to_string(log.path()).unwrap()));
    // 130 is how a shell reports the Ctrl-C itself.
    assert!(status.success() || status.code() == Some(130), "{status}");
}
