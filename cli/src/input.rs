//! Manifests that a command is given: files, directories and standard input, as kubectl's `-f` takes them.
//!
//! A file that is named is read whatever it is called. In a directory, and the directories within it, `*.yaml`, `*.yml` and
//! `*.json` are; what is passed over is said in one sentence, so that nobody takes it for looked at.

use std::fs;
use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use crate::check::{many, some};
use crate::usage::UsageError;

/// A file, or what came by standard input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// Its name, for messages.
    pub file: String,
    /// What it holds, or why that is not known.
    pub text: Result<String, String>,
    /// Nobody named it: it lay in a directory, and need not be a manifest.
    pub found: bool,
}

/// What was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inputs {
    /// Files, those of a directory in the order of their names.
    pub read: Vec<Input>,
    /// What was passed over, one sentence for each directory.
    pub notes: Vec<String>,
}

/// Reads what is named; `-` is standard input. `example` shows a command that fills it, for whoever gives none.
pub fn read(names: &[String], example: &str) -> Result<Inputs, UsageError> {
    let mut inputs = Inputs::default();
    for (index, name) in names.iter().enumerate() {
        if names[..index].contains(name) {
            return Err(UsageError(format!("{name} is given twice")));
        }
        if name == "-" {
            inputs.read.push(standard_input(example)?);
        } else {
            named(name, &mut inputs)?;
        }
    }
    Ok(inputs)
}

fn standard_input(example: &str) -> Result<Input, UsageError> {
    let mut input = std::io::stdin();
    if input.is_terminal() {
        return Err(UsageError(format!("give it files, or manifests on standard input: {example}")));
    }
    let mut text = String::new();
    let text = match input.read_to_string(&mut text) {
        Ok(_) => Ok(text),
        Err(error) => Err(format!("is not text: {error}")),
    };
    Ok(Input { file: "-".to_owned(), text, found: false })
}

fn named(name: &str, inputs: &mut Inputs) -> Result<(), UsageError> {
    let about = |error: std::io::Error| {
        let hint =
            if name.contains("://") { format!("; fetch it first: curl {name} | meshctl … -") } else { String::new() };
        UsageError(format!("{name} cannot be read: {error}{hint}"))
    };
    let path = Path::new(name);
    if !fs::metadata(path).map_err(about)?.is_dir() {
        let text = fs::read_to_string(path).map_err(about)?;
        inputs.read.push(Input { file: name.to_owned(), text: Ok(text), found: false });
        return Ok(());
    }
    fs::read_dir(path).map_err(about)?;
    let mut walk = Walk::default();
    walk.directory(path, 0);
    if walk.files.len() > MAX_FILES {
        return Err(UsageError(format!("there are more than {MAX_FILES} manifests in {name}; name fewer directories")));
    }
    let note = walk.note(name);
    if walk.files.is_empty() {
        let passed = note.map(|note| format!("; {note}")).unwrap_or_default();
        return Err(UsageError(format!("there is no *.yaml, *.yml or *.json in {name} or below{passed}")));
    }
    inputs.notes.extend(note);
    inputs.read.extend(walk.files.iter().map(|file| Input {
        file: file.display().to_string(),
        text: fs::read_to_string(file).map_err(|error| format!("cannot be read: {error}")),
        found: true,
    }));
    Ok(())
}

/// A way through directories.
#[derive(Debug, Default)]
struct Walk {
    files: Vec<PathBuf>,
    hidden: Vec<String>,
    others: Vec<String>,
    closed: Vec<String>,
}

impl Walk {
    fn directory(&mut self, path: &Path, depth: usize) {
        let Ok(entries) = fs::read_dir(path) else {
            self.closed.push(path.display().to_string());
            return;
        };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort_unstable();
        for path in paths {
            if self.files.len() > MAX_FILES {
                return;
            }
            self.entry(&path, depth);
        }
    }

    fn entry(&mut self, path: &Path, depth: usize) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // A link to a directory may lead in circles; one to a file is a file.
        let is_link = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
        let metadata = fs::metadata(path);
        let is_dir = metadata.as_ref().is_ok_and(fs::Metadata::is_dir);
        let is_manifest = path.extension().is_some_and(|end| ENDS.iter().any(|one| end == *one));
        if name.starts_with('.') {
            self.hidden.push(path.display().to_string());
        } else if is_dir && (is_link || depth >= MAX_DEPTH) {
            self.others.push(path.display().to_string());
        } else if is_dir {
            self.directory(path, depth + 1);
        } else if is_manifest && metadata.as_ref().is_ok_and(fs::Metadata::is_file) {
            self.files.push(path.to_owned());
        } else if is_manifest {
            self.closed.push(path.display().to_string());
        } else {
            self.others.push(path.display().to_string());
        }
    }

    fn note(&self, name: &str) -> Option<String> {
        let mut parts = Vec::new();
        for (paths, what) in [
            (&self.others, "not called *.yaml, *.yml or *.json"),
            (&self.hidden, "hidden"),
            (&self.closed, "that cannot be opened"),
        ] {
            if !paths.is_empty() {
                parts.push(format!(
                    "{} {what} ({})",
                    many(paths.len(), "entry").replace("entrys", "entries"),
                    some(paths)
                ));
            }
        }
        (!parts.is_empty()).then(|| format!("not read in {name}: {}", parts.join(", ")))
    }
}

const ENDS: [&str; 3] = ["yaml", "yml", "json"];
const MAX_FILES: usize = 20_000;
const MAX_DEPTH: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn names(inputs: &Inputs, below: &Path) -> Vec<String> {
        let relative = |input: &Input| input.file.replace(&format!("{}/", below.display()), "");
        inputs.read.iter().map(relative).collect()
    }

    #[test]
    fn directories_are_read_with_those_within_and_what_is_passed_over_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for file in ["b.yaml", "a/deep/er/c.yml", "a/d.json", "README.md", ".git/e.yaml", ".hidden.yaml"] {
            fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
            fs::write(root.join(file), "{}").unwrap();
        }
        std::os::unix::fs::symlink(root, root.join("a/round")).unwrap();
        std::os::unix::fs::symlink(root.join("b.yaml"), root.join("a/link.yaml")).unwrap();
        std::os::unix::fs::symlink("/does/not/exist", root.join("a/nowhere.yaml")).unwrap();
        let inputs = read(&[root.display().to_string()], "").unwrap();
        assert_eq!(names(&inputs, root), ["a/d.json", "a/deep/er/c.yml", "a/link.yaml", "b.yaml"]);
        assert!(inputs.read.iter().all(|input| input.found));
        let [note] = &inputs.notes[..] else { panic!("{:?}", inputs.notes) };
        for said in
            ["2 entries not called", "2 entries hidden", "1 entry that cannot be opened", "README.md", "nowhere.yaml"]
        {
            assert!(note.contains(said), "{said}: {note}");
        }
    }

    #[test]
    fn what_is_named_wrongly_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let (empty, binary) = (directory.path().join("empty"), directory.path().join("binary.yaml"));
        fs::create_dir(&empty).unwrap();
        fs::write(&binary, [0xff, 0xfe]).unwrap();
        let one = |path: &Path| read(&[path.display().to_string()], "").unwrap_err().to_string();
        assert!(one(&empty).contains("there is no *.yaml"), "{}", one(&empty));
        assert!(one(&binary).contains("cannot be read: "), "{}", one(&binary));
        assert!(one(Path::new("/does/not/exist")).contains("/does/not/exist cannot be read"));
        assert!(one(Path::new("https://example.com/a.yaml")).contains("curl"));
        // Within a directory it is one of many.
        let inputs = read(&[directory.path().display().to_string()], "").unwrap();
        assert!(inputs.read[0].text.is_err());
        let twice = [binary.display().to_string(), binary.display().to_string()];
        fs::write(&binary, "").unwrap();
        assert!(read(&twice, "").unwrap_err().to_string().ends_with("is given twice"));
    }
}
