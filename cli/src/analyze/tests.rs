//! Manifests as people write them, and what they are told.

use super::*;
use crate::analyze::source::Source;
use crate::input::Input;

fn analyze(files: &[(&str, &str)]) -> Analysis {
    let inputs: Vec<Input> = files
        .iter()
        .map(|(file, text)| Input { file: (*file).to_owned(), text: Ok((*text).to_owned()), found: false })
        .collect();
    let sources: Vec<Source> = inputs.iter().flat_map(source::split).collect();
    let mut judged = judge::judge(&sources, &Known::files());
    judged.findings.extend(source::unreadable(&inputs));
    Analysis::new(judged, None)
}

fn lines(text: &str) -> Vec<String> {
    let analysis = analyze(&[("a.yaml", text)]);
    analysis.render().lines().map(str::to_owned).collect()
}

#[track_caller]
fn one(text: &str, expected: &str) {
    let lines = lines(text);
    assert!(lines.len() == 2 && lines[0].starts_with(expected), "{expected}\n{lines:#?}");
}

const SHOP: &str = "apiVersion: v1
kind: Namespace
metadata:
  name: shop
  annotations:
    meshctl.io/inject: enabled
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  ports:
  - port: 80
    targetPort: http
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  namespace: shop
spec:
  template:
    metadata:
      labels: {app: web}
      annotations:
        meshctl.io/proxy-workers: \"2\"
    spec:
      containers:
      - name: app
        image: app
        ports:
        - {name: http, containerPort: 8080}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs:
  - {group: '', kind: Service, name: web, port: 80}
  rules:
  - backendRefs:
    - name: web
      port: 80
";

#[test]
fn good_manifests_are_called_so() {
    assert_eq!(lines(SHOP), ["√ 4 objects, nothing to correct"]);
}

#[test]
fn a_service_is_headless_only_where_it_says_so() {
    let headless = SHOP.replace("  selector: {app: web}\n", "  clusterIP: None\n  selector: {app: web}\n");
    one(&headless, "× a.yaml:40: HTTPRoute shop/web: spec.parentRefs: the Service shop/web has no cluster address");
}

#[test]
fn what_cannot_be_used_names_line_field_and_remedy() {
    for (from, to, expected) in [
        (
            "inject: enabled",
            "inject: yes please",
            "× a.yaml:5: Namespace shop: metadata.annotations: meshctl.io/inject: ",
        ),
        (
            "workers: \"2\"",
            "workers: many",
            "× a.yaml:27: Deployment shop/web: spec.template.metadata.annotations[meshctl.io/proxy-workers]: ",
        ),
        (
            "containerPort: 8080",
            "containerPort: 15001",
            "× a.yaml:26: Deployment shop/web: spec.template.metadata.annotations: no proxy: container app uses port 15001",
        ),
        (
            "name: http,",
            "name: other,",
            "× a.yaml:15: Service shop/web: spec.ports[0].targetPort: \"http\" is the name of no port",
        ),
        (
            "- port: 80\n    target",
            "- port: 80000\n    target",
            "× a.yaml:14: Service shop/web: spec.ports[0].port: 80000 is not a port",
        ),
    ] {
        let text = SHOP.replace(from, to);
        assert_ne!(text, SHOP, "{from}");
        let found = lines(&text);
        assert!(found.iter().any(|line| line.starts_with(expected)), "{expected}\n{found:#?}");
        assert!(found.last().unwrap().contains("error"), "{found:#?}");
    }
    one(
        &SHOP.replace("    - name: web\n      port: 80", "    - name: web\n      port: 81"),
        "× a.yaml:43: HTTPRoute shop/web: spec.rules[0].backendRefs[0]: there is no Service port shop/web:81; its share of requests gets 500: it has 80",
    );
    one("a: [", "× a.yaml:2: is not YAML: did not find expected node content");
    one("kind: Service\n", "× a.yaml:1: Service default/: an object needs both apiVersion and kind");
    one(
        "apiVersion: meshctl.io/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: a}\n",
        "× a.yaml:1: TrafficPolicy default/a: the mesh has no kind",
    );
}

#[test]
fn what_has_no_effect_is_a_warning() {
    one(
        &SHOP.replace("proxy-workers: \"2\"", "proxy-worker: \"2\""),
        "‼ a.yaml:27: Deployment shop/web: spec.template.metadata.annotations[meshctl.io/proxy-worker]: no effect: the mesh does not know it; is meshctl.io/proxy-workers meant?",
    );
    one(
        &SHOP.replace("inject: enabled", "inject: disabled"),
        "‼ a.yaml:26: Deployment shop/web: spec.template.metadata.annotations: meshctl.io/proxy-workers has no effect, because there is no proxy",
    );
    one(
        &SHOP.replace(
            "  name: web\n  namespace: shop\nspec",
            "  name: web\n  namespace: shop\n  annotations: {meshctl.io/opaque-ports: '80'}\nspec",
        ),
        "‼ a.yaml:22: Deployment shop/web: metadata.annotations[meshctl.io/opaque-ports]: has no effect on the Deployment itself; write it at spec.template.metadata.annotations",
    );
    one(
        &SHOP.replace("selector: {app: web}", "selector: {app: wbe}"),
        "‼ a.yaml:12: Service shop/web: spec.selector: picks no pod template",
    );
    one(
        &SHOP.replace("    - name: web\n", "    - name: cart\n"),
        "‼ a.yaml:43: HTTPRoute shop/web: spec.rules[0].backendRefs[0]: there is no Service port shop/cart:80",
    );
    one(
        &SHOP.replace("      port: 80\n", "      port: 80\n      weigth: 5\n"),
        "‼ a.yaml:45: HTTPRoute shop/web: spec.rules[0].backendRefs[0].weigth: no effect",
    );
    one(
        &SHOP.replace("  rules:", "  hostnames: [a.example]\n  rules:"),
        "‼ a.yaml:41: HTTPRoute shop/web: spec.hostnames: has no effect",
    );
    let found = lines(&SHOP.replace("group: '', kind: Service", "kind: Service"));
    assert!(
        found.iter().any(|line| line.contains("is no Service of the mesh: write kind: Service with group: \"\"")),
        "{found:#?}"
    );
    one(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\n",
        "‼ a.yaml:1: VirtualService default/a: the mesh does not read",
    );
}

#[test]
fn kinds_of_other_meshes_that_refuse_are_errors() {
    for (group, kind) in [
        ("security.istio.io/v1", "RequestAuthentication"),
        ("security.istio.io/v1beta1", "AuthorizationPolicy"),
        ("policy.linkerd.io/v1beta3", "Server"),
        ("policy.linkerd.io/v1beta1", "ServerAuthorization"),
        ("policy.linkerd.io/v1alpha1", "AuthorizationPolicy"),
        ("policy.linkerd.io/v1alpha1", "MeshTLSAuthentication"),
        ("policy.linkerd.io/v1alpha1", "NetworkAuthentication"),
    ] {
        let text = format!("apiVersion: {group}\nkind: {kind}\nmetadata: {{name: a}}\n");
        one(&text, &format!("× a.yaml:1: {kind} default/a: the mesh has no policy of this kind yet"));
        assert!(lines(&text)[0].ends_with("what it refused is accepted"), "{text}");
    }
    for (group, kind) in [
        ("linkerd.io/v1alpha2", "ServiceProfile"),
        ("policy.linkerd.io/v1beta3", "HTTPRoute"),
        ("split.smi-spec.io/v1alpha2", "TrafficSplit"),
    ] {
        let text = format!("apiVersion: {group}\nkind: {kind}\nmetadata: {{name: a}}\n");
        one(&text, &format!("‼ a.yaml:1: {kind} default/a: the mesh does not read {kind}"));
    }
    let others = "apiVersion: notlinkerd.io/v1\nkind: Server\nmetadata: {name: a}\n";
    assert_eq!(lines(others), ["√ 1 object, nothing to correct"]);
}

#[test]
fn fields_of_gateway_api_that_are_not_followed_are_not_called_mistyped() {
    for (field, value) in [("retry", "{attempts: 3, codes: [503]}"), ("sessionPersistence", "{sessionName: a}")] {
        let text = SHOP.replace("  - backendRefs:", &format!("  - {field}: {value}\n    backendRefs:"));
        let problem = format!("spec.rules[0].{field}: no effect: the mesh does not follow it yet");
        one(&text, &format!("‼ a.yaml:42: HTTPRoute shop/web: {problem}"));
        // In a cluster as well, where the API server knows the field.
        let documents = text.split("---\n").map(|text| serde_yaml_ng::from_str(text).unwrap());
        let mut sources: Vec<Source> = documents.map(Source::of_cluster).collect();
        sources[3].object["metadata"]["managedFields"] = serde_json::json!([{"manager": "a"}]);
        sources[3].object["spec"]["rules"][0]["fromTomorrow"] = true.into();
        let analysis = Analysis::new(judge::judge(&sources, &Known::files()), None);
        let found: Vec<&str> = analysis.findings.iter().map(|finding| finding.problem.as_str()).collect();
        assert_eq!(found, ["no effect: the mesh does not follow it yet"], "{analysis:?}");
    }
}

#[test]
fn a_namespace_that_refuses_the_init_container_is_an_error() {
    for level in ["restricted", "baseline"] {
        let labels = format!("  labels: {{pod-security.kubernetes.io/enforce: {level}}}\n  annotations:");
        let found = lines(&SHOP.replacen("  annotations:", &labels, 1));
        assert!(found[0].starts_with("× a.yaml:27: Deployment shop/web: "), "{found:#?}");
        assert!(found[0].contains("no pod can be made: the namespace's label"), "{found:#?}");
        assert_eq!(found.len(), 2, "{found:#?}");
    }
}

#[test]
fn settings_of_pods_in_unknown_namespaces_are_read_all_the_same() {
    let deployment = SHOP.split("---\n").nth(2).unwrap();
    assert_eq!(lines(deployment), ["√ 1 object, nothing to correct"]);
    let text =
        deployment.replace("proxy-workers: \"2\"", "skip-inbound-ports: x\n        meshctl.io/drain-delay: soon");
    let found = lines(&text);
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(found[0].contains("a.yaml:11: ") && found[1].contains("a.yaml:12: "), "{found:#?}");
}

#[test]
fn opaque_ports_are_followed_on_services_too() {
    let annotated = |value: &str| {
        let annotations = format!(
            "annotations: {{meshctl.io/opaque-ports: '{value}'}}, name: web, namespace: shop}}\nspec:\n  selector"
        );
        SHOP.replacen("name: web, namespace: shop}\nspec:\n  selector", &annotations, 1)
    };
    let without_route = |value: &str| annotated(value).split("---\napiVersion: gateway").next().unwrap().to_owned();
    assert_eq!(lines(&without_route("80")), ["√ 3 objects, nothing to correct"]);
    let place = "a.yaml:10: Service shop/web: metadata.annotations[meshctl.io/opaque-ports]:";
    one(&without_route("8080"), &format!("‼ {place} no effect: the Service has none of these ports"));
    one(&without_route("http"), &format!("× {place} \"http\" is not a port"));
    one(
        &annotated("80"),
        "‼ a.yaml:39: HTTPRoute shop/web: spec.parentRefs: no effect on shop/web:80, which carries bytes",
    );
}

#[test]
fn lists_duplicates_and_namespaces() {
    let list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: {name: a}\n- apiVersion: v1\n  kind: Service\n  metadata: {name: b}\n  spec:\n    ports: [{port: 0}]\n";
    one(list, "× a.yaml:7: Service default/b: spec.ports[0].port: 0 is not a port");
    let twice = analyze(&[("a.yaml", SHOP), ("b.yaml", SHOP.split("---\n").next().unwrap())]);
    assert_eq!(twice.findings[0].problem, "it is in a.yaml:1 already; keep one of them");
    let mut judged = Judged { objects: 2, findings: twice.findings };
    judged.findings.extend(analyze(&[("c.yaml", list)]).findings);
    assert_eq!(Analysis::new(judged.clone(), Some("shop")).findings.len(), 1);
    assert_eq!(Analysis::new(judged, Some("default")).errors, 1);
}

#[test]
fn a_cluster_knows_what_is_missing() {
    let documents = SHOP.split("---\n").map(|text| serde_yaml_ng::from_str(text).unwrap());
    let mut sources: Vec<Source> = documents.map(Source::of_cluster).collect();
    sources[3].object["spec"]["rules"][0]["backendRefs"][0]["name"] = "cart".into();
    let known = Known { incomplete: None, endpoints: true, ..Known::files() };
    let analysis = Analysis::new(judge::judge(&sources, &known), None);
    let found = analysis.render();
    assert!(found.contains("× HTTPRoute shop/web: spec.rules[0].backendRefs[0]: there is no Service port"), "{found}");
    assert!(found.contains("‼ Service shop/web: spec.ports[0]: port 80 has no endpoint"), "{found}");
    assert_eq!((analysis.errors, analysis.warnings), (1, 1));
    let partly = Analysis { not_read: vec!["httproutes is forbidden".to_owned()], ..analysis };
    assert!(partly.render().contains("\n‼ not looked at: httproutes is forbidden\n"), "{}", partly.render());
}

#[test]
fn each_mistake_of_a_document_is_told() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  clusterIPs: [x]\n  ports:\n  - name: one\n    port: 0\n  \
                   - name: two\n    port: eighty\n  - name: three\n    port: 80\n  - name: four\n    port: 70000\n";
    let found = lines(service);
    assert_eq!(
        found,
        [
            "× a.yaml:5: Service default/a: spec.clusterIPs[0]: \"x\" is not an IP address",
            "× a.yaml:8: Service default/a: spec.ports[0].port: 0 is not a port; write 1 to 65535",
            "× a.yaml:10: Service default/a: spec.ports[1].port: invalid type: string \"eighty\", expected i32",
            "× a.yaml:14: Service default/a: spec.ports[3].port: 70000 is not a port; write 1 to 65535",
            "1 object: 4 errors, 0 warnings",
        ]
    );
    let route = SHOP.replace(
        "  - backendRefs:",
        "  - matches: [{path: {value: a}}, {path: {value: b}}]\n    timeouts: {request: x}\n    backendRefs:",
    );
    let found = lines(&route);
    assert_eq!(found.len(), 4, "{found:#?}");
    for said in ["matches[0].path.value: \"a\"", "matches[1].path.value: \"b\"", "timeouts.request: "] {
        assert!(found.iter().any(|line| line.starts_with("× ") && line.contains(said)), "{said}: {found:#?}");
    }
}

#[test]
fn what_lies_in_a_directory_need_not_be_a_manifest() {
    let directory = tempfile::tempdir().unwrap();
    for (file, text) in
        [("deep/app.yaml", SHOP), ("values.yaml", "replicas: 2\n"), ("deep/odd.yaml", "kind: Service\n")]
    {
        let file = directory.path().join(file);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }
    let inputs = input::read(&[directory.path().display().to_string()], "").unwrap();
    let (sources, note) = source::objects(&inputs.read);
    assert_eq!(sources.len(), 5);
    assert!(note.is_some_and(|note| note.ends_with("/values.yaml")));
    let judged = judge::judge(&sources, &Known::files());
    assert_eq!(judged.findings[0].problem, "an object needs both apiVersion and kind");
    // Named, it is meant to be one.
    let named = input::read(&[directory.path().join("values.yaml").display().to_string()], "").unwrap();
    assert_eq!(source::objects(&named.read).0.len(), 1);
}

#[test]
fn what_names_no_namespace_is_in_the_one_that_is_asked_about() {
    let anywhere = SHOP.replace(", namespace: shop", "").replace("  namespace: shop\n", "");
    let broken = anywhere.replace("    - name: web\n      port: 80", "    - name: web\n      port: 81");
    let in_shop = |text: &str, namespace: &str| {
        let input = Input { file: "a.yaml".to_owned(), text: Ok(text.to_owned()), found: false };
        let mut sources = source::split(&input);
        let objects = place(&mut sources, namespace);
        let judged = Judged { objects, ..judge::judge(&sources, &Known::files()) };
        Analysis::new(judged, Some(namespace)).render().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(in_shop(&anywhere, "shop"), ["√ 4 objects, nothing to correct"]);
    let found = in_shop(&broken, "shop");
    assert!(found[0].starts_with("× a.yaml:42: HTTPRoute shop/web: spec.rules[0].backendRefs[0]: "), "{found:#?}");
    assert_eq!(found[1..], ["4 objects: 1 error, 0 warnings"]);
    // What does not parse is told with the line it is written in.
    let found = in_shop(&anywhere.replace("- port: 80\n    target", "- port: 80000\n    target"), "shop");
    assert!(found[0].starts_with("× a.yaml:14: Service shop/web: spec.ports[0].port: "), "{found:#?}");
    // Of what names another only what is asked about counts.
    assert_eq!(in_shop(SHOP, "shop"), ["√ 4 objects, nothing to correct"]);
    assert_eq!(in_shop(SHOP, "other"), ["√ 0 objects, nothing to correct"]);
    // Odd documents do no harm.
    for odd in ["7\n", "- a\n", "kind: Service\nmetadata: 7\n", "kind: Service\nmetadata: {namespace: 7}\n"] {
        let found = in_shop(odd, "shop");
        assert!(found.last().is_some_and(|line| line == "1 object: 1 error, 0 warnings"), "{odd}{found:#?}");
    }
}

#[test]
fn policies_of_other_meshes_are_errors_where_they_refuse() {
    for (group, kind, spec, mark) in [
        ("security.istio.io/v1", "PeerAuthentication", "{mtls: {mode: STRICT}}", '×'),
        ("security.istio.io/v1", "PeerAuthentication", "{mtls: {mode: PERMISSIVE}}", '‼'),
        ("security.istio.io/v1", "PeerAuthentication", "{portLevelMtls: {80: {mode: STRICT}}}", '×'),
        ("security.istio.io/v1", "AuthorizationPolicy", "{action: AUDIT}", '‼'),
        ("security.istio.io/v1", "AuthorizationPolicy", "{action: DENY}", '×'),
        ("policy.linkerd.io/v1alpha1", "EgressNetwork", "{trafficPolicy: Deny}", '×'),
        ("policy.linkerd.io/v1alpha1", "EgressNetwork", "{trafficPolicy: Allow}", '‼'),
        ("policy.linkerd.io/v1beta3", "Server", "{accessPolicy: audit}", '‼'),
        ("networking.istio.io/v1", "Sidecar", "{outboundTrafficPolicy: {mode: REGISTRY_ONLY}}", '×'),
        ("networking.istio.io/v1", "Sidecar", "{outboundTrafficPolicy: {mode: ALLOW_ANY}}", '‼'),
    ] {
        let text = format!("apiVersion: {group}\nkind: {kind}\nmetadata: {{name: a}}\nspec: {spec}\n");
        one(&text, &format!("{mark} a.yaml:1: {kind} default/a: the mesh "));
    }
}

#[test]
fn kinds_of_other_meshes_have_advice_of_their_own() {
    for (group, kind, said) in [
        ("networking.istio.io/v1", "VirtualService", "write an HTTPRoute"),
        ("networking.istio.io/v1", "WorkloadEntry", "write an ExternalWorkload of meshctl.io/v1alpha1"),
        ("workload.linkerd.io/v1beta1", "ExternalWorkload", "write an ExternalWorkload of meshctl.io/v1alpha1"),
        ("telemetry.istio.io/v1", "Telemetry", "metrics are always on"),
        ("networking.istio.io/v1", "DestinationRule", "a subset is a Service of its own"),
        ("networking.istio.io/v1alpha3", "EnvoyFilter", "there is nothing for it here yet"),
    ] {
        let text = format!("apiVersion: {group}\nkind: {kind}\nmetadata: {{name: a}}\n");
        assert!(lines(&text)[0].contains(said), "{:?}", lines(&text));
    }
}

#[test]
fn annotations_of_other_meshes_are_told_with_ours() {
    for (theirs, ours) in [
        ("config.linkerd.io/skip-outbound-ports: '25'", "meshctl.io/skip-outbound-ports"),
        ("traffic.sidecar.istio.io/excludeOutboundPorts: '25'", "meshctl.io/skip-outbound-ports"),
        ("linkerd.io/inject: enabled", "meshctl.io/inject: enabled"),
    ] {
        let text = SHOP.replace("meshctl.io/proxy-workers: \"2\"", theirs);
        let key = theirs.split(": ").next().unwrap();
        one(
            &text,
            &format!(
                "‼ a.yaml:27: Deployment shop/web: spec.template.metadata.annotations[{key}]: the mesh does not read it; write the annotation {ours}"
            ),
        );
    }
    // Both, while the other mesh is still there.
    let both = SHOP.replace("meshctl.io/inject: enabled", "meshctl.io/inject: enabled\n    linkerd.io/inject: enabled");
    assert_eq!(lines(&both), ["√ 4 objects, nothing to correct"]);
    let revision = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: a\n  labels: {istio.io/rev: stable}\n";
    one(revision, "‼ a.yaml:5: Namespace a: metadata.labels[istio.io/rev]: the mesh does not read it");
    let policy = revision.replace(
        "labels: {istio.io/rev: stable}",
        "annotations: {config.linkerd.io/default-inbound-policy: all-authenticated}",
    );
    one(&policy, "× a.yaml:5: Namespace a: metadata.annotations[config.linkerd.io/default-inbound-policy]: ");
}

#[test]
fn a_wrong_setting_of_a_pod_that_wants_no_proxy_is_a_warning() {
    let text = SHOP.replace("proxy-workers: \"2\"", "proxy-workers: many\n        meshctl.io/inject: disabled");
    let place = "a.yaml:27: Deployment shop/web: spec.template.metadata.annotations[meshctl.io/proxy-workers]: ";
    one(&text, &format!("‼ {place}"));
    one(&text.replace("meshctl.io/inject: disabled", "x: y"), &format!("× {place}"));
}
