//! `meshctl inject --manual`: the proxy itself put into manifests, here instead of by the webhook when the pod is made.
//!
//! For clusters that allow no webhook, and to see what injection would do. It is the injector's own function with the
//! configuration of the installed mesh, so the pods are the same; only they keep the proxy's version until the manifest is made
//! anew. The webhook leaves such pods as they are.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use injector::decision::Skipped;
use injector::{Config, Outcome};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;
use kube::api::Api;
use kube::core::PartialObjectMeta;
use proto::names;
use serde_json::{Map, Value};

use crate::args::{InjectArgs, Output};
use crate::install;
use crate::kubernetes::{self, ClusterArgs, explain};
use crate::transport::port_forward::all;

use super::{Done, Wish, say};

/// What pods are injected with.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Manual {
    config: Config,
    /// Their annotations count for their pods; one that is not known has none.
    namespaces: BTreeMap<String, ObjectMeta>,
    /// Of objects that name none.
    namespace: String,
}

/// Reads manifests, writes standard output, with the installed mesh's configuration or the chart's own.
pub async fn run(args: &InjectArgs, cluster: &ClusterArgs, output: Option<Output>) -> anyhow::Result<()> {
    let manual = if args.ignore_cluster { Manual::of_chart()? } else { Manual::of_cluster(cluster).await? };
    super::run(&args.manifests, Wish::Proxy(&manual), output)
}

impl Manual {
    /// As `meshctl install` would set it up with no values.
    pub fn of_chart() -> anyhow::Result<Self> {
        let objects = install::desired(&Map::new().into(), install::DEFAULT_KUBE_VERSION)?;
        let config =
            objects.iter().find(|object| object.key.kind == "ConfigMap" && object.key.name == names::CONFIG_CONFIG_MAP);
        let yaml = config.and_then(|object| object.value["data"][names::CONFIG_KEY].as_str());
        let config = Config::parse(yaml.context("the chart has no configuration")?)?;
        Ok(Self { config, namespace: "default".to_owned(), namespaces: BTreeMap::new() })
    }

    async fn of_cluster(args: &ClusterArgs) -> anyhow::Result<Self> {
        let cluster = kubernetes::connect(args).await?;
        let place = names::SYSTEM_NAMESPACE;
        let name = names::CONFIG_CONFIG_MAP;
        let config_maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), place);
        let found = config_maps.get_opt(name).await;
        let found = found.map_err(|error| {
            anyhow::anyhow!(
                "ConfigMap {place}/{name} cannot be read: {}; without it: --ignore-cluster",
                explain(&error)
            )
        })?;
        let yaml = found.and_then(|found| found.data?.remove(names::CONFIG_KEY));
        let Some(yaml) = yaml else {
            bail!(
                "no mesh is installed in this cluster; install one (meshctl install), or go without: --ignore-cluster"
            )
        };
        let config = Config::parse(&yaml).with_context(|| format!("ConfigMap {place}/{name}"))?;
        let partial: Api<PartialObjectMeta<Namespace>> = Api::all(cluster.client.clone());
        let namespaces = match all(&partial).await {
            Ok(namespaces) => namespaces,
            Err(error) => {
                eprintln!("meshctl: annotations of namespaces do not count: {}", explain(&error));
                Vec::new()
            }
        };
        let namespaces = namespaces.into_iter().map(|namespace| (namespace.name_any(), namespace.metadata)).collect();
        Ok(Self { config, namespaces, namespace: cluster.namespace })
    }

    /// Puts the proxy into what a workload's pods are made from.
    pub(super) fn put(&self, name: &str, namespace: Option<&str>, template: &mut Value) -> Done {
        let mut injected = template.clone();
        // A word that is there already is somebody's, and counts.
        if !has_word(&injected) {
            say(&mut injected, Wish::Enabled);
        }
        let mut pod: Pod = match serde_json::from_value(injected.clone()) {
            Ok(pod) => pod,
            Err(error) => return Done::NotInjected(format!("it cannot be read as a pod: {error}")),
        };
        // Whose pods these will be.
        pod.metadata.name = Some(name.to_owned());
        let namespace = namespace.unwrap_or(&self.namespace);
        let unknown = || ObjectMeta { name: Some(namespace.to_owned()), ..ObjectMeta::default() };
        let metadata = self.namespaces.get(namespace).cloned().unwrap_or_else(unknown);
        // No copy of the trust bundle: roots change, and a manifest may be old when it is applied.
        match injector::inject(&pod, &metadata, &self.config, None) {
            Outcome::Skipped(Skipped::AlreadyInjected) => Done::Unchanged,
            Outcome::Skipped(why) if !why.is_surprising() => Done::LeftOut(why.to_string()),
            Outcome::Skipped(why) => Done::NotInjected(why.to_string()),
            Outcome::Injected(injection) => match json_patch::patch(&mut injected, &injection.patch) {
                Ok(()) => {
                    *template = injected;
                    Done::Injected(injection.notes)
                }
                Err(error) => Done::NotInjected(format!("it cannot be changed: {error}")),
            },
        }
    }
}

fn has_word(template: &Value) -> bool {
    let metadata = &template["metadata"];
    [names::INJECT, ISTIO]
        .iter()
        .any(|word| ["labels", "annotations"].iter().any(|map| metadata[map].get(word).is_some()))
}

const ISTIO: &str = "sidecar.istio.io/inject";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inject::tests::rewrite_text;

    const DEPLOYMENT: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: shop}\nspec:\n  template:\n    \
                              metadata: {labels: {app: web}}\n    spec:\n      containers: [{name: app, image: app}]\n";

    fn manual() -> Manual {
        let annotations = [(names::SKIP_INBOUND_PORTS.to_owned(), "9000".to_owned())];
        let shop = ObjectMeta {
            name: Some("shop".to_owned()),
            annotations: Some(annotations.into()),
            ..ObjectMeta::default()
        };
        Manual { namespaces: [("shop".to_owned(), shop)].into(), ..Manual::of_chart().unwrap() }
    }

    #[test]
    fn a_deployment_gets_what_the_webhook_would_give_its_pods() {
        let manual = manual();
        let (text, fates) = rewrite_text(DEPLOYMENT, Wish::Proxy(&manual)).unwrap();
        assert!(matches!(&fates[0].done, Done::Injected(_)), "{fates:?}");
        let object: Value = serde_yaml_ng::from_str(&text).unwrap();
        let template = &object["spec"]["template"];
        let before: Vec<&str> = template["spec"]["initContainers"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|one| one["name"].as_str())
            .collect();
        assert_eq!(before, [names::INIT_CONTAINER, names::PROXY_CONTAINER]);
        assert_eq!(template["spec"]["containers"][0]["name"], "app");
        let annotations = &template["metadata"]["annotations"];
        assert_eq!(annotations[names::PROXY_VERSION], env!("CARGO_PKG_VERSION"));
        assert_eq!(annotations[names::SKIP_INBOUND_PORTS], "9000", "its namespace's annotations count");
        let proxy = &template["spec"]["initContainers"][1];
        let variables = proxy["env"].as_array().unwrap();
        let bootstrap =
            variables.iter().find(|one| one["name"] == names::BOOTSTRAP_VARIABLE).unwrap()["value"].as_str();
        assert!(bootstrap.is_some_and(|text| text.contains(r#""owner":"web""#)), "{bootstrap:?}");
        // Once more changes nothing.
        let (again, fates) = rewrite_text(&text, Wish::Proxy(&manual)).unwrap();
        assert_eq!((again, &fates[0].done), (text, &Done::Unchanged));
    }

    /// The table of annotations names each of them, with the default that holds and an example that is accepted.
    #[test]
    fn the_readme_tells_of_every_annotation() {
        let readme = include_str!("../../../README.md");
        let rows: Vec<Vec<&str>> = readme
            .lines()
            .filter(|line| line.starts_with("| `meshctl.io/"))
            .map(|line| line.split('|').map(|cell| cell.trim().trim_matches('`')).collect())
            .collect();
        let mut told: Vec<&str> = rows.iter().map(|row| row[1]).collect();
        let source = include_str!("../../../proto/src/names.rs");
        let quoted = source.split('"').skip(1).step_by(2).filter(|text| text.starts_with("meshctl.io/"));
        // These two are written by the mesh and mean nothing from anybody else.
        let mut known: Vec<&str> =
            quoted.filter(|name| ![names::INJECT_MIRRORED, names::PROXY_VERSION].contains(name)).collect();
        told.sort_unstable();
        known.sort_unstable();
        assert_eq!(told, known);

        let manual = Manual { namespaces: BTreeMap::new(), ..manual() };
        let config = &manual.config;
        let amounts = &config.proxy.resources;
        let none = || "none".to_owned();
        let listed = |text: &str| if text.is_empty() { none() } else { text.to_owned() };
        for row in rows {
            let (annotation, default, example) = (row[1], row[4], row[5]);
            let expected = match annotation {
                names::INJECT => "disabled".to_owned(),
                names::SKIP_INBOUND_PORTS => listed(&config.proxy.skip_inbound_ports),
                names::SKIP_OUTBOUND_PORTS => listed(&config.proxy.skip_outbound_ports),
                names::SKIP_OUTBOUND_SUBNETS => listed(&config.proxy.skip_outbound_subnets),
                names::PROXY_CPU_REQUEST => amounts.requests.cpu.clone().unwrap_or_else(none),
                names::PROXY_CPU_LIMIT => amounts.limits.cpu.clone().unwrap_or_else(none),
                names::PROXY_MEMORY_REQUEST => amounts.requests.memory.clone().unwrap_or_else(none),
                names::PROXY_MEMORY_LIMIT => amounts.limits.memory.clone().unwrap_or_else(none),
                names::PROXY_LOG_LEVEL => config.proxy.log_level.clone(),
                names::PROXY_IMAGE_OVERRIDE => {
                    format!("{}/{}:{}", config.image.registry, names::PROXY_IMAGE, config.image.tag)
                }
                names::PROXY_WORKERS => config.proxy.workers.to_string(),
                names::DRAIN_DELAY => config.proxy.drain_delay.clone(),
                _ => none(),
            };
            assert_eq!(default, expected, "{annotation}");
            let annotated = format!("{{annotations: {{{annotation}: \"{example}\"}}}}");
            let text = DEPLOYMENT.replace("{labels: {app: web}}", &annotated);
            let (_, fates) = rewrite_text(&text, Wish::Proxy(&manual)).unwrap();
            assert!(matches!(fates[0].done, Done::Injected(_)), "{annotation}: {example}: {}", fates[0]);
        }
    }

    #[test]
    fn what_cannot_be_injected_stays_as_it_is_and_says_why() {
        let manual = manual();
        for (from, to, expected) in [
            ("{labels: {app: web}}", "{annotations: {meshctl.io/inject: disabled}}", "disabled"),
            ("{labels: {app: web}}", "{annotations: {meshctl.io/proxy-workers: many}}", "proxy-workers"),
            ("image: app}]", "image: app, ports: [{containerPort: 15001}]}]", "15001"),
            ("containers: [{name: app, image: app}]", "containers: 7", "cannot be read as a pod"),
        ] {
            let text = DEPLOYMENT.replace(from, to);
            let (out, fates) = rewrite_text(&text, Wish::Proxy(&manual)).unwrap();
            assert_eq!(out, text);
            assert!(fates[0].to_string().contains(expected), "{expected}: {}", fates[0]);
            assert_eq!(matches!(fates[0].done, Done::LeftOut(_)), expected == "disabled", "{}", fates[0]);
        }
        let (_, fates) = rewrite_text("kind: Namespace\nmetadata: {name: a}\n", Wish::Proxy(&manual)).unwrap();
        assert_eq!(fates[0].done, Done::NoPods);
    }
}
