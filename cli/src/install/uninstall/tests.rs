//! What goes in which order, at an API server that writes down what it is asked.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::kubernetes::fake;

#[test]
fn webhooks_go_first_and_the_namespace_last() {
    let keys = keys(None, "v1.34.0").unwrap();
    assert_eq!(keys.first().unwrap().kind, "MutatingWebhookConfiguration");
    assert_eq!(keys.last().unwrap().kind, "Namespace");
    let old = key("v1", "Service", Some("mesh-system".to_owned()), "of-an-old-version");
    let mut record = Record::of(&Value::Null, &[]);
    record.keys.insert(old.clone());
    assert!(super::keys(Some(&record), "v1.34.0").unwrap().contains(&old));
}

/// An installation, and what it has been asked beside single objects.
#[derive(Debug, Default)]
struct World {
    objects: BTreeMap<String, Value>,
    /// How often a pod of the control plane is still seen.
    pods: usize,
    asked: Vec<String>,
    /// The cluster has the kind XMesh.
    has_xmeshes: bool,
    /// The account may do nothing with it.
    no_rights_to_xmeshes: bool,
}

const INJECTOR: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/mesh-injector";
const CONTROLLER: &str = "/apis/apps/v1/namespaces/mesh-system/deployments/mesh-controller";
const BUNDLE: &str = "/api/v1/namespaces/shop/configmaps/mesh-trust-bundle";
const SHOP: &str = "/api/v1/namespaces/shop";
const MESH: &str = "/apis/gateway.networking.x-k8s.io/v1alpha1/xmeshes/meshctl";
const XMESHES: &str = "/apis/gateway.networking.x-k8s.io/v1alpha1";
const SYSTEM: &str = "/api/v1/namespaces/mesh-system";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/mesh-system/leases";

impl World {
    /// The Namespace has this annotation.
    fn new(mark: &str) -> Self {
        let by = |who: &str| json!({"app.kubernetes.io/managed-by": who});
        let mirrored = json!({"labels": {"meshctl.io/inject": "enabled"}, "annotations": {"meshctl.io/inject-mirrored": "enabled"}});
        let objects = [
            (INJECTOR, json!({"labels": by("meshctl")})),
            (CONTROLLER, json!({"namespace": "mesh-system", "labels": by("meshctl")})),
            (BUNDLE, json!({"namespace": "shop", "labels": by("mesh-identity")})),
            (SHOP, mirrored),
            (MESH, json!({"labels": by("mesh-controller")})),
            (SYSTEM, json!({"labels": by("meshctl"), "annotations": {mark: "meshctl"}})),
        ];
        let objects = objects.map(|(path, mut metadata)| {
            let name = path.rsplit('/').next().unwrap();
            json_patch::merge(&mut metadata, &json!({"name": name, "uid": name, "resourceVersion": "1"}));
            (path.to_owned(), json!({"apiVersion": "v1", "kind": "Any", "metadata": metadata}))
        });
        Self { objects: objects.into(), pods: 2, ..Self::default() }
    }

    fn answer(&mut self, method: &str, uri: &str, mut body: Value) -> (u16, Value) {
        let path = uri.split('?').next().unwrap();
        if path.ends_with("/selfsubjectaccessreviews") {
            let is_of_xmeshes = body["spec"]["resourceAttributes"]["resource"] == "xmeshes";
            body["status"] = json!({"allowed": !(is_of_xmeshes && self.no_rights_to_xmeshes)});
            return (201, body);
        }
        if method != "GET" || path.ends_with("/mesh-system/pods") {
            self.asked.push(format!("{method} {path}"));
        }
        let list =
            |items: Vec<Value>| (200, json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items}));
        match (method, path) {
            ("GET", "/apis") => (200, json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []})),
            ("GET", "/api") => {
                (200, json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}))
            }
            ("GET", "/api/v1") => {
                let verbs = ["list"];
                let resource = json!({"name": "secrets", "singularName": "", "namespaced": true, "kind": "Secret", "verbs": verbs});
                (200, json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": [resource]}))
            }
            ("GET", XMESHES) if self.has_xmeshes => (
                200,
                json!({"kind": "APIResourceList", "groupVersion": "gateway.networking.x-k8s.io/v1alpha1", "resources": []}),
            ),
            ("GET", "/api/v1/pods" | "/api/v1/namespaces/mesh-system/secrets") => list(Vec::new()),
            ("GET", "/api/v1/namespaces") => {
                list([SHOP, SYSTEM].iter().filter_map(|path| self.objects.get(*path).cloned()).collect())
            }
            ("GET", "/api/v1/configmaps") => list(self.objects.get(BUNDLE).cloned().into_iter().collect()),
            ("GET", "/api/v1/namespaces/mesh-system/pods") if self.pods == 0 => list(Vec::new()),
            ("GET", "/api/v1/namespaces/mesh-system/pods") => {
                self.pods -= 1;
                list(vec![json!({"metadata": {"name": "mesh-identity-1"}})])
            }
            ("GET" | "PATCH", path) => {
                self.objects.get(path).map_or_else(fake::not_found, |found| (200, found.clone()))
            }
            ("POST", _) => (201, body),
            ("DELETE", path) if self.objects.remove(path).is_none() && !path.starts_with(LEASES) => fake::not_found(),
            _ => (200, json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 200})),
        }
    }
}

/// What an uninstallation says, and what it asked for.
async fn uninstalled(world: World) -> (Report, Vec<String>) {
    let (report, asked) = tried(world).await;
    (report.unwrap(), asked)
}

async fn tried(world: World) -> (anyhow::Result<Report>, Vec<String>) {
    let world = Arc::new(Mutex::new(world));
    let served = world.clone();
    let cluster = fake::serve(move |method, uri, body| served.lock().answer(method, uri, body)).await;
    let args = UninstallArgs { force: false, crds: false, timeout: Duration::from_secs(60) };
    let report = Box::pin(uninstall(&cluster, &args)).await;
    (report, std::mem::take(&mut world.lock().asked))
}

#[tokio::test]
async fn all_of_it_happens_under_the_lock_and_the_namespace_is_the_last_of_it() {
    let (report, asked) = uninstalled(World::new("meshctl.io/created-by")).await;
    let at =
        |wanted: &str| asked.iter().rposition(|one| one == wanted).unwrap_or_else(|| panic!("{wanted}: {asked:#?}"));
    assert_eq!(at(&format!("POST {LEASES}")), 0);
    assert_eq!(at(&format!("DELETE {LEASES}/mesh-install")), asked.len() - 1);
    assert_eq!(at(&format!("DELETE {SYSTEM}")), asked.len() - 2);
    let [webhook, controller] = [INJECTOR, CONTROLLER].map(|path| at(&format!("DELETE {path}")));
    let pods = at("GET /api/v1/namespaces/mesh-system/pods");
    assert!(webhook < controller && controller < pods, "{asked:#?}");
    // An identity that is still ending might write it again.
    for later in [format!("DELETE {BUNDLE}"), format!("DELETE {MESH}"), format!("PATCH {SHOP}")] {
        assert!(pods < at(&later), "{later}: {asked:#?}");
    }
    assert!(report.deleted.contains(&"Namespace mesh-system".to_owned()) && report.kept.is_empty(), "{report:?}");
}

#[tokio::test]
async fn a_namespace_that_nobody_of_ours_made_stays() {
    let (report, asked) = uninstalled(World::new("example.com/owner")).await;
    assert!(!asked.contains(&format!("DELETE {SYSTEM}")) && asked.contains(&format!("PATCH {SYSTEM}")), "{asked:#?}");
    assert_eq!(report.kept, ["Namespace mesh-system: it is not known to be made by meshctl"]);
}

#[tokio::test]
async fn rights_to_xmeshes_are_asked_for_where_there_is_such_a_kind() {
    let world = |has_xmeshes| World { has_xmeshes, no_rights_to_xmeshes: true, ..World::new("meshctl.io/created-by") };
    assert!(tried(world(false)).await.0.is_ok());
    let refused = tried(world(true)).await.0.unwrap_err().to_string();
    assert!(refused.starts_with("you may not delete/get xmeshes in this cluster"), "{refused}");
}
