//! Rules about the text of one file.

use super::Source;

/// Words that do not belong into a finished tree, and why. Split, so that this list is not a find itself.
const FORBIDDEN: &[(&[&str], &str)] = &[
    (&["TO", "DO"], "finish it or leave it out"),
    (&["FIX", "ME"], "finish it or leave it out"),
    (&["todo", "!("], "finish it or leave it out"),
    (&["unimpl", "emented!("], "finish it or leave it out"),
    (&["#[ign", "ore"], "a test that does not run proves nothing"),
    (&["SP", "DX-"], "the licence stands once, in LICENSE"),
    (&["/wo", "rk/"], "a path of one machine"),
    (&["/ro", "ot/"], "a path of one machine"),
    (&["/ho", "me/"], "a path of one machine"),
    (&["index.crates", ".io"], "a registry's host"),
    (&["static.crates", ".io"], "a registry's host"),
    (&["files.python", "hosted.org"], "a registry's host"),
    (&["deb.debi", "an.org"], "a registry's host"),
];

/// Every Rust file says first what it owns and why.
pub fn opens_with_purpose(source: &Source) -> Vec<String> {
    if source.is_rust() && !source.text.starts_with("//! ") {
        return vec![format!("{}:1: open with `//!` and what the file owns", source.path)];
    }
    Vec::new()
}

/// Files stay readable in one sitting, and inline tests do not outweigh the code.
pub fn size(source: &Source) -> Vec<String> {
    let mut problems = Vec::new();
    let lines = source.text.lines().count();
    let code =
        [".rs", ".py", ".sh", ".proto"].iter().any(|end| source.path.ends_with(end)) || source.text.starts_with("#!");
    if code && lines > MAX_LINES {
        problems.push(format!("{}: {lines} lines, the limit is {MAX_LINES}: split it", source.path));
    }
    if source.is_rust() {
        let start = source.text.lines().position(|line| line.starts_with("mod tests {"));
        if let Some(inline) = start.map(|start| lines - start).filter(|inline| *inline > MAX_INLINE_TEST_LINES) {
            let file = source.path.trim_end_matches(".rs");
            problems.push(format!("{}: {inline} lines of inline tests: move them to {file}/tests.rs", source.path));
        }
    }
    problems
}

/// No unfinished business, ignored tests, licence headers, machine paths or registry hosts.
pub fn forbidden_words(source: &Source) -> Vec<String> {
    if source.path == "Cargo.lock" || source.path.ends_with("/Cargo.lock") || source.path == "LICENSE" {
        return Vec::new();
    }
    let mut problems = Vec::new();
    for (number, line) in source.text.lines().enumerate() {
        for (parts, why) in FORBIDDEN {
            let word = parts.concat();
            if line.contains(&word) {
                problems.push(format!("{}:{}: {word}: {why}", source.path, number + 1));
            }
        }
    }
    problems
}

/// No drawn lines: structure comes from files and functions.
pub fn banners(source: &Source) -> Vec<String> {
    if !source.is_rust() {
        return Vec::new();
    }
    let drawn = |line: &str| {
        let rest = line.trim_start().trim_start_matches('/').trim_start();
        line.trim_start().starts_with("//")
            && ["-----", "=====", "*****", "#####", "─────"].iter().any(|b| rest.starts_with(b))
    };
    let lines = source.text.lines().enumerate().filter(|(_, line)| drawn(line));
    lines.map(|(number, _)| format!("{}:{}: no banners", source.path, number + 1)).collect()
}

const MAX_LINES: usize = 600;
const MAX_INLINE_TEST_LINES: usize = 150;
