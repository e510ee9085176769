//! `meshctl analyze`: what in manifests, or in a cluster, is invalid or has no effect, and what to write instead.
//!
//! The mesh's programs read what is analyzed with the same functions: `crd` parses, `resolve` looks for what is named, and the
//! injector's library reads annotations. Nothing here decides anew what is right.
//!
//! ```text
//!   files   ─► source ─┐
//!                      ├─► judge ─► annotations, facts ─► Finding ─► lines or JSON
//!   cluster ─► online ─┘
//! ```

use std::path::Path;

use anyhow::bail;
use clap::Args as ClapArgs;
use serde::Serialize;

use crate::args::ScopeArgs;
use crate::check::many;
use crate::input::{self, Inputs};
use crate::output::{self, Format};
use crate::table::printable;
use crate::usage::usage;

pub mod annotations;
pub mod judge;
pub mod mistakes;
pub mod online;
pub mod others;
pub mod source;

use judge::{Judged, Known};

/// `analyze`.
#[derive(Debug, Clone, Default, ClapArgs)]
pub struct AnalyzeArgs {
    /// A manifest, a directory of them with all below it (*.yaml, *.yml, *.json, but nothing hidden), or - for standard
    /// input; may be given several times. No cluster is asked. Objects that name no namespace are in that of --namespace, or
    /// in default; without --namespace those of all are looked at [default: what is in the cluster]
    #[arg(short, long, value_name = "FILE|DIR|-")]
    pub filename: Vec<String>,
    /// Which namespaces; with --filename all of them.
    #[command(flatten)]
    pub scope: ScopeArgs,
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Cannot be used, or requests fail.
    Error,
    /// Has no effect, or another one than it seems.
    Warning,
}

/// One thing to mend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// File it is in; none of an object in a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Line in the file, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// Kind of the object; empty where that cannot be read, like the next two.
    pub kind: String,
    /// Its namespace; empty for kinds that have none.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The field, as in `spec.rules[0].backendRefs[1]`; empty where it is the whole object.
    pub field: String,
    /// What is wrong, and what to do.
    pub problem: String,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Analysis {
    /// Objects that were looked at.
    pub objects: usize,
    /// How many errors there are.
    pub errors: usize,
    /// How many warnings.
    pub warnings: usize,
    /// By file and line, or by kind and name.
    pub findings: Vec<Finding>,
    /// Kinds of a cluster that may not be read, and so were not looked at; one sentence each.
    #[serde(rename = "notRead", skip_serializing_if = "Vec::is_empty")]
    pub not_read: Vec<String>,
}

/// Analyzes manifests; no cluster is asked.
pub fn run_on_files(args: &AnalyzeArgs, format: Format) -> anyhow::Result<()> {
    let Inputs { read: inputs, mut notes } = input::read(&args.filename, STDIN)?;
    let (mut sources, foreign) = source::objects(&inputs);
    notes.extend(foreign);
    let namespace = args.scope.namespace.as_deref();
    let looked_at = namespace.map_or(sources.len(), |namespace| place(&mut sources, namespace));
    if let (Some(namespace), others @ 1..) = (namespace, sources.len() - looked_at) {
        notes.push(format!("not looked at: {} of other namespaces than {namespace}", many(others, "object")));
    }
    for note in &notes {
        eprintln!("meshctl: {}", printable(note.clone()));
    }
    let unreadable = source::unreadable(&inputs);
    if looked_at == 0 && unreadable.is_empty() {
        let of = namespace.map(|namespace| format!(" of namespace {namespace}")).unwrap_or_default();
        return Err(usage(format!("there is no object{of} in {}", args.filename.join(", "))));
    }
    let mut judged = Judged { objects: looked_at, ..judge::judge(&sources, &Known::files()) };
    judged.findings.extend(unreadable);
    finish(&Analysis::new(judged, namespace), format)
}

/// Puts what names no namespace into this one, and says how many objects are in it then.
fn place(sources: &mut [source::Source], namespace: &str) -> usize {
    sources.iter_mut().for_each(|source| source.put_into(namespace));
    sources.iter().filter(|source| source.is_of(namespace)).count()
}

/// Analyzes the manifests of a demo.
pub fn run_on_demo(directory: &Path, args: &AnalyzeArgs, format: Format) -> anyhow::Result<()> {
    let manifests = directory.join(crate::location::MANIFESTS).to_string_lossy().into_owned();
    run_on_files(&AnalyzeArgs { filename: vec![manifests], scope: args.scope.clone() }, format)
}

/// Analyzes what is in a cluster, in one namespace or in all.
pub async fn run_on_cluster(
    cluster: &crate::kubernetes::Cluster,
    namespace: Option<&str>,
    format: Format,
) -> anyhow::Result<()> {
    let read = online::read(cluster, namespace).await?;
    let judged = judge::judge(&read.sources, &read.known);
    finish(&Analysis { not_read: read.not_read, ..Analysis::new(judged, namespace) }, format)
}

fn finish(analysis: &Analysis, format: Format) -> anyhow::Result<()> {
    output::print(&match format {
        Format::Json => output::json(analysis),
        Format::Table => analysis.render(),
    })?;
    match analysis.errors {
        0 => Ok(()),
        errors => bail!("{} to correct", many(errors, "error")),
    }
}

impl Analysis {
    /// What was found in one namespace or in all, sorted.
    pub fn new(judged: Judged, namespace: Option<&str>) -> Self {
        let mut findings = judged.findings;
        // What cannot be read may belong to anybody.
        let is_of = |finding: &Finding| {
            let of = if finding.kind == "Namespace" { &finding.name } else { &finding.namespace };
            finding.kind.is_empty() || namespace.is_none_or(|namespace| namespace == of)
        };
        findings.retain(is_of);
        findings.sort_by(|a, b| {
            let key = |it: &Finding| (it.file.clone(), it.line, it.namespace.clone(), it.kind.clone(), it.name.clone());
            key(a).cmp(&key(b)).then(a.severity.cmp(&b.severity)).then(a.problem.cmp(&b.problem))
        });
        findings.dedup();
        let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
        Self {
            objects: judged.objects,
            errors: count(Severity::Error),
            warnings: count(Severity::Warning),
            findings,
            not_read: Vec::new(),
        }
    }

    /// One line per finding, and below them what they amount to.
    pub fn render(&self) -> String {
        let mut text: String = self.findings.iter().map(|finding| format!("{}\n", printable(finding.line()))).collect();
        text.extend(self.not_read.iter().map(|why| format!("‼ not looked at: {}\n", printable(why.clone()))));
        let objects = many(self.objects, "object");
        text.push_str(&match (self.errors, self.warnings) {
            (0, 0) => format!("√ {objects}, nothing to correct\n"),
            (errors, warnings) => format!("{objects}: {}, {}\n", many(errors, "error"), many(warnings, "warning")),
        });
        text
    }
}

impl Finding {
    fn line(&self) -> String {
        let mark = match self.severity {
            Severity::Error => '×',
            Severity::Warning => '‼',
        };
        let place = match (&self.file, self.line) {
            (Some(file), Some(line)) => format!("{file}:{line}: "),
            (Some(file), None) => format!("{file}: "),
            (None, _) => String::new(),
        };
        let object = match (self.kind.as_str(), self.namespace.as_str()) {
            ("", _) => String::new(),
            (kind, "") => format!("{kind} {}: ", self.name),
            (kind, namespace) => format!("{kind} {namespace}/{}: ", self.name),
        };
        let field = if self.field.is_empty() { String::new() } else { format!("{}: ", self.field) };
        format!("{mark} {place}{object}{field}{}", self.problem)
    }
}

const STDIN: &str = "kubectl get deploy,svc,httproute -o yaml | meshctl analyze -f -";
/// Help that teaches.
pub const EXAMPLES: &str = "\
Examples:
  meshctl analyze                          the namespace of your kubeconfig's context
  meshctl analyze -n shop
  meshctl analyze -A                       the whole cluster
  meshctl analyze -f manifests/            before they are applied, with all below it; no cluster is asked
  meshctl analyze -f base/ -f extra.yaml
  kustomize build . | meshctl analyze -n shop -f -    for what kubectl apply -n shop will get
  meshctl analyze -f app.yaml -o json      for a program, or a pull request's checks

Looks at HTTPRoutes, Services, the kinds of meshctl.io, and meshctl.io annotations on pods, on what pods are made from and on \
namespaces, with the same functions as the mesh itself: × is refused by the mesh, or makes requests fail, or leaves pods \
without their proxy; ‼ has no effect, or hardly the one that was meant. Each line says where, and what to write instead. What \
only the files' readers can know, as whether a Service is in the cluster already, is a warning with --filename and an error \
without. Nothing is changed.";

#[cfg(test)]
mod tests;
