//! The house rules, applied to this tree. What each rule says and finds stands in `src/lint`.

#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is all tests")]

use std::path::{Path, PathBuf};

use integration_tests::lint::{Source, layout, read_tree, run, style, walls};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn tree() -> Vec<Source> {
    read_tree(&root()).unwrap()
}

fn none(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

fn of_each_file(rule: impl Fn(&Source) -> Vec<String>) -> Vec<String> {
    tree().iter().flat_map(rule).collect()
}

#[test]
fn every_file_opens_with_its_purpose() {
    none(&of_each_file(style::opens_with_purpose));
}

#[test]
fn files_stay_small() {
    none(&of_each_file(style::size));
}

#[test]
fn no_forbidden_words() {
    none(&of_each_file(style::forbidden_words));
}

#[test]
fn no_banners() {
    none(&of_each_file(style::banners));
}

#[test]
fn the_top_of_the_tree_is_what_it_should_be() {
    none(&layout::top_level(&tree()));
}

#[test]
fn modules_are_named_after_what_they_own() {
    none(&layout::module_names(&tree()));
}

#[test]
fn every_rust_file_is_compiled() {
    none(&layout::orphans(&tree()));
}

#[test]
fn manifests_share_lints_and_have_no_features() {
    none(&layout::manifests(&tree()));
}

#[test]
fn the_walls_between_packages_stand() {
    let problems = walls::NEVER_LINKS.iter().flat_map(|(package, never)| {
        let listing = cargo_tree(&["--edges", "normal", "--package", package]);
        walls::broken(package, never, &listing)
    });
    none(&problems.collect::<Vec<_>>());
}

/// Building the command line alone after everything else (the README's two commands) compiles no crate again.
#[test]
fn one_feature_set_for_every_build() {
    let listing = |arguments: &[&str]| {
        cargo_tree(&[&["--edges", "normal,no-proc-macro", "--format", "{p} {f}"], arguments].concat())
    };
    let together = listing(&["-p", "meshctl", "-p", "controller", "-p", "identity-server", "-p", "proxy"]);
    none(&walls::built_twice(&listing(&["-p", "meshctl"]), &together));
    let with_tests = listing(&[
        "-p",
        "meshctl",
        "-p",
        "controller",
        "-p",
        "identity-server",
        "-p",
        "proxy",
        "-p",
        "integration-tests",
    ]);
    none(&walls::built_twice(&together, &with_tests));
}

fn cargo_tree(arguments: &[&str]) -> String {
    let common = ["tree", "--locked", "--offline", "--prefix", "none", "--target", "x86_64-unknown-linux-gnu"];
    run(&root(), env!("CARGO"), &[&common, arguments].concat()).unwrap()
}
