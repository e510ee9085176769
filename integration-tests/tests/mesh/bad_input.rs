//! What an operator gets for a mistake: the file and line, one sentence, and a mesh that goes on.

use std::process::Command;
use std::time::Duration;

use integration_tests::mesh::manifests::{file, write};
use integration_tests::mesh::{PROXY, Settings, User, eventually, programs};

use super::control_plane::load_runs;
use super::shop::Shop;

#[test]
fn a_broken_manifest_is_named_with_its_line_and_the_last_good_picture_stays() {
    let shop = Shop::open(Settings::default(), 1);
    let directory = shop.mesh.manifests(0);
    let load = shop.load(200);
    write(&directory, "broken", "apiVersion: v1\nkind: Service\nmetadata:\n  name: [\n").unwrap();
    let controller = shop.mesh.controllers[0].as_ref().unwrap();
    controller.wait_for_output("broken.yaml:", Duration::from_secs(5)).unwrap();
    let output = controller.output().unwrap();
    let line = output.lines().find(|line| line.contains("broken.yaml:")).unwrap();
    assert!(line.contains("broken.yaml:4") || line.contains("broken.yaml:5"), "the line is named: {line}");
    // A field of the wrong kind in a manifest that was good: what it said before stays in force.
    let service = std::fs::read_to_string(file(&directory, "service-web")).unwrap();
    write(&directory, "service-web", &service.replace("\"port\":80", "\"port\":\"eighty\"")).unwrap();
    controller.wait_for_output("service-web.yaml:", Duration::from_secs(5)).unwrap();
    load_runs(Duration::from_secs(2));
    shop.none_failed(load, 300);
    std::fs::remove_file(file(&directory, "broken")).unwrap();
    write(&directory, "service-web", &service).unwrap();
}

#[test]
fn a_wrong_flag_or_missing_right_is_one_sentence() {
    let shop = Shop::open(Settings::default(), 1);
    for program in ["mesh-proxy", "mesh-controller", "mesh-identity", "meshctl"] {
        let output = Command::new(shop.mesh.path().join("bin").join(program)).arg("--bogus").output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains("--bogus"), "{program}: {error}");
        assert!(!error.contains("panicked") && error.trim().lines().count() <= 8, "{program}: {error}");
    }
    // Without the right to write rules.
    let mut init = shop.client.run(PROXY, User::Proxy, &["init"], "init-as-user").unwrap();
    let status = init.wait(Duration::from_secs(10)).unwrap();
    let error = init.output().unwrap();
    assert!(!status.success() && error.trim().lines().count() == 1, "{error}");
    assert!(error.contains("NET_ADMIN") || error.contains("root"), "{error}");
    // Ports that are taken: the client's proxy holds them.
    let mut second = shop.client.run(PROXY, User::Proxy, &[], "second-proxy").unwrap();
    let status = second.wait(Duration::from_secs(10)).unwrap();
    let error = second.output().unwrap();
    assert!(!status.success() && error.contains("1500") && error.contains("in use"), "{error}");
}

#[test]
fn a_port_that_is_taken_is_one_sentence() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let issuer = directory.path().display().to_string();
    let output = Command::new(programs().unwrap().join("mesh-identity"))
        .args(["--issuer-dir", &issuer, "--listen", &address, "--health-listen", "127.0.0.1:0"])
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap() + &String::from_utf8(output.stdout).unwrap();
    assert!(!output.status.success() && error.contains(&address) && error.contains("in use"), "{error}");
}

#[test]
fn a_token_of_somebody_else_gets_no_certificate_and_is_counted() {
    let mut shop = Shop::open(Settings::default(), 1);
    let mut pod = shop.mesh.bare_pod("thief-1", "thief").unwrap();
    // A good token, but for another identity than the pod's.
    shop.mesh.token("test", "web", "thief-1.token").unwrap();
    integration_tests::mesh::process::give(&shop.mesh.path().join("thief-1.token"), proto::names::PROXY_UID).unwrap();
    pod.proxy = Some(pod.run(PROXY, User::Proxy, &[], "proxy").unwrap());
    let identity = shop.mesh.identity.as_ref().unwrap();
    let refused = || identity.output().is_ok_and(|log| log.contains("refused") && log.contains("thief"));
    eventually(Duration::from_secs(10), refused).unwrap_or_else(|_| panic!("{}", identity.output().unwrap()));
    assert!(pod.admin("/ready").is_err());
}
