//! Manifests as people write them, good and broken.

use super::*;
use crate::model::{ObjectId, TargetPort};

fn read(text: &str) -> Result<Vec<Parsed>, ManifestError> {
    let mut found = Vec::new();
    for document in documents(text) {
        found.extend(parse(document)?);
    }
    Ok(found)
}

fn objects(text: &str) -> Vec<Object> {
    let parsed = read(text).unwrap();
    parsed
        .into_iter()
        .filter_map(|one| if let Parsed::Object(object, _) = one { Some(*object) } else { None })
        .collect()
}

const SHOP: &str = "# A shop.
apiVersion: v1
kind: Namespace
metadata:
  name: shop
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec:
  clusterIPs: [10.96.0.7, 'fd00::7']
  selector: {app: cart}
  ports:
  - name: http-web
    port: 80
    targetPort: web
  - {name: dns, port: 53, protocol: UDP}
  - port: 9090
    appProtocol: kubernetes.io/h2c
---
# nothing here
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: cart
---
apiVersion: meshctl.io/v1alpha1
kind: ExternalWorkload
metadata:
  name: cart-1
  namespace: shop
  labels: {app: cart, version: v1}
spec:
  addresses: [10.1.0.2]
  serviceAccount: cart
  ports:
  - {name: web, port: 8080}
";

#[test]
fn a_directory_as_people_write_it() {
    let parsed = read(SHOP).unwrap();
    assert_eq!(parsed.len(), 4);
    let [Parsed::Object(_, 2), Parsed::Object(_, 7), Parsed::Ignored { kind, .. }, Parsed::Object(_, 28)] = &parsed[..]
    else {
        panic!("{parsed:?}")
    };
    assert_eq!(kind, "Deployment");
    let objects = objects(SHOP);
    let Object::Service(service) = &objects[1] else { panic!("{objects:?}") };
    assert_eq!(service.cluster_ips.len(), 2);
    assert_eq!(service.ports.len(), 2);
    assert_eq!(service.ports[0].target, TargetPort::Name("web".to_owned()));
    assert_eq!(service.ports[1].target, TargetPort::Number(9090));
    let id = ObjectId { kind: "ExternalWorkload", namespace: "shop".to_owned(), name: "cart-1".to_owned() };
    assert_eq!(objects[2].id(), id);
    assert_eq!(id.to_string(), "ExternalWorkload shop/cart-1");
}

#[test]
fn json_lists_and_empty_files() {
    assert!(read("").unwrap().is_empty());
    assert!(read("\n# only a comment\n").unwrap().is_empty());
    let json = "{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [\n\t{\"apiVersion\": \"v1\", \"kind\": \"Namespace\",\n\t\"metadata\": {\"name\": \"a\"}},\n{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"b\"}}]}";
    assert_eq!(objects(json).len(), 2);
}

#[test]
fn headless_and_external_names_have_no_address() {
    let service = |spec: &str| {
        let text = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {spec}\n");
        match objects(&text).remove(0) {
            Object::Service(service) => service,
            other => panic!("{other:?}"),
        }
    };
    let headless = service("{clusterIP: None, ports: [{port: 80}]}");
    assert!(headless.cluster_ips.is_empty() && headless.ports.len() == 1);
    assert_eq!(headless.metadata.namespace, "default");
    assert!(service("{type: ExternalName, externalName: example.com, ports: [{port: 80}]}").ports.is_empty());
}

#[test]
fn errors_name_the_line_and_say_what_is_wrong() {
    let cases: [(&str, usize, &str); 12] = [
        ("kind: Service\n", 1, "apiVersion"),
        ("apiVersion: v1\nkind: Namespace\nmetadata: {}\n", 3, "metadata.name is missing"),
        ("a: b\n c: d\n", 2, "mapping values"),
        ("---\n# c\n---\napiVersion: v1\nkind: Service\nmetadata:\n  name: Bad_Name\n", 7, "metadata.name"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n  - port: eighty\n", 6, "invalid type"),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n  - port: 80\n  - name: b\n    port: 99999\n",
            8,
            "99999 is not a port",
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  clusterIPs:\n  - 10.0.0.1\n  - here\n",
            7,
            "\"here\" is not an IP address",
        ),
        (
            "apiVersion: meshctl.io/v1alpha1\nkind: ExternalWorkload\nmetadata: {name: a}\nspec:\n  addresses: []\n",
            5,
            "1 to 16 addresses",
        ),
        ("apiVersion: meshctl.io/v1alpha1\nkind: ExternalWorkload\nmetadata: {name: a}\nspec: {}\n", 4, "addresses"),
        (
            "apiVersion: meshctl.io/v1alpha1\nkind: ExternalWorkload\nmetadata: {name: a}\nspec:\n  addresses: [127.0.0.1]\n",
            5,
            "others can dial",
        ),
        (
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: a}\nspec:\n  rules:\n  - timeouts:\n      request: fast\n",
            7,
            "not a duration",
        ),
        (
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: a}\nspec:\n  rules:\n  - matches:\n    - path:\n        value: /a\n    - path:\n        value: b\n",
            10,
            "does not begin with /",
        ),
    ];
    for (text, line, problem) in cases {
        let error = read(text).unwrap_err();
        assert!(error.problem.contains(problem), "{text}\n{error}");
        assert_eq!(error.line, line, "{text}\n{error}");
    }
}

#[test]
fn what_could_split_a_head_is_refused() {
    let route = |edit: &str| {
        read(&format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: a}}\nspec:\n  rules:\n  - filters:\n    - type: RequestHeaderModifier\n      requestHeaderModifier: {edit}\n"
        ))
    };
    assert!(route("{set: [{name: x-a, value: b}], remove: [X-C]}").is_ok());
    assert!(route("{set: [{name: x-a, value: \"b\\r\\nx: y\"}]}").is_err());
    assert!(route("{add: [{name: \"x a\", value: b}]}").is_err());
    assert!(route("{remove: [\"\"]}").is_err());
}

#[test]
fn fields_that_nobody_reads_are_named_with_their_line() {
    let unknown = |text: &str| -> Vec<(usize, String)> {
        let fields = documents(text).into_iter().flat_map(unknown_fields);
        fields.map(|unknown| (unknown.line, unknown.field)).collect()
    };
    let route = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: a\n  labels: {x: y}\n\
        spec:\n  rules:\n  - backendRefs:\n    - name: b\n      port: 80\n      WEIGHT: 9\n";
    assert_eq!(unknown(&route.replace("WEIGHT", "weight")), []);
    assert_eq!(unknown(&route.replace("WEIGHT", "weigth")), [(12, "spec.rules[0].backendRefs[0].weigth".to_owned())]);
    let service =
        "apiVersion: v1\nkind: Service\nmetadata: {name: b}\nspec:\n  selectors: {app: b}\n  ports: [{port: 80}]\n";
    assert_eq!(unknown(service), [(5, "spec.selectors".to_owned())]);
    assert_eq!(unknown("apiVersion: v1\nkind: Pod\nodd: 1\n"), []);
    assert_eq!(unknown("apiVersion: v1\nkind: Service\nodd: 1\nspec: 3\n"), []);
}
