//! Pure: facts and a key make a value.
//!
//! ```text
//!   Facts ──┬─ outbound(address)      ─► policy::Outbound    a Service with its routes, a workload, or foreign
//!           ├─ endpoints(ServicePort) ─► policy::Endpoints   who serves a backend
//!           └─ inbound(Caller)        ─► policy::Inbound     what a proxy must know of its own workload
//! ```
//!
//! The same facts always make the same value, sorted, so that values can be compared by their hash. `None` means that
//! the key names nothing. The controller serves these values, and `meshctl` explains them offline. [`audience`] says whom
//! a value is for: everybody, as a rule. [`findings`] says what is odd about the facts themselves.
//!
//! # Services, field by field
//!
//! A client in the mesh gets the endpoints that kube-proxy would give it; where the two differ, it is said here.
//!
//! | field | what becomes of it |
//! |---|---|
//! | `clusterIP`, `clusterIPs` | The Service, on the ports it has; on others nobody, which the client is told at once. |
//! | `clusterIP: None` | Clients dial pods themselves: mesh TLS and telemetry, no routes, no balancing. |
//! | `type: ExternalName` | A name only: nothing here. |
//! | `selector` | Kubernetes' EndpointSlices say who serves; the selector picks ExternalWorkloads besides. |
//! | no `selector` | EndpointSlices written by hand are followed; addresses that are no pod's are dialled in plain, unless an ExternalWorkload of the Service's namespace has them. |
//! | `ports` | TCP. Other transports pass the proxy by. `appProtocol`, then the port's name, declare the protocol. |
//! | `targetPort` | A name leads wherever each slice says; 0 and an empty name mean the same port. |
//! | `publishNotReadyAddresses` | Such endpoints are ready as far as slices say. |
//! | terminating endpoints | Serve only where nobody is ready, while they serve (`ProxyTerminatingEndpoints`). |
//! | `ipFamilies` | The client's family is kept; kube-proxy refuses where nobody has an address in it, we use the other. |
//! | `internalTrafficPolicy: Local` | Endpoints on the client's node, the same conditions; none: `no_local_endpoints` at once, where kube-proxy drops packets. Backends of routes keep to their own Service's policy. A client without a node (an ExternalWorkload) has nobody near. |
//! | `externalTrafficPolicy` | Nothing: it is about clients outside the cluster. Those inside get all endpoints, by outer addresses as well. |
//! | `sessionAffinity: ClientIP` | The client is the pod: each port of the Service keeps one endpoint per pod until that leaves, cannot be reached, or was not used for `timeoutSeconds` (10,800 by default). Routes draw a backend by weight first; each backend keeps its own. A proxy that is started anew chooses anew. |
//! | `status.loadBalancer.ingress[].ip` | As the cluster address, for every client, on the Service's ports; other ports are not the Service's. Not with `ipMode: Proxy` or `loadBalancerSourceRanges`: then the traffic goes where it would without a mesh, in plain. |
//! | `externalIPs` | The same, for clients of the Service's own namespace. For others kube-proxy decides, in plain, as without a mesh: whoever may make a Service may write any address there (CVE-2020-8554). |
//! | outer addresses with `internalTrafficPolicy: Local` | kube-proxy's, in plain: the policy does not hold for them. |
//! | outer addresses that are a pod's, a node's or a cluster address | Never the Service's. |
//! | `trafficDistribution`, topology hints | Clients keep to the ready endpoints that are meant for their node, else for their zone, where every ready endpoint has such a hint and one is meant for them; otherwise all are used. |

pub mod audience;
pub mod direct;
pub mod endpoints;
pub mod facts;
pub mod findings;
pub mod inbound;
pub mod outbound;
mod ports;
pub mod protocol;
pub mod routes;
mod topology;

pub use audience::Audience;
pub use direct::{Direct, PortKind};
pub use endpoints::endpoints;
pub use facts::{Facts, Mesh};
pub use findings::{Finding, Weight};
pub use inbound::{Caller, inbound};
pub use outbound::{Dialled, dialled, outbound};

#[cfg(test)]
mod tests;
