//! The house rules that no compiler and no Clippy lint checks: every rule is a pure function from what is in the
//! tree to a list of complaints, so that each is tested on a bad example and then applied by `tests/lint.rs`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

pub mod layout;
pub mod style;
pub mod walls;

#[cfg(test)]
mod tests;

/// One file of the tree.
#[derive(Debug, Clone)]
pub struct Source {
    /// Path from the top of the tree.
    pub path: String,
    /// What it holds; empty where it is not text.
    pub text: String,
}

impl Source {
    /// A file as it would be read from the tree.
    pub fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    /// Whether this is a Rust file.
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }
}

/// Every file git knows, or would take with `git add`.
pub fn read_tree(root: &Path) -> anyhow::Result<Vec<Source>> {
    let listing = run(root, "git", &["ls-files", "-z", "--cached", "--others", "--exclude-standard"])?;
    let mut tree = Vec::new();
    for path in listing.split('\0').filter(|path| !path.is_empty()) {
        // A file that is deleted but not yet committed as such is still listed.
        if let Ok(bytes) = std::fs::read(root.join(path)) {
            tree.push(Source { path: path.to_owned(), text: String::from_utf8(bytes).unwrap_or_default() });
        }
    }
    if tree.is_empty() {
        bail!("git lists no files under {}", root.display());
    }
    Ok(tree)
}

/// Standard output of a command that has to succeed.
pub fn run(directory: &Path, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .output()
        .with_context(|| format!("{program} cannot be started"))?;
    if !output.status.success() {
        bail!("{program} {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}
