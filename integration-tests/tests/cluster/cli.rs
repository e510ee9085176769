//! The commands of `meshctl` that look at a mesh, as an operator sees them, and as the developer of one namespace does.

use std::process::Output;
use std::time::Duration;

use integration_tests::cluster::{Cluster, Namespace, TRAFFIC, server_manifest};
use integration_tests::mesh::eventually;
use serde_json::Value;

use super::account::Account;
use super::shop::Shop;

/// Two servers, a database, an agent on every node and a Job that sends fifty requests a second: what every command says of
/// them, to the number.
#[test]
fn an_operator_sees_what_is_sent() {
    let shop = Shop::open("panel", 2);
    let (cluster, namespace) = (&shop.namespace.cluster, &shop.namespace);
    namespace.apply(&others_manifest()).unwrap();
    namespace.rolled_out().unwrap();
    namespace.kubectl(&["rollout", "status", "daemonset/agent", "--timeout=90s"]).unwrap();
    shop.none_failed("load", RATE, 50, || {
        figures(cluster);
        a_developer_sees_his_own(cluster);
        certificates_and_pictures(cluster, namespace);
        let check = json(cluster, &["check", "--proxy", "--namespace=panel"]);
        assert_eq!(check["outcome"], "passed", "{check:#}");
        assert_eq!(line(&check, "certificate")["text"].as_str().unwrap().split(' ').next(), Some("6"), "{check:#}");
        for name in ["discovery", "proxy"] {
            assert_eq!(line(&check, name)["outcome"], "passed", "{check:#}");
        }
        mistakes_of_clients(cluster, namespace);
    });
    plan(cluster);
    an_old_proxy(cluster, namespace);
    cluster.meshctl(&["check", "--wait", "30s"]).unwrap();
    let before = cluster.meshctl(&["check", "--pre"]).unwrap();
    assert!(!before.contains('×') && before.contains("2 of 2 nodes can run pods with a proxy"), "{before}");
}

/// `stat` of every kind, and between two ends.
fn figures(cluster: &Cluster) {
    let quiet = |name: &str, pods: u64| Row { name: name.to_owned(), meshed: Some((pods, pods)), busy: false };
    let busy = |name: &str, pods: u64| Row { busy: true, ..quiet(name, pods) };
    for (question, expected) in [
        ("deploy", vec![busy("web", 2)]),
        ("svc", vec![busy("web", 2)]),
        ("sts", vec![quiet("db", 1)]),
        ("ds", vec![quiet("agent", 2)]),
        ("job --to svc/web", vec![busy("load", 1)]),
        ("deploy --from job/load", vec![busy("web", 2)]),
    ] {
        let words: Vec<&str> = question.split(' ').collect();
        let look = || json(cluster, &[&["stat", "--namespace=panel", "--window=2s"], &words[..]].concat());
        let mut stat = look();
        // A busy machine sends less for a moment, and more after it: that is no matter of what is shown.
        for _ in 0..3 {
            if !is_at_rate(&stat) {
                stat = look();
            }
        }
        assert_eq!((&stat["answered"], &stat["proxies"]), (&6.into(), &6.into()), "{question}: {stat:#}");
        assert_eq!(rows(&stat), expected, "{question}: {stat:#}");
        assert!(is_at_rate(&stat), "{question}: {stat:#}");
    }
    let everywhere = json(cluster, &["stat", "ns", "--all-namespaces"]);
    let panel = everywhere["rows"].as_array().unwrap().iter().find(|row| row["namespace"] == "panel");
    assert_eq!(row(panel.unwrap_or_else(|| panic!("{everywhere:#}"))), busy("", 6));

    let table = cluster.meshctl(&["stat", "deploy", "--namespace=panel"]).unwrap();
    let cells: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(cells[0], ["NAMESPACE", "NAME", "MESHED", "SUCCESS", "RPS", "P50", "P95", "P99", "MTLS"], "{table}");
    assert_eq!(cells[1][..4], ["panel", "web", "2/2", "100.00%"], "{table}");
    assert_eq!(cells[1].last(), Some(&"100.00%"), "{table}");
    assert!(table.ends_with("6 of 6 proxies answered\n"), "{table}");

    let pods = json(cluster, &["stat", "pod", "--namespace=panel", "--proxy"]);
    for pod in pods["rows"].as_array().unwrap() {
        let memory = pod["proxy_memory_bytes"].as_f64().unwrap();
        assert!((1e6..1e8).contains(&memory) && pod["proxy_cpu_cores"].as_f64().unwrap() < 1.0, "{pod:#}");
        // It is counted where a request begins.
        let added = pod["added_p50_ms"].as_f64();
        assert!(!pod["name"].as_str().unwrap().starts_with("load-") || added > Some(0.0), "{pod:#}");
    }
    assert_eq!(pods["rows"].as_array().unwrap().len(), 6, "{pods:#}");
}

/// What a client asks wrongly is no failure of the server, and seen all the same.
fn mistakes_of_clients(cluster: &Cluster, namespace: &Namespace) {
    let arguments = "[load, --target, 'web:80', --host, web, --path, '/?status=404', --rate=20, --seconds=30]";
    namespace.start_job("wrong", arguments).unwrap();
    let mistakes = || {
        let stat = json(cluster, &["stat", "deploy/web", "--namespace=panel", "--window=1s"]);
        let row = &stat["rows"][0];
        assert_eq!((&row["success"], &row["failures_rps"]), (&1.0.into(), &0.0.into()), "{row:#}");
        (15.0..25.0).contains(&row["client_errors_rps"].as_f64().unwrap())
    };
    eventually(Duration::from_secs(20), mistakes).unwrap();
    let table = cluster.meshctl(&["stat", "deploy", "--namespace=panel", "--output=wide"]).unwrap();
    let cells: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(cells[0][9..], ["4XX/S", "FAILED/S"], "{table}");
    assert!(cells[1][9].parse::<f64>().unwrap() > 10.0 && cells[1][10] == "0.0", "{table}");
    namespace.kubectl(&["delete", "job", "wrong", "--cascade=foreground"]).unwrap();
}

/// A proxy of another version is named, and an upgrade says what becomes of it.
fn an_old_proxy(cluster: &Cluster, namespace: &Namespace) {
    let annotate = |version: &str| {
        let word = format!("meshctl.io/proxy-version={version}");
        namespace.kubectl(&["annotate", "--overwrite", "pod/db-0", &word]).unwrap();
    };
    annotate("0.9.0");
    let (code, found) = check(cluster, &["--namespace=panel"]);
    let version = line(&found, "version");
    assert_eq!((code, &version["outcome"]), (0, &"warning".into()), "{found:#}");
    assert!(version["text"].as_str().unwrap().contains("1 proxy has version 0.9.0"), "{found:#}");
    let plan = cluster.meshctl(&["upgrade", "--plan"]).unwrap();
    let expected = "1 running proxy of version 0.9.0: more than one minor version away; restart the pods at once";
    assert!(plan.contains(expected), "{plan}");
    annotate(env!("CARGO_PKG_VERSION"));
}

/// `identity`, `proxy-status` and `version`.
fn certificates_and_pictures(cluster: &Cluster, namespace: &Namespace) {
    let pods = namespace.kubectl(&["get", "pods", "--output=jsonpath={.items[*].metadata.name}"]).unwrap();
    let mut pods: Vec<String> = pods.split_whitespace().map(|pod| format!("panel/{pod}")).collect();
    pods.sort_unstable();
    let identities = json(cluster, &["identity", "--namespace=panel"]);
    let names: Vec<&str> = identities.as_array().unwrap().iter().filter_map(|one| one["proxy"].as_str()).collect();
    assert_eq!(names, pods, "{identities:#}");
    for one in identities.as_array().unwrap() {
        assert_eq!(one["id"], "spiffe://cluster.local/ns/panel/sa/default", "{one:#}");
        let [begin, renew, end] =
            ["not_before_ms", "renew_at_ms", "not_after_ms"].map(|key| one[key].as_u64().unwrap());
        assert!(begin < renew && renew < end && one["last_error"].is_null(), "{one:#}");
    }
    let one = json(cluster, &["identity", "deploy/web", "--namespace=panel"]);
    assert_eq!(one.as_array().unwrap().len(), 2, "{one:#}");

    let status = json(cluster, &["proxy-status", "--namespace=panel"]);
    let connected = |status: &Value| status.to_string().matches("\"connected\":true").count();
    assert_eq!(connected(&status), 6, "{status:#}");

    let version = cluster.meshctl(&["version"]).unwrap();
    let own = env!("CARGO_PKG_VERSION");
    for component in ["mesh-controller", "mesh-identity", "mesh-injector"] {
        let line = version.lines().find(|line| line.starts_with(component)).unwrap_or_else(|| panic!("{version}"));
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(cells[1..], [own, &format!("meshctl.io/{component}:{own}")], "{version}");
    }
    let proxies = version.lines().find(|line| line.starts_with(own)).unwrap_or_else(|| panic!("{version}"));
    assert!(proxies.split_whitespace().nth(1).unwrap().parse::<u32>().unwrap() >= 6, "{version}");
}

/// `upgrade --plan` says what a value would change, and of whom it would do so.
fn plan(cluster: &Cluster) {
    let nothing = cluster.meshctl(&["upgrade", "--plan"]).unwrap();
    assert!(nothing.contains("nothing would change"), "{nothing}");
    let plan = cluster.meshctl(&["upgrade", "--plan", "--set=proxy.logLevel=debug"]).unwrap();
    let lines: Vec<&str> = plan.lines().map(str::trim).collect();
    let change = lines.iter().position(|line| *line == "change  ConfigMap mesh-system/mesh-config");
    let change = change.unwrap_or_else(|| panic!("{plan}"));
    assert!(
        lines[change + 1].contains("- logLevel: info") || lines[change + 1].contains("- logLevel: \"info\""),
        "{plan}"
    );
    assert!(
        lines[change + 2].contains("+ logLevel: debug") || lines[change + 2].contains("+ logLevel: \"debug\""),
        "{plan}"
    );
    assert!(plan.contains(" of version 0.1.0: compatible"), "{plan}");
}

/// Whoever may edit one namespace sees how that one does, and is told in one sentence what else is not for him.
fn a_developer_sees_his_own(cluster: &Cluster) {
    let account = Account::new(cluster, "panel", Some("edit"));
    for command in
        [&["stat", "deploy", "--window=500ms"][..], &["edges", "--window=500ms"], &["identity"], &["proxy-status"]]
    {
        let (well, out, err) = account.meshctl(cluster, command);
        assert!(well && out.contains("web"), "{command:?}: {out}{err}");
    }
    let (well, stat, told) = account.meshctl(cluster, &["stat", "svc"]);
    assert!(well && told.contains("only callers in namespace panel count"), "{told}");
    assert_eq!(
        stat.lines().nth(1).unwrap().split_whitespace().take(4).collect::<Vec<_>>(),
        ["panel", "web", "2/2", "100.00%"]
    );

    let (well, check, err) = account.meshctl(cluster, &["check", "--proxy", "--output=json"]);
    assert!(well, "{check}{err}");
    let check: Value = serde_json::from_str(&check).unwrap();
    let wrong: Vec<&Value> =
        check["checks"].as_array().unwrap().iter().filter(|line| line["outcome"] != "passed").collect();
    assert_eq!(wrong.len(), 1, "{check:#}");
    assert!(wrong[0]["text"].as_str().unwrap().starts_with("only namespace panel is looked at"), "{check:#}");
    for name in ["bundle", "trial", "injected", "certificate"] {
        assert_eq!(line(&check, name)["outcome"], "passed", "{check:#}");
    }
    let (well, check, err) = account.meshctl(cluster, &["check", "--namespace=panel"]);
    assert!(well && check.ends_with("all is well\n"), "{check}{err}");

    for (command, expected) in
        [(&["stat", "-A"][..], "look at one of your own namespaces with -n"), (&["edges", "-A"], "with -n")]
    {
        let (well, out, err) = account.meshctl(cluster, command);
        assert!(
            !well && out.is_empty() && err.contains(expected) && err.lines().count() == 1,
            "{command:?}: {out}{err}"
        );
    }
}

/// What a person broke on purpose, one thing of each family: each has a line of its own in `check`, with what to do, and the
/// exit code says whether it is serious.
#[test]
fn what_is_broken_is_named() {
    let shop = Shop::open("broken", 1);
    let cluster = &shop.namespace.cluster;
    a_pod_that_is_older_than_injection(cluster);
    words_that_mean_nothing(&shop);
    a_namespace_that_refuses_injected_pods(cluster);
    rules_that_cannot_be_written(&shop);
    a_control_plane_that_is_gone(cluster);
    cluster.meshctl(&["check", "--namespace=broken"]).unwrap();
}

/// A warning, and the command that mends it does.
fn a_pod_that_is_older_than_injection(cluster: &Cluster) {
    let early = cluster.namespace("early").unwrap();
    early.apply(&server_manifest("web", 1)).unwrap();
    early.rolled_out().unwrap();
    cluster.kubectl(&["annotate", "namespace", "early", "meshctl.io/inject=enabled"]).unwrap();
    let (code, check) = check(cluster, &["--namespace=early"]);
    let found = line(&check, "injected");
    assert_eq!((code, &found["outcome"]), (0, &"warning".into()), "{check:#}");
    assert!(
        found["text"].as_str().unwrap().starts_with("1 pod in namespace early began before injection: web-"),
        "{check:#}"
    );
    let restart = found["hint"].as_str().unwrap();
    assert!(restart.starts_with("kubectl") && restart.contains("rollout restart"), "{restart}");
    cluster.shell(restart).unwrap();
    early.rolled_out().unwrap();
    let mended = || self::check(cluster, &["--namespace=early"]).1["outcome"] == "passed";
    eventually(Duration::from_secs(30), mended).unwrap();
}

/// A namespace's word, and a pod's setting: both fail, and neither pod gets a proxy that was not asked for like this.
fn words_that_mean_nothing(shop: &Shop) {
    let cluster = &shop.namespace.cluster;
    let unclear = cluster.namespace("unclear").unwrap();
    cluster.kubectl(&["annotate", "namespace", "unclear", "meshctl.io/inject=maybe"]).unwrap();
    let (code, found) = check(cluster, &["--namespace=unclear"]);
    let word = line(&found, "word");
    assert_eq!((code, &word["outcome"]), (1, &"failed".into()), "{found:#}");
    assert!(word["text"].as_str().unwrap().contains("\"maybe\""), "{found:#}");
    assert_eq!(word["hint"], "kubectl annotate --overwrite namespace unclear meshctl.io/inject=enabled");
    drop(unclear);

    let lots = server_manifest("lots", 1).replace(
        "metadata: { labels: { app: lots } }",
        "metadata: { labels: { app: lots }, annotations: { meshctl.io/proxy-cpu-limit: lots } }",
    );
    shop.namespace.apply(&lots).unwrap();
    shop.namespace.rolled_out().unwrap();
    assert!(!shop.is_meshed("lots"));
    let (code, found) = check(cluster, &["--namespace=broken"]);
    let injected = line(&found, "injected");
    assert_eq!((code, &injected["outcome"]), (1, &"failed".into()), "{found:#}");
    let text = injected["text"].as_str().unwrap();
    assert!(text.contains("meshctl.io/proxy-cpu-limit") && text.contains("broken/lots-"), "{found:#}");
    shop.namespace.kubectl(&["delete", "deployment/lots", "service/lots", "--wait", "--cascade=foreground"]).unwrap();
}

/// PodSecurity's own refusal, and the command that ends it.
fn a_namespace_that_refuses_injected_pods(cluster: &Cluster) {
    let strict = Shop { namespace: cluster.namespace("strict").unwrap() };
    let label = ["label", "namespace", "strict", "pod-security.kubernetes.io/enforce=baseline"];
    cluster.kubectl(&label).unwrap();
    cluster.kubectl(&["annotate", "namespace", "strict", "meshctl.io/inject=enabled"]).unwrap();
    let refused = strict.namespace.kubectl(&["run", "alone", &format!("--image={TRAFFIC}")]).unwrap_err();
    assert!(format!("{refused:#}").contains("violates PodSecurity"), "{refused:#}");
    let (code, found) = check(cluster, &["--namespace=strict"]);
    let security = line(&found, "pod-security");
    assert_eq!((code, &security["outcome"]), (1, &"failed".into()), "{found:#}");
    cluster.shell(security["hint"].as_str().unwrap()).unwrap();
    strict.namespace.apply(&server_manifest("web", 1)).unwrap();
    strict.namespace.rolled_out().unwrap();
    assert!(strict.is_meshed("web"));
}

/// As in a kernel without nftables: the init container fails, and what it said is what `check` says.
fn rules_that_cannot_be_written(shop: &Shop) {
    let cluster = &shop.namespace.cluster;
    let pod = format!("kubectl run unruly --namespace broken --image {TRAFFIC} --dry-run=client --output yaml");
    let wrong = "sed 's/^\\( *\\)- init$/&\\n\\1- --skip-inbound-ports=every/'";
    cluster.shell(&format!("{pod} | meshctl inject --manual | {wrong} | kubectl apply --filename -")).unwrap();
    let said = || {
        let (code, found) = check(cluster, &["--namespace=broken"]);
        let text = line(&found, "running")["text"].as_str().unwrap().to_owned();
        code == 1
            && text.contains("mesh-init, which writes the redirect rules, ended with code 2: mesh-proxy: ")
            && text.contains("every")
    };
    eventually(Duration::from_secs(30), said)
        .unwrap_or_else(|_| panic!("{:#}", check(cluster, &["--namespace=broken"]).1));
    shop.namespace.kubectl(&["delete", "pod/unruly", "--grace-period=0", "--force"]).unwrap();
}

/// Everything away, and what it keeps in order damaged meanwhile; back again, it mends all of that.
fn a_control_plane_that_is_gone(cluster: &Cluster) {
    let place = "--namespace=mesh-system";
    let scale = |replicas: u32| {
        let replicas = format!("--replicas={replicas}");
        cluster.kubectl(&["scale", "deployment", "--all", &replicas, place]).unwrap();
    };
    cluster.kubectl(&["scale", "deployment/mesh-identity", "--replicas=0", place]).unwrap();
    let gone =
        ["wait", "--for=delete", "pods", "--selector=app.kubernetes.io/name=mesh-identity", place, "--timeout=60s"];
    cluster.kubectl(&gone).unwrap();
    cluster.kubectl(&["rollout", "restart", "deployment/web", "--namespace=broken"]).unwrap();
    let held = || {
        let (_, found) = check(cluster, &["--namespace=broken"]);
        let text = line(&found, "running")["text"].as_str().unwrap().to_owned();
        text.contains("not ready: no certificate or no configuration yet, and its application waits for it")
    };
    eventually(Duration::from_secs(30), held)
        .unwrap_or_else(|_| panic!("{:#}", check(cluster, &["--namespace=broken"]).1));
    scale(0);
    let pods = ["wait", "--for=delete", "pods", "--all", place, "--timeout=60s"];
    cluster.kubectl(&pods).unwrap();
    let other = cluster.shell("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=other -keyout /dev/null 2>/dev/null").unwrap();
    let patch = serde_json::json!({"data": {"bundle.pem": other}}).to_string();
    cluster.kubectl(&["patch", "configmap", "mesh-trust-bundle", "--namespace=broken", "--patch", &patch]).unwrap();
    let patch = r#"[{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]"#;
    cluster
        .kubectl(&["patch", "mutatingwebhookconfiguration", "mesh-injector", "--type=json", "--patch", patch])
        .unwrap();
    cluster.kubectl(&["delete", "lease", "mesh-identity", place]).unwrap();

    let (code, found) = check(cluster, &[]);
    assert_eq!(code, 1);
    for (name, expected) in [
        ("deployment", "mesh-controller: none of"),
        ("deployment", "mesh-identity: none of"),
        ("deployment", "mesh-injector: none of"),
        ("lease", "lease mesh-identity does not exist"),
        ("bundle", "the trust bundle of namespace broken is not that of the others"),
        ("webhook", "has no caBundle yet"),
        ("endpoints", "Service mesh-injector has no ready endpoint"),
        ("trial", "a pod on trial was refused"),
    ] {
        let all = found["checks"].as_array().unwrap().iter();
        let named = all.filter(|line| line["name"] == name && line["outcome"] == "failed");
        let texts: Vec<&str> = named.filter_map(|line| line["text"].as_str()).collect();
        assert!(texts.iter().any(|text| text.contains(expected)), "{name}: {expected}: {found:#}");
    }
    scale(1);
    let (code, found) = check(cluster, &["--wait=90s"]);
    assert_eq!((code, &found["outcome"]), (0, &"passed".into()), "{found:#}");
}

/// The word for a proxy in a manifest, applied as the help says, and taken out again; and the manifest as it would be injected.
#[test]
fn manifests_are_injected_and_uninjected() {
    let shop = Shop { namespace: Cluster::running().unwrap().namespace("by-hand").unwrap() };
    let cluster = &shop.namespace.cluster;
    cluster.meshctl(&["install"]).unwrap();
    shop.namespace.apply(&server_manifest("web", 1)).unwrap();
    shop.namespace.rolled_out().unwrap();
    let get = "kubectl get deployment/web --namespace by-hand --output yaml";
    for (word, meshed) in [
        ("inject", true),
        ("inject --disable", false),
        // Somebody has said no.
        ("inject", false),
        ("uninject", false),
        ("inject", true),
        ("uninject", false),
    ] {
        cluster.shell(&format!("{get} | meshctl {word} | kubectl apply --filename -")).unwrap();
        shop.namespace.rolled_out().unwrap();
        assert_eq!(shop.is_meshed("web"), meshed, "{word}");
    }
    let left = cluster.shell(get).unwrap();
    assert!(!left.contains("meshctl.io/inject: "), "{left}");

    // With the proxy in the manifest no webhook is needed, and it is in the mesh all the same.
    cluster.shell(&format!("{get} | meshctl inject --manual | kubectl apply --filename -")).unwrap();
    shop.namespace.rolled_out().unwrap();
    assert!(shop.is_meshed("web"));
    let containers = "--output=jsonpath={.spec.template.spec.initContainers[*].name}";
    assert_eq!(shop.namespace.kubectl(&["get", "deployment/web", containers]).unwrap(), "mesh-init mesh-proxy");
    let identities = json(cluster, &["identity", "deploy/web", "--namespace=by-hand"]);
    assert_eq!(identities[0]["id"], "spiffe://cluster.local/ns/by-hand/sa/default", "{identities:#}");
}

/// What a row says: figures are all there and perfect, or none of them is.
#[derive(Debug, PartialEq)]
struct Row {
    name: String,
    meshed: Option<(u64, u64)>,
    busy: bool,
}

/// Whether every row that has a rate has that of the load, within a tenth.
fn is_at_rate(stat: &Value) -> bool {
    let mut rates = stat["rows"].as_array().unwrap().iter().filter_map(|row| row["rps"].as_f64());
    rates.all(|rate| (f64::from(RATE) * 0.9..=f64::from(RATE) * 1.1).contains(&rate))
}

fn rows(stat: &Value) -> Vec<Row> {
    stat["rows"].as_array().unwrap().iter().map(row).collect()
}

fn row(row: &Value) -> Row {
    let meshed = row["meshed"].as_array().map(|pods| (pods[0].as_u64().unwrap(), pods[1].as_u64().unwrap()));
    let busy = !row["rps"].is_null();
    if busy {
        assert_eq!((&row["success"], &row["mtls"]), (&1.0.into(), &1.0.into()), "{row:#}");
        let [p50, p95, p99] = ["p50_ms", "p95_ms", "p99_ms"].map(|key| row[key].as_f64().unwrap());
        assert!(0.0 < p50 && p50 <= p95 && p95 <= p99, "{row:#}");
    } else {
        assert!(row["success"].is_null() && row["mtls"].is_null() && row["p50_ms"].is_null(), "{row:#}");
    }
    Row { name: row["name"].as_str().unwrap().to_owned(), meshed, busy }
}

/// What a command prints for programs.
fn json(cluster: &Cluster, command: &[&str]) -> Value {
    let text = cluster.meshctl(&[command, &["--output=json"]].concat()).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Exit code and answer of `check`.
fn check(cluster: &Cluster, arguments: &[&str]) -> (i32, Value) {
    let Output { status, stdout, stderr } =
        cluster.try_meshctl(&[&["check", "--output=json"], arguments].concat()).unwrap();
    let answer = serde_json::from_slice(&stdout);
    (status.code().unwrap(), answer.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&stderr))))
}

/// The worst line of a name.
fn line<'c>(check: &'c Value, name: &str) -> &'c Value {
    let lines = check["checks"].as_array().unwrap().iter().filter(|line| line["name"] == name);
    let badness = |line: &&Value| ["passed", "warning", "failed"].iter().position(|word| line["outcome"] == *word);
    lines.max_by_key(badness).unwrap_or_else(|| panic!("{name}: {check:#}"))
}

/// A StatefulSet `db` of one and an `agent` on every node.
fn others_manifest() -> String {
    let of_kind = |kind: &str, name: &str, more: &str| {
        let manifest = server_manifest(name, 1).replace("kind: Deployment", &format!("kind: {kind}"));
        manifest.replace("  replicas: 1\n", more)
    };
    let database = of_kind("StatefulSet", "db", "  serviceName: db\n  replicas: 1\n");
    let agent = of_kind("DaemonSet", "agent", "");
    // Only `web` has a Service: each of these begins with one.
    [database, agent].map(|manifests| manifests.split_once("---").unwrap().1.to_owned()).join("\n---\n")
}

/// Requests per second of the load.
const RATE: u32 = 50;
