//! Every rule finds its bad example, and lets its good one pass.

use super::Source;
use super::layout::{TOP_LEVEL, manifests, module_names, orphans, top_level};
use super::style::{banners, forbidden_words, opens_with_purpose, size};
use super::walls::{broken, built_twice};

fn rust(text: &str) -> Source {
    Source::new("proxy/src/lib.rs", text)
}

#[test]
fn a_file_without_a_purpose() {
    assert_eq!(opens_with_purpose(&rust("use std::fmt;\n")).len(), 1);
    assert!(opens_with_purpose(&rust("//! The sidecar.\n")).is_empty());
    assert!(opens_with_purpose(&Source::new("proxy/Cargo.toml", "[package]\n")).is_empty());
}

#[test]
fn a_long_file_and_long_inline_tests() {
    assert_eq!(size(&rust(&"\n".repeat(601))).len(), 1);
    assert!(size(&rust(&"\n".repeat(600))).is_empty());
    assert!(size(&Source::new("README.md", &"\n".repeat(601))).is_empty());
    assert_eq!(size(&Source::new("integration-tests/bench", &format!("#!x{}", "\n".repeat(601)))).len(), 1);
    assert_eq!(size(&rust(&format!("mod tests {{\n{}}}\n", "\n".repeat(151)))).len(), 1);
    assert!(size(&rust(&format!("mod tests {{\n{}}}\n", "\n".repeat(100)))).is_empty());
}

#[test]
fn words_that_do_not_belong() {
    let bad = ["// TO-DO later", "todo-!()", "#[ign-ore]", "unimpl-emented!()", "\"/wo-rk/main\"", "// FIX-ME"];
    for line in bad {
        assert_eq!(forbidden_words(&rust(&line.replace('-', ""))).len(), 1, "{line}");
    }
    assert!(forbidden_words(&rust("//! To do good work.\n")).is_empty());
}

#[test]
fn drawn_lines() {
    assert_eq!(banners(&rust("// ---------- parsing\n    //======\n")).len(), 2);
    assert!(banners(&rust("//! | a | b |\n//! |---|---|\nlet rule = \"-----\";\n")).is_empty());
}

#[test]
fn an_unknown_or_missing_top_level_entry() {
    let mut tree: Vec<Source> = TOP_LEVEL.iter().map(|name| Source::new(name, "")).collect();
    tree.push(Source::new(".ci/run", ""));
    assert!(top_level(&tree).is_empty());
    tree[0] = Source::new("notes/plan.md", "");
    assert_eq!(top_level(&tree).len(), 2);
}

#[test]
fn module_names_that_say_nothing() {
    let bad = ["proxy/src/mod.rs", "proxy/src/util.rs", "proxy/src/http/helpers.rs"];
    assert_eq!(module_names(&bad.map(|path| Source::new(path, ""))).len(), bad.len());
    assert!(module_names(&[rust("")]).is_empty());
}

#[test]
fn a_file_that_nothing_compiles() {
    let tree = [
        Source::new("proxy/Cargo.toml", "build = \"src/build.rs\"\n"),
        Source::new("proxy/src/lib.rs", "pub(crate) mod http;\n#[path = \"odd.rs\"]\nmod strange;\n"),
        Source::new("proxy/src/build.rs", ""),
        Source::new("proxy/src/odd.rs", ""),
        Source::new("proxy/src/http.rs", "mod head;\n#[cfg(test)]\nmod tests;\n// mod comment;\n"),
        Source::new("proxy/src/http/head.rs", ""),
        Source::new("proxy/src/http/tests.rs", ""),
        Source::new("proxy/tests/mesh/main.rs", "mod drain;\n"),
        Source::new("proxy/tests/mesh/drain.rs", ""),
    ];
    assert_eq!(orphans(&tree), Vec::<String>::new());
    let mut worse = tree.to_vec();
    worse.push(Source::new("proxy/src/http/forgotten.rs", ""));
    worse.push(Source::new("proxy/src/comment.rs", ""));
    assert_eq!(orphans(&worse).len(), 2);
}

#[test]
fn a_manifest_with_features_or_without_lints() {
    let good = "[package]\nname = \"x\"\n\n[lints]\nworkspace = true\n";
    assert!(manifests(&[Source::new("proxy/Cargo.toml", good)]).is_empty());
    assert_eq!(manifests(&[Source::new("proxy/Cargo.toml", "[package]\n\n[features]\n")]).len(), 2);
}

#[test]
fn a_wall_with_a_hole() {
    let listing = "proxy v0.1.0\nkube-client v4.2.0\nkube-client v4.2.0 (*)\ntokio v1.0.0\n";
    assert_eq!(broken("proxy", &["kube*", "clap"], listing), ["proxy must never link kube-client"]);
    assert!(broken("proxy", &["clap"], listing).is_empty());
    assert_eq!(broken("cli", &["clap"], listing).len(), 1);
}

#[test]
fn a_crate_that_is_built_twice() {
    let together = "tokio v1.0.0 net,rt (*)\nbytes v1.0.0 std\n";
    assert!(built_twice("tokio v1.0.0 net,rt\n", together).is_empty());
    assert_eq!(built_twice("tokio v1.0.0 net\ntokio v1.0.0 net (*)\n", together), ["tokio v1.0.0 net"]);
}
