//! From Kubernetes objects to plain facts: the mesh's own kinds, and the only place that knows Gateway API's types.
//!
//! - [`external_workload`]: our kind for a machine or process outside Kubernetes; its CRD is generated from here.
//! - [`model`]: what the rest of the control plane knows of Services, Namespaces, routes and workloads. Parse, don't
//!   validate: what exists in this model is usable.
//! - [`manifest`]: a YAML or JSON document to a fact of the model, with errors that name field and line.
//! - [`route`], [`service`], [`pod`], [`endpoint_slice`]: objects as Kubernetes has them to the model, of which they keep
//!   what somebody reads and drop the rest: most of a pod's bytes are its status and managed fields.
//!
//! Nothing here is computed from two objects together: that is `resolve`'s work.

pub mod crds;
pub mod duration;
pub mod endpoint_slice;
pub mod external_workload;
pub mod manifest;
pub mod model;
pub mod pod;
pub mod port_set;
pub mod route;
pub mod service;

pub use external_workload::ExternalWorkload;
pub use manifest::{Document, ManifestError, Parsed, UnknownField};
pub use model::{EndpointSlice, HttpRoute, Metadata, Namespace, Node, Object, ObjectId, Service, Workload};
pub use port_set::PortSet;
pub use route::GatewayRoute;
