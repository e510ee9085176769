//! [`Picture`]: the last good content of every file, pure.
//!
//! A file is good as a whole or not at all. It is not good if a document in it can't be used, or if it holds an object
//! that another file holds already: the file whose content has been in force longer keeps it, else the first by name.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use crd::manifest::{documents, parse, unknown_fields};
use crd::{Object, ObjectId, Parsed, UnknownField};

/// Files and what they hold.
#[derive(Debug, Default)]
pub struct Picture {
    files: BTreeMap<String, File>,
    /// Kinds that were ignored, and whether that has been told.
    ignored: BTreeMap<String, String>,
    newly_ignored: Vec<(String, String)>,
    newly_unknown: Vec<(String, UnknownField)>,
}

#[derive(Debug)]
struct File {
    /// What the file says now.
    latest: Result<Content, FileError>,
    /// What is in force.
    good: Content,
    error: Option<FileError>,
}

/// Objects with their lines.
type Content = Arc<Vec<(Arc<Object>, usize)>>;

/// Why a file can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct FileError {
    /// Name of the file.
    pub file: String,
    /// Line in it, from 1; none where the file can't be read at all.
    pub line: Option<usize>,
    /// What is wrong, and how to write it instead.
    pub problem: String,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file, self.problem),
            None => write!(f, "{}: {}", self.file, self.problem),
        }
    }
}

impl Picture {
    /// Takes in changed files (their text, or why there is none) and removed ones; returns the errors that are new.
    pub fn update(&mut self, changed: BTreeMap<String, Result<String, String>>, removed: &[String]) -> Vec<FileError> {
        self.newly_ignored.clear();
        self.newly_unknown.clear();
        for name in removed {
            self.files.remove(name);
        }
        for (name, text) in changed {
            let latest = match text {
                Ok(text) => self.content(&name, &text),
                Err(problem) => Err(FileError { file: name.clone(), line: None, problem }),
            };
            match self.files.entry(name) {
                Entry::Occupied(file) => file.into_mut().latest = latest,
                Entry::Vacant(place) => {
                    place.insert(File { latest, good: Content::default(), error: None });
                }
            }
        }
        self.settle()
    }

    /// Names of the files.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Everything in force, by file, in the order written.
    pub fn objects(&self) -> Vec<Arc<Object>> {
        self.located().map(|(_, _, object)| object.clone()).collect()
    }

    /// Everything in force with file and line.
    pub fn located(&self) -> impl Iterator<Item = (&str, usize, &Arc<Object>)> {
        self.files
            .iter()
            .flat_map(|(name, file)| file.good.iter().map(move |(object, line)| (name.as_str(), *line, object)))
    }

    /// What is wrong with the files that can't be used.
    pub fn errors(&self) -> impl Iterator<Item = &FileError> {
        self.files.values().filter_map(|file| file.error.as_ref())
    }

    /// Kinds met for the first time in the last update that the mesh does not read, with the file.
    pub fn newly_ignored(&self) -> impl Iterator<Item = (&str, &str)> {
        self.newly_ignored.iter().map(|(kind, file)| (kind.as_str(), file.as_str()))
    }

    /// Fields without effect in the files of the last update, with the file.
    pub fn newly_unknown(&self) -> impl Iterator<Item = (&str, &UnknownField)> {
        self.newly_unknown.iter().map(|(file, field)| (file.as_str(), field))
    }

    fn content(&mut self, name: &str, text: &str) -> Result<Content, FileError> {
        let mut content = Vec::new();
        for document in documents(text) {
            let found = parse(document);
            let found = found.map_err(|error| FileError {
                file: name.to_owned(),
                line: Some(error.line),
                problem: error.problem,
            })?;
            for parsed in found {
                match parsed {
                    Parsed::Object(object, line) => content.push((Arc::new(*object), line)),
                    Parsed::Ignored { api_version, kind } => self.ignore(format!("{kind}.{api_version}"), name),
                }
            }
            self.newly_unknown.extend(unknown_fields(document).into_iter().map(|field| (name.to_owned(), field)));
        }
        Ok(Arc::new(content))
    }

    fn ignore(&mut self, kind: String, file: &str) {
        if self.ignored.len() < MAX_IGNORED_KINDS && !self.ignored.contains_key(&kind) {
            self.newly_ignored.push((kind.clone(), file.to_owned()));
            self.ignored.insert(kind, file.to_owned());
        }
    }

    /// Decides which content of each file is in force.
    fn settle(&mut self) -> Vec<FileError> {
        let mut owners: HashMap<ObjectId, (String, usize)> = HashMap::new();
        // Files whose content stays come first, so that nobody takes their objects away.
        let stays = |file: &File| !matches!(&file.latest, Ok(latest) if !Arc::ptr_eq(latest, &file.good));
        let mut names: Vec<(bool, String)> =
            self.files.iter().map(|(name, file)| (!stays(file), name.clone())).collect();
        names.sort_unstable();
        let mut new = Vec::new();
        for (_, name) in names {
            let file = self.files.get_mut(&name).expect("listed just now");
            let before = file.error.take();
            let settled = file.latest.clone().and_then(|latest| claim(&mut owners, &name, &latest).map(|()| latest));
            match settled {
                Ok(latest) => file.good = latest,
                Err(error) => {
                    // Last good content; what others hold by now is theirs.
                    let mut good = Vec::clone(&file.good);
                    good.retain(|one| claim(&mut owners, &name, std::slice::from_ref(one)).is_ok());
                    if good.len() != file.good.len() {
                        file.good = Arc::new(good);
                    }
                    if before.as_ref() != Some(&error) {
                        new.push(error.clone());
                    }
                    file.error = Some(error);
                }
            }
        }
        new
    }
}

/// Notes whose objects these are, all of them or none.
fn claim(
    owners: &mut HashMap<ObjectId, (String, usize)>,
    name: &str,
    content: &[(Arc<Object>, usize)],
) -> Result<(), FileError> {
    let mut own: HashMap<ObjectId, (String, usize)> = HashMap::with_capacity(content.len());
    for (object, line) in content {
        let id = object.id();
        if let Some((file, other)) = owners.get(&id).or_else(|| own.get(&id)) {
            let problem = format!("{id} is already in {file}:{other}; keep one of them");
            return Err(FileError { file: name.to_owned(), line: Some(*line), problem });
        }
        own.insert(id, (name.to_owned(), *line));
    }
    owners.extend(own);
    Ok(())
}

const MAX_IGNORED_KINDS: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(name: &str) -> String {
        format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n---\n")
    }

    fn update(picture: &mut Picture, files: &[(&str, String)]) -> Vec<String> {
        let changed = files.iter().map(|(name, text)| ((*name).to_owned(), Ok(text.clone()))).collect();
        picture.update(changed, &[]).iter().map(ToString::to_string).collect()
    }

    fn names(picture: &Picture) -> Vec<String> {
        picture.located().map(|(file, _, object)| format!("{file} {}", object.id().name)).collect()
    }

    #[test]
    fn a_broken_file_keeps_its_last_good_content() {
        let mut picture = Picture::default();
        assert!(update(&mut picture, &[("a.yaml", namespace("a")), ("b.yaml", namespace("b"))]).is_empty());
        let errors = update(&mut picture, &[("a.yaml", namespace("a2") + "kind: Service\n")]);
        assert_eq!(errors, ["a.yaml:5: an object needs both apiVersion and kind"]);
        assert_eq!(names(&picture), ["a.yaml a", "b.yaml b"]);
        assert_eq!(picture.errors().count(), 1);
        assert!(update(&mut picture, &[("b.yaml", namespace("b3"))]).is_empty(), "told once");
        assert!(update(&mut picture, &[("a.yaml", namespace("a3"))]).is_empty());
        assert_eq!(names(&picture), ["a.yaml a3", "b.yaml b3"]);
        assert_eq!(picture.errors().count(), 0);
        picture.update(BTreeMap::new(), &["a.yaml".to_owned()]);
        assert_eq!(names(&picture), ["b.yaml b3"]);
    }

    #[test]
    fn an_object_in_two_files_stays_where_it_was() {
        let mut picture = Picture::default();
        update(&mut picture, &[("b.yaml", namespace("x"))]);
        let errors = update(&mut picture, &[("a.yaml", namespace("x"))]);
        assert_eq!(errors, ["a.yaml:1: Namespace x is already in b.yaml:1; keep one of them"]);
        assert_eq!(names(&picture), ["b.yaml x"]);
        // Mended in the other file: this one is good again, though nobody touched it.
        update(&mut picture, &[("b.yaml", namespace("y"))]);
        assert_eq!(names(&picture), ["a.yaml x", "b.yaml y"]);
        assert_eq!(picture.errors().count(), 0);
    }

    #[test]
    fn objects_may_change_files_in_one_go() {
        let mut picture = Picture::default();
        update(&mut picture, &[("a.yaml", namespace("x")), ("b.yaml", namespace("y"))]);
        assert!(update(&mut picture, &[("a.yaml", namespace("y")), ("b.yaml", namespace("x"))]).is_empty());
        assert_eq!(names(&picture), ["a.yaml y", "b.yaml x"]);
    }

    #[test]
    fn twice_in_one_file_and_unreadable_files() {
        let mut picture = Picture::default();
        let errors = update(&mut picture, &[("a.yaml", namespace("x") + &namespace("x"))]);
        assert_eq!(errors, ["a.yaml:5: Namespace x is already in a.yaml:1; keep one of them"]);
        let changed = BTreeMap::from([("b.yaml".to_owned(), Err("is not text in UTF-8".to_owned()))]);
        let errors = picture.update(changed, &[]);
        assert_eq!(errors[0].to_string(), "b.yaml: is not text in UTF-8");
        assert!(picture.objects().is_empty());
    }

    #[test]
    fn kinds_that_are_not_ours_are_told_once() {
        let mut picture = Picture::default();
        let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n".to_owned();
        update(&mut picture, &[("a.yaml", pod.clone()), ("b.yaml", pod.clone())]);
        assert_eq!(picture.newly_ignored().collect::<Vec<_>>(), [("Pod.v1", "a.yaml")]);
        update(&mut picture, &[("a.yaml", pod + "# changed\n")]);
        assert_eq!(picture.newly_ignored().count(), 0);
    }
}
