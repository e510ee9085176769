//! A proxy's admin, asked over its unix socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};

/// Body of the answer to a GET, which has to be 200.
pub fn get(socket: &Path, path: &str) -> anyhow::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: admin\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no end of the head")?;
    ensure!(head.split(' ').nth(1) == Some("200"), "{path}: {answer}");
    Ok(body.to_owned())
}

/// Sum over the series of a metric whose labels contain all of `labels`, each as `name="value"`.
pub fn sum(exposition: &str, name: &str, labels: &[&str]) -> f64 {
    let series = exposition.lines().filter(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    });
    series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_by_labels() {
        let text = "# HELP a things\na{x=\"1\",y=\"2\"} 3\na{x=\"1\"} 4\nab{x=\"1\"} 5\na 6\n";
        assert!((sum(text, "a", &[]) - 13.0).abs() < f64::EPSILON);
        assert!((sum(text, "a", &["x=\"1\""]) - 7.0).abs() < f64::EPSILON);
    }
}
