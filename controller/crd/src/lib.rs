//! From Kubernetes objects to plain facts: the mesh's own kinds, and the only place that knows Gateway API's types.
//!
//! - [`external_workload`]: our kind for a machine or process outside Kubernetes; its CRD is generated from here.
//! - [`model`]: what the rest of the control plane knows of Services, Namespaces, routes and workloads. Parse, don't
//!   validate: what exists in this model is usable.
//! - [`manifest`]: a YAML or JSON document to a fact of the model, with errors that name field and line.
//! - [`route`]: HTTPRoute to the model.
//!
//! Nothing here is computed from two objects together: that is `resolve`'s work.

pub mod crds;
pub mod duration;
pub mod external_workload;
pub mod manifest;
pub mod model;
pub mod route;
pub mod service;

pub use external_workload::ExternalWorkload;
pub use manifest::{Document, ManifestError, Parsed, UnknownField};
pub use model::{HttpRoute, Metadata, Namespace, Object, ObjectId, Service, Workload};
