//! `meshctl explain`: what the words mean by which the mesh says why it answered in an application's place.

mod next;

use std::str::FromStr as _;

use proto::Reason;
use serde::Serialize;

use crate::output::{self, Format};
use crate::table::Table;
use crate::usage::usage;

/// Help of the command.
pub const EXAMPLES: &str = "\
The word is what stands behind details= in the response's header Proxy-Status (RFC 9209), in the proxy's log \
(kubectl logs POD -c mesh-proxy), and in the label reason of mesh_failures_total.

Examples:
  meshctl explain
  meshctl explain no_endpoints
  meshctl explain 'mesh-proxy; error=destination_unavailable; details=\"no_endpoints\"'";

/// What to look up.
#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    /// A reason, or a whole header Proxy-Status; every reason where there is none
    pub reason: Option<String>,
}

/// One reason.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Explanation {
    reason: &'static str,
    status: u16,
    /// The error type of RFC 9209.
    proxy_error: &'static str,
    /// Whether the application may have had the request.
    may_have_reached_app: bool,
    sentence: &'static str,
    /// What to look at.
    next: &'static str,
    /// Whether this version of the mesh can answer so.
    occurs: bool,
}

/// Prints what is asked for.
pub fn run(args: &ExplainArgs, format: Format) -> anyhow::Result<()> {
    let reasons = match &args.reason {
        None => Reason::ALL.iter().copied().filter(|reason| next::occurs(*reason)).collect(),
        Some(text) => vec![find(text)?],
    };
    let explanations: Vec<Explanation> = reasons.into_iter().map(Explanation::of).collect();
    output::print(&match format {
        Format::Json => output::json(&explanations),
        Format::Table => render(&explanations),
    })
}

impl Explanation {
    fn of(reason: Reason) -> Self {
        Self {
            reason: reason.as_str(),
            status: reason.status(),
            proxy_error: reason.proxy_error(),
            may_have_reached_app: reason.may_have_reached_app(),
            sentence: reason.sentence(),
            next: next::next(reason),
            occurs: next::occurs(reason),
        }
    }
}

/// The reason in a text: the whole of it, or the value of its last `details`.
fn find(text: &str) -> anyhow::Result<Reason> {
    let details = text.rsplit_once("details=").map_or(text, |(_, value)| value);
    let word: String =
        details.trim_matches(['"', ' ']).chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
    Reason::from_str(&word).map_err(|_| {
        usage(format!(
            "no reason of the mesh is in {text:?}; meshctl explain lists them all. Where a response has no header Proxy-Status \
             with details=, the application itself answered"
        ))
    })
}

fn render(explanations: &[Explanation]) -> String {
    let mut table = Table::new(&["REASON", ">STATUS", "REACHED APP", "MEANING"]);
    for one in explanations {
        let reached = if one.may_have_reached_app { "perhaps" } else { "no" };
        table.row(vec![one.reason.into(), one.status.to_string(), reached.into(), one.sentence.into()]);
    }
    let mut text = table.render();
    // In a table of all there is no room for it.
    match explanations {
        [one] => text.push_str(&format!("\nLook at: {}\n", one.next)),
        _ => text.push_str("\nmeshctl explain REASON says what to look at.\n"),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_found_by_its_word_and_in_a_header() {
        for reason in Reason::ALL {
            let header = format!("mesh-proxy; error={}; details=\"{reason}\"", reason.proxy_error());
            assert_eq!((find(reason.as_str()).unwrap(), find(&header).unwrap()), (*reason, *reason));
            let text = render(&[Explanation::of(*reason)]);
            assert!(text.contains(&format!("\nLook at: {}\n", next::next(*reason))), "{text}");
            assert!(text.contains(reason.sentence()) && text.contains(&reason.status().to_string()), "{text}");
        }
        let unknown = find("teapot").unwrap_err().to_string();
        assert!(unknown.contains("meshctl explain lists them all"), "{unknown}");
    }
}
