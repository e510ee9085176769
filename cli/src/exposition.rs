//! Reads the Prometheus text format (and OpenMetrics, where it looks the same): samples of the metrics asked for.
//!
//! The text comes from a program that may be of another version, or not be a proxy at all: sizes are bounded, and whatever is
//! no sample is an error with its line number, never a guess.

use std::collections::BTreeMap;

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Metric name, with `_bucket`, `_sum` or `_count` where it has one.
    pub name: String,
    /// Labels.
    pub labels: Labels,
    /// The value; can be infinite or not a number.
    pub value: f64,
}

/// Labels of one sample.
pub type Labels = BTreeMap<String, String>;

/// The text is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the metrics: {problem}")]
pub struct ExpositionError {
    line: usize,
    problem: &'static str,
}

/// Reads the samples whose name is one of `wanted`, or one of `wanted` and a histogram's suffix.
pub fn parse(text: &str, wanted: &[&str]) -> Result<Vec<Sample>, ExpositionError> {
    let mut samples = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let error = |problem| ExpositionError { line: index + 1, problem };
        let (name, rest) = name(line).ok_or_else(|| error("does not begin with a metric name"))?;
        if !is_wanted(name, wanted) {
            continue;
        }
        if samples.len() == MAX_SAMPLES {
            return Err(error("too many samples"));
        }
        let (labels, rest) = labels(rest).map_err(error)?;
        // A timestamp or an exemplar may follow; neither is of use here.
        let value = rest.split_ascii_whitespace().next().ok_or_else(|| error("has no value"))?;
        let value = number(value).ok_or_else(|| error("has a value that is no number"))?;
        samples.push(Sample { name: name.to_owned(), labels, value });
    }
    Ok(samples)
}

fn is_wanted(name: &str, wanted: &[&str]) -> bool {
    wanted.iter().any(|metric| {
        name.strip_prefix(metric).is_some_and(|suffix| matches!(suffix, "" | "_bucket" | "_sum" | "_count"))
    })
}

fn name(line: &str) -> Option<(&str, &str)> {
    let end = line.find(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_' || letter == ':'));
    let (name, rest) = line.split_at(end.unwrap_or(line.len()));
    (!name.is_empty() && !name.starts_with(|letter: char| letter.is_ascii_digit())).then_some((name, rest))
}

fn labels(text: &str) -> Result<(Labels, &str), &'static str> {
    let mut labels = Labels::new();
    let Some(mut rest) = text.strip_prefix('{') else { return Ok((labels, text)) };
    loop {
        rest = rest.trim_start_matches([' ', '\t']);
        if let Some(rest) = rest.strip_prefix('}') {
            return Ok((labels, rest));
        }
        let (label, after) = name(rest).ok_or("has a label without a name")?;
        let after = after.trim_start().strip_prefix('=').ok_or("has a label without '='")?;
        let after = after.trim_start().strip_prefix('"').ok_or("has a label value without quotes")?;
        let (value, after) = quoted(after)?;
        if labels.len() == MAX_LABELS {
            return Err("has too many labels");
        }
        if labels.insert(label.to_owned(), value).is_some() {
            return Err("has a label twice");
        }
        let after = after.trim_start_matches([' ', '\t']);
        rest = match after.strip_prefix(',') {
            Some(after) => after,
            None if after.starts_with('}') => after,
            None => return Err("has labels that do not end"),
        };
    }
}

/// Reads up to the closing quote, and past it.
fn quoted(text: &str) -> Result<(String, &str), &'static str> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((index, letter)) = letters.next() {
        match letter {
            '"' => return Ok((value, &text[index + 1..])),
            '\\' => match letters.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, letter @ ('\\' | '"'))) => value.push(letter),
                _ => return Err("has an escape that is none"),
            },
            letter => value.push(letter),
        }
    }
    Err("has a label value that does not end")
}

fn number(text: &str) -> Option<f64> {
    match text {
        "+Inf" | "Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        "NaN" => Some(f64::NAN),
        // Rust reads words such as `infinity` as well; this format does not know them.
        _ if text.starts_with(|letter: char| letter.is_ascii_digit() || matches!(letter, '+' | '-' | '.')) => {
            text.parse().ok()
        }
        _ => None,
    }
}

const MAX_SAMPLES: usize = 200_000;
const MAX_LABELS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_labels_escapes() {
        let text = "# HELP a_total x\n# TYPE a counter\na_total{x=\"1\",y=\"q\\\"\\\\\\n{},\"} 7\n\
                    a_total 1e3 1700000000000\nb_bucket{le=\"+Inf\",} 3 # {trace=\"z\"} 1\nb_sum NaN\nc 1\nab_total 5\n# EOF\n";
        let samples = parse(text, &["a_total", "b"]).unwrap();
        assert_eq!(samples.len(), 4);
        assert_eq!(samples[0].labels["y"], "q\"\\\n{},");
        assert_eq!((samples[0].value, samples[1].value), (7.0, 1000.0));
        assert_eq!(
            (samples[2].name.as_str(), samples[2].labels["le"].as_str(), samples[2].value),
            ("b_bucket", "+Inf", 3.0)
        );
        assert!(samples[3].value.is_nan());
    }

    #[test]
    fn what_is_no_sample_is_an_error_with_its_line() {
        for (line, problem) in [
            ("<html>", "metric name"),
            ("a{x=1} 1", "quotes"),
            ("a{x=\"1\" 1", "do not end"),
            ("a{x=\"1} 1", "does not end"),
            ("a{x=\"\\t\"} 1", "escape"),
            ("a{x=\"1\",x=\"2\"} 1", "twice"),
            ("a{=\"1\"} 1", "without a name"),
            ("a{", "without a name"),
            ("a", "no value"),
            ("a one", "no number"),
            ("a infinity", "no number"),
        ] {
            let error = parse(&format!("\n{line}\n"), &["a"]).unwrap_err().to_string();
            assert!(error.starts_with("line 2 ") && error.contains(problem), "{line}: {error}");
        }
        let many: String = (0..=MAX_LABELS).map(|index| format!("l{index}=\"\",")).collect();
        assert!(parse(&format!("a{{{many}}} 1"), &["a"]).is_err());
    }
}
