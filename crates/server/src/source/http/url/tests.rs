//! What values do to a URL: nothing but fill their piece.

use std::{collections::BTreeMap, path::Path};

use outflow_engine::{Limits, Principal, Request};
use outflow_proto::protobuf;
use proptest::prelude::*;

use super::*;

fn declared() -> Declared {
    let files = ["a", "b"].map(|name| format!("{name} = {{ pattern = '(?s)[^\\x00]*' }}\n")).concat();
    Declared::new(toml::from_str(&files).unwrap()).unwrap()
}

fn asked(a: &str, b: &str) -> Asked {
    let parameters = BTreeMap::from([("a".to_owned(), a.to_owned()), ("b".to_owned(), b.to_owned())]);
    let request = protobuf::Request { id: -7, parameters: parameters.into_iter().collect(), ..Default::default() };
    declared().asked(&Request::parse(request, Principal::default(), &Limits::default()).unwrap()).unwrap()
}

fn template(written: &str) -> Template {
    Template::parse(written, &declared(), Path::new("")).unwrap()
}

fn fill(written: &str, a: &str, b: &str) -> Result<String, String> {
    let template = template(written);
    check(&template)?;
    Url { template }.fill(&asked(a, b), &declared()).map(|url| url.to_string()).map_err(|refusal| refusal.to_string())
}

#[test]
fn values_are_escaped_in_paths_and_in_queries() {
    let url = "https://host:81/q/{id}/x{parameters.a}?k={parameters.b}&l=1";
    assert_eq!(
        fill(url, "a/b?c#d%2fé", "1&k=2+3 =;").unwrap(),
        "https://host:81/q/-7/xa%2Fb%3Fc%23d%252f%C3%A9?k=1%26k%3D2%2B3%20%3D%3B&l=1"
    );
    assert_eq!(fill("http://h/{parameters.a}", "a.b..", "").unwrap(), "http://h/a.b..");
}

#[test]
fn a_value_that_would_be_another_place_is_refused_with_its_name() {
    let cases = [
        ("http://h/a/{parameters.a}/c", ""),
        ("http://h/a/{parameters.a}", "."),
        ("http://h/a/{parameters.a}", ".."),
        ("http://h/a/.{parameters.a}/c", "."),
        ("http://h/a/.{parameters.a}/c", ""),
        ("http://h/a/%2E{parameters.a}/c", "."),
        ("http://h/a/{parameters.a}{parameters.a}/c", "."),
        ("http://h/{parameters.a}?q={parameters.b}", ".."),
    ];
    for (url, value) in cases {
        let refusal = fill(url, value, "x").unwrap_err();
        assert!(refusal.starts_with("parameters.a: "), "{url} {value:?}: {refusal}");
    }
    assert_eq!(fill("http://h/x?q={parameters.a}", "..", "").unwrap(), "http://h/x?q=..");
}

#[test]
fn what_cannot_be_a_url_is_told() {
    let cases = [
        ("ftp://h/x", "http://"),
        ("/x", "http://"),
        ("http://{parameters.a}/x", "host"),
        ("http://h{id}/x", "host"),
        ("http://h:{id}/x", "host"),
        ("http://h:x/", "port"),
        ("http://h:65536/", "port"),
        ("http://h:/", "port"),
        ("http://h{parameters.a}.example", "host"),
        ("http{parameters.a}://h/x", "http"),
        ("{parameters.a}", "http"),
        ("http://h/x#{id}", "#"),
        ("http://h/a/../{id}", ".."),
        ("http://h/a/%2e%2E/{id}", ".."),
        ("http://h/%{parameters.a}", "%25"),
        ("http://h/?x=%2{parameters.a}", "%25"),
        ("http://user:word@h/x", "authorization"),
        ("http://h /x", "URL"),
        ("", "URL"),
    ];
    for (written, told) in cases {
        let problem = check(&template(written)).unwrap_err();
        assert!(problem.contains(told), "{written}: {problem}");
    }
}

#[test]
fn an_error_shows_a_url_without_its_query() {
    let url = Url { template: template("https://h/{env.CARGO_PKG_NAME}/{id}?key=s3cret") };
    assert_eq!(url.shown(), "https://h/{env.CARGO_PKG_NAME}/{id}");
}

#[test]
fn redirects_are_resolved_as_browsers_do_it() {
    let base = "https://h:81/a/b?q=1";
    let same =
        ["c", "/c", "?x=1", "../c", "./c/./d/../e/", "//other/c", "https://o/../c?d#e", "c?u=http://x/", "/%2e%2e/c"];
    for location in same {
        let resolved = resolve(&base.parse().unwrap(), location).unwrap().to_string();
        assert_eq!(resolved, ::url::Url::parse(base).unwrap().join(location).unwrap().to_string().replace("#e", ""));
    }
    for location in ["ftp://h/", "javascript:x", "https://user@h/", "https://", "//h:x/"] {
        assert_eq!(resolve(&base.parse().unwrap(), location), None, "{location}");
    }
}

#[test]
fn an_origin_is_scheme_host_and_port() {
    let same = |one: &str, other: &str| same_origin(&one.parse().unwrap(), &other.parse().unwrap());
    assert!(same("https://h/a", "https://H:443/b") && same("http://h:80/", "http://h/"));
    assert!(
        !same("https://h/", "http://h/")
            && !same("https://h/", "https://h:444/")
            && !same("http://h/", "http://g.h/")
    );
}

proptest! {
    /// Whatever the values: scheme, host, port, the pieces of the path and the names in the query are as written, and each
    /// value is found in its place.
    #[test]
    fn values_change_nothing_but_their_piece(a in "(?s)[^\\x00]{0,12}|[./%2e?#&=\\\\@:]{0,6}", b in "(?s)[^\\x00]{0,12}|[&=#;+%/]{0,6}") {
        let written = "https://host.example:444/one/{parameters.a}/v{parameters.b}/last?x={parameters.a}&y=1&z={parameters.b}";
        match fill(written, &a, &b) {
            Err(refusal) => prop_assert!(a.is_empty() || a == "." || a == "..", "{}", refusal),
            Ok(url) => {
                let url = ::url::Url::parse(&url).unwrap();
                prop_assert_eq!((url.scheme(), url.host_str(), url.port()), ("https", Some("host.example"), Some(444)));
                prop_assert_eq!((url.username(), url.password(), url.fragment()), ("", None, None));
                let path: Vec<&str> = url.path_segments().unwrap().collect();
                prop_assert_eq!(path.len(), 4);
                prop_assert_eq!((path[0], path[3]), ("one", "last"));
                let query: Vec<(String, String)> = url.query_pairs().into_owned().collect();
                let wanted = [("x", &*a), ("y", "1"), ("z", &*b)];
                prop_assert_eq!(query, wanted.map(|(name, value)| (name.to_owned(), value.to_owned())));
                let escaped = url.query().unwrap().split('&').next().unwrap().strip_prefix("x=").unwrap();
                prop_assert_eq!(path[1], escaped, "and in the path it is the same text");
            }
        }
    }
}
