//! `meshctl demo`, as a stranger runs it.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use integration_tests::mesh::process::open_to_all;
use integration_tests::mesh::{eventually, programs};

#[test]
fn once_succeeds_in_under_forty_seconds_and_leaves_nothing_behind() {
    let links = || integration_tests::lint::run("/".as_ref(), "ip", &["-o", "link"]).unwrap().lines().count();
    let before = links();
    let start = Instant::now();
    let output = Command::new(programs().unwrap().join("meshctl")).args(["demo", "--once"]).output().unwrap();
    let took = Instant::now().duration_since(start);
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(took < Duration::from_secs(40), "{took:?}");
    for word in ["storefront", "catalog", "reviews-v2", "payments", "spiffe://cluster.local/ns/shop/sa/"] {
        assert!(text.contains(word), "{word} is missing: {text}");
    }
    assert_eq!(links(), before);
}

#[test]
fn without_the_mesh_once_fails() {
    let output =
        Command::new(programs().unwrap().join("meshctl")).args(["demo", "--once", "--no-mesh"]).output().unwrap();
    assert!(!output.status.success(), "no edge was mTLS, and yet: {}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn killing_it_leaves_no_process_and_the_next_one_starts() {
    let meshctl = programs().unwrap().join("meshctl");
    let parent = tempfile::Builder::new().prefix("demo-").tempdir().unwrap();
    let directory = parent.path().join("demo").display().to_string();
    open_to_all(parent.path()).unwrap();
    let start = |arguments: &[&str]| {
        let mut command = Command::new(&meshctl);
        command.args(arguments).args(["--demo-dir", &directory]).stdin(Stdio::null());
        command
    };
    let mut demo = start(&["demo", "--for", "60s"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let up = || start(&["check"]).output().is_ok_and(|output| output.status.success());
    eventually(Duration::from_secs(30), up).unwrap();
    let state = std::fs::read_to_string(format!("{directory}/state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    let processes: Vec<u64> = state["pods"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|pod| pod["processes"].as_object().unwrap().values().chain([&pod["pid"]]))
        .map(|id| id.as_u64().unwrap())
        .collect();
    assert!(processes.len() > 14, "{state}");
    demo.kill().unwrap();
    demo.wait().unwrap();
    let gone = || processes.iter().all(|id| !std::path::Path::new(&format!("/proc/{id}")).exists());
    eventually(Duration::from_secs(10), gone).unwrap();
    let again = start(&["demo", "--once"]).output().unwrap();
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
}
