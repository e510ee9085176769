//! `meshctl proxy-status`: how current every proxy's picture of the mesh is.

use std::time::Duration;

use proto::admin::{DiscoveryStatus, Subscription};
use serde::Serialize;

use crate::args::ProxyStatusArgs;
use crate::certificates::chosen;
use crate::output::{self, Format};
use crate::table::{self, Table};
use crate::transport::{self, Answer, Transport};

/// One proxy's picture, or why it is not known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Picture {
    /// Name of the pod.
    pub proxy: String,
    /// Older than it should be, or not connected.
    pub stale: bool,
    /// What it says.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub status: Option<DiscoveryStatus>,
    /// Why it said nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Runs the command.
pub async fn run(transport: &impl Transport, args: &ProxyStatusArgs, format: Format) -> anyhow::Result<()> {
    let proxies = chosen(transport, args.proxy.as_deref()).await?;
    let answers = transport::ask_json::<DiscoveryStatus>(transport, &proxies, "/discovery").await;
    let stale_after = args.stale_after.unwrap_or_else(|| transport.stale_after());
    let pictures: Vec<_> = answers.into_iter().map(|answer| picture(answer, stale_after)).collect();
    output::print(&match format {
        Format::Json => output::json(&pictures),
        Format::Table if args.proxy.is_some() => render(&pictures) + &subscriptions(&pictures),
        Format::Table => render(&pictures),
    })?;
    anyhow::ensure!(
        pictures.iter().any(|picture| picture.status.is_some()),
        "no proxy answered; see what is wrong with: meshctl check"
    );
    Ok(())
}

/// Judges one answer.
pub fn picture(answer: Answer<DiscoveryStatus>, stale_after: Duration) -> Picture {
    match answer.result {
        Ok(status) => {
            let old = u128::from(status.age_ms) >= stale_after.as_millis();
            Picture { proxy: answer.proxy, stale: old, status: Some(status), error: None }
        }
        Err(error) => Picture { proxy: answer.proxy, stale: true, status: None, error: Some(error.to_string()) },
    }
}

fn render(pictures: &[Picture]) -> String {
    let mut table =
        Table::new(&["PROXY", "CONNECTED", "CONTROLLER", ">AGE", ">KEYS", ">WAITING", ">REJECTED", "LAST ERROR"]);
    for Picture { proxy, stale, status, error } in pictures {
        let Some(status) = status else {
            let dash = || "-".to_owned();
            let error = error.clone().unwrap_or_default();
            table.row(vec![proxy.clone(), "×".to_owned(), dash(), dash(), dash(), dash(), dash(), error]);
            continue;
        };
        let count =
            |condition: fn(&Subscription) -> bool| status.subscriptions.iter().filter(|key| condition(key)).count();
        let age = table::span(status.age_ms);
        table.row(vec![
            proxy.clone(),
            if status.connected { "√" } else { "×" }.to_owned(),
            if status.controller.is_empty() { "-".to_owned() } else { status.controller.clone() },
            if *stale { format!("‼ stale {age}") } else { age },
            status.subscriptions.len().to_string(),
            count(|key| key.version.is_empty()).to_string(),
            count(|key| key.rejected.is_some()).to_string(),
            status.last_error.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    table.render()
}

fn subscriptions(pictures: &[Picture]) -> String {
    let mut table = Table::new(&["KEY", "VERSION", "REJECTED"]);
    for key in pictures.iter().filter_map(|picture| picture.status.as_ref()).flat_map(|status| &status.subscriptions) {
        let version = if key.version.is_empty() { "waiting".to_owned() } else { key.version.clone() };
        table.row(vec![key.key.clone(), version, key.rejected.clone().unwrap_or_else(|| "-".to_owned())]);
    }
    format!("\n{}", table.render())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::TransportError;

    #[test]
    fn stale_rejected_and_silent_are_marked() {
        let status = DiscoveryStatus {
            connected: true,
            controller: "controller-1".into(),
            age_ms: 400,
            subscriptions: vec![
                Subscription { key: "inbound".into(), version: "ab".into(), rejected: None },
                Subscription {
                    key: "outbound 10.96.0.7:80".into(),
                    version: String::new(),
                    rejected: Some("bad".into()),
                },
            ],
            ..DiscoveryStatus::default()
        };
        let old =
            DiscoveryStatus { connected: false, age_ms: 15_000, last_error: Some("refused".into()), ..status.clone() };
        let answer = |proxy: &str, result| Answer { proxy: proxy.into(), at: tokio::time::Instant::now(), result };
        let pictures = [answer("a", Ok(status)), answer("b", Ok(old)), answer("c", Err(TransportError::TimedOut(5)))]
            .map(|answer| picture(answer, Duration::from_secs(15)));
        assert_eq!(pictures.each_ref().map(|picture| picture.stale), [false, true, true]);
        assert_eq!(
            render(&pictures),
            "PROXY  CONNECTED  CONTROLLER            AGE  KEYS  WAITING  REJECTED  LAST ERROR\n\
             a      √          controller-1         0.4s     2        1         1  -\n\
             b      ×          controller-1  ‼ stale 15s     2        1         1  refused\n\
             c      ×          -                       -     -        -         -  did not answer within 5 s\n"
        );
        assert!(subscriptions(&pictures[..1]).contains("outbound 10.96.0.7:80  waiting  bad"));
    }
}
