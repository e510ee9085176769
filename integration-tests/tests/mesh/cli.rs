//! `meshctl` on a mesh with traffic: what each command shows to people, and to programs.

use std::process::Command;

use integration_tests::demo::Demo;
use integration_tests::mesh::{Settings, programs};
use serde_json::Value;

use super::control_plane::load_runs;
use super::shop::Shop;

#[test]
fn every_command_answers_people_and_programs() {
    let shop = Shop::open(Settings::default(), 2);
    let load = shop.load(200);
    load_runs(std::time::Duration::from_secs(1));
    let json = |arguments: &[&str]| -> Value {
        let text = shop.mesh.meshctl(&[arguments, &["-o", "json"]].concat()).unwrap();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
    };
    let table = |arguments: &[&str], words: &[&str]| {
        let text = shop.mesh.meshctl(arguments).unwrap();
        for word in words {
            assert!(text.contains(word), "{arguments:?} does not say {word:?}:\n{text}");
        }
    };
    let client_id = "spiffe://cluster.local/ns/test/sa/client";

    table(&["check"], &["√"]);
    let check = json(&["check"]);
    assert_ne!(check["outcome"], "failed", "{check:#}");
    assert!(check["checks"].as_array().unwrap().len() > 3, "{check:#}");

    table(&["stat", "--window", "1s"], &["SUCCESS", "RPS", "P99", "MTLS", "web", "100"]);
    let stat = json(&["stat", "--window", "1s"]);
    assert_eq!((&stat["answered"], &stat["proxies"]), (&Value::from(3), &Value::from(3)), "{stat:#}");
    let rows = stat["rows"].as_array().unwrap();
    let rps: f64 = rows
        .iter()
        .filter(|row| row["success"] == 1.0 && row["mtls"] == 1.0)
        .filter_map(|row| row["rps"].as_f64())
        .sum();
    assert!((150.0..250.0).contains(&rps), "200 requests per second are made: {stat:#}");

    table(&["edges", "--window", "1s"], &["test/client-1", "test/web-", "100.00%"]);
    let edges = json(&["edges", "--window", "1s"]);
    let edge = edges["edges"].as_array().unwrap().iter().find(|edge| edge["source"]["workload"] == "client-1");
    let edge = edge.unwrap_or_else(|| panic!("{edges:#}"));
    assert_eq!(edge["source"]["id"], client_id, "{edge:#}");
    assert_eq!(edge["destination"]["id"], "spiffe://cluster.local/ns/test/sa/web", "{edge:#}");
    assert_eq!(edge["success"], 1.0, "{edge:#}");

    table(&["identity"], &["client-1", "web-1", "web-2", client_id]);
    let identities = json(&["identity", "client-1"]);
    assert_eq!(
        (identities.as_array().unwrap().len(), &identities[0]["id"]),
        (1, &Value::from(client_id)),
        "{identities:#}"
    );

    table(&["proxy-status"], &["client-1", "web-1", "web-2"]);
    table(&["proxy-status", "client-1"], &["outbound 10.96.0.7:80", "endpoints test/web:80"]);
    let status = json(&["proxy-status"]);
    assert_eq!(status.as_array().unwrap().len(), 3, "{status:#}");

    table(&["version"], &["meshctl", "client-1", env!("CARGO_PKG_VERSION")]);
    assert_eq!(json(&["version"])["proxies"].as_array().unwrap().len(), 3);
    shop.none_failed(load, 200);
}

#[test]
fn a_mesh_that_is_not_there_is_said_with_what_to_do() {
    let nowhere = tempfile::tempdir().unwrap();
    for command in ["check", "stat", "edges", "identity", "proxy-status"] {
        let output = Command::new(programs().unwrap().join("meshctl"))
            .args([command, "--demo-dir", &nowhere.path().join("demo").display().to_string()])
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap() + &String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{command}: {said}");
        assert!(said.contains("meshctl demo"), "{command}: {said}");
    }
}

#[test]
fn help_is_a_command_too() {
    for (arguments, shown) in [(&["help"][..], "proxy-status"), (&["help", "stat"], "--window")] {
        let output = Command::new(programs().unwrap().join("meshctl")).args(arguments).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && said.contains(shown), "{arguments:?}: {said}");
    }
}

#[test]
fn another_users_demo_is_said_to_be_that() {
    use std::os::unix::process::CommandExt as _;
    let demo = Demo::up().unwrap();
    let output = demo.place().command(&["stat"]).unwrap().uid(12_345).gid(12_345).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("belongs to another user; try again with sudo"), "{said}");
}

#[test]
fn shells_take_the_completion_scripts() {
    let script = |shell: &str| {
        let output = Command::new(programs().unwrap().join("meshctl")).args(["completion", shell]).output().unwrap();
        assert!(output.status.success(), "{shell}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(!script("bash").contains("demo-pod"), "what nobody types is offered");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), script("bash")).unwrap();
    let source = format!("source {} && complete -p meshctl", file.path().display());
    let output = Command::new("bash").args(["-c", &source]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for shell in ["zsh", "fish"] {
        assert!(script(shell).contains("proxy-status"), "{shell}");
    }
}
