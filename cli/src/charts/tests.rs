//! Rendering: what values change, and what no values may change.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use super::*;

mod watching;

fn release() -> Release {
    Release {
        name: "mesh".to_owned(),
        namespace: "mesh-system".to_owned(),
        service: "meshctl".to_owned(),
        kube_version: "v1.34.4".to_owned(),
    }
}

fn render(overrides: &Value) -> Vec<Value> {
    MESH.objects(overrides, &release()).unwrap()
}

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

#[test]
fn the_program_holds_every_file_of_the_charts_and_their_version() {
    for chart in [CRDS, MESH] {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts").join(chart.name);
        let on_disk: BTreeSet<String> = std::fs::read_dir(directory.join("templates"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let held: BTreeSet<String> = chart.templates.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(held, on_disk, "{}", chart.name);
        let metadata = std::fs::read_to_string(directory.join("Chart.yaml")).unwrap();
        let metadata: Value = serde_yaml_ng::from_str(&metadata).unwrap();
        assert_eq!(metadata["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(metadata["appVersion"], env!("CARGO_PKG_VERSION"));
    }
}

#[test]
fn every_object_is_named_labelled_and_unique() {
    for overrides in [json!({}), values::read("ha", HA_VALUES).unwrap()] {
        let objects = render(&overrides);
        let mut seen = BTreeSet::new();
        for object in &objects {
            let name = object["metadata"]["name"].as_str().unwrap();
            let key = (object["kind"].as_str().unwrap().to_owned(), name.to_owned());
            assert!(seen.insert(key), "{object}");
            assert_eq!(object["metadata"]["labels"]["app.kubernetes.io/managed-by"], "meshctl", "{object}");
            assert_eq!(object["metadata"]["labels"]["app.kubernetes.io/part-of"], "mesh", "{object}");
        }
        assert!(!seen.iter().any(|(kind, _)| kind == "Secret"), "a chart holds no secret");
    }
}

#[test]
fn values_reach_their_places() {
    let objects = render(&json!({
        "image": {"registry": "example.com/mesh", "tag": "7", "pullPolicy": "Never"},
        "imagePullSecrets": ["login"],
        "clusterName": "arn:aws:eks:eu-west-1:1:cluster/a", "clusterNetworks": ["10.1.0.0/16"],
        "controller": {"replicas": 2, "logLevel": "debug"},
        "controlPlane": {"antiAffinity": "required", "tolerations": [{"key": "a", "operator": "Exists"}],
                         "nodeSelector": {"pool": "mesh"}, "priorityClassName": "high", "podsPerAddress": 250},
        "proxy": {"resources": {"limits": {"cpu": 1}}, "maxHeadBytes": 16_777_216},
        "networkPolicies": {"enabled": false},
        "prometheus": {"scrapeAnnotations": false},
    }));
    let deployment = find(&objects, "Deployment", "mesh-controller");
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(deployment["spec"]["replicas"], 2);
    assert_eq!(pod["containers"][0]["image"], "example.com/mesh/mesh-controller:7");
    assert_eq!(pod["imagePullSecrets"], json!([{"name": "login"}]));
    assert_eq!(pod["nodeSelector"], json!({"kubernetes.io/os": "linux", "pool": "mesh"}));
    assert_eq!(pod["tolerations"], json!([{"key": "a", "operator": "Exists"}]));
    assert_eq!(pod["priorityClassName"], "high");
    assert!(pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"].is_array());
    assert!(deployment["spec"]["template"]["metadata"]["annotations"].is_null());
    let arguments: Vec<&str> =
        pod["containers"][0]["args"].as_array().unwrap().iter().map(|argument| argument.as_str().unwrap()).collect();
    assert!(
        arguments.contains(&"--cluster-network=10.1.0.0/16") && arguments.contains(&"--log=debug"),
        "{arguments:?}"
    );
    assert!(arguments.contains(&"--pods-per-address=250"), "{arguments:?}");
    let identity = &find(&objects, "Deployment", "mesh-identity")["spec"]["template"]["spec"]["containers"][0]["args"];
    assert!(identity.as_array().unwrap().contains(&json!("--pods-per-address=250")), "{identity}");
    assert!(arguments.contains(&"--cluster=arn:aws:eks:eu-west-1:1:cluster/a"), "{arguments:?}");
    assert!(!objects.iter().any(|object| object["kind"] == "NetworkPolicy"));
    let config = find(&objects, "ConfigMap", "mesh-config")["data"]["config.yaml"].as_str().unwrap();
    let config = injector::Config::parse(config).unwrap();
    assert_eq!((config.image.registry.as_str(), config.image.tag.as_str()), ("example.com/mesh", "7"));
    assert_eq!(config.proxy.resources.limits.cpu.as_deref(), Some("1"));
    assert_eq!(config.proxy.max_head_bytes, 16_777_216);
}

#[test]
fn the_charts_defaults_are_the_injectors() {
    let objects = render(&json!({}));
    let config = find(&objects, "ConfigMap", "mesh-config")["data"]["config.yaml"].as_str().unwrap();
    assert_eq!(injector::Config::parse(config).unwrap(), injector::Config::default());
}

#[test]
fn pods_of_the_control_plane_may_run_in_a_restricted_namespace() {
    let objects = render(&json!({}));
    let deployments: Vec<&Value> = objects.iter().filter(|object| object["kind"] == "Deployment").collect();
    assert_eq!(deployments.len(), 3);
    for deployment in deployments {
        let pod = &deployment["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        let container = &pod["containers"][0]["securityContext"];
        assert_eq!(container["allowPrivilegeEscalation"], false);
        assert_eq!(container["capabilities"]["drop"], json!(["ALL"]));
        assert_eq!(container["readOnlyRootFilesystem"], true);
    }
}

#[test]
fn pods_that_did_not_opt_in_are_never_sent_to_us() {
    let objects = render(&json!({}));
    let webhooks = find(&objects, "MutatingWebhookConfiguration", "mesh-injector")["webhooks"].as_array().unwrap();
    for webhook in webhooks.iter().filter(|webhook| webhook["failurePolicy"] == "Fail") {
        let namespaces = webhook["namespaceSelector"]["matchExpressions"].as_array().unwrap();
        assert_eq!(namespaces[0]["values"], json!(["kube-system", "mesh-system"]));
        let opted_in = namespaces.iter().any(|expression| expression["operator"] == "In")
            || webhook["matchConditions"].as_array().unwrap().iter().any(|condition| condition["name"] == "opted-in");
        assert!(opted_in, "{webhook}");
        assert!(webhook["clientConfig"]["caBundle"].is_null(), "it is filled in at run time");
    }
    let names: Vec<&str> = webhooks.iter().map(|webhook| webhook["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["pods.meshctl.io", "opted-in.pods.meshctl.io", "namespaces.meshctl.io"]);
}

#[test]
fn proxies_see_every_replica_and_the_api_server_one_address() {
    let objects = render(&json!({}));
    for program in ["mesh-controller", "mesh-identity"] {
        let service = &find(&objects, "Service", program)["spec"];
        assert_eq!(service["clusterIP"], "None");
        // Without an address in between, the port dialled is the pod's.
        let deployment = find(&objects, "Deployment", program);
        let ports = &deployment["spec"]["template"]["spec"]["containers"][0]["ports"];
        assert_eq!(service["ports"][0]["port"], ports[0]["containerPort"]);
    }
    assert!(find(&objects, "Service", "mesh-injector")["spec"]["clusterIP"].is_null());
}

#[test]
fn a_pods_annotation_counts_before_its_label() {
    let objects = render(&json!({}));
    let webhooks = find(&objects, "MutatingWebhookConfiguration", "mesh-injector")["webhooks"].as_array().unwrap();
    for webhook in webhooks.iter().filter(|webhook| webhook["failurePolicy"] == "Fail") {
        // A selector sees the label alone, and comes first.
        assert_eq!(webhook["objectSelector"], json!({}));
        let conditions = webhook["matchConditions"].as_array().unwrap();
        let condition = conditions.iter().find(|condition| condition["name"] == "not-opted-out").unwrap();
        let expression = condition["expression"].as_str().unwrap();
        let at = |text: &str| expression.find(text).unwrap_or_else(|| panic!("{text} in {expression}"));
        assert!(at("annotations['meshctl.io/inject'] != 'disabled'") < at("labels['meshctl.io/inject'] != 'disabled'"));
        assert!(at("labels['sidecar.istio.io/inject']") < at("annotations['sidecar.istio.io/inject']"));
    }
}

#[test]
fn the_injectors_account_is_held_to_its_label_where_kubernetes_can() {
    let objects = render(&json!({}));
    let policy = find(&objects, "ValidatingAdmissionPolicy", "mesh-injector-namespaces");
    let whose = policy["spec"]["matchConditions"][0]["expression"].as_str().unwrap();
    assert!(whose.ends_with("== 'system:serviceaccount:mesh-system:mesh-injector'"), "{whose}");
    let binding = find(&objects, "ValidatingAdmissionPolicyBinding", "mesh-injector-namespaces");
    assert_eq!(binding["spec"]["policyName"], policy["metadata"]["name"]);
    let policy = find(&objects, "ValidatingAdmissionPolicy", "mesh-trust-bundle");
    let expression = policy["spec"]["validations"][0]["expression"].as_str().unwrap();
    assert!(
        expression.contains(".namespace('mesh-system').name('mesh-issuer').check('get').allowed()"),
        "{expression}"
    );
    let binding = find(&objects, "ValidatingAdmissionPolicyBinding", "mesh-trust-bundle");
    assert_eq!(binding["spec"]["policyName"], policy["metadata"]["name"]);
    // Routes are everybody's: their owners are warned, and nobody is held up.
    let warnings = find(&objects, "ValidatingAdmissionPolicyBinding", "mesh-routes");
    assert_eq!(warnings["spec"]["validationActions"], json!(["Warn"]));
    assert_eq!(find(&objects, "ValidatingAdmissionPolicy", "mesh-routes")["spec"]["failurePolicy"], "Ignore");
    let silent = render(&json!({"routeWarnings": false}));
    assert!(!silent.iter().any(|object| object["metadata"]["name"] == "mesh-routes"));
    let older = Release { kube_version: "v1.29.3".to_owned(), ..release() };
    let objects = MESH.objects(&json!({}), &older).unwrap();
    assert!(!objects.iter().any(|object| object["kind"].as_str().unwrap().starts_with("ValidatingAdmission")));
}

#[test]
fn who_answers_strangers_may_not_choose_what_it_is_called_for() {
    let objects = render(&json!({}));
    let mut writers = Vec::new();
    for role in objects.iter().filter(|object| object["kind"].as_str().unwrap().ends_with("Role")) {
        for rule in role["rules"].as_array().unwrap() {
            let is = |key: &str, values: &[&str]| {
                values.iter().any(|value| rule[key].as_array().into_iter().flatten().any(|it| it == value))
            };
            let verbs = ["create", "update", "patch", "delete", "*"];
            if is("resources", &["mutatingwebhookconfigurations"]) && is("verbs", &verbs) {
                assert_eq!(rule["resourceNames"], json!(["mesh-injector"]));
                writers.push(role["metadata"]["name"].as_str().unwrap());
            }
        }
    }
    assert_eq!(writers, ["mesh-identity"]);
}

#[test]
fn who_may_reach_the_webhook_can_be_said() {
    let from = json!([{"ipBlock": {"cidr": "10.0.0.0/28"}}]);
    for (values, expected) in [(json!({}), Value::Null), (json!({"networkPolicies": {"webhookFrom": from}}), from)] {
        let objects = render(&values);
        let ingress = &find(&objects, "NetworkPolicy", "mesh-injector")["spec"]["ingress"];
        assert_eq!((&ingress[0]["ports"][0]["port"], &ingress[0]["from"]), (&json!(10250), &expected));
        assert_eq!((&ingress[1]["ports"][0]["port"], &ingress[1]["from"]), (&json!(9090), &Value::Null));
        let identity = &find(&objects, "NetworkPolicy", "mesh-identity")["spec"]["ingress"];
        assert_eq!(identity[0]["from"], Value::Null, "every pod needs a certificate");
        let arguments = injector_arguments(&objects);
        let networks: Vec<_> = arguments.iter().filter_map(|it| it.strip_prefix("--api-server-network=")).collect();
        assert_eq!(networks, if expected.is_null() { vec![] } else { vec!["10.0.0.0/28"] });
    }
    // Others than networks are for the NetworkPolicy alone, and what it does not let in comes first nowhere.
    let from = json!([{"podSelector": {}}, {"ipBlock": {"cidr": "fd00::/8", "except": ["fd00::/64"]}}]);
    let arguments = injector_arguments(&render(&json!({"networkPolicies": {"webhookFrom": from}})));
    assert!(!arguments.iter().any(|argument| argument.contains("network")), "{arguments:?}");
    assert!(
        MESH.objects(&json!({"networkPolicies": {"webhookFrom": [{"ipBlock": {"cidr": "a b"}}]}}), &release()).is_err()
    );
}

fn injector_arguments(objects: &[Value]) -> Vec<String> {
    let pod = &find(objects, "Deployment", "mesh-injector")["spec"]["template"]["spec"];
    serde_json::from_value(pod["containers"][0]["args"].clone()).unwrap()
}

#[test]
fn high_availability() {
    let objects = render(&values::read("ha", HA_VALUES).unwrap());
    for program in ["mesh-controller", "mesh-identity", "mesh-injector"] {
        assert_eq!(find(&objects, "Deployment", program)["spec"]["replicas"], 3);
        assert_eq!(find(&objects, "PodDisruptionBudget", program)["spec"]["maxUnavailable"], 1);
    }
    assert!(!render(&json!({})).iter().any(|object| object["kind"] == "PodDisruptionBudget"));
}

#[test]
fn mistakes_are_errors() {
    let elsewhere = Release { namespace: "default".to_owned(), ..release() };
    let error = MESH.objects(&json!({}), &elsewhere).unwrap_err().to_string();
    assert!(error.contains("lives in the namespace mesh-system"), "{error}");
    assert!(MESH.objects(&json!({"contoller": {}}), &release()).is_err());
    for name in ["a: b", "x #y", "two\nlines", "$(PATH)"] {
        assert!(MESH.objects(&json!({ "clusterName": name }), &release()).is_err(), "{name}");
    }
    for (template, expected) in [
        ("a: {{ required \"name it\" .Values.name }}", "name it"),
        ("a: {{ include \"none\" . }}", "none"),
        ("a: {{ .Values.a | nindent 1000 }}", "width"),
        ("a: [", "did not find"),
        ("a: {{", "templates/a.yaml"),
    ] {
        let templates = Box::leak(Box::new([("a.yaml", template)]));
        let chart = Chart { name: "odd", values: "", schema: "", templates };
        let error = chart.objects(&json!({}), &release()).unwrap_err().to_string();
        assert!(error.contains(expected), "{template}: {error}");
    }
}
