//! `meshctl identity`: the certificate of every proxy.

use anyhow::bail;
use proto::admin::IdentityStatus;
use serde::Serialize;

use crate::args::ProxyArgs;
use crate::output::{self, Format};
use crate::table::{self, Table};
use crate::target::{Kind, Target, closest, did_you_mean};
use crate::transport::{self, Answer, Pod, Transport};

/// One proxy's certificate, or why it is not known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Certificate {
    /// Name of the pod.
    pub proxy: String,
    /// What it says.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub status: Option<IdentityStatus>,
    /// Why it said nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Runs the command.
pub async fn run(transport: &impl Transport, args: &ProxyArgs, format: Format) -> anyhow::Result<()> {
    let certificates = gather(transport, &chosen(transport, args.proxy.as_deref()).await?).await;
    output::print(&match format {
        Format::Json => output::json(&certificates),
        Format::Table => render(&certificates, crate::now_ms()),
    })?;
    anyhow::ensure!(
        certificates.iter().any(|certificate| certificate.status.is_some()),
        "no proxy answered; see what is wrong with: meshctl check"
    );
    Ok(())
}

/// Asks `proxies` for their certificates.
pub async fn gather(transport: &impl Transport, proxies: &[String]) -> Vec<Certificate> {
    let answers = transport::ask_json::<IdentityStatus>(transport, proxies, "/identity").await;
    answers.into_iter().map(certificate).collect()
}

/// The proxies to ask: those of the pod or workload named, or all.
pub async fn chosen(transport: &impl Transport, named: Option<&str>) -> anyhow::Result<Vec<String>> {
    let pods: Vec<Pod> = transport.pods().await?.into_iter().filter(|pod| pod.meshed).collect();
    if pods.is_empty() {
        bail!("there is no proxy here; another namespace: -n NAMESPACE, all of them: -A; what is wrong: meshctl check");
    }
    let Some(named) = named else { return Ok(pods.into_iter().map(|pod| pod.proxy).collect()) };
    let target = named.contains('/').then(|| Target::parse_one(named).ok()).flatten();
    let of_target = |pod: &Pod| match &target {
        Some(target) if target.kind == Kind::Pod => target.wants(&pod.name),
        Some(target) => pod.kind == Some(target.kind) && target.wants(&pod.workload),
        None => false,
    };
    let meant = |pod: &&Pod| pod.proxy == named || pod.name == named || of_target(pod);
    let meant: Vec<String> = pods.iter().filter(meant).map(|pod| pod.proxy.clone()).collect();
    if meant.is_empty() {
        let known = pods.iter().flat_map(|pod| [pod.proxy.as_str(), pod.name.as_str()]);
        let some: Vec<&str> = pods.iter().take(LISTED).map(|pod| pod.proxy.as_str()).collect();
        let more = if pods.len() > LISTED { " …" } else { "" };
        let suggestion = did_you_mean(closest(named, known));
        bail!("there is no proxy {named:?}{suggestion}; there are: {}{more}", some.join(", "));
    }
    Ok(meant)
}

fn certificate(answer: Answer<IdentityStatus>) -> Certificate {
    match answer.result {
        Ok(status) => Certificate { proxy: answer.proxy, status: Some(status), error: None },
        Err(error) => Certificate { proxy: answer.proxy, status: None, error: Some(error.to_string()) },
    }
}

/// The table, at a moment in milliseconds since 1970.
pub fn render(certificates: &[Certificate], now_ms: u64) -> String {
    let mut table = Table::new(&["PROXY", "ID", ">EXPIRES IN", ">RENEWS IN", ">OBTAINED", "ANCHORS", "LAST ERROR"]);
    for Certificate { proxy, status, error } in certificates {
        let Some(status) = status else {
            let dash = || "-".to_owned();
            table.row(vec![proxy.clone(), dash(), dash(), dash(), dash(), dash(), error.clone().unwrap_or_default()]);
            continue;
        };
        table.row(vec![
            proxy.clone(),
            status.id.clone(),
            expiry(status.not_after_ms, now_ms),
            until(status.renew_at_ms, now_ms),
            status.renewals.to_string(),
            status.anchors.join("; "),
            status.last_error.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    table.render()
}

fn expiry(not_after_ms: u64, now_ms: u64) -> String {
    match not_after_ms {
        0 => "× no certificate".to_owned(),
        end if end <= now_ms => format!("× expired {} ago", table::span(now_ms - end)),
        end => table::span(end - now_ms),
    }
}

fn until(at_ms: u64, now_ms: u64) -> String {
    match at_ms {
        0 => "-".to_owned(),
        at => at.checked_sub(now_ms).map_or_else(|| "now".to_owned(), table::span),
    }
}

const LISTED: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiry_renewal_and_silence_are_seen() {
        let good = IdentityStatus {
            id: "spiffe://cluster.local/ns/shop/sa/web".into(),
            not_after_ms: 3_600_000 + 1000,
            renew_at_ms: 61_000,
            renewals: 2,
            anchors: vec!["CN=root".into()],
            ..IdentityStatus::default()
        };
        let expired = IdentityStatus { not_after_ms: 500, last_error: Some("refused".into()), ..good.clone() };
        let named = |proxy: &str, status| Certificate { proxy: proxy.into(), status, error: Some("gone".into()) };
        let text = render(&[named("a", Some(good)), named("b", Some(expired)), named("c", None)], 1000);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].contains("1h00m") && lines[1].contains("1m00s") && lines[1].contains("CN=root"), "{text}");
        assert!(lines[2].contains("× expired 0.5s ago") && lines[2].ends_with("refused"), "{text}");
        assert!(lines[3].ends_with("gone"), "{text}");
    }
}
