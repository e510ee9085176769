//! The files that say how to reach a cluster, read as kubectl reads them.
//!
//! They hold tokens and keys, and what a command says ends up in logs of others: nothing that stands in a file is ever said,
//! only where it is wrong. The library's own messages quote the lines around a mistake, and so are not passed on.

use std::fs;
use std::path::{Path, PathBuf};

use kube::config::{Kubeconfig, KubeconfigError};
use serde::Deserialize as _;

use super::{ConnectError, one_line};

/// One file, which must be there.
pub(super) fn read(path: &Path) -> Result<Kubeconfig, ConnectError> {
    Kubeconfig::read_from(path).map_err(|error| {
        let problem = match &error {
            KubeconfigError::Parse(error) => {
                let at = error.location().map(|at| (at.line(), at.column()));
                format!("{}{}", path.display(), mistake(&fs::read_to_string(path).unwrap_or_default(), at))
            }
            other => describe(other),
        };
        ConnectError::Unusable(one_line(&problem))
    })
}

/// The files of a list, the first of which wins. Those that are not there are passed over, as kubectl does.
pub(super) fn merged(paths: &[PathBuf]) -> Result<Kubeconfig, ConnectError> {
    let there: Vec<&PathBuf> = paths.iter().filter(|path| path.exists()).collect();
    // Nothing else would be looked at either, so that whoever mistyped the only name is told.
    let all = if there.is_empty() { paths.iter().take(1).collect() } else { there };
    all.into_iter().try_fold(Kubeconfig::default(), |merged, path| {
        merged.merge(read(path)?).map_err(|error| {
            ConnectError::Unusable(one_line(&format!("{} does not fit those before it: {error}", path.display())))
        })
    })
}

/// The mistakes people make, in our words; the rest in the library's, which quotes nothing but names.
pub(super) fn describe(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::CurrentContextNotSet => "it has no current context; choose one with --context".to_owned(),
        KubeconfigError::LoadContext(name) => format!("it has no context {name:?}; see kubectl config get-contexts"),
        KubeconfigError::LoadClusterOfContext(name) => format!("its context names cluster {name:?}, which it lacks"),
        KubeconfigError::ReadConfig(problem, path) => format!("{} cannot be read: {problem}", path.display()),
        KubeconfigError::Parse(_) => "it is no kubeconfig".to_owned(),
        other => other.to_string(),
    }
}

/// Where a text is no kubeconfig, and what is wrong there, without a word of it.
fn mistake(text: &str, at: Option<(u64, u64)>) -> String {
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        if let Err(error) = serde_yaml_ng::Value::deserialize(document) {
            let at = error.location().map(|at| (at.line() as u64, at.column() as u64)).or(at);
            let message = error.to_string();
            let problem = message.split(" at line ").next().unwrap_or_default();
            // What quotes something may quote a secret.
            let problem = if problem.contains(['"', '\'', '`']) { "" } else { problem };
            let colon = if problem.is_empty() { "" } else { ": " };
            return format!("{} is not YAML{colon}{problem}; look at the indentation there and above", place(at));
        }
    }
    format!("{} is YAML, and not what a kubeconfig has there", place(at))
}

fn place(at: Option<(u64, u64)>) -> String {
    at.map(|(line, column)| format!(", line {line}, column {column},")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "s3cr3t-t0k3n";

    #[test]
    fn nothing_that_a_file_holds_is_said() {
        let good = format!("apiVersion: v1\nkind: Config\nusers:\n- name: me\n  user:\n    token: {SECRET}\n");
        for (text, line, expected) in [
            (format!("{good}   bad: indent\n"), "line 7", "is not YAML"),
            (good.replace("token: ", "token: [") + "\n", "line ", "is not YAML"),
            (good.replace("name: me", &format!("name: {{{SECRET}: 1}}")), "line 4", "not what a kubeconfig has there"),
            (format!("users: {SECRET}\n"), "line 1", "not what a kubeconfig has there"),
            (format!("{SECRET}\n"), "line 1", "not what a kubeconfig has there"),
            (format!("clusters: *{SECRET}\n"), "line 1", "is not YAML"),
            (format!("{SECRET}: 1\n{SECRET}: 1\nusers: 1\n"), "line ", ""),
            (format!("users:\n- name: me\n  user:\n    client-key-data: [{SECRET}]\n"), "line 4", ""),
        ] {
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(file.path(), &text).unwrap();
            let said = read(file.path()).unwrap_err().to_string();
            assert!(!said.contains("s3cr3t") && !said.contains('\n'), "{said}");
            let name = file.path().display().to_string();
            assert!(said.contains(&name) && said.contains(line) && said.contains(expected), "{text}{said}");
        }
    }

    #[test]
    fn files_of_the_list_that_are_not_there_are_passed_over() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "current-context: a\n").unwrap();
        let missing = PathBuf::from("/does/not/exist");
        let read = merged(&[missing.clone(), file.path().to_owned()]).unwrap();
        assert_eq!(read.current_context.as_deref(), Some("a"));
        let none = merged(&[missing.clone(), missing]).unwrap_err().to_string();
        assert!(none.contains("/does/not/exist cannot be read"), "{none}");
    }
}
