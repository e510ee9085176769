//! The program as scripts know it: what its exit code says, and where its words go.

#![allow(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "a package of tests")]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Runs it with words that have no blanks in them, on a machine without a kubeconfig.
fn meshctl(words: &str, input: &str) -> Output {
    let nowhere = Path::new("/does/not/exist");
    let mut child = Command::new(env!("CARGO_BIN_EXE_meshctl"))
        .args(words.split_whitespace())
        .env_clear()
        .env("HOME", nowhere)
        .env("KUBECONFIG", nowhere)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Whoever refuses its flags does not read.
    child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
    child.wait_with_output().unwrap()
}

#[track_caller]
fn ends(words: &str, input: &str, code: i32, said: &str) {
    let output = meshctl(words, input);
    let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(code), "meshctl {words}: {text}");
    assert!(text.contains(said), "meshctl {words}: {said:?} is not in: {text}");
}

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: a}\nspec: {}\n";
const WRONG: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 0}]}\n";
const COMMANDS: [&str; 15] = [
    "install",
    "upgrade",
    "uninstall",
    "inject",
    "uninject",
    "check",
    "analyze",
    "stat",
    "edges",
    "identity",
    "proxy-status",
    "version",
    "explain",
    "demo",
    "completion",
];
/// What makes no sense, whoever finds that, and what is said of it.
const NONSENSE: [(&str, &str); 32] = [
    ("", "Usage: meshctl"),
    ("no-such-command", "no-such-command"),
    // -o of another command, before or behind its name.
    ("edges -o wide", "meshctl edges cannot print wide; it has -o table or json"),
    ("-o yaml stat", "it has -o table, wide or json"),
    ("uninstall -o yaml", "it has -o table or json"),
    ("inject -o table", "it has -o yaml or json"),
    ("completion bash -o json", "it has no -o"),
    ("demo -o json", "it has no -o"),
    // Flags that do not go together.
    ("install --kube-version 1.30", "--kube-version goes with -o yaml"),
    ("install --kube-version 1.2 -o yaml", "1.29 or newer"),
    ("check --ha", "go with --pre"),
    ("check --pre --demo-dir /x", "a demo needs nothing installed"),
    ("check --demo-dir /x --context a", "cannot be used with"),
    ("inject --manual --disable", "cannot be used with"),
    ("stat --from deploy/a --to deploy/b", "cannot be used with"),
    ("stat --to", "--to"),
    // Values of flags.
    ("check --wait soon", "is not a time"),
    ("edges deplyo/web", "did you mean \"deploy\"?"),
    ("stat --window 1h", "a window is"),
    ("stat depoly", "did you mean \"deploy\""),
    ("stat deploy/web --from svc/a", "a Service calls nobody"),
    ("explain no_such_reason", "meshctl explain lists them all"),
    ("completion tcsh", "tcsh"),
    ("demo --rps 0", "--rps"),
    // What they name.
    ("check --kubeconfig /does/not/exist", "/does/not/exist cannot be read"),
    ("install -o yaml -f /does/not/exist", "/does/not/exist cannot be read"),
    ("install -o yaml --set image", "has no value"),
    ("install -o yaml --set controller.replicas=many", "these values cannot be used"),
    ("install -o yaml --set identity.leafLifetime=never", "these values cannot be used"),
    ("analyze -f /does/not/exist", "/does/not/exist cannot be read"),
    ("inject /does/not/exist", "/does/not/exist cannot be read"),
    ("uninject -f /does/not/exist", "/does/not/exist cannot be read"),
];

#[test]
fn what_makes_no_sense_ends_with_two() {
    for command in COMMANDS {
        ends(&format!("{command} --no-such-flag"), "", 2, "--no-such-flag");
    }
    for (words, said) in NONSENSE {
        ends(words, "", 2, said);
    }
}

#[test]
fn files_that_cannot_be_used_end_with_two_and_what_is_in_them_with_one() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (values, list) = (file("values.yaml", "a: ["), file("list.yaml", "- a"));
    let (good, wrong) = (file("good.yaml", ROUTE), file("wrong.yaml", WRONG));
    let empty = directory.path().join("empty").display().to_string();
    std::fs::create_dir(&empty).unwrap();
    let kubeconfig = file("kubeconfig", "{apiVersion: v1, kind: Config, clusters: [], users: [], contexts: []}");
    // Nobody listens on port 1.
    let away = file(
        "away",
        "{apiVersion: v1, kind: Config, current-context: a, clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}], \
         users: [{name: u, user: {}}], contexts: [{name: a, context: {cluster: c, user: u}}]}",
    );
    for (code, words, said) in [
        (2, format!("install -o yaml -f {values}"), "is not a file of values"),
        (2, format!("install -o yaml -f {list}"), "it holds no keys"),
        (2, format!("check --context b --kubeconfig {kubeconfig}"), "no context \"b\""),
        (2, format!("check --wait 1m --kubeconfig {values}"), "cannot be used"),
        (2, format!("analyze -f {empty}"), "there is no *.yaml"),
        (2, format!("analyze -f {good} -f {good}"), "is given twice"),
        (1, format!("install --kubeconfig {away}"), "cannot be reached"),
        (1, format!("check --kubeconfig {away}"), "cannot be reached"),
        (1, format!("stat --kubeconfig {away}"), "cannot be reached"),
        (1, format!("check --demo-dir {empty}"), "no demo is running"),
        (1, format!("analyze -f {wrong}"), "1 error to correct"),
        (1, format!("inject {values}"), "document 1 is not YAML"),
        (1, format!("inject {list}"), "is no manifest of Kubernetes"),
        (0, format!("analyze -f {good}"), "0 errors, 1 warning"),
        (0, format!("inject {good} -f {wrong}"), "kind: Service"),
    ] {
        ends(&words, "", code, said);
    }
}

#[test]
fn what_went_well_ends_with_nought() {
    for command in COMMANDS {
        ends(&format!("{command} --help"), "", 0, "Exit codes: 0 ");
    }
    for (words, input, said) in [
        ("--help", "", "Exit codes of every command: 0 "),
        ("--version", "", "meshctl"),
        ("version --client -o json", "", "{"),
        ("analyze -f -", ROUTE, "0 errors, 1 warning"),
        ("inject", ROUTE, "skipped: it makes no pods"),
        ("inject -", ROUTE, "kind: HTTPRoute"),
        ("-o json uninject", ROUTE, "\"kind\": \"HTTPRoute\""),
        ("install -o yaml --kube-version 1.30", "", "kind: Deployment"),
        ("install -o yaml -f -", "controller: {replicas: 2}", "replicas: 2"),
        ("explain no_endpoints", "", "no_endpoints"),
    ] {
        ends(words, input, 0, said);
    }
}

#[test]
fn a_pod_that_cannot_have_its_proxy_is_not_passed_on() {
    let pod = "kind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: app, ports: [{containerPort: 15006}]}]}\n";
    let output = meshctl("inject --manual --ignore-cluster", pod);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("pod a not injected: ") && said.contains("1 object not injected, so nothing is"), "{said}");
    assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(1), true));
    ends("inject", "hello\n", 1, "standard input: document 1 is no manifest");
}

/// What was done is told beside the manifests, not among them.
#[test]
fn manifests_alone_are_on_standard_output() {
    let output = meshctl("inject", "kind: Pod\nmetadata: {name: a}\nspec: {}\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "pod a changed\n");
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("kind: Pod\n"));
}
