//! `meshctl demo`, as a stranger runs it.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use integration_tests::demo::{Demo, Place};
use integration_tests::mesh::process::{give, open_to_all};
use integration_tests::mesh::{admin, eventually, programs};
use proto::names::metric;

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
    let mut demo = Demo::up().unwrap();
    let processes = demo.processes().unwrap();
    demo.kill().unwrap();
    Demo::gone(&processes).unwrap();
    let again = demo.place().meshctl(&["demo", "--once"]).unwrap();
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
}

#[test]
fn ctrl_c_is_a_good_end_and_leaves_nothing() {
    let mut demo = Demo::up().unwrap();
    let processes = demo.processes().unwrap();
    let status = demo.interrupt().unwrap();
    assert!(status.success(), "{status}: {}", demo.output());
    Demo::gone(&processes).unwrap();
    assert!(!demo.place().directory().exists());
}

/// The manifests are there to be edited.
#[test]
fn an_edit_takes_effect_within_a_second_in_the_same_processes() {
    let demo = Demo::up().unwrap();
    let route = demo.place().directory().join("manifests/reviews-route.yaml");
    let text = std::fs::read_to_string(&route).unwrap();
    let processes = demo.processes().unwrap();
    let calls = |version: &str| {
        let socket = demo.place().directory().join("proxies/catalog/admin.sock");
        let metrics = admin::get(&socket, "/metrics").unwrap();
        let workload = format!("destination_workload=\"{version}\"");
        admin::sum(&metrics, metric::REQUESTS, &["reporter=\"source\"", &workload])
    };
    eventually(Duration::from_secs(10), || calls("reviews-v1") > 20.0 && calls("reviews-v2") > 1.0).unwrap();
    // As an editor saves that overwrites the file in place.
    std::fs::write(&route, text.replace("weight: 90", "weight: 0").replace("weight: 10", "weight: 100")).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let (old, new) = (calls("reviews-v1"), calls("reviews-v2"));
    eventually(Duration::from_secs(10), || calls("reviews-v2") > new + 30.0).unwrap();
    let later = calls("reviews-v1");
    assert!((later - old).abs() < 0.5, "{} requests went to the old version a second later", later - old);
    assert_eq!(demo.processes().unwrap(), processes, "nothing was started anew");
}

/// Whoever breaks a manifest is told where, by the commands that look at the mesh and not only by the controller's log.
#[test]
fn a_broken_manifest_is_seen_by_check_until_it_is_mended() {
    let demo = Demo::up().unwrap();
    let route = demo.place().directory().join("manifests/reviews-route.yaml");
    let text = std::fs::read_to_string(&route).unwrap();
    let said = |what: &str| {
        eventually(Duration::from_secs(5), || {
            let output = demo.place().meshctl(&["check"]).unwrap();
            output.status.success() && String::from_utf8_lossy(&output.stdout).contains(what)
        })
        .unwrap_or_else(|_| panic!("{what}: {}", demo.output()));
    };
    said("√ all manifests are in force");
    let line = 1 + text.lines().position(|line| line.contains("weight: 90")).unwrap();
    std::fs::write(&route, text.replace("weight: 90", "weight: many")).unwrap();
    said(&format!("‼ manifest reviews-route.yaml:{line}: "));
    std::fs::write(&route, text.replace("name: reviews-v2", "name: reviews-v3")).unwrap();
    said("there is no Service port shop/reviews-v3:80");
    std::fs::write(&route, text.replace("weight: 90", "weigth: 90")).unwrap();
    said(&format!("‼ manifest reviews-route.yaml:{line}: nobody reads the field spec.rules[0].backendRefs[0].weigth"));
    std::fs::write(&route, text).unwrap();
    said("√ all manifests are in force");
}

#[test]
fn without_root_a_user_namespace_will_do() {
    let place = Place::new().unwrap();
    // The build may lie where that user may not go.
    let bin = place.beside("bin");
    std::fs::create_dir(&bin).unwrap();
    open_to_all(&bin).unwrap();
    for name in ["meshctl", "mesh-proxy", "mesh-controller", "mesh-identity"] {
        std::fs::copy(programs().unwrap().join(name), bin.join(name)).unwrap();
    }
    let home = place.beside("home");
    std::fs::create_dir(&home).unwrap();
    give(&home, NOBODY).unwrap();
    let directory = home.join("demo");
    let nobody = NOBODY.to_string();
    let as_nobody = |words: &[&str]| {
        let drop = ["--reuid", &nobody, "--regid", &nobody, "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"];
        Command::new("setpriv").args(drop).args(words).stdin(Stdio::null()).output().unwrap()
    };
    let may = as_nobody(&["unshare", "--user", "--map-root-user", "--net", "true"]).status.success();
    let meshctl = bin.join("meshctl").display().to_string();
    let output = as_nobody(&[&meshctl, "demo", "--once", "--demo-dir", &directory.display().to_string()]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if may {
        assert!(output.status.success() && text.contains("passed:"), "{text}");
    } else {
        assert!(!output.status.success() && text.contains("sudo meshctl demo"), "{text}");
    }
}

/// A user without rights.
const NOBODY: u32 = 65_534;
