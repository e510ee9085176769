//! A new root under load: first it is published, then it signs, and the old one goes when nobody needs it any more.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use integration_tests::cluster::looks::output;
use integration_tests::cluster::{Cluster, Namespace};
use integration_tests::mesh::eventually;
use serde_json::json;

use super::replicas::Defaults;
use super::shop::Shop;

/// The issuer is replaced while requests are sent, as charts/README says. Nothing is signed with it before every namespace has its root; then
/// every proxy gets a certificate of it, and the old root goes; no request fails, nothing is restarted. `check` and `identity` say all
/// that.
#[test]
fn a_new_root_is_published_signs_and_outlives_the_old_one() {
    let shop = Shop::open("rotation", 3);
    let (namespace, cluster) = (&shop.namespace, &shop.namespace.cluster);
    let _defaults = Defaults(cluster.clone());
    // What was signed for a day would keep the old root for as long.
    cluster.meshctl(&["install", "--set", "identity.leafLifetime=60s"]).unwrap();
    for program in ["mesh-controller", "mesh-injector"] {
        let workload = format!("deployment/{program}");
        cluster.kubectl(&["rollout", "restart", &workload, "--namespace=mesh-system"]).unwrap();
        let status = ["rollout", "status", &workload, "--namespace=mesh-system", "--timeout=90s"];
        cluster.kubectl(&status).unwrap();
    }
    namespace.restart("deployment/web").unwrap();
    let servers = namespace.addresses("web").unwrap();
    let signers = || servers.iter().map(|server| signer(cluster, *server)).collect::<BTreeSet<_>>();
    let (old, new) = (trusted(cluster, "rotation"), "CN=Second root".to_owned());
    assert!(old.len() == 1 && signers() == old && old != [new.clone()].into(), "{old:?} {:?}", signers());

    shop.none_failed("load", 100, 240, || {
        replace_issuer(cluster);
        let both: BTreeSet<String> = old.iter().chain([&new]).cloned().collect();
        let namespaces = || ["mesh-system", "rotation", "default"].map(|name| trusted(cluster, name));
        eventually(Duration::from_secs(10), || namespaces().iter().all(|trusted| *trusted == both)).unwrap();
        let told = || identities(namespace).into_iter().all(|anchors| anchors == both);
        eventually(Duration::from_secs(20), told).unwrap_or_else(|_| panic!("{:?}", identities(namespace)));
        cluster.meshctl(&["check", "--proxy"]).unwrap();
        assert_eq!(signers(), old, "it was published a moment ago");

        eventually(Duration::from_secs(200), || signers() == [new.clone()].into())
            .unwrap_or_else(|_| panic!("{:?}", signers()));
        eventually(Duration::from_secs(90), || trusted(cluster, "rotation") == [new.clone()].into()).unwrap();
        let told = || identities(namespace).into_iter().all(|anchors| anchors == [new.clone()].into());
        eventually(Duration::from_secs(20), told).unwrap_or_else(|_| panic!("{:?}", identities(namespace)));
        let said = cluster.meshctl(&["check", "--proxy"]).unwrap();
        for line in
            ["the issuer's certificate ends in 999d", "with the same trust bundle, whose last anchor ends in 999d"]
        {
            assert!(said.contains(line), "{said}");
        }
    });
    assert_eq!(namespace.addresses("web").unwrap(), servers, "nobody was restarted");
}

/// Who signed the certificate that a proxy shows its clients.
fn signer(cluster: &Cluster, proxy: IpAddr) -> String {
    let target = format!("{proxy}:8080");
    let hello = ["openssl", "s_client", "-connect", &target, "-alpn", "mesh/h1"];
    // It wants a certificate of us, and ends the connection; we have seen what we wanted.
    let said = cluster.on_node("node1", &hello).output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let issuer = said.lines().find_map(|line| line.strip_prefix("issuer="));
    issuer.unwrap_or_else(|| panic!("{said}")).replace(" = ", "=")
}

/// The anchors that a namespace's bundle has.
fn trusted(cluster: &Cluster, namespace: &str) -> BTreeSet<String> {
    let path = r"--output=jsonpath={.data.bundle\.pem}";
    let pem = cluster.kubectl(&["get", "configmap", "mesh-trust-bundle", path, "--namespace", namespace]).unwrap();
    let anchors = pem.split_inclusive("-----END CERTIFICATE-----").filter(|part| part.contains("BEGIN"));
    anchors.map(subject).collect()
}

fn subject(pem: &str) -> String {
    let directory = tempfile::TempDir::new().unwrap();
    let file = directory.path().join("anchor.pem");
    std::fs::write(&file, pem).unwrap();
    let subject = output(Command::new("openssl").args(["x509", "-noout", "-subject", "-in"]).arg(&file)).unwrap();
    subject.trim().trim_start_matches("subject=").replace(" = ", "=")
}

/// The anchors in force in every proxy of the namespace, as `meshctl identity` has them.
fn identities(namespace: &Namespace) -> Vec<BTreeSet<String>> {
    let said = namespace.cluster.meshctl_json(&["identity", "-A"]).unwrap();
    let proxies: Vec<_> = said.as_array().unwrap().iter().filter(|proxy| proxy["error"].is_null()).collect();
    assert!(proxies.len() >= 4, "{said:#}");
    let anchors = |proxy: &serde_json::Value| {
        let anchors = proxy["anchors"].as_array().unwrap().iter();
        anchors.map(|anchor| anchor.as_str().unwrap().to_owned()).collect()
    };
    proxies.into_iter().map(anchors).collect()
}

/// Writes another root into the Secret, all three keys at once.
fn replace_issuer(cluster: &Cluster) {
    let directory = tempfile::TempDir::new().unwrap();
    let mut request = Command::new("openssl");
    request.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
    request.args(["-subj", "/CN=Second root", "-days", "1000", "-keyout", "tls.key", "-out", "tls.crt"]);
    request.args(["-addext", "keyUsage=critical,keyCertSign"]);
    output(request.current_dir(directory.path())).unwrap();
    let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
    let (certificate, key) = (read("tls.crt"), read("tls.key"));
    let patch = json!({"stringData": {"tls.crt": certificate, "tls.key": key, "ca.crt": certificate}}).to_string();
    let secret = ["patch", "secret", "mesh-issuer", "--namespace=mesh-system", "--type=merge", "--patch", &patch];
    cluster.kubectl(&secret).unwrap();
}
