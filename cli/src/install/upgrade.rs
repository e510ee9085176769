//! `meshctl upgrade`: the last installation's values with this version's charts, or with `--plan` what that would change.

use std::collections::BTreeMap;

use anyhow::bail;
use kube::api::DynamicObject;
use serde::Serialize;
use serde_json::Value;

use crate::args::{Output, UpgradeArgs};
use crate::kubernetes::{self, Cluster, ClusterArgs};
use crate::output;

use super::object::Object;
use super::record::Record;
use super::{apply, difference, install, overrides, preflight, proxies};

/// What an upgrade would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Version that is installed.
    pub from: String,
    /// Version that would be.
    pub to: String,
    /// Objects that would be made.
    pub create: Vec<String>,
    /// Objects that would be different, with what changes in them.
    pub change: BTreeMap<String, Vec<String>>,
    /// Objects that would be deleted.
    pub delete: Vec<String>,
    /// Running proxies by version, and whether the new control plane works with them.
    pub proxies: Vec<ProxyVersion>,
}

/// Proxies of one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProxyVersion {
    /// Their version.
    pub version: String,
    /// How many there are.
    pub pods: usize,
    /// Whether they go on working; unknown where they do not say their version.
    pub compatible: Option<bool>,
}

/// Runs the command.
pub async fn run(args: &UpgradeArgs, cluster: &ClusterArgs, format: Option<Output>) -> anyhow::Result<()> {
    let cluster = kubernetes::connect(cluster).await?;
    let Some(record) = Record::read(&cluster.client).await? else {
        // Helm's, or nobody's: which of them decides what to say.
        let objects = super::desired(&Value::Object(serde_json::Map::new()), &cluster.version.git_version)?;
        preflight::owner(&apply::live(&cluster.client, objects.iter().map(|object| &object.key)).await?)?;
        bail!("meshctl has not installed a mesh in this cluster; do so with: meshctl install");
    };
    let base = if args.reset_values { serde_json::Map::new().into() } else { record.values.clone() };
    let overrides = overrides(base, &args.values)?;
    if format == Some(Output::Yaml) {
        preflight::version(&cluster)?;
        return output::print(&super::yaml(&super::desired(&overrides, &cluster.version.git_version)?));
    }
    if !args.plan {
        let report = install(&cluster, overrides, &args.way).await?;
        return output::print(&if format == Some(Output::Json) { output::json(&report) } else { report.render() });
    }
    let plan = plan(&cluster, &record, &overrides).await?;
    output::print(&if format == Some(Output::Json) { output::json(&plan) } else { plan.render() })
}

async fn plan(cluster: &Cluster, record: &Record, overrides: &Value) -> anyhow::Result<Plan> {
    preflight::version(cluster)?;
    let desired = super::desired(overrides, &cluster.version.git_version)?;
    let live = apply::live(&cluster.client, desired.iter().map(|object| &object.key)).await?;
    preflight::owner(&live)?;
    let after = Record::of(overrides, &desired);
    let gone = record.gone(&after);
    let mut plan = Plan {
        from: record.version.clone(),
        to: super::VERSION.to_owned(),
        delete: gone.iter().map(ToString::to_string).collect(),
        ..Plan::default()
    };
    for object in &desired {
        let Some(before) = live.get(&object.key) else {
            plan.create.push(object.key.to_string());
            continue;
        };
        let changes = changes(cluster, object, before).await?;
        if !changes.is_empty() {
            plan.change.insert(object.key.to_string(), changes);
        }
    }
    for (version, pods) in proxies::by_version(&proxies::meshed(&cluster.client).await?) {
        let compatible = proxies::compatible(&version, &plan.to);
        plan.proxies.push(ProxyVersion { version, pods, compatible });
    }
    Ok(plan)
}

async fn changes(cluster: &Cluster, object: &Object, before: &DynamicObject) -> anyhow::Result<Vec<String>> {
    if apply::is_made_anew(before, object) {
        return Ok(vec!["is deleted and made again: its address cannot be changed".to_owned()]);
    }
    let after = apply::dry_run(&cluster.client, object).await?;
    Ok(difference::between(&serde_json::to_value(before)?, &serde_json::to_value(after)?))
}

impl Plan {
    fn render(&self) -> String {
        let mut text = format!("mesh {} -> {}\n", self.from, self.to);
        for key in &self.create {
            text.push_str(&format!("create  {key}\n"));
        }
        for (key, changes) in &self.change {
            text.push_str(&format!("change  {key}\n"));
            for change in changes {
                text.push_str(&format!("          {change}\n"));
            }
        }
        for key in &self.delete {
            text.push_str(&format!("delete  {key}\n"));
        }
        if self.create.is_empty() && self.change.is_empty() && self.delete.is_empty() {
            text.push_str("nothing would change\n");
        }
        for ProxyVersion { version, pods, compatible } in &self.proxies {
            let fate = match compatible {
                Some(true) => "compatible; the new version comes with a restart of the pods",
                Some(false) => "more than one minor version away; restart the pods at once after the upgrade",
                None => "nothing is known of its compatibility",
            };
            let proxies = if *pods == 1 { "1 running proxy".to_owned() } else { format!("{pods} running proxies") };
            text.push_str(&format!("{proxies} of version {version}: {fate}\n"));
        }
        text
    }
}
