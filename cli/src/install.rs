//! `meshctl install`: the charts' objects into a cluster, again and again until all of them are there.
//!
//! Everything is applied on the server's side under one field manager, in an order in which each object finds what it
//! needs, and the webhooks last of all: nobody's pods wait for an injector that cannot run yet. What was applied is
//! written down ([`record`]) before it is, so an interrupted run is finished by the next one, and what an earlier version
//! left behind is deleted. Running it twice changes nothing; while one runs, another is refused ([`lock`]).
//!
//! `meshctl upgrade` ([`upgrade`]) is the same with the values of the last time, `meshctl uninstall` ([`uninstall`]) the
//! way back.

pub mod apply;
pub mod difference;
pub mod lock;
pub mod object;
pub mod preflight;
pub mod proxies;
pub mod record;
pub mod rollout;
pub mod uninstall;
pub mod upgrade;

use std::io::IsTerminal as _;
use std::path::Path;
use std::time::Duration;

use proto::names;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::args::{InstallArgs, Output, ValuesArgs};
use crate::charts::{self, ChartError, Release, values};
use crate::kubernetes::{self, Cluster, ClusterArgs};
use crate::output;
use crate::progress::Progress;
use crate::usage::usage;

use apply::Applied;
use lock::Lock;
use object::Object;
use record::Record;

/// Runs the command.
pub async fn run(args: &InstallArgs, cluster: &ClusterArgs, format: Option<Output>) -> anyhow::Result<()> {
    let overrides = overrides(Map::new().into(), &args.values)?;
    if format == Some(Output::Yaml) {
        let kube_version = args.kube_version.as_deref().unwrap_or(DEFAULT_KUBE_VERSION);
        return output::print(&yaml(&desired(&overrides, kube_version)?));
    }
    let cluster = kubernetes::connect(cluster).await?;
    let report = install(&cluster, overrides, &args.way).await?;
    if format == Some(Output::Json) {
        return output::print(&output::json(&report));
    }
    output::print(&report.render())
}

/// How an installation goes about it.
#[derive(Debug, Clone, clap::Args)]
pub struct Way {
    /// Wait until everything runs
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true,
          default_missing_value = "true", action = clap::ArgAction::Set)]
    pub wait: bool,
    /// How long to wait at most (90s, 5m)
    #[arg(long, value_parser = crate::args::duration, default_value = "5m", value_name = "TIME")]
    pub timeout: Duration,
    /// Take over fields that somebody else manages, as kubectl apply --server-side --force-conflicts does
    #[arg(long)]
    pub force_conflicts: bool,
}

/// What an installation did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Version that is installed now.
    pub version: String,
    /// Objects that were not there.
    pub created: Vec<String>,
    /// Objects that were different.
    pub changed: Vec<String>,
    /// Objects that were as they should be.
    pub unchanged: usize,
    /// Objects of an earlier version.
    pub deleted: Vec<String>,
    /// Everything was seen running.
    pub running: bool,
}

/// Brings a cluster to where `overrides` want it.
pub async fn install(cluster: &Cluster, overrides: Value, way: &Way) -> anyhow::Result<Report> {
    preflight::version(cluster)?;
    let desired = desired(&overrides, &cluster.version.git_version)?;
    preflight::rights(&cluster.client, &desired).await?;
    let mut progress = Progress::new();
    let deadline = Instant::now() + way.timeout;
    rollout::namespace_ended(&cluster.client, names::SYSTEM_NAMESPACE, deadline, &mut progress).await?;
    let live = apply::live(&cluster.client, desired.iter().map(|object| &object.key)).await?;
    preflight::owner(&live)?;
    progress.done(&format!("this cluster ({}) can be installed into", cluster.version.git_version));

    let after = Record::of(&overrides, &desired);
    let (first, later): (Vec<Object>, Vec<Object>) =
        desired.into_iter().partition(|object| object.key.kind == "Namespace");
    let mut run = Run { cluster, way, deadline, progress, live, report: Report::default() };
    for object in first.iter().filter(|object| !run.live.contains_key(&object.key)) {
        apply::create_marked(&cluster.client, &object.key).await?;
    }
    run.apply(first).await?;
    let lock = Lock::take(&cluster.client, &mut run.progress).await?;
    lock.hold(run.all(later, after)).await?;
    run.report.version = VERSION.to_owned();
    run.report.running = way.wait;
    Ok(run.report)
}

/// One installation under way.
struct Run<'a> {
    cluster: &'a Cluster,
    way: &'a Way,
    deadline: Instant,
    progress: Progress,
    live: apply::Live,
    report: Report,
}

impl Run<'_> {
    async fn all(&mut self, objects: Vec<Object>, mut after: Record) -> anyhow::Result<()> {
        let client = &self.cluster.client;
        let before = Record::read(client).await?;
        // Before anything is made: whatever comes in between, the next run knows what there may be.
        if before.as_ref() != Some(&after) {
            after.begun_over(before.as_ref()).write(client).await?;
        }
        self.in_order(objects).await?;
        self.prune(before.as_ref(), &after).await?;
        after.complete = true;
        after.write(client).await
    }

    async fn in_order(&mut self, objects: Vec<Object>) -> anyhow::Result<()> {
        let (webhooks, others): (Vec<Object>, Vec<Object>) =
            objects.into_iter().partition(|object| object.key.kind == "MutatingWebhookConfiguration");
        let (kinds, others): (Vec<Object>, Vec<Object>) =
            others.into_iter().partition(|object| object.key.kind == "CustomResourceDefinition");
        let client = &self.cluster.client;
        let names: Vec<String> = kinds.iter().map(|object| object.key.name.clone()).collect();
        self.apply(kinds).await?;
        rollout::kinds(client, &names, self.deadline, &mut self.progress).await?;
        let deployments: Vec<String> = others
            .iter()
            .filter(|object| object.key.kind == "Deployment")
            .map(|object| object.key.name.clone())
            .collect();
        self.apply(others).await?;
        if self.way.wait {
            for deployment in &deployments {
                rollout::deployment(client, deployment, self.deadline, &mut self.progress).await?;
            }
        }
        let names: Vec<String> = webhooks.iter().map(|object| object.key.name.clone()).collect();
        self.apply(webhooks).await?;
        if self.way.wait {
            for name in &names {
                rollout::webhook(client, name, self.deadline, &mut self.progress).await?;
            }
        }
        Ok(())
    }

    async fn apply(&mut self, objects: Vec<Object>) -> anyhow::Result<()> {
        for object in objects {
            self.progress.wait(&format!("applying {}", object.key));
            let before = self.live.get(&object.key);
            match apply::apply(&self.cluster.client, &object, before, self.way.force_conflicts).await? {
                Applied::Created => self.report.created.push(object.key.to_string()),
                Applied::Changed => self.report.changed.push(object.key.to_string()),
                Applied::Unchanged => self.report.unchanged += 1,
            }
        }
        Ok(())
    }

    async fn prune(&mut self, before: Option<&Record>, after: &Record) -> anyhow::Result<()> {
        for key in before.map(|before| before.gone(after)).unwrap_or_default() {
            self.progress.wait(&format!("deleting {key}, which this version does not have"));
            if apply::delete_ours(&self.cluster.client, &key).await? {
                self.report.deleted.push(key.to_string());
            }
        }
        Ok(())
    }
}

impl Report {
    fn render(&self) -> String {
        let mut text = String::new();
        for (what, keys) in [("created", &self.created), ("changed", &self.changed), ("deleted", &self.deleted)] {
            for key in keys {
                text.push_str(&format!("{what:<9} {key}\n"));
            }
        }
        let nothing = self.created.is_empty() && self.changed.is_empty() && self.deleted.is_empty();
        let outcome = match (nothing, self.running) {
            (true, _) => "nothing had to change",
            (false, true) => "the control plane runs",
            (false, false) => "applied; meshctl check --wait 5m says when it runs",
        };
        text.push_str(&format!("mesh {}: {outcome} ({} objects unchanged)\n", self.version, self.unchanged));
        if !self.created.is_empty() {
            text.push_str(NEXT);
        }
        text
    }
}

/// Values that flags and files name, over `base`.
pub fn overrides(base: Value, args: &ValuesArgs) -> anyhow::Result<Value> {
    let mut overrides = base;
    if args.ha {
        values::merge(&mut overrides, values::read("values-ha.yaml", charts::HA_VALUES)?);
    }
    for path in &args.values {
        let name = path.display().to_string();
        let text = match path == Path::new("-") {
            true if std::io::stdin().is_terminal() => {
                return Err(usage("-f - reads values from standard input: give it some"));
            }
            true => std::io::read_to_string(std::io::stdin()),
            false => std::fs::read_to_string(path),
        };
        let text = text.map_err(|error| usage(format!("{name} cannot be read: {error}")))?;
        values::merge(&mut overrides, values::read(&name, &text)?);
    }
    for text in &args.set {
        values::set(&mut overrides, text, false)?;
    }
    for text in &args.set_string {
        values::set(&mut overrides, text, true)?;
    }
    Ok(overrides)
}

/// Every object of an installation, in the order it is applied.
pub fn desired(overrides: &Value, kube_version: &str) -> Result<Vec<Object>, ChartError> {
    let release = Release {
        name: "mesh".to_owned(),
        namespace: names::SYSTEM_NAMESPACE.to_owned(),
        service: apply::MANAGER.to_owned(),
        kube_version: kube_version.to_owned(),
    };
    let mut objects = vec![namespace()];
    objects.extend(charts::CRDS.objects(&Map::new().into(), &release)?);
    objects.extend(charts::MESH.objects(overrides, &release)?);
    let mut objects: Vec<Object> = objects.into_iter().filter_map(Object::new).collect();
    objects.sort_by_key(Object::rank);
    Ok(objects)
}

/// What Helm's `--create-namespace` makes, and the level of PodSecurity that all of our pods keep to.
fn namespace() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": names::SYSTEM_NAMESPACE,
            "labels": {
                "app.kubernetes.io/managed-by": apply::MANAGER,
                "app.kubernetes.io/part-of": "mesh",
                "pod-security.kubernetes.io/enforce": "restricted",
            },
        },
    })
}

/// The objects as a stream of YAML documents.
pub fn yaml(objects: &[Object]) -> String {
    let documents = objects.iter().map(|object| {
        let text = serde_yaml_ng::to_string(&object.value).expect("objects are plain data");
        format!("---\n{text}")
    });
    documents.collect()
}

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// What templates see where no cluster is asked.
pub const DEFAULT_KUBE_VERSION: &str = "v1.34.0";
const NEXT: &str = "
Next:
  meshctl check
  kubectl annotate namespace NAMESPACE meshctl.io/inject=enabled
  kubectl rollout restart deployment --namespace NAMESPACE
";
