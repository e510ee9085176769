//! The life of an installation.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use integration_tests::cluster::{Cluster, server_manifest};
use integration_tests::mesh::eventually;

use super::account::Account;
use super::shop::Shop;

/// A second `meshctl install` changes nothing: no object is written, no pod restarts.
#[test]
fn install_twice_changes_nothing() {
    let cluster = Cluster::running().unwrap();
    cluster.meshctl(&["install"]).unwrap();
    let before = (generations(&cluster), pods(&cluster));
    assert!(before.0.len() > 10, "{before:?}");
    cluster.meshctl(&["install"]).unwrap();
    assert_eq!((generations(&cluster), pods(&cluster)), before);
    let labels = word(&cluster, "mesh-system", "labels");
    assert!(labels.contains(r#""pod-security.kubernetes.io/enforce":"restricted""#), "{labels}");
}

/// The whole life. `uninstall` is refused while pods are meshed, and says when their certificates end; with `--force` it goes
/// through, and nothing of the mesh is left but the CRDs and what people wrote. Applications go on, and new pods start without
/// a proxy. What Helm installs then is left to Helm. An installation that is killed is finished by running it again, and while
/// that one runs another is refused. The last installation takes over where the first one was.
#[test]
fn uninstall_leaves_nothing_and_install_works_again() {
    let shop = Shop::open("comeback", 1);
    let cluster = &shop.namespace.cluster;
    let stranger = "{apiVersion: v1, kind: ConfigMap, metadata: {name: stranger, labels: {app.kubernetes.io/managed-by: mesh-identity}}}";
    shop.namespace.apply(stranger).unwrap();
    assert!(word(cluster, "comeback", "labels").contains("meshctl.io/inject"));

    let pod = shop.namespace.kubectl(&["get", "pods", "--output=jsonpath={.items[0].metadata.name}"]).unwrap();
    let refused = refusal(cluster, &["uninstall"]);
    assert!(
        refused.contains(" a proxy, and without mesh-identity no certificate is renewed; their certificates end"),
        "{refused}"
    );
    assert!(refused.contains(&format!("comeback/{pod}: ends in ")) && refused.contains("--force"), "{refused}");

    let outside = "{apiVersion: meshctl.io/v1alpha1, kind: ExternalWorkload, metadata: {name: outside, namespace: mesh-system}, \
                   spec: {addresses: [192.0.2.1]}}";
    cluster.shell(&format!("echo '{outside}' | kubectl apply --filename -")).unwrap();
    let told = cluster.meshctl(&["uninstall", "--force"]).unwrap();
    assert!(told.contains("kept      CustomResourceDefinition externalworkloads.meshctl.io"), "{told}");
    assert!(told.contains("annotation meshctl.io/inject=enabled of Namespace comeback"), "{told}");
    let kept = "kept      Namespace mesh-system: it holds ExternalWorkload outside, which the mesh did not make\n";
    assert!(told.contains(kept), "{told}");
    assert_eq!(left(cluster), "namespace/mesh-system");
    cluster.kubectl(&["delete", "externalworkload", "outside", "--namespace=mesh-system"]).unwrap();
    let told = cluster.meshctl(&["uninstall", "--force"]).unwrap();
    assert!(told.contains("deleted   Namespace mesh-system\n"), "{told}");
    assert_eq!(left(cluster), "");
    assert_eq!(word(cluster, "comeback", "labels").trim(), r#"{"kubernetes.io/metadata.name":"comeback"}"#);
    assert_eq!(word(cluster, "comeback", "annotations").trim(), r#"{"meshctl.io/inject":"enabled"}"#);
    shop.namespace.kubectl(&["get", "configmap", "stranger"]).unwrap();
    cluster.kubectl(&["get", "crd", KIND]).unwrap();
    shop.namespace.restart("deployment/web").unwrap();
    assert!(!shop.is_meshed("web"), "nobody injects any more");
    let ready = cluster.meshctl(&["check", "--pre"]).unwrap();
    assert!(!ready.contains('×') && ready.contains("√ no mesh is installed here yet"), "{ready}");

    a_namespace_that_was_there_stays(cluster);
    helms_is_left_to_helm(cluster);
    a_killed_installation_is_finished_by_the_next(cluster);
    shop.namespace.restart("deployment/web").unwrap();
    assert!(shop.is_meshed("web"));
    shop.none_failed("again", 50, 5, || ());
    cluster.meshctl(&["check", "--wait", "60s"]).unwrap();
}

/// As an installation into a namespace that its owner made before leaves it: with our labels.
fn a_namespace_that_was_there_stays(cluster: &Cluster) {
    let before = "{apiVersion: v1, kind: Namespace, metadata: {name: mesh-system, labels: {team: platform}}}";
    let applied = "{apiVersion: v1, kind: Namespace, metadata: {name: mesh-system, labels: {app.kubernetes.io/managed-by: meshctl}}}";
    for (manager, manifest) in [("kubectl", before), ("meshctl", applied)] {
        let apply = format!("kubectl apply --server-side --field-manager {manager} --filename -");
        cluster.shell(&format!("echo '{manifest}' | {apply}")).unwrap();
    }
    let told = cluster.meshctl(&["uninstall", "--crds", "--force"]).unwrap();
    assert!(told.contains("kept      Namespace mesh-system: it is not known to be made by meshctl\n"), "{told}");
    assert!(cluster.kubectl(&["get", "crd", KIND]).is_err(), "--crds takes the kinds as well");
    let labels = word(cluster, "mesh-system", "labels");
    assert!(labels.contains("platform") && !labels.contains("managed-by"), "{labels}");
}

/// A release of Helm's, whose pods never find a node: nothing of it has to run to be Helm's.
fn helms_is_left_to_helm(cluster: &Cluster) {
    let chart =
        |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts").join(name).to_string_lossy().into_owned();
    let place = "--namespace=mesh-system";
    cluster.helm(&["install", "mesh-crds", &chart("mesh-crds"), place, "--create-namespace"]).unwrap();
    cluster.helm(&["install", "mesh", &chart("mesh"), place, "--set=controlPlane.nodeSelector.nowhere=here"]).unwrap();
    for command in [&["install"][..], &["upgrade"], &["upgrade", "--plan"], &["uninstall", "--force"]] {
        let refused = refusal(cluster, command);
        assert!(refused.contains("belongs to the Helm release mesh"), "{command:?}: {refused}");
        assert_eq!(refused.lines().count(), 1, "{command:?}: {refused}");
    }
    let deployed = cluster.helm(&["list", place, "--deployed", "--short"]).unwrap();
    assert_eq!(deployed.split_whitespace().collect::<Vec<_>>(), ["mesh", "mesh-crds"]);
    cluster.helm(&["uninstall", "mesh", "mesh-crds", place]).unwrap();
    cluster.kubectl(&["delete", "namespace", "mesh-system"]).unwrap();
}

fn a_killed_installation_is_finished_by_the_next(cluster: &Cluster) {
    // Its pods find no node, so that there is something left to do for the next.
    let killed = "meshctl install --set controlPlane.nodeSelector.nowhere=here >/dev/null 2>&1 & until kubectl get clusterrole mesh-controller >/dev/null 2>&1; do :; done; \
                  kill -9 $!; wait $!; kubectl get configmap mesh-install --namespace mesh-system --output 'jsonpath={.data.complete}'";
    assert_eq!(cluster.shell(killed).unwrap(), "false", "it was killed in the middle");
    let holder = || {
        let holder =
            ["get", "lease", "mesh-install", "--namespace=mesh-system", "--output=jsonpath={.spec.holderIdentity}"];
        cluster.kubectl(&holder).unwrap_or_default()
    };
    let dead = holder();
    assert!(dead.starts_with("meshctl of "), "{dead}");
    std::thread::scope(|scope| {
        let next = scope.spawn(|| cluster.try_meshctl(&["install"]).unwrap());
        eventually(Duration::from_secs(60), || !["", &dead].contains(&holder().as_str())).unwrap();
        let other = refusal(cluster, &["install", "--set=controlPlane.podDisruptionBudgets=true"]);
        assert!(other.contains("another installation "), "{other}");
        assert!(other.contains("changed nothing") && other.trim().lines().count() == 1, "{other}");
        let next = next.join().unwrap();
        let told = String::from_utf8_lossy(&next.stderr);
        assert!(next.status.success() && told.contains("left unfinished"), "{told}");
    });
    assert_eq!(holder(), "", "whoever is done gives it back");
    let record =
        cluster.kubectl(&["get", "configmap", "mesh-install", "--namespace=mesh-system", "--output=yaml"]).unwrap();
    assert!(
        record.contains("complete: \"true\"")
            && !record.contains("podDisruptionBudgets")
            && !record.contains("nowhere"),
        "{record}"
    );
}

/// Services of the control plane as charts before this one made them, with an address that cannot be changed: an upgrade says that it
/// makes them anew, does so under load, and is an upgrade like any other.
#[test]
fn services_that_had_an_address_become_headless() {
    let shop = Shop::open("addressed", 1);
    let cluster = &shop.namespace.cluster;
    let address = |name: &str| {
        let service = ["get", "service", name, "--namespace=mesh-system", "--output=jsonpath={.spec.clusterIP}"];
        cluster.kubectl(&service).unwrap()
    };
    let services = ["mesh-controller", "mesh-identity"];
    for name in services {
        let service = cluster.kubectl(&["get", "service", name, "--namespace=mesh-system", "--output=json"]).unwrap();
        let mut service: serde_json::Value = serde_json::from_str(&service).unwrap();
        let old = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": "mesh-system", "labels": service["metadata"]["labels"].take()},
            "spec": {"selector": service["spec"]["selector"].take(), "ports": service["spec"]["ports"].take()},
        });
        cluster.kubectl(&["delete", "service", name, "--namespace=mesh-system"]).unwrap();
        cluster
            .shell(&format!("echo '{old}' | kubectl apply --server-side --field-manager=meshctl --filename -"))
            .unwrap();
        assert!(address(name).starts_with("10."), "{}", address(name));
    }
    let plan = cluster.meshctl(&["upgrade", "--plan"]).unwrap();
    for name in services {
        let told =
            format!("Service mesh-system/{name}\n          is deleted and made again: its address cannot be changed\n");
        assert!(plan.contains(&told), "{plan}");
    }
    shop.none_failed("load", 100, 20, || {
        cluster.meshctl(&["upgrade"]).unwrap();
        assert_eq!(services.map(address), ["None", "None"]);
    });
    cluster.meshctl(&["check", "--wait", "60s"]).unwrap();
}

/// A value switched on, and off again: its objects come and go, and `--plan` says so before.
#[test]
fn what_is_no_longer_wanted_is_deleted() {
    let cluster = Cluster::running().unwrap();
    cluster.meshctl(&["install"]).unwrap();
    let budgets =
        || cluster.kubectl(&["get", "poddisruptionbudgets", "--namespace=mesh-system", "--output=name"]).unwrap();
    for (value, plan, expected) in
        [("true", "create  PodDisruptionBudget", 3), ("false", "delete  PodDisruptionBudget", 0)]
    {
        let set = format!("--set=controlPlane.podDisruptionBudgets={value}");
        let before = budgets();
        let planned = cluster.meshctl(&["upgrade", "--plan", &set]).unwrap();
        assert_eq!(planned.matches(plan).count(), 3, "{planned}");
        assert_eq!(budgets(), before, "a plan changes nothing");
        cluster.meshctl(&["upgrade", &set]).unwrap();
        assert_eq!(budgets().lines().count(), expected);
    }
    cluster.meshctl(&["upgrade", "--reset-values"]).unwrap();
}

/// An account that may not is told so in one sentence, and nothing has changed.
#[test]
fn missing_rights_are_said_before_anything_is_written() {
    let cluster = Cluster::running().unwrap();
    cluster.meshctl(&["install"]).unwrap();
    let before = generations(&cluster);
    let namespace = cluster.namespace("few-rights").unwrap();
    let account = Account::new(&cluster, "few-rights", Some("edit"));
    for command in [&["install", "--set=controlPlane.podDisruptionBudgets=true"][..], &["uninstall", "--force"]] {
        let (well, out, err) = account.meshctl(&cluster, command);
        assert!(!well && out.is_empty(), "{command:?}: {out}");
        assert_eq!(err.trim().lines().count(), 1, "{command:?}: {err}");
        assert!(err.contains("you may not ") && err.contains("nothing was changed"), "{command:?}: {err}");
    }
    let (_, _, err) = account.meshctl(&cluster, &["install"]);
    for right in
        ["clusterroles", "mutatingwebhookconfigurations", "create/delete/get/patch deployments", "nothing was changed"]
    {
        assert!(err.contains(right), "{right}: {err}");
    }
    // What is looked at before an installation is what the installation looks at.
    let (outcome, text) = check_pre(&account, &cluster);
    assert_eq!(outcome, "failed", "{text}");
    assert!(err.contains(&format!("{text} in this cluster; nothing was changed")), "{text}: {err}");
    assert_eq!(generations(&cluster), before);
    drop(namespace);
}

/// Outcome and words of what `check --pre` says of an account's rights.
fn check_pre(account: &Account, cluster: &Cluster) -> (String, String) {
    let (_, out, err) = account.meshctl(cluster, &["check", "--pre", "--output=json"]);
    let found: serde_json::Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}"));
    let mut lines = found["checks"].as_array().unwrap().iter();
    let line = lines.find(|line| line["name"] == "rights").unwrap_or_else(|| panic!("{found:#}"));
    let text = |key: &str| line[key].as_str().unwrap().to_owned();
    (text("outcome"), text("text"))
}

/// What the accounts of the control plane may not do, wherever it is.
#[test]
fn the_control_plane_has_no_more_rights_than_it_needs() {
    let cluster = Cluster::running().unwrap();
    cluster.meshctl(&["install"]).unwrap();
    let may = |account: &str, verb: &str, what: &str, place: &str| {
        let line = format!(
            "kubectl auth can-i {verb} {what} {place} --as=system:serviceaccount:mesh-system:{account} || true"
        );
        cluster.shell(&line).unwrap().trim() == "yes"
    };
    for account in ["mesh-controller", "mesh-identity", "mesh-injector"] {
        for (verb, what) in [
            ("get", "secrets"),
            ("list", "secrets"),
            ("create", "pods/exec"),
            ("delete", "pods"),
            ("delete", "namespaces"),
            ("create", "pods"),
            ("escalate", "clusterroles"),
        ] {
            assert!(!may(account, verb, what, "--all-namespaces"), "{account} may {verb} {what}");
        }
    }
    for (account, verb, what, expected) in [
        ("mesh-identity", "get", "secret/mesh-issuer", true),
        ("mesh-identity", "get", "secret/another", false),
        ("mesh-controller", "get", "secret/mesh-issuer", false),
        ("mesh-injector", "get", "secret/mesh-issuer", false),
        ("mesh-injector", "get", "mutatingwebhookconfiguration/mesh-injector", true),
        ("mesh-injector", "patch", "mutatingwebhookconfiguration/mesh-injector", false),
        ("mesh-injector", "update", "mutatingwebhookconfiguration/mesh-injector", false),
        ("mesh-identity", "patch", "mutatingwebhookconfiguration/mesh-injector", true),
        ("mesh-identity", "patch", "mutatingwebhookconfiguration/another", false),
        ("mesh-controller", "patch", "mutatingwebhookconfiguration/mesh-injector", false),
        ("mesh-controller", "list", "pods", true),
    ] {
        assert_eq!(may(account, verb, what, "--namespace=mesh-system"), expected, "{account} {verb} {what}");
    }
    the_injector_is_held_to_its_label(&cluster);
    ca_bundles_are_kept_and_not_by_the_injector(&cluster);
    who_edits_a_namespace_adds_no_root_to_its_trust_bundle(&cluster);
}

/// Nor keeps it from changing; any other ConfigMap is none of our business, and mesh-identity goes on.
fn who_edits_a_namespace_adds_no_root_to_its_trust_bundle(cluster: &Cluster) {
    let namespace = cluster.namespace("edited").unwrap();
    namespace
        .kubectl(&["create", "rolebinding", "editor", "--clusterrole=edit", "--serviceaccount=edited:default"])
        .unwrap();
    let bundle = || namespace.kubectl(&["get", "configmap/mesh-trust-bundle", "--output=jsonpath={.data}"]);
    eventually(Duration::from_secs(10), || bundle().is_ok()).unwrap();
    let before = bundle().unwrap();
    let editor = "--as=system:serviceaccount:edited:default";
    let patch = |change: &str, account: &[&str]| {
        let arguments = ["patch", "configmap/mesh-trust-bundle", "--type=merge", "--patch", change];
        namespace.kubectl(&[&arguments, account].concat()).map_err(|error| format!("{error:#}"))
    };
    for change in [r#"{"data": {"bundle.pem": ""}}"#, r#"{"immutable": true}"#] {
        let refused = patch(change, &[editor]).unwrap_err();
        assert!(refused.contains("is written by mesh-identity"), "{refused}");
    }
    patch(r#"{"metadata": {"labels": {"team": "shop"}}}"#, &[editor]).unwrap();
    for name in ["name: mine", "generateName: mine-"] {
        let manifest = format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{{name}, namespace: edited}}}}");
        cluster.shell(&format!("echo '{manifest}' | kubectl create {editor} --filename -")).unwrap();
    }
    // An administrator may, and is answered; what was deleted comes back, from nobody else.
    patch(r#"{"data": {"bundle.pem": ""}}"#, &[]).unwrap();
    let is_back = || bundle().is_ok_and(|data| data == before);
    eventually(Duration::from_secs(10), is_back).unwrap();
    namespace.kubectl(&["delete", "configmap/mesh-trust-bundle", editor]).unwrap();
    eventually(Duration::from_secs(10), is_back).unwrap();
}

/// Whoever empties it, or puts another in, is answered; the account that strangers can reach may not be one who does.
fn ca_bundles_are_kept_and_not_by_the_injector(cluster: &Cluster) {
    let configuration = "mutatingwebhookconfiguration/mesh-injector";
    let bundles = || {
        let path = "--output=jsonpath={range .webhooks[*]}{.clientConfig.caBundle}{\"\\n\"}{end}";
        let listing = cluster.kubectl(&["get", configuration, path]).unwrap();
        listing.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let before = bundles();
    assert!(before.len() == 3 && before.iter().all(|bundle| !bundle.is_empty() && *bundle == before[0]), "{before:?}");
    let patch = |change: &str, account: &[&str]| {
        let arguments = ["patch", configuration, "--type=json", "--patch", change];
        cluster.kubectl(&[&arguments, account].concat()).map_err(|error| format!("{error:#}"))
    };
    let emptied = r#"[{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]"#;
    let refused = patch(emptied, &["--as=system:serviceaccount:mesh-system:mesh-injector"]).unwrap_err();
    assert!(refused.contains("cannot patch"), "{refused}");
    // One that can be read, and that nothing of ours chains to.
    let other = cluster.shell("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=other -keyout /dev/null 2>/dev/null | base64 --wrap=0").unwrap();
    let replaced =
        format!(r#"[{{"op": "replace", "path": "/webhooks/1/clientConfig/caBundle", "value": "{}"}}]"#, other.trim());
    for change in [emptied, &replaced] {
        patch(change, &[]).unwrap();
        eventually(Duration::from_secs(10), || bundles() == before)
            .unwrap_or_else(|_| panic!("{change}: {:?}", bundles()));
    }
    // The API server calls it again.
    let called = cluster.namespace("called").unwrap();
    cluster.kubectl(&["annotate", "namespace", "called", "meshctl.io/inject=enabled"]).unwrap();
    let label = || word(cluster, "called", "labels").contains(r#""meshctl.io/inject":"enabled""#);
    eventually(Duration::from_secs(10), label).unwrap();
    called.apply(&server_manifest("web", 1)).unwrap();
    called.rolled_out().unwrap();
    assert!(called.kubectl(&["get", "pods", "--output", "yaml"]).unwrap().contains("mesh-proxy"));
}

/// RBAC lets it patch every Namespace; the admission policy says what of one.
fn the_injector_is_held_to_its_label(cluster: &Cluster) {
    let namespace = cluster.namespace("held").unwrap();
    let injector = "--as=system:serviceaccount:mesh-system:mesh-injector";
    let patch = |change: &str, account: &[&str]| {
        let arguments = ["patch", "namespace", "held", "--type=merge", "--patch", change];
        cluster.kubectl(&[&arguments, account].concat()).map_err(|error| format!("{error:#}"))
    };
    for (change, refusal) in [
        (r#"{"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}}"#, "may change no label"),
        (r#"{"metadata": {"labels": {"team": null}}}"#, "may change no label"),
        (
            r#"{"metadata": {"annotations": {"scheduler.alpha.kubernetes.io/node-selector": "a=b"}}}"#,
            "may change no annotation",
        ),
        (r#"{"metadata": {"finalizers": ["example.com/for-ever"]}}"#, "may change neither owners nor finalizers"),
    ] {
        // What is taken away has to be there; and anybody else who may write it may go on doing so.
        patch(r#"{"metadata": {"labels": {"team": "shop"}}}"#, &[]).unwrap();
        let refused = patch(change, &[injector]).unwrap_err();
        assert!(refused.contains(&format!("mesh-injector {refusal}")), "{change}: {refused}");
    }
    for change in [
        r#"{"metadata": {"labels": {"meshctl.io/inject": "enabled"}, "annotations": {"meshctl.io/inject-mirrored": "enabled"}}}"#,
        r#"{"metadata": {"labels": {"meshctl.io/inject": null}, "annotations": {"meshctl.io/inject-mirrored": null}}}"#,
    ] {
        patch(change, &[injector]).unwrap();
    }
    assert_eq!(word(cluster, "held", "labels").trim(), r#"{"kubernetes.io/metadata.name":"held","team":"shop"}"#);
    drop(namespace);
}

/// A pod of a namespace that did not opt in is never touched.
#[test]
fn who_did_not_opt_in_is_left_alone() {
    let namespace = Cluster::running().unwrap().namespace("aside").unwrap();
    namespace.cluster.meshctl(&["install"]).unwrap();
    namespace.apply(&server_manifest("web", 1)).unwrap();
    namespace.rolled_out().unwrap();
    let pod = namespace.kubectl(&["get", "pods", "--output", "yaml"]).unwrap();
    assert!(!pod.contains("mesh-proxy") && !pod.contains("meshctl.io/proxy-version"), "{pod}");
}

/// What a command says that has to fail.
fn refusal(cluster: &Cluster, command: &[&str]) -> String {
    let output = cluster.try_meshctl(command).unwrap();
    assert_eq!(output.status.code(), Some(1), "{command:?}: {output:?}");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    // What it says on its way is no part of its answer.
    let answer = told.find("meshctl: ").unwrap_or_else(|| panic!("{command:?}: {told}"));
    told[answer..].to_owned()
}

/// Labels or annotations of a namespace.
fn word(cluster: &Cluster, namespace: &str, map: &str) -> String {
    cluster.kubectl(&["get", "namespace", namespace, &format!("--output=jsonpath={{.metadata.{map}}}")]).unwrap()
}

/// Everything that the installation owns, with what moves when somebody changes it: the generation; for kinds without one, the
/// version of every write. mesh-identity writes the trust bundle.
fn generations(cluster: &Cluster) -> BTreeMap<String, String> {
    let columns = "custom-columns=KIND:.kind,NAME:.metadata.name,UID:.metadata.uid,GENERATION:.metadata.generation,VERSION:.metadata.resourceVersion";
    let mut found = BTreeMap::new();
    for (kinds, place) in [(NAMESPACED, "--namespace=mesh-system"), (CLUSTER_WIDE, "--all-namespaces")] {
        let listing = cluster.kubectl(&["get", kinds, place, "--output", columns, "--no-headers"]).unwrap();
        for line in listing.lines() {
            let [kind, name, uid, generation, version] = line.split_whitespace().collect::<Vec<_>>()[..] else {
                panic!("{line}")
            };
            if name.contains("mesh") && name != "mesh-trust-bundle" {
                let moves = if generation == "<none>" { version } else { generation };
                found.insert(format!("{kind}/{name}"), format!("{uid} {moves}"));
            }
        }
    }
    for kind in
        ["ClusterRole/mesh-view", "ValidatingAdmissionPolicyBinding/mesh-injector-namespaces", "Namespace/mesh-system"]
    {
        assert!(found.contains_key(kind), "{found:#?}");
    }
    found
}

fn pods(cluster: &Cluster) -> String {
    cluster.kubectl(&["get", "pods", "--namespace=mesh-system", "--output=name"]).unwrap()
}

/// What an uninstalled mesh must not leave.
fn left(cluster: &Cluster) -> String {
    let all = cluster.kubectl(&["get", LEFT, "--all-namespaces", "--output=name"]).unwrap();
    all.lines().filter(|name| name.contains("mesh")).collect::<Vec<_>>().join("\n")
}

const NAMESPACED: &str =
    "deployments,services,serviceaccounts,configmaps,roles,rolebindings,poddisruptionbudgets,networkpolicies";
const CLUSTER_WIDE: &str = "namespaces,customresourcedefinitions,clusterroles,clusterrolebindings,\
    mutatingwebhookconfigurations,validatingadmissionpolicies,validatingadmissionpolicybindings";
const LEFT: &str = "namespaces,clusterroles,clusterrolebindings,mutatingwebhookconfigurations,\
    validatingwebhookconfigurations,validatingadmissionpolicies,validatingadmissionpolicybindings,xmeshes,roles,rolebindings,\
    leases,configmaps,secrets,serviceaccounts,services,deployments,networkpolicies,poddisruptionbudgets";
/// Ours, by the name of its CRD.
const KIND: &str = "externalworkloads.meshctl.io";
