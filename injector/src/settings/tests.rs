//! Every annotation, good and bad.

use super::*;

fn metadata(pairs: &[(&str, &str)]) -> ObjectMeta {
    let annotations = pairs.iter().map(|(key, value)| (format!("meshctl.io/{key}"), (*value).to_owned())).collect();
    ObjectMeta { annotations: Some(annotations), ..ObjectMeta::default() }
}

fn read(pod: &[(&str, &str)], namespace: &[(&str, &str)]) -> Result<Settings, InvalidSetting> {
    Settings::read(&metadata(pod), &metadata(namespace), &Config::default())
}

#[test]
fn defaults_come_from_the_configuration() {
    let settings = read(&[], &[]).unwrap();
    assert_eq!(settings.image, concat!("meshctl.io/mesh-proxy:", env!("CARGO_PKG_VERSION")));
    assert_eq!(settings.requests.cpu.as_deref(), Some("10m"));
    assert_eq!(settings.limits, Amounts::default());
    assert_eq!((settings.workers, settings.drain_delay), (1, Milliseconds(2000)));
}

#[test]
fn the_pod_overrules_its_namespace_and_says_so() {
    let settings = read(
        &[("proxy-workers", "4"), ("drain-delay", "500ms")],
        &[("proxy-workers", "2"), ("skip-inbound-ports", "22"), ("drain-delay", "500ms")],
    )
    .unwrap();
    assert_eq!((settings.workers, settings.drain_delay), (4, Milliseconds(500)));
    assert_eq!(settings.inherited, [("meshctl.io/skip-inbound-ports".to_owned(), "22".to_owned())].into());
    assert_eq!(
        settings.overruled,
        ["meshctl.io/proxy-workers: \"4\" on the pod counts, \"2\" on the namespace does not"]
    );
}

#[test]
fn a_request_is_never_above_its_limit() {
    let settings = read(&[("proxy-cpu-limit", "5m"), ("proxy-memory-request", "64Mi")], &[]).unwrap();
    assert_eq!((settings.requests.cpu.as_deref(), settings.limits.cpu.as_deref()), (Some("5m"), Some("5m")));
    assert_eq!((settings.requests.memory.as_deref(), settings.limits.memory), (Some("64Mi"), None));
    let error = read(&[("proxy-cpu-request", "1")], &[("proxy-cpu-limit", "500m")]).unwrap_err();
    assert_eq!(error.to_string(), "meshctl.io/proxy-cpu-request on the pod: \"1\" is above the limit \"500m\"");
}

#[test]
fn what_cannot_be_read_is_named() {
    for (key, value, expected) in [
        ("skip-inbound-ports", "22,http", "\"http\" is not a port"),
        ("skip-outbound-ports", "9-1", "\"9-1\" is not a port"),
        ("opaque-ports", "0", "\"0\" is not a port"),
        ("loopback-ports", "1-65535", "too many"),
        ("skip-outbound-subnets", "10.0.0.0/33", "is not a network"),
        ("proxy-cpu-request", "1 core", "is not an amount"),
        ("proxy-cpu-limit", "-1", "is not an amount"),
        ("proxy-memory-request", "64MB", "is not an amount"),
        ("proxy-memory-limit", "", "is not an amount"),
        ("proxy-log-level", "loud", "is not a log filter"),
        ("proxy-log-level", "info,x y=debug", "is not a log filter"),
        ("proxy-image", "a b", "is not an image"),
        ("proxy-workers", "0", "1 to 64"),
        ("drain-delay", "2", "is not a time"),
        ("drain-delay", "99999999999999999999s", "is not a time"),
        ("drain-delay", "2h", "is not a time"),
    ] {
        let error = read(&[], &[(key, value)]).unwrap_err();
        assert_eq!((error.key, error.on), (format!("meshctl.io/{key}").as_str(), On::Namespace));
        assert!(error.problem.contains(expected), "{key}: {error}");
    }
}
