//! The CustomResourceDefinitions of our kinds, as the chart `mesh-crds` ships them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use crate::external_workload::ExternalWorkload;

/// Every definition.
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![ExternalWorkload::crd()]
}

/// The file name and YAML text of every definition.
pub fn files() -> Vec<(String, String)> {
    all()
        .into_iter()
        .map(|definition| {
            let text = serde_yaml_ng::to_string(&definition).expect("definitions are plain data");
            (format!("{}.yaml", definition.spec.names.plural), text)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// With `MESH_WRITE_CRDS=1` in the environment it writes the files instead of comparing them.
    #[test]
    fn the_chart_ships_what_the_code_says() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/mesh-crds/templates");
        for (name, text) in super::files() {
            let path = directory.join(name);
            if std::env::var_os("MESH_WRITE_CRDS").is_some() {
                std::fs::create_dir_all(&directory).unwrap();
                std::fs::write(&path, &text).unwrap();
            }
            let shipped = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(
                shipped == text,
                "{} is not what the code says; run MESH_WRITE_CRDS=1 cargo test -p crd",
                path.display()
            );
        }
    }
}
