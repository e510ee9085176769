//! Route filters, made ready once: names and values are checked when a route arrives, not when a request does.

use http::{HeaderName, HeaderValue};
use policy::route::{Filter, HeaderEdits};

use super::head::edit::Edits;

/// The header edits of a rule or backend.
#[derive(Debug, Default)]
pub struct Filters {
    request: Vec<Step>,
    response: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    Set(HeaderName, HeaderValue),
    Add(HeaderName, HeaderValue),
    Remove(HeaderName),
}

impl Filters {
    /// Prepares the filters of a route. What is no header name or value is left out: the API server has refused it.
    pub fn new(filters: &[Filter]) -> Self {
        let mut prepared = Self::default();
        for filter in filters {
            match filter {
                Filter::RequestHeaders(edits) => prepare(edits, &mut prepared.request),
                Filter::ResponseHeaders(edits) => prepare(edits, &mut prepared.response),
            }
        }
        prepared
    }

    /// Notes the edits of a request.
    pub fn request(&self, edits: &mut Edits) {
        apply(&self.request, edits);
    }

    /// Notes the edits of a response.
    pub fn response(&self, edits: &mut Edits) {
        apply(&self.response, edits);
    }
}

fn prepare(edits: &HeaderEdits, steps: &mut Vec<Step>) {
    let pair = |(name, value): &(String, String)| {
        let name = HeaderName::try_from(name.as_str()).ok().filter(|name| !is_ours(name))?;
        Some((name, HeaderValue::try_from(value.as_str()).ok()?))
    };
    steps.extend(edits.set.iter().filter_map(pair).map(|(name, value)| Step::Set(name, value)));
    steps.extend(edits.add.iter().filter_map(pair).map(|(name, value)| Step::Add(name, value)));
    let names = edits.remove.iter().filter_map(|name| HeaderName::try_from(name.as_str()).ok());
    steps.extend(names.filter(|name| !is_ours(name)).map(Step::Remove));
}

/// Fields that say where a message ends or whom it is for: no route may touch them.
fn is_ours(name: &HeaderName) -> bool {
    [http::header::HOST, http::header::CONTENT_LENGTH, http::header::TRANSFER_ENCODING, http::header::CONNECTION]
        .contains(name)
}

fn apply(steps: &[Step], edits: &mut Edits) {
    for step in steps {
        match step {
            Step::Set(name, value) => edits.set(name.clone(), value.clone()),
            Step::Add(name, value) => edits.append(name.clone(), value.clone()),
            Step::Remove(name) => edits.remove(name.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_follow_the_filters_and_never_touch_framing() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let filters = Filters::new(&[
            Filter::RequestHeaders(HeaderEdits {
                set: vec![pair("X-Set", "1"), pair("content-length", "0"), pair("bad name", "x")],
                add: vec![pair("x-add", "2"), pair("x-bad", "a\r\nb: c")],
                remove: vec!["x-remove".to_owned(), "host".to_owned()],
            }),
            Filter::ResponseHeaders(HeaderEdits { set: vec![pair("x-response", "3")], ..HeaderEdits::default() }),
        ]);
        let mut edits = Edits::default();
        filters.request(&mut edits);
        let added: Vec<_> = edits.added().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(added, [("x-set", "1"), ("x-add", "2")]);
        assert!(edits.drops(b"X-Remove") && !edits.drops(b"host") && !edits.drops(b"content-length"));
        let mut edits = Edits::default();
        filters.response(&mut edits);
        assert_eq!(edits.added().count(), 1);
    }
}
