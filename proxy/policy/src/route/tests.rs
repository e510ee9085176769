//! Matching, table by table.

use super::*;

struct Sample<'s> {
    method: &'s str,
    target: &'s str,
    headers: &'s [(&'s str, &'s str)],
}

impl Request for Sample<'_> {
    fn method(&self) -> &str {
        self.method
    }
    fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }
    fn query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }
    fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_bytes())
    }
}

fn get(target: &str) -> Sample<'_> {
    Sample { method: "GET", target, headers: &[] }
}

#[test]
fn prefixes_match_whole_segments() {
    let cases = [
        ("/", "/", true),
        ("/", "/anything", true),
        ("/a", "/a", true),
        ("/a", "/a/", true),
        ("/a", "/a/b", true),
        ("/a/", "/a", true),
        ("/a", "/ab", false),
        ("/a/b", "/a", false),
        ("/a", "/A", false),
    ];
    for (prefix, path, expected) in cases {
        let matches = Match { path: PathMatch::Prefix(prefix.to_owned()), ..Match::default() };
        assert_eq!(matches.holds(&get(path)), expected, "{prefix} {path}");
    }
}

#[test]
fn every_condition_must_hold() {
    let matches = Match {
        path: PathMatch::Exact("/x".to_owned()),
        method: Some("POST".to_owned()),
        headers: vec![("x-canary".to_owned(), ValueMatch::Exact("true".to_owned()))],
        query: vec![("v".to_owned(), ValueMatch::Regex(Pattern::parse("[0-9]+").unwrap()))],
    };
    let good = Sample { method: "POST", target: "/x?u=1&v=22", headers: &[("x-canary", "true")] };
    assert!(matches.holds(&good));
    assert!(!matches.holds(&Sample { method: "GET", ..good }));
    assert!(!matches.holds(&Sample { target: "/y?v=22", ..good }));
    assert!(!matches.holds(&Sample { target: "/x?v=a22", ..good }));
    assert!(!matches.holds(&Sample { target: "/x", ..good }));
    assert!(!matches.holds(&Sample { headers: &[("x-canary", "truer")], ..good }));
    assert!(!matches.holds(&Sample { headers: &[], ..good }));
}

#[test]
fn patterns_are_anchored_and_bounded() {
    let pattern = Pattern::parse("/v[12]|/x").unwrap();
    assert!(pattern.holds("/v1") && pattern.holds("/x"));
    assert!(!pattern.holds("/v1/more") && !pattern.holds("a/x"));
    assert!(Pattern::parse("/a)|(?:/b").is_err());
    assert!(Pattern::parse("(").unwrap_err().to_string().contains("regular expression"));
    assert!(Pattern::parse(&"a".repeat(2000)).is_err());
}

#[test]
fn draws_fall_by_weight() {
    let backend =
        |name: &str, weight| Backend { service: Some(ServicePort::new("shop", name, 80)), weight, filters: Vec::new() };
    let rule = Rule {
        route: "shop/canary".to_owned(),
        matches: Match::default(),
        filters: Vec::new(),
        backends: vec![backend("v1", 90), backend("off", 0), backend("v2", 10)],
        request_timeout_ms: None,
        backend_timeout_ms: None,
    };
    assert_eq!(rule.total_weight(), 100);
    let name = |draw| rule.backend(draw).unwrap().service.as_ref().unwrap().name.clone();
    assert_eq!((name(0), name(89), name(90), name(99)), ("v1".into(), "v1".into(), "v2".into(), "v2".into()));
    assert!(rule.backend(100).is_none());
}
