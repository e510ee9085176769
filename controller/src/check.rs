//! `mesh-controller check`: reads a directory once, as the controller would, and says what is wrong with it.

use std::fmt;
use std::path::Path;

use crate::directory::picture::Picture;
use crate::directory::{DirectoryError, DirectoryReader};

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Objects that would be in force.
    pub objects: usize,
    /// `file:line: problem` of what the controller would refuse.
    pub errors: Vec<String>,
    /// `file:line: problem` of what would be in force, but hardly as meant.
    pub warnings: Vec<String>,
}

/// Reads the directory.
pub fn check(directory: &Path) -> Result<CheckReport, DirectoryError> {
    let mut reader = DirectoryReader::new(directory);
    reader.look_at_once()?;
    let picture = reader.picture();
    let objects = picture.objects();
    let facts = resolve::Facts::new(objects.iter().cloned());
    Ok(CheckReport {
        objects: objects.len(),
        errors: picture.errors().map(ToString::to_string).collect(),
        warnings: warnings(picture, &facts),
    })
}

impl CheckReport {
    /// Whether the controller would take all of it.
    pub fn is_good(&self) -> bool {
        self.errors.is_empty()
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in &self.errors {
            writeln!(f, "error: {error}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        let many = |count: usize, thing: &str| format!("{count} {thing}{}", if count == 1 { "" } else { "s" });
        let (errors, warnings) = (many(self.errors.len(), "error"), many(self.warnings.len(), "warning"));
        write!(f, "{}, {errors}, {warnings}", many(self.objects, "object"))
    }
}

fn warnings(picture: &Picture, facts: &resolve::Facts) -> Vec<String> {
    let mut warnings = Vec::new();
    for (kind, file) in picture.newly_ignored() {
        warnings.push(format!("{file}: the mesh does not read objects of the kind {kind}"));
    }
    for (file, unknown) in picture.newly_unknown() {
        warnings.push(format!("{file}:{}: nobody reads the field {}: it has no effect", unknown.line, unknown.field));
    }
    for (file, line, object) in picture.located() {
        for finding in resolve::findings::of_object(facts, object) {
            warnings.push(format!("{file}:{line}: {}: {}", object.id(), finding.problem));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_warnings_name_file_and_line() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        write("a.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n  - port: 0\n");
        write(
            "b.yaml",
            "apiVersion: v1\nkind: Service\nmetadata: {name: b}\nspec: {clusterIP: 10.96.0.1, selector: {a: b}, ports: [{port: 80}]}\n",
        );
        write(
            "c.yaml",
            "# route\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: c}\nspec:\n  parentRefs: [{group: '', kind: Service, name: b, port: 81}]\n  rules: [{backendRefs: [{name: d, port: 80, weigth: 9}]}]\n",
        );
        write("d.txt", "not looked at");
        let report = check(directory.path()).unwrap();
        assert!(!report.is_good());
        let text = report.to_string();
        for expected in [
            "error: a.yaml:6: spec.ports[0].port 0 is not a port",
            "warning: b.yaml:1: Service default/b: port 80 has no endpoint",
            "warning: c.yaml:2: HTTPRoute default/c: the Service default/b has no port 81",
            "warning: c.yaml:2: HTTPRoute default/c: there is no Service port default/d:80",
            "warning: c.yaml:7: nobody reads the field spec.rules[0].backendRefs[0].weigth: it has no effect",
            "2 objects, 1 error, 4 warnings",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
        assert!(check(&directory.path().join("gone")).unwrap_err().to_string().contains("gone"));
    }
}
