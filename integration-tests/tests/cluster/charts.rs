//! What Helm makes of the charts, and what `meshctl` makes of them.

use std::collections::BTreeMap;
use std::path::Path;

use integration_tests::cluster::Cluster;
use serde::Deserialize as _;
use serde_json::Value;

/// The same objects for the defaults, for high availability, and for values of every shape. Only who manages them differs,
/// and the namespace, which Helm makes with a flag.
#[test]
fn helm_and_meshctl_render_the_same_objects() {
    let cluster = Cluster::running().unwrap();
    let charts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts").canonicalize().unwrap();
    let path = |name: &str| charts.join(name).to_string_lossy().into_owned();
    let values = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(values.path(), VALUES).unwrap();
    let file = values.path().to_string_lossy().into_owned();
    let custom = [
        &["--values", &file][..],
        &[
            "--set",
            "controller.replicas=2,imagePullSecrets={a,b},clusterNetworks[1]=fd00::/8,proxy.maxHeadBytes=16777216",
        ],
        &["--set", r"controlPlane.nodeSelector.kubernetes\.io/arch=amd64", "--set-string", "image.tag=7"],
    ]
    .concat();
    let high_availability = path("mesh/values-ha.yaml");
    for (version, for_helm, for_meshctl) in [
        ("1.34.0", &[][..], &[][..]),
        ("1.34.0", &["--values", &high_availability], &["--ha"]),
        ("1.34.0", &custom, &custom),
        ("1.29.0", &[], &["--kube-version=1.29"]),
    ] {
        let template = |release: &str, more: &[&str]| {
            let chart = path(release);
            let version = format!("--kube-version={version}");
            let arguments = ["template", release, &chart, "--namespace=mesh-system", &version];
            objects(&cluster.helm(&[&arguments, more].concat()).unwrap())
        };
        let mut expected = template("mesh-crds", &[]);
        expected.extend(template("mesh", for_helm));
        let mut rendered = objects(&cluster.meshctl(&[&["install", "--output=yaml"], for_meshctl].concat()).unwrap());
        assert!(rendered.remove("Namespace/mesh-system").is_some(), "{for_meshctl:?}");
        assert!(expected.len() > 25, "{}", expected.len());
        let has_guard = expected.keys().any(|name| name.starts_with("ValidatingAdmissionPolicy/"));
        assert_eq!(has_guard, version != "1.29.0", "{version}");
        assert_eq!(names(&rendered), names(&expected), "{for_meshctl:?}");
        for (name, object) in &expected {
            assert_eq!(&rendered[name], object, "{name} with {for_meshctl:?}");
        }
    }
}

/// The same mistakes are refused.
#[test]
fn helm_and_meshctl_refuse_the_same_values() {
    let cluster = Cluster::running().unwrap();
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/mesh").to_string_lossy().into_owned();
    for wrong in [
        "nonsense=1",
        "controller.replicas=0",
        "controller.replicas=x",
        "image.tag=7",
        "proxy.logLevel=",
        "clusterName=a b",
        "proxy.logLevel=loud!!",
        "proxy.skipOutboundSubnets=foo",
        "proxy.skipInboundPorts=99999-100000",
        "proxy.drainDelay=3000m",
        "identity.leafLifetime=1s",
    ] {
        let helm = ["template", "mesh", &chart, "--namespace=mesh-system", "--kube-version=1.34.0", "--set", wrong];
        assert!(cluster.helm(&helm).is_err(), "{wrong}");
        assert!(cluster.meshctl(&["install", "--output=yaml", "--set", wrong]).is_err(), "{wrong}");
    }
}

/// By kind and name, without who manages them.
fn objects(yaml: &str) -> BTreeMap<String, Value> {
    let mut objects = BTreeMap::new();
    for document in serde_yaml_ng::Deserializer::from_str(yaml) {
        let mut object = Value::deserialize(document).unwrap();
        if object.is_null() {
            continue;
        }
        if let Some(labels) = object["metadata"]["labels"].as_object_mut() {
            labels.remove("app.kubernetes.io/managed-by");
        }
        let name = [&object["kind"], &object["metadata"]["name"]].map(|text| text.as_str().unwrap().to_owned());
        assert_eq!(objects.insert(name.join("/"), object), None, "{name:?} is there twice");
    }
    objects
}

fn names(objects: &BTreeMap<String, Value>) -> Vec<&str> {
    objects.keys().map(String::as_str).collect()
}

const VALUES: &str = r#"
clusterName: east-1.example
clusterNetworks: [10.0.0.0/8]
proxy: {resources: {limits: {memory: 128Mi, cpu: 1}}, workers: 2, skipInboundPorts: "22,9000-9010"}
controlPlane:
  antiAffinity: required
  priorityClassName: high
  logFormat: json
  podDisruptionBudgets: true
  tolerations: [{key: a, operator: Exists}]
networkPolicies: {enabled: false}
prometheus: {scrapeAnnotations: false, rules: true, podMonitors: true, ruleLabels: {release: stack}}
grafana: {dashboards: true}
routeWarnings: false
injector: {resources: {requests: null}}
"#;
