//! The Helm charts of the tree, inside this program, and what they render to.
//!
//! `helm install` and `meshctl install` read the same files: what the charts say is said once. The templates keep to the
//! functions of Helm's that [`render`] knows, and a test holds the objects against those of real Helm.
//!
//! ```text
//! values.yaml  <-  -f FILE ...  <-  --set ...     values
//!                      schema                     schema
//!                     templates                   render
//!                     programs                    accepted
//!                      objects
//! ```

pub mod accepted;
pub mod render;
pub mod schema;
pub mod values;

use serde_json::Value;

pub use render::{Release, RenderError};
pub use values::ValuesError;

/// A chart as it lies in the tree.
#[derive(Debug, Clone, Copy)]
pub struct Chart {
    /// Its name.
    pub name: &'static str,
    /// `values.yaml`.
    pub values: &'static str,
    /// `values.schema.json`; may be empty.
    pub schema: &'static str,
    /// Files of `templates/`, by name.
    pub templates: &'static [(&'static str, &'static str)],
}

/// The kinds of `meshctl.io`.
pub const CRDS: Chart = Chart {
    name: "mesh-crds",
    values: "",
    schema: "",
    templates: &[("externalworkloads.yaml", include_str!("../../charts/mesh-crds/templates/externalworkloads.yaml"))],
};

/// The control plane.
pub const MESH: Chart = Chart {
    name: "mesh",
    values: include_str!("../../charts/mesh/values.yaml"),
    schema: include_str!("../../charts/mesh/values.schema.json"),
    templates: &[
        ("_helpers.tpl", include_str!("../../charts/mesh/templates/_helpers.tpl")),
        ("bundle-guard.yaml", include_str!("../../charts/mesh/templates/bundle-guard.yaml")),
        ("config.yaml", include_str!("../../charts/mesh/templates/config.yaml")),
        ("controller.yaml", include_str!("../../charts/mesh/templates/controller.yaml")),
        ("dashboards.yaml", include_str!("../../charts/mesh/templates/dashboards.yaml")),
        ("identity.yaml", include_str!("../../charts/mesh/templates/identity.yaml")),
        ("injector.yaml", include_str!("../../charts/mesh/templates/injector.yaml")),
        ("monitors.yaml", include_str!("../../charts/mesh/templates/monitors.yaml")),
        ("namespace-guard.yaml", include_str!("../../charts/mesh/templates/namespace-guard.yaml")),
        ("namespace.yaml", include_str!("../../charts/mesh/templates/namespace.yaml")),
        ("rbac.yaml", include_str!("../../charts/mesh/templates/rbac.yaml")),
        ("route-warnings.yaml", include_str!("../../charts/mesh/templates/route-warnings.yaml")),
        ("rules.yaml", include_str!("../../charts/mesh/templates/rules.yaml")),
        ("webhook.yaml", include_str!("../../charts/mesh/templates/webhook.yaml")),
    ],
};

/// Values for several replicas of everything: `values-ha.yaml` of [`MESH`].
pub const HA_VALUES: &str = include_str!("../../charts/mesh/values-ha.yaml");

/// Why a chart gives no objects.
#[derive(Debug, thiserror::Error)]
pub enum ChartError {
    /// What was given to be put into it.
    #[error(transparent)]
    Values(#[from] ValuesError),
    /// It does not render with that.
    #[error(transparent)]
    Render(#[from] RenderError),
}

impl Chart {
    /// Its objects, with `overrides` over its own values, in the order of its files.
    pub fn objects(&self, overrides: &Value, release: &Release) -> Result<Vec<Value>, ChartError> {
        let values = values::over_defaults(self.values, overrides)?;
        schema::check(self.schema, &values)?;
        let objects = render::objects(self, &values, release)?;
        accepted::check(&objects)?;
        Ok(objects)
    }
}

#[cfg(test)]
mod tests;
