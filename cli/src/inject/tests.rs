//! Manifests there and back, alone and as one stream.

use super::*;

const DEPLOYMENT: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\nspec:\n  template:\n    spec:\n      containers: []\n";

fn input(file: &str, text: &str) -> Input {
    Input { file: file.to_owned(), text: Ok(text.to_owned()), found: file.contains('/') }
}

/// Of standard input.
pub(super) fn rewrite_text(text: &str, wish: Wish<'_>) -> anyhow::Result<(String, Vec<Fate>)> {
    rewrite(&[input("-", text)], wish, None).map(|rewritten| (rewritten.text, rewritten.fates))
}

fn fates(text: &str, wish: Wish<'_>) -> (String, Vec<Done>) {
    let (text, fates) = rewrite_text(text, wish).unwrap();
    (text, fates.into_iter().map(|fate| fate.done).collect())
}

#[test]
fn a_proxy_that_was_put_in_is_not_talked_out() {
    let with = |containers: &str| {
        DEPLOYMENT.replace("containers: []", &format!("initContainers: [{containers}]\n      containers: []"))
    };
    let manual = with("{name: mesh-init, args: [init]}, {name: mesh-proxy, restartPolicy: Always}");
    for wish in [Wish::Nothing, Wish::Disabled] {
        assert_eq!(fates(&manual, wish), (manual.clone(), vec![Done::HasProxy]));
    }
    // Somebody's own container is no proxy.
    for own in ["{name: mesh-proxy}", "{name: mesh-proxy, restartPolicy: Always}"] {
        assert_eq!(fates(&with(own), Wish::Disabled).1, [Done::Changed], "{own}");
    }
}

#[test]
fn there_and_back() {
    let (injected, done) = fates(DEPLOYMENT, Wish::Enabled);
    assert_eq!(done, [Done::Changed]);
    assert!(injected.contains("meshctl.io/inject: enabled"), "{injected}");
    assert_eq!(fates(&injected, Wish::Enabled), (injected.clone(), vec![Done::Unchanged]));
    let (disabled, _) = fates(&injected, Wish::Disabled);
    assert!(disabled.contains("meshctl.io/inject: disabled"), "{disabled}");
    let (back, done) = fates(&disabled, Wish::Nothing);
    assert_eq!(done, [Done::Changed]);
    assert!(!back.contains("meshctl.io"), "{back}");
    assert_eq!(fates(DEPLOYMENT, Wish::Nothing), (DEPLOYMENT.to_owned(), vec![Done::Unchanged]));
}

#[test]
fn settings_that_cannot_be_meant_are_told_beside() {
    let pod = "kind: Pod\nmetadata: {name: a, annotations: {meshctl.io/drain-delay: 5m}}\nspec: {}\n";
    let (_, fates) = rewrite_text(pod, Wish::Enabled).unwrap();
    assert!(
        fates[0].to_string().starts_with("pod a changed; but meshctl.io/drain-delay: the pod is killed"),
        "{}",
        fates[0]
    );
    assert_eq!(rewrite_text(pod, Wish::Disabled).unwrap().1[0].to_string(), "pod a changed");
}

#[test]
fn what_needs_no_change_goes_through_as_it_is() {
    let text = format!(
        "# first\n---\n# a service\nkind: Service\nmetadata: {{name: a}}\n--- # next\n{DEPLOYMENT}---\nkind: DaemonSet\n\
         metadata: {{name: node}}\nspec: {{template: {{spec: {{hostNetwork: true}}}}}} # agent"
    );
    let (out, done) = fates(&text, Wish::Enabled);
    assert_eq!(done, [Done::NoPods, Done::Changed, Done::HostNetwork]);
    assert!(out.starts_with("# first\n---\n# a service\nkind: Service\n") && out.ends_with("# agent\n"), "{out}");
    assert_eq!(out.matches("meshctl.io/inject").count(), 1);
}

#[test]
fn every_kind_with_pods() {
    for (text, pointer) in [
        (r#"{"kind": "Pod", "metadata": {"name": "a"}, "spec": {}}"#, "/metadata"),
        (r#"{"kind": "Namespace", "metadata": {"name": "a"}}"#, "/metadata"),
        (r#"{"kind": "Job", "spec": {"template": {}}}"#, "/spec/template/metadata"),
        (
            r#"{"kind": "CronJob", "spec": {"jobTemplate": {"spec": {"template": {"metadata": {"labels": {"meshctl.io/inject": "maybe"}}}}}}}"#,
            "/spec/jobTemplate/spec/template/metadata",
        ),
        (
            r#"{"kind": "List", "items": [{"kind": "StatefulSet", "spec": {"template": {}}}]}"#,
            "/items/0/spec/template/metadata",
        ),
    ] {
        let (out, done) = fates(text, Wish::Enabled);
        assert_eq!(done, [Done::Changed], "{text}");
        let object: Value = serde_json::from_str(&out).unwrap();
        let metadata = object.pointer(pointer).unwrap();
        assert_eq!(metadata["annotations"][names::INJECT], "enabled", "{out}");
        assert!(metadata.get("labels").is_none(), "{out}");
    }
}

#[test]
fn files_become_one_stream() {
    let json = r#"{"kind": "Job", "metadata": {"name": "once"}, "spec": {"template": {}}}"#;
    let files = [
        input("a.yaml", "---\nkind: Service # mine\n"),
        input("b.yaml", DEPLOYMENT),
        input("dir/values.yaml", "replicas: 1\n"),
        input("c.yaml", "---\nkind: Secret"),
    ];
    let Rewritten { text, fates, notes } = rewrite(&files, Wish::Enabled, None).unwrap();
    let objects = |text: &str| {
        let documents = serde_yaml_ng::Deserializer::from_str(text).map(|it| Value::deserialize(it).unwrap());
        documents.filter(|object| !object.is_null()).collect::<Vec<_>>()
    };
    assert!(text.starts_with("---\nkind: Service # mine\n---\n") && text.ends_with("\n---\nkind: Secret\n"), "{text}");
    assert_eq!((objects(&text).len(), fates.len()), (3, 3));
    assert_eq!(notes, ["dir/values.yaml is no manifest of Kubernetes: left out"]);
    // JSON among YAML becomes YAML, and alone stays what it is.
    let mixed = rewrite(&[input("a.json", json), input("b.yaml", DEPLOYMENT)], Wish::Enabled, None).unwrap().text;
    assert!(!mixed.contains('"') && objects(&mixed).len() == 2, "{mixed}");
    let both = [input("a.json", json), input("b.json", json)];
    let stream = rewrite(&both, Wish::Nothing, None).unwrap().text;
    assert_eq!(serde_json::Deserializer::from_str(&stream).into_iter::<Value>().count(), 2, "{stream}");
    let yaml = rewrite(&both, Wish::Nothing, Some(Output::Yaml)).unwrap().text;
    assert!(yaml.starts_with("kind: Job\n") && objects(&yaml).len() == 2, "{yaml}");
    let json = rewrite(&files, Wish::Enabled, Some(Output::Json)).unwrap().text;
    assert_eq!(serde_json::Deserializer::from_str(&json).into_iter::<Value>().count(), 3, "{json}");
    let broken = rewrite(&[input("a.yaml", DEPLOYMENT), input("b.yaml", "a: [")], Wish::Enabled, None).unwrap_err();
    assert!(format!("{broken:#}").starts_with("b.yaml: document 1 is not YAML"), "{broken:#}");
}

#[test]
fn odd_input() {
    for text in ["kind: Deployment\n", "kind: Deployment\nspec: 7\n", "kind: List\nitems: []\n"] {
        let (out, done) = fates(text, Wish::Enabled);
        assert_eq!(out, text);
        assert!(!done.contains(&Done::Changed), "{text}");
    }
    for text in ["", "---\n", "# nothing\n", "null\n"] {
        let none = rewrite_text(text, Wish::Enabled).unwrap_err().to_string();
        assert_eq!(none, "there is no manifest on standard input", "{text}");
    }
    for text in ["hello\n", "- a\n", "kind: [a]\n", "replicas: 1\n", "{}"] {
        let none = rewrite_text(text, Wish::Enabled).unwrap_err().to_string();
        assert_eq!(none, "standard input: document 1 is no manifest of Kubernetes: it has no kind", "{text}");
    }
    let second = rewrite_text("kind: Service\n---\nhello\n", Wish::Nothing).unwrap_err().to_string();
    assert!(second.contains("document 2 is no manifest"), "{second}");
    // A directory with nothing but other files.
    let values = rewrite(&[input("dir/values.yaml", "replicas: 1\n")], Wish::Enabled, None).unwrap_err().to_string();
    assert_eq!(values, "there is no manifest in dir/values.yaml");
    assert!(rewrite_text("a: [", Wish::Enabled).is_err());
    assert!(rewrite_text("{\"a\": ", Wish::Enabled).is_err());
    assert!(rewrite_text("kind: Pod\nmetadata: 7\n", Wish::Enabled).is_ok());
    assert!(rewrite_text("kind: Pod\nmetadata: {annotations: [a]}\n", Wish::Enabled).is_ok());
}

#[test]
fn whoever_said_no_is_left_out() {
    let pod = |metadata: &str| format!("kind: Pod\nmetadata: {metadata}\nspec: {{}}\n");
    for (text, said) in [
        (
            pod("{name: a, annotations: {meshctl.io/inject: disabled}}"),
            "pod a skipped: meshctl.io/inject: \"disabled\" on the pod says no",
        ),
        (
            pod("{name: a, labels: {meshctl.io/inject: disabled}}"),
            "pod a skipped: meshctl.io/inject: \"disabled\" on the pod says no",
        ),
        (pod("{name: a, annotations: {sidecar.istio.io/inject: 'false'}}"), "pod a skipped: sidecar.istio.io/inject"),
        (
            "kind: Namespace\nmetadata: {name: a, annotations: {meshctl.io/inject: disabled}}\n".to_owned(),
            "namespace a skipped: ",
        ),
    ] {
        let (out, fates) = rewrite_text(&text, Wish::Enabled).unwrap();
        assert_eq!(out, text);
        assert!(fates[0].to_string().starts_with(said), "{said}: {}", fates[0]);
    }
}
