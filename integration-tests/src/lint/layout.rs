//! Rules about which files there are and how they hang together.

use std::collections::{BTreeSet, HashMap};

use super::Source;

/// Everything at the top of the tree, dot-files aside.
pub const TOP_LEVEL: [&str; 14] = [
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "charts",
    "cli",
    "controller",
    "docs",
    "identity",
    "injector",
    "integration-tests",
    "proto",
    "proxy",
];

/// The top of the tree holds exactly [`TOP_LEVEL`].
pub fn top_level(tree: &[Source]) -> Vec<String> {
    let found: BTreeSet<&str> =
        tree.iter().filter_map(|source| source.path.split('/').next()).filter(|name| !name.starts_with('.')).collect();
    let expected = BTreeSet::from(TOP_LEVEL);
    let extra = found.difference(&expected).map(|name| format!("{name}: does not belong at the top of the tree"));
    let missing = expected.difference(&found).map(|name| format!("{name}: is missing at the top of the tree"));
    extra.chain(missing).collect()
}

/// `foo.rs` beside `foo/`, never `mod.rs`; no module whose name says nothing.
pub fn module_names(tree: &[Source]) -> Vec<String> {
    let mut problems = Vec::new();
    for source in tree.iter().filter(|source| source.is_rust()) {
        let name = source.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
        if name == "mod" {
            problems.push(format!("{}: name it after its module, beside the folder", source.path));
        }
        if ["util", "utils", "common", "core", "helpers", "types", "misc"].contains(&name) {
            problems.push(format!("{}: name the module after what it owns", source.path));
        }
    }
    problems
}

/// Every Rust file is compiled: it is a crate's root, or a `mod` line leads to it.
pub fn orphans(tree: &[Source]) -> Vec<String> {
    let files: HashMap<&str, &Source> =
        tree.iter().filter(|source| source.is_rust()).map(|source| (source.path.as_str(), source)).collect();
    let mut open: Vec<String> =
        files.keys().filter(|path| is_root(path, tree)).map(|path| (*path).to_owned()).collect();
    let mut reached: BTreeSet<String> = open.iter().cloned().collect();
    let roots = reached.clone();
    while let Some(path) = open.pop() {
        for module in modules(files[path.as_str()], roots.contains(&path)) {
            if files.contains_key(module.as_str()) && reached.insert(module.clone()) {
                open.push(module);
            }
        }
    }
    let mut orphans: Vec<_> = files.keys().filter(|path| !reached.contains(**path)).collect();
    orphans.sort();
    orphans.into_iter().map(|path| format!("{path}: no `mod` line leads here, so nothing compiles it")).collect()
}

/// What every manifest of the workspace has: the shared lints, and no cargo features of our own.
pub fn manifests(tree: &[Source]) -> Vec<String> {
    let mut problems = Vec::new();
    for source in tree.iter().filter(|source| source.path.ends_with("Cargo.toml")) {
        let has = |line: &str| source.text.lines().any(|l| l.trim() == line);
        if has("[features]") {
            problems.push(format!("{}: no cargo features", source.path));
        }
        if has("[package]") && !source.path.contains("/fuzz/") && !source.text.contains("[lints]\nworkspace = true") {
            problems.push(format!("{}: take the workspace's lints", source.path));
        }
    }
    problems
}

/// Paths that cargo takes for the root of a crate.
fn is_root(path: &str, tree: &[Source]) -> bool {
    let Some((directory, file)) = path.rsplit_once('/') else { return false };
    let folder = directory.rsplit('/').next().unwrap_or_default();
    let parent = directory.rsplit('/').nth(1).unwrap_or_default();
    let named = matches!((folder, file), ("src", "lib.rs" | "main.rs") | ("bin" | "tests" | "benches" | "examples", _))
        || (file == "main.rs" && matches!(parent, "bin" | "tests" | "benches" | "examples"))
        || file == "build.rs" && tree.iter().any(|source| source.path == format!("{directory}/Cargo.toml"));
    named || in_manifest(path, tree)
}

/// Whether a `path = "…"` of a manifest above the file names it.
fn in_manifest(path: &str, tree: &[Source]) -> bool {
    tree.iter().filter(|source| source.path.ends_with("Cargo.toml")).any(|manifest| {
        let top = manifest.path.trim_end_matches("Cargo.toml");
        path.strip_prefix(top).is_some_and(|rest| {
            manifest.text.contains(&format!("= \"{rest}\"")) || manifest.text.contains(&format!("build = \"{rest}\""))
        })
    })
}

/// Files the `mod` lines of this one may mean.
fn modules(source: &Source, root: bool) -> Vec<String> {
    let (directory, file) = source.path.rsplit_once('/').unwrap_or(("", &source.path));
    let own = if root { directory.to_owned() } else { format!("{directory}/{}", file.trim_end_matches(".rs")) };
    let mut found = Vec::new();
    let mut named_path = None;
    for line in source.text.lines().map(str::trim) {
        if let Some(path) = line.strip_prefix("#[path = \"").and_then(|rest| rest.strip_suffix("\"]")) {
            named_path = Some(format!("{directory}/{path}"));
        } else if let Some(name) = module_line(line) {
            found.push(named_path.take().unwrap_or_else(|| format!("{own}/{name}.rs")));
        }
    }
    found
}

/// The name in `mod name;`, whatever its visibility.
fn module_line(line: &str) -> Option<&str> {
    let (before, name) = line.strip_suffix(';')?.rsplit_once("mod ")?;
    let visible = before.is_empty() || (before.starts_with("pub") && before.ends_with(' '));
    (visible && name.chars().all(|c| c.is_alphanumeric() || c == '_')).then_some(name)
}
