//! [`next`]: what to look at when the mesh answers with a reason.

use proto::Reason;

/// One or two concrete steps: a command, or the field to look at.
pub(super) fn next(reason: Reason) -> &'static str {
    STEPS.iter().find(|(of, _)| *of == reason).map_or(NOT_YET, |(_, step)| step)
}

/// Whether this version of the mesh can answer so.
pub(super) fn occurs(reason: Reason) -> bool {
    next(reason) != NOT_YET
}

/// By reason; those that are not here do not occur.
const STEPS: &[(Reason, &str)] = &[
    (
        Reason::DiscoveryUnavailable,
        "meshctl proxy-status tells which proxies hear from a controller; kubectl get pods -n mesh-system whether one runs.",
    ),
    (
        Reason::NoRoute,
        "Compare spec.rules[].matches of the Service's HTTPRoutes with the request: kubectl get httproute -A -o yaml; a rule without matches takes the rest.",
    ),
    (Reason::BackendUnresolved, "meshctl analyze -A names the backendRefs, and why each is none."),
    (
        Reason::NoEndpoints,
        "kubectl get endpointslices -l kubernetes.io/service-name=SERVICE: are there pods that match spec.selector, and are they Ready (kubectl get pods)?",
    ),
    (
        Reason::NoLocalEndpoints,
        "kubectl get pods -o wide tells the nodes: run a pod of it on the client's (a DaemonSet), or set spec.internalTrafficPolicy: Cluster.",
    ),
    (
        Reason::ConnectRefused,
        "Does the address listen on the port? Compare the Service's spec.ports[].targetPort with what the container listens on, and see kubectl get pods for restarts; meshctl check --proxy for its proxy.",
    ),
    (
        Reason::ConnectTimeout,
        "kubectl get networkpolicy -A: between meshed pods each port is reached as itself, from the client's pod; then kubectl get pods -o wide and its node.",
    ),
    (
        Reason::ConnectFailed,
        "The client's proxy says the address and the system's error: kubectl logs POD -c mesh-proxy; then routes and NetworkPolicies of the node.",
    ),
    (
        Reason::TlsFailed,
        "kubectl logs POD -c mesh-proxy of both sides; meshctl identity: has each a certificate, of the same root?",
    ),
    (
        Reason::TlsIdentityMismatch,
        "meshctl identity POD of the endpoint, and its spec.serviceAccountName: an address may just have gone to another pod; else meshctl proxy-status shows whose picture is old.",
    ),
    (
        Reason::TlsUntrusted,
        "meshctl identity tells expiry and root of each certificate; meshctl check whether all proxies trust the same roots. Clocks of the nodes count as well.",
    ),
    (
        Reason::CertificateUnavailable,
        "meshctl identity, then kubectl logs -n mesh-system deploy/mesh-identity: does it run, and does it sign for this ServiceAccount?",
    ),
    (
        Reason::ConnectionClosed,
        "kubectl get pods for restarts of the endpoint, kubectl logs POD -c mesh-proxy on its side: the application may have closed it (app_closed).",
    ),
    (
        Reason::ConnectionLost,
        "Usual while pods go, and the request is tried again where it can be; if it stays, compare the application's idle timeout with the rate of requests (meshctl stat).",
    ),
    (
        Reason::RequestTimeout,
        "spec.rules[].timeouts.request of the HTTPRoute, and the latency of who answers: meshctl stat --by service.",
    ),
    (
        Reason::BackendTimeout,
        "spec.rules[].timeouts.backendRequest of the HTTPRoute, and the latency of who answers: meshctl stat --by service.",
    ),
    (
        Reason::AppRefused,
        "Does the container listen on the Service's targetPort, on all addresses (kubectl exec POD -- ss -ltn)? If on 127.0.0.1 only, name the port in meshctl.io/loopback-ports; a readinessProbe keeps requests away until it does.",
    ),
    (
        Reason::AppClosed,
        "kubectl logs POD --previous: did it crash or end? If it runs, its idle timeout or a limit of its own closes connections.",
    ),
    (
        Reason::Draining,
        "Usual while pods go; if many see it, set meshctl.io/drain-delay longer, and meshctl proxy-status tells which clients have an old picture.",
    ),
    (
        Reason::RequestInvalid,
        "The log line of the proxy that answered says what is wrong with it: kubectl logs POD -c mesh-proxy. If it is no HTTP, name the port in meshctl.io/opaque-ports.",
    ),
    (
        Reason::HeadTooLarge,
        "The chart's value proxy.maxHeadBytes (meshctl upgrade --set proxy.maxHeadBytes=…), or cookies and tokens that grew.",
    ),
    (
        Reason::VersionUnsupported,
        "HTTP/1.1 and HTTP/2 are spoken: look at what the client sends (curl -v); name the port in meshctl.io/opaque-ports if it is no HTTP.",
    ),
    (
        Reason::TransferCodingUnsupported,
        "The request's header Transfer-Encoding: the client has to send chunked, and name compression in Content-Encoding.",
    ),
    (
        Reason::ResponseInvalid,
        "kubectl logs POD -c mesh-proxy says what is wrong with it; if the port speaks no HTTP, name it in meshctl.io/opaque-ports.",
    ),
    (
        Reason::ResponseHeadTooLarge,
        "The chart's value proxy.maxHeadBytes (meshctl upgrade --set proxy.maxHeadBytes=…), or what the application puts into headers.",
    ),
    (
        Reason::Overloaded,
        "meshctl stat --proxy for load and latency of the workload; more replicas, or meshctl.io/proxy-workers and meshctl.io/proxy-cpu-limit for its proxy.",
    ),
    (
        Reason::ClientClosed,
        "The client's own timeout: compare it with the latency that meshctl stat shows; nothing is wrong where people close pages.",
    ),
    (
        Reason::ProtocolError,
        "kubectl logs POD -c mesh-proxy names the peer and what it broke; if the port speaks no HTTP/2, see appProtocol of the Service's port.",
    ),
    (Reason::Internal, "kubectl logs POD -c mesh-proxy, with meshctl version, is what a report needs."),
];
const NOT_YET: &str = "Does not occur with this version: the mesh enforces no policies yet, so see who else answered (kubectl get \
                       networkpolicy, the application's own log).";

#[cfg(test)]
mod tests {
    use super::*;

    /// A step that somebody can take: a command, a field or a setting.
    #[test]
    fn every_reason_has_a_next_step() {
        for reason in Reason::ALL {
            let step = next(*reason);
            let is_concrete = ["meshctl ", "meshctl.io/", "kubectl ", "spec.", "proxy.", "header "]
                .iter()
                .any(|sign| step.contains(sign));
            assert!(is_concrete && (step.ends_with('.') || step.ends_with('?')), "{reason}: {step}");
            assert_ne!(step, reason.sentence());
        }
        let never: Vec<&str> =
            Reason::ALL.iter().filter(|reason| !occurs(**reason)).map(|reason| reason.as_str()).collect();
        assert_eq!(never, ["plaintext_refused", "policy_denied", "egress_denied"]);
    }
}
