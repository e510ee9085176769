//! Golden pods: `golden/<case>.in.yaml` (a Pod, behind it its Namespace if that matters) and what comes of it,
//! `golden/<case>.out.yaml` (the Pod, or why it stays as it is). With `MESH_WRITE_GOLDEN=1` in the environment the
//! results are written instead of compared: read what changed before it is committed.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Namespace;
use serde::Deserialize as _;

use super::*;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/golden")
}

fn read(path: &Path) -> (Value, Pod, ObjectMeta) {
    let text = std::fs::read_to_string(path).unwrap();
    let mut documents = serde_yaml_ng::Deserializer::from_str(&text);
    let object = Value::deserialize(documents.next().unwrap()).unwrap();
    let namespace = documents.next().map(|document| Namespace::deserialize(document).unwrap().metadata);
    let pod = serde_json::from_value(object.clone()).unwrap();
    (object, pod, namespace.unwrap_or_else(|| ObjectMeta { name: Some("shop".to_owned()), ..ObjectMeta::default() }))
}

fn outcome(object: &Value, pod: &Pod, namespace: &ObjectMeta) -> String {
    match inject(pod, namespace, &Config::default(), Some("PEM")) {
        Outcome::Skipped(skipped) => format!("skipped: {}\n# {skipped}\n", skipped.reason()),
        Outcome::Injected(injection) => {
            let mut object = object.clone();
            json_patch::patch(&mut object, &injection.patch).unwrap();
            readable(&mut object);
            let notes: String = injection.notes.iter().map(|note| format!("# note: {note}\n")).collect();
            notes + &serde_yaml_ng::to_string(&object).unwrap()
        }
    }
}

/// The bootstrap as an object, so that a change of it can be read.
fn readable(object: &mut Value) {
    let value = object.pointer_mut("/spec/initContainers/1/env/2/value").unwrap();
    *value = serde_json::from_str(value.as_str().unwrap()).unwrap();
}

#[test]
fn pods_become_what_is_written_down() {
    let write = std::env::var_os("MESH_WRITE_GOLDEN").is_some();
    let mut cases = 0;
    for entry in std::fs::read_dir(golden()).unwrap() {
        let path = entry.unwrap().path();
        let Some(case) = path.to_str().unwrap().strip_suffix(".in.yaml") else { continue };
        let (object, pod, namespace) = read(&path);
        let (actual, file) = (outcome(&object, &pod, &namespace), format!("{case}.out.yaml"));
        if write {
            std::fs::write(&file, &actual).unwrap();
        }
        let expected = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(actual, expected, "{file}: MESH_WRITE_GOLDEN=1 writes what came of it");
        cases += 1;
    }
    assert!(cases > 10, "{cases}");
}

#[test]
fn a_second_time_changes_nothing_and_containers_are_untouched() {
    let (mut object, pod, namespace) = read(&golden().join("article-pod.in.yaml"));
    let before = object.clone();
    let Outcome::Injected(injection) = inject(&pod, &namespace, &Config::default(), None) else { panic!() };
    json_patch::patch(&mut object, &injection.patch).unwrap();
    assert_eq!(object["spec"]["containers"], before["spec"]["containers"]);
    let meshed: Pod = serde_json::from_value(object).unwrap();
    let again = inject(&meshed, &namespace, &Config::default(), None);
    assert_eq!(again, Outcome::Skipped(Skipped::AlreadyInjected));
}

#[test]
fn a_pod_that_istio_was_asked_for_surprises_nobody() {
    let is_surprising = |case: &str, change: &dyn Fn(&mut Pod, &mut ObjectMeta)| {
        let (_, mut pod, mut namespace) = read(&golden().join(format!("{case}.in.yaml")));
        change(&mut pod, &mut namespace);
        match inject(&pod, &namespace, &Config::default(), None) {
            Outcome::Skipped(skipped @ Skipped::OtherMesh(_)) => skipped.is_surprising(),
            other => panic!("{other:?}"),
        }
    };
    assert!(is_surprising("other-mesh", &|_, _| {}));
    assert!(is_surprising("other-mesh-ambient", &|_, _| {}));
    let istios = &|_: &mut Pod, namespace: &mut ObjectMeta| {
        // As the injector mirrors it.
        namespace.labels.get_or_insert_default().extend(
            [("istio-injection", "enabled"), ("meshctl.io/inject", "enabled")]
                .map(|(k, v)| (k.to_owned(), v.to_owned())),
        );
        namespace.annotations = Some([("meshctl.io/inject-mirrored".to_owned(), "enabled".to_owned())].into());
    };
    assert!(!is_surprising("other-mesh", &|pod: &mut Pod, namespace: &mut ObjectMeta| {
        pod.metadata.annotations = None;
        istios(pod, namespace);
    }));
    assert!(is_surprising("other-mesh-ambient", istios), "there Istio injects nobody");
    let by_pod = &|pod: &mut Pod, _: &mut ObjectMeta| {
        pod.metadata.annotations = Some([("sidecar.istio.io/inject".to_owned(), "true".to_owned())].into());
    };
    assert!(!is_surprising("other-mesh", by_pod));
}

#[test]
fn fields_nobody_knows_yet_survive() {
    let (mut object, pod, namespace) = read(&golden().join("article-pod.in.yaml"));
    object["spec"]["ofTheFuture"] = json!({"a": 1});
    let Outcome::Injected(injection) = inject(&pod, &namespace, &Config::default(), None) else { panic!() };
    json_patch::patch(&mut object, &injection.patch).unwrap();
    assert_eq!(object["spec"]["ofTheFuture"]["a"], 1);
}

#[test]
fn workloads_are_named_as_people_know_them() {
    let owned = |kind: &str, name: &str| -> ObjectMeta {
        serde_json::from_value(json!({
            "name": "p", "labels": {"pod-template-hash": "5d9c7"},
            "ownerReferences": [{"apiVersion": "v1", "kind": kind, "name": name, "uid": "u", "controller": true}],
        }))
        .unwrap()
    };
    assert_eq!(workload_name(&owned("ReplicaSet", "web-5d9c7")), "web");
    assert_eq!(workload_name(&owned("ReplicaSet", "web")), "web");
    assert_eq!(workload_name(&owned("StatefulSet", "db")), "db");
    assert_eq!(workload_name(&owned("Job", "report-29012345")), "report");
    assert_eq!(workload_name(&owned("Job", "migrate-2")), "migrate-2");
    let bare = ObjectMeta { generate_name: Some("web-".to_owned()), ..ObjectMeta::default() };
    assert_eq!(workload_name(&bare), "web");
}

#[test]
fn a_version_is_the_images_tag() {
    assert_eq!(version("meshctl.io/mesh-proxy:0.1.0"), "0.1.0");
    assert_eq!(version("localhost:5000/mesh-proxy:0.2@sha256:ab"), "0.2");
    assert_eq!(version("localhost:5000/mesh-proxy"), "localhost:5000/mesh-proxy");
}
