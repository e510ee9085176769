//! Parts of the control plane, or of Kubernetes itself, gone for longer than a moment, under load: it is said, others are
//! asked, nothing goes back, no request fails.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use integration_tests::cluster::looks;
use integration_tests::cluster::{Cluster, Namespace};
use integration_tests::mesh::{admin, eventually};
use proto::names;
use serde_json::Value;

use super::away::Away;
use super::shop::Shop;
use super::wall::Wall;

/// One of two controllers hears no API server any more, and the certificate authority is gone until past a renewal. The
/// age of what the one knows shows, its lease goes to the other, and so do all proxies; what they learnt there stays
/// learnt when they are back with the first. Certificates are renewed as soon as somebody signs again.
#[test]
fn half_a_control_plane_is_enough() {
    let shop = Shop::open("partition", 3);
    let (namespace, cluster) = (&shop.namespace, &shop.namespace.cluster);
    let _defaults = Defaults(cluster.clone());
    let cut = Controller::leader(cluster);
    cluster.meshctl(&["install", "--set", "controller.replicas=2,identity.leafLifetime=75s"]).unwrap();
    assert_eq!(holder(cluster), cut.name);
    let other = Controller::all(cluster).into_iter().find(|replica| replica.name != cut.name).unwrap();

    let (mut removed, mut moved) = (String::new(), 0);
    let report = shop.none_failed("load", 200, 90, || {
        let away = Away::send(cluster, names::IDENTITY_ACCOUNT);
        let wall = Wall::between(cluster, &cut.node, &cut.address);
        removed = leave_service(namespace);
        eventually(Duration::from_secs(60), || cut.source_age() > STALE).unwrap();
        assert!(other.source_age() < STALE);
        let overdue = || certificate_of_load(cluster)["last_error"].is_string();
        eventually(Duration::from_secs(40), overdue).unwrap_or_else(|_| panic!("{}", certificate_of_load(cluster)));
        drop(away);

        eventually(Duration::from_secs(60), || are_all_with(namespace, &other))
            .unwrap_or_else(|_| panic!("{:?}", pictures(namespace)));
        moved = now_ms();
        assert_eq!(holder(cluster), other.name);
        eventually(Duration::from_secs(30), || cut.source_age() > 46.0).unwrap();
        let said = cluster.try_meshctl(&["check"]).unwrap();
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.contains(&format!("{} has not heard from the API server for", cut.name)), "{said}");
        drop(wall);
        eventually(Duration::from_secs(40), || cut.source_age() < STALE).unwrap();
        let renewed = || certificate_of_load(cluster)["renewals"].as_u64() >= Some(2);
        eventually(Duration::from_secs(30), renewed).unwrap_or_else(|_| panic!("{}", certificate_of_load(cluster)));
        system(cluster, &["delete", "pod", &other.name, "--wait=false"]);
        eventually(Duration::from_secs(30), || !are_all_with(namespace, &other)).unwrap();
    });
    let last = report.served[&removed].last_ms;
    assert!(last <= moved + 1000, "what was removed came back: last request {} ms after the move", last - moved);
    cluster.meshctl(&["check", "--wait", "60s"]).unwrap();
}

/// Three replicas of everything, as `--ha` installs them, become new ones under load, one after another: there is one issuer and one
/// trust bundle all the time, one replica writes, and another does when that one is gone.
#[test]
fn a_highly_available_control_plane_is_replaced_under_load() {
    let shop = Shop::open("available", 2);
    let (namespace, cluster) = (&shop.namespace, &shop.namespace.cluster);
    let _defaults = Defaults(cluster.clone());
    let trusted = || {
        let issuer = system(cluster, &["get", "secret", "mesh-issuer", "--output=jsonpath={.metadata.uid}"]);
        let bundle = ["get", "configmap", "mesh-trust-bundle", r"--output=jsonpath={.data.bundle\.pem}"];
        (issuer, namespace.kubectl(&bundle).unwrap())
    };
    let before = trusted();
    shop.none_failed("load", 200, 80, || {
        cluster.meshctl(&["install", "--ha"]).unwrap();
        let budgets = ["get", "poddisruptionbudgets", "--output=jsonpath={.items[*].status.currentHealthy}"];
        eventually(Duration::from_secs(20), || system(cluster, &budgets) == "3 3 3").unwrap();
        let old: Vec<String> = Controller::all(cluster).into_iter().map(|replica| replica.name).collect();
        assert_eq!(old.len(), 3);
        let levels = "controller.logLevel=debug,identity.logLevel=debug,injector.logLevel=debug";
        cluster.meshctl(&["upgrade", "--ha", "--set", levels]).unwrap();
        let new = || {
            let running = Controller::all(cluster);
            !running.is_empty() && running.into_iter().all(|replica| !old.contains(&replica.name))
        };
        eventually(Duration::from_secs(40), new).unwrap();
        let writer = Controller::leader(cluster);
        system(cluster, &["delete", "pod", &writer.name, "--wait=false"]);
        eventually(Duration::from_secs(40), || !["", &writer.name].contains(&holder(cluster).as_str())).unwrap();
        namespace.apply(ROUTE).unwrap();
        let accepted = [
            "get",
            "httproute",
            "plain",
            "--output=jsonpath={.status.parents[*].conditions[?(@.type=='Accepted')].status}",
        ];
        eventually(Duration::from_secs(20), || namespace.kubectl(&accepted).unwrap() == "True").unwrap();
        let writers: Vec<String> = Controller::all(cluster)
            .into_iter()
            .filter(|replica| replica.metric("mesh_controller_status_writes_total") > 0.0)
            .map(|replica| replica.name)
            .collect();
        assert_eq!(writers, [holder(cluster)], "whoever holds the lease writes, and nobody else");
    });
    assert_eq!(trusted(), before);
    cluster.meshctl(&["check", "--wait", "60s"]).unwrap();
}

/// Nobody hears the API server for a minute: neither controllers nor kubelets nor we. Proxies and controllers tell how old
/// what they know is, `meshctl` says what is wrong, and afterwards everything is as before.
#[test]
fn without_an_api_server_nothing_fails() {
    let shop = Shop::open("silence", 2);
    let (namespace, cluster) = (&shop.namespace, &shop.namespace.cluster);
    let controller = Controller::leader(cluster);
    let proxies = namespace.addresses("web").unwrap();
    let discovery_ages = || -> Vec<f64> {
        let metrics = proxies.iter().map(|proxy| looks::get((*proxy, names::HEALTH_PORT).into(), "/metrics"));
        metrics.map(|metrics| admin::sum(&metrics.unwrap(), "mesh_discovery_age_seconds", &[])).collect()
    };
    shop.none_failed("load", 200, 90, || {
        let wall = Wall::around_the_api_server(cluster);
        let said = cluster.try_meshctl(&["check"]).unwrap();
        assert!(!said.status.success());
        let said = format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        assert!(said.contains("API server"), "{said}");
        let old = || controller.source_age() >= 60.0 && discovery_ages().iter().all(|age| *age >= 60.0);
        eventually(Duration::from_secs(75), old).unwrap_or_else(|_| panic!("{:?}", discovery_ages()));
        drop(wall);
        let young = || controller.source_age() < STALE && discovery_ages().iter().all(|age| *age < STALE);
        eventually(Duration::from_secs(30), young).unwrap_or_else(|_| panic!("{:?}", discovery_ages()));
    });
    cluster.meshctl(&["check", "--wait", "60s"]).unwrap();
}

/// A replica of the controller.
struct Controller {
    name: String,
    node: String,
    address: String,
}

impl Controller {
    fn all(cluster: &Cluster) -> Vec<Self> {
        let columns =
            r"--output=jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName} {.status.podIP}{'\n'}{end}";
        let selector = "--selector=app.kubernetes.io/name=mesh-controller";
        let listing = system(cluster, &["get", "pods", selector, "--field-selector=status.phase=Running", columns]);
        let fields = listing.lines().map(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        fields
            .map(|fields| match <[String; 3]>::try_from(fields) {
                Ok([name, node, address]) => Self { name, node, address },
                Err(fields) => panic!("{fields:?}"),
            })
            .collect()
    }

    /// The one that holds the lease.
    fn leader(cluster: &Cluster) -> Self {
        let mut leader = None;
        let found = eventually(Duration::from_secs(30), || {
            leader = Self::all(cluster).into_iter().find(|replica| replica.name == holder(cluster));
            leader.is_some()
        });
        found.unwrap();
        leader.unwrap()
    }

    /// Seconds since it last heard the API server, as it says itself.
    fn source_age(&self) -> f64 {
        self.metric("mesh_controller_source_age_seconds")
    }

    fn metric(&self, name: &str) -> f64 {
        let address = format!("{}:{}", self.address, names::CONTROL_HEALTH_PORT).parse().unwrap();
        admin::sum(&looks::get(address, "/metrics").unwrap(), name, &[])
    }
}

/// At its end the mesh is installed as the other tests expect it.
pub(crate) struct Defaults(pub(crate) Cluster);

impl Drop for Defaults {
    fn drop(&mut self) {
        let _ = self.0.meshctl(&["install"]);
    }
}

/// Takes one of the servers out of the Service; its name.
fn leave_service(namespace: &Namespace) -> String {
    let pods = namespace.kubectl(&["get", "pods", "--selector=app=web", "--output=name"]).unwrap();
    let leaving = pods.lines().next().unwrap();
    namespace.kubectl(&["label", "--overwrite", leaving, "app=elsewhere"]).unwrap();
    leaving.trim_start_matches("pod/").to_owned()
}

/// The pod that holds the controllers' lease. Replicas call themselves by pod and port.
fn holder(cluster: &Cluster) -> String {
    let holder = system(cluster, &["get", "lease", "mesh-controller", "--output=jsonpath={.spec.holderIdentity}"]);
    holder.split(':').next().unwrap_or_default().to_owned()
}

fn are_all_with(namespace: &Namespace, controller: &Controller) -> bool {
    let is_with =
        |picture: &Value| picture["controller"].as_str().is_some_and(|name| name.starts_with(&controller.name));
    let pictures = pictures(namespace);
    !pictures.is_empty() && pictures.iter().all(is_with)
}

/// What `proxy-status` says of every proxy that answers.
fn pictures(namespace: &Namespace) -> Vec<Value> {
    let said = namespace.cluster.meshctl_json(&["proxy-status", "--namespace", &namespace.name]).unwrap();
    said.as_array().unwrap().iter().filter(|picture| picture["error"].is_null()).cloned().collect()
}

fn certificate_of_load(cluster: &Cluster) -> Value {
    cluster.meshctl_json(&["identity", "job/load", "--namespace=partition"]).unwrap()[0].take()
}

fn system(cluster: &Cluster, arguments: &[&str]) -> String {
    cluster.kubectl(&[&["--namespace=mesh-system"], arguments].concat()).unwrap()
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

const ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: plain }
spec:
  parentRefs: [{ group: '', kind: Service, name: web }]
  rules: [{ backendRefs: [{ name: web, port: 80 }] }]
";
/// Seconds after which a proxy thinks its controller stale. A watch in which nothing happens is heard of every twenty.
const STALE: f64 = 30.0;
