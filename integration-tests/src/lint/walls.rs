//! The walls between the packages: what each of them must never link, read from `cargo tree`.

/// Package, and the crates it must never link; a name ending in `*` stands for every crate that starts so.
pub const NEVER_LINKS: &[(&str, &[&str])] = &[
    ("controller-runtime", &["prost", "controller", "proto", "crd", "policy"]),
    ("crd", &["tonic", "identity", "proto"]),
    ("identity", &["kube*", "k8s-openapi", "tonic", "proto", "policy", "tokio"]),
    ("identity-server", &["crd"]),
    ("injector", &["crd"]),
    ("meshctl", &["proxy", "controller"]),
    ("policy", &["tokio", "tonic", "identity", "proto"]),
    ("proto", &["kube*", "k8s-openapi", "rustls", "identity", "policy"]),
    ("proxy", &["kube*", "k8s-openapi", "clap", "axum", "controller", "controller-runtime"]),
    ("resolve", &["kube-client", "kube-runtime"]),
];

/// Complaints about one package, from the lines of `cargo tree --prefix none --edges normal`.
pub fn broken(package: &str, never: &[&str], listing: &str) -> Vec<String> {
    let linked = listing.lines().filter_map(|line| line.split_whitespace().next());
    let mut problems: Vec<String> = linked
        .filter(|name| *name != package)
        .filter(|name| {
            never.iter().any(|rule| rule.strip_suffix('*').map_or(rule == name, |start| name.starts_with(start)))
        })
        .map(|name| format!("{package} must never link {name}"))
        .collect();
    problems.sort();
    problems.dedup();
    if !listing.lines().any(|line| line.split_whitespace().next() == Some(package)) {
        problems.push(format!("{package}: cargo tree says nothing of it, so its wall was not checked"));
    }
    problems
}

/// Crates built with other features when one package is built alone than when all are: each line is `name version
/// features`. Such a crate would be compiled twice by the two commands of the README.
pub fn built_twice(alone: &str, together: &str) -> Vec<String> {
    let all: std::collections::HashSet<&str> = together.lines().map(unmarked).collect();
    let mut twice: Vec<String> =
        alone.lines().map(unmarked).filter(|line| !all.contains(line)).map(str::to_owned).collect();
    twice.sort();
    twice.dedup();
    twice
}

/// Without the mark `cargo tree` puts behind what it has listed before.
fn unmarked(line: &str) -> &str {
    line.trim_end_matches(" (*)").trim()
}
