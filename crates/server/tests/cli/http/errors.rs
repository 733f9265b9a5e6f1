//! What is refused, what is limited, and how a service that fails is told.

use std::{
    io::Write as _,
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{
    fetch, results, serve, serve_in, source,
    upstream::{Secure, Upstream, begin, go_on, say, until_closed},
};
use crate::program::{run, text, within};

/// Code and message of the one error that there is.
fn error(settings: &str) -> (i64, String) {
    let (server, _folder) = serve(settings);
    let (lines, said) = fetch(&server, &[]);
    let last = lines.last().unwrap_or_else(|| panic!("nothing came: {said}"));
    let error = &last["error"];
    (error["code"].as_i64().unwrap_or_else(|| panic!("{last}")), error["message"].as_str().unwrap().to_owned())
}

#[test]
fn what_a_configuration_must_not_say_is_told_with_its_line() {
    let cases = [
        ("", "no `url`"),
        ("url = 'ftp://h/'", "http://"),
        ("url = 'http://h{id}/'", "host"),
        ("urls = ['http://h/', 'http://h/a#b']", "urls.1"),
        ("urls = []", "1 to 256"),
        ("url = 'http://h/'\nurls = ['http://h/']", "among them"),
        ("url = 'http://h/'\nmethod = 'FETCH'", "POST"),
        ("url = 'http://h/'\nmethods = 'POST'", "did you mean `method`?"),
        ("url = 'http://h/'\nbody = 'x'", "method = \"POST\""),
        ("url = 'http://h/'\nmethod = 'POST'\nbody = [1]", "a table"),
        ("url = 'http://h/'\nmethod = 'POST'\nbody = { a = ['{parameters.x}'] }", "body.a.0"),
        ("url = 'http://h/'\nheaders = { host = 'x' }", "headers.host"),
        ("url = 'http://h/'\nheaders = { 'a b' = 'x' }", "headers.a b"),
        ("url = 'http://h/'\nheaders = { a = \"x\\ny\" }", "line ends"),
        ("url = 'http://h/'\nsplit = 'words'", "events"),
        ("url = 'http://h/'\nidle_time = '0s'", "more than 0"),
        ("url = 'http://h/'\nbody_limit = 0", "at least 1"),
        ("url = 'http://h/'\nretries = 11", "0 to 10"),
        ("url = 'http://h/'\nca = 'missing.pem'", "missing.pem"),
        ("url = 'http://h/'\nca = 'outflow.toml'", "no certificate"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outflow.toml");
    for (settings, told) in cases {
        std::fs::write(&path, source(settings)).unwrap();
        let (output, _) = run(&["config", "check", path.to_str().unwrap()]);
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains(told), "{settings}: {said}");
        assert!(said.contains("outflow.toml:") && said.lines().count() == 1, "{settings}: {said}");
    }
}

#[test]
fn a_value_stays_in_its_place_or_is_refused_and_nothing_is_asked() {
    let upstream = Upstream::start(|_, stream| say(stream, "200 OK", "", "ok"));
    let (server, _folder) = serve(&format!(
        "url = 'http://{}/a/{{parameters.p}}/c?q={{parameters.q}}'\nheaders = {{ x-p = '{{parameters.q}}' }}\n\
         parameters.p = {{ type = 'text' }}\nparameters.q = {{ type = 'text', default = 'q' }}",
        upstream.address
    ));
    for refused in ["p=", "p=.", "p=.."] {
        let (_, said) = fetch(&server, &["--param", refused]);
        assert!(said.contains("INVALID_ARGUMENT: parameters.p: "), "{said}");
    }
    let (_, said) = fetch(&server, &["--param", "p=x", "--param", "q=a\r\nx-evil: 1"]);
    assert!(said.contains("INVALID_ARGUMENT: parameters.q: "), "{said}");
    assert!(upstream.came().is_empty());
    let (lines, said) = fetch(&server, &["--param", "p=../b?x=1#", "--param", "q=1&r=%2"]);
    assert_eq!(results(&lines), ["ok"], "{said}");
    assert_eq!(upstream.came()[0].line, "GET /a/..%2Fb%3Fx%3D1%23/c?q=1%26r%3D%252");
}

#[test]
fn a_body_that_breaks_off_is_an_error_and_no_end() {
    for (cut, known_length) in [(false, true), (true, true), (true, false)] {
        let upstream = Upstream::start(move |_, stream| {
            if !cut {
                say(stream, "200 OK", "", "one\ntwo\n");
            } else if known_length {
                _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\none\ntwo\nthr");
            } else {
                begin(stream, "text/plain");
                go_on(stream, "one\ntwo\nthr");
            }
        });
        let (server, _folder) = serve(&format!("url = 'http://{}/'\nsplit = 'lines'", upstream.address));
        let (lines, _) = fetch(&server, &[]);
        assert_eq!(results(&lines[..2]), ["one", "two"]);
        if cut {
            assert_eq!((lines.len(), &lines[2]["error"]["code"]), (3, &14.into()), "{lines:?}");
            assert!(lines[2]["error"]["message"].as_str().unwrap().contains("broke off"), "{lines:?}");
        } else {
            assert_eq!(lines.len(), 2);
        }
        assert_eq!(upstream.came().len(), 1, "it is not asked again once there were responses");
    }
}

#[test]
fn a_body_has_a_limit_whether_it_says_its_length_or_not() {
    for says in [true, false] {
        let upstream = Upstream::start(move |_, stream| {
            if says {
                return say(stream, "200 OK", "", &"x".repeat(1001));
            }
            begin(stream, "text/plain");
            while go_on(stream, "0123456789") {}
        });
        let (code, message) = error(&format!("url = 'http://{}/'\nbody_limit = 1000", upstream.address));
        assert!(code == 8 && message.ends_with("the body is longer than body_limit = 1000 bytes"), "{message}");
    }
    let upstream = Upstream::start(move |_, stream| say(stream, "200 OK", "", &"x".repeat(1000)));
    let (server, _folder) = serve(&format!("url = 'http://{}/'\nbody_limit = 1000", upstream.address));
    assert_eq!(results(&fetch(&server, &[]).0), ["x".repeat(1000)]);
}

#[test]
fn who_says_nothing_for_too_long_is_left_before_and_within_the_body() {
    let upstream = Upstream::start(|came, stream| {
        if came.line == "GET /within" {
            begin(stream, "text/plain");
            go_on(stream, "first\n");
        }
        until_closed(stream);
    });
    for path in ["before", "within"] {
        let url = format!("url = 'http://{}/{path}'\nsplit = 'lines'", upstream.address);
        let (code, message) = error(&format!("{url}\nconnect_time = '100ms'\nidle_time = '300ms'"));
        assert!(code == 4 && message.contains("idle_time = 300ms"), "{path}: {message}");
    }
}

/// By the clock of who answers, which is not ours.
const AN_HOUR_LATER: &str = "date: Sun, 06 Nov 1994 08:49:37 GMT\r\nretry-after: Sun, 06 Nov 1994 09:49:37 GMT\r\n";

#[test]
fn what_passes_is_tried_again_and_what_does_not_is_not() {
    // Settings, status, headers of the bad answers, how many of them; how often it is asked, and the code in the end.
    let cases = [
        ("", "503 Service Unavailable", "", 2, 3, None),
        ("", "429 Too Many Requests", "retry-after: 1\r\n", 1, 2, None),
        ("", "502 Bad Gateway", "", 9, 3, Some(14)),
        ("retries = 1", "504 Gateway Timeout", "", 9, 2, Some(4)),
        ("", "503 Service Unavailable", "retry-after: 3600\r\n", 1, 1, Some(14)),
        ("", "503 Service Unavailable", "retry-after: Fri, 31 Dec 2100 23:59:59 GMT\r\n", 1, 1, Some(14)),
        ("", "503 Service Unavailable", "retry-after: Sun, 06 Nov 1994 08:49:37 GMT\r\n", 1, 2, None),
        ("", "503 Service Unavailable", AN_HOUR_LATER, 1, 1, Some(14)),
        ("", "503 Service Unavailable", "retry-after: soon\r\n", 1, 2, None),
        ("", "500 Internal Server Error", "", 1, 1, Some(13)),
        ("", "403 Forbidden", "", 1, 1, Some(7)),
        ("method = 'POST'\nbody = 'x'", "503 Service Unavailable", "", 1, 1, Some(14)),
        ("method = 'POST'\nbody = 'x'\nretries = 1", "503 Service Unavailable", "", 1, 2, None),
        ("method = 'PUT'\nbody = 'x'", "503 Service Unavailable", "", 1, 2, None),
    ];
    for (settings, status, headers, bad, asked, code) in cases {
        let count = AtomicUsize::new(0);
        let upstream = Upstream::start(move |_, stream| {
            if count.fetch_add(1, Ordering::SeqCst) < bad {
                say(stream, status, headers, "not now");
            } else {
                say(stream, "200 OK", "", "good");
            }
        });
        let (server, _folder) = serve(&format!("url = 'http://{}/'\n{settings}", upstream.address));
        let (lines, said) = fetch(&server, &[]);
        assert_eq!(upstream.came().len(), asked, "{settings} {status}: {said}");
        match code {
            None => assert_eq!(results(&lines), ["good"], "{settings} {status}"),
            Some(code) => assert_eq!(lines[0]["error"]["code"], code, "{settings} {status}: {lines:?}"),
        }
    }
}

#[test]
fn who_is_not_there_is_told_after_the_last_try() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (code, message) = error(&format!("url = 'http://{address}/x?key=s3cret'\nretries = 1"));
    assert!(code == 14 && message.starts_with(&format!("GET http://{address}/x: cannot connect: ")), "{message}");
    assert!(message.contains("refused") && !message.contains("s3cret"), "{message}");
}

#[test]
fn redirects_are_followed_only_where_that_is_allowed_and_take_no_secrets_elsewhere() {
    let other = Upstream::start(|_, stream| say(stream, "200 OK", "", "from another"));
    let elsewhere = other.address;
    let upstream = Upstream::start(move |came, stream| {
        let to = |to: &str| format!("location: {to}\r\n");
        match came.line.split(' ').nth(1).unwrap() {
            "/a/b" => say(stream, "302 Found", &to("../c?d"), ""),
            "/c?d" => say(stream, "200 OK", "", &came.line),
            "/away" => say(stream, "307 Temporary Redirect", &to(&format!("http://{elsewhere}/x")), ""),
            "/round" => say(stream, "301 Moved Permanently", &to("/round"), ""),
            _ => say(stream, "308 Permanent Redirect", &to("ftp://h/"), ""),
        }
    });
    let at = format!("http://{}", upstream.address);
    let headers = "headers = { authorization = 'Bearer key', cookie = 'a=b', x-own = 'c' }";
    let (code, message) = error(&format!("url = '{at}/a/b'"));
    assert!(code == 9 && message.contains("302 Found") && message.contains("redirects = 1"), "{message}");
    assert_eq!(upstream.came().len(), 1);

    let (server, _folder) = serve(&format!("url = '{at}/a/b'\nredirects = 1\n{headers}"));
    assert_eq!(results(&fetch(&server, &[]).0), ["GET /c?d"]);
    assert_eq!(upstream.came()[2].header("authorization"), Some("Bearer key"), "it is the same service");

    let (server, _folder) = serve(&format!("url = '{at}/a/b'\nredirects = 1\nmethod = 'POST'\nbody = 'x'"));
    assert_eq!(results(&fetch(&server, &[]).0), ["GET /c?d"], "as browsers do it");

    let (server, _folder) = serve(&format!("url = '{at}/away'\nredirects = 1\n{headers}"));
    assert_eq!(results(&fetch(&server, &[]).0), ["from another"]);
    let came = other.came().remove(0);
    for name in ["authorization", "cookie", "x-own"] {
        assert_eq!(came.header(name), None, "{came:?}");
    }

    let (code, message) = error(&format!("url = '{at}/away'\nredirects = 1\nmethod = 'POST'\nbody = 'x'"));
    assert!(code == 9 && message.contains("another host"), "{message}");
    let (code, message) = error(&format!("url = '{at}/round'\nredirects = 3"));
    assert!(code == 9 && message.contains("redirects = 3"), "{message}");
    let (code, message) = error(&format!("url = '{at}/ftp'\nredirects = 3"));
    assert!(code == 9 && message.contains("no HTTP URL"), "{message}");
    assert_eq!(other.came().len(), 1);
}

#[test]
fn a_redirect_does_not_leave_tls() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Secure::start(&folder.path().join("ca.pem"), &["http/1.1"]);
    let url = format!("https://localhost:{}/plain", upstream.address.port());
    let server = serve_in(&folder, &format!("url = '{url}'\nca = 'ca.pem'\nredirects = 1"));
    let (lines, _) = fetch(&server, &[]);
    let error = &lines[0]["error"];
    assert_eq!(error["message"], format!("GET {url}: it is redirected from https to http"));
    assert_eq!(error["code"], 9);
}

#[test]
fn who_does_not_finish_a_connection_is_left() {
    // It accepts, by its queue, and never speaks TLS.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/", silent.local_addr().unwrap());
    let (code, message) = error(&format!("url = '{url}'\nretries = 0\nconnect_time = '200ms'"));
    assert!(code == 14 && message.contains("not connected within connect_time = 200ms"), "{message}");
}

#[test]
fn only_so_many_requests_are_made_at_once_and_all_are_made() {
    let (now, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let seen = most.clone();
    let upstream = Upstream::start(move |came, stream| {
        seen.fetch_max(1 + now.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
        // Long enough for a third to come, if it may.
        let third = within(Duration::from_millis(100), || (now.load(Ordering::SeqCst) > 2).then_some(()));
        assert!(third.is_none());
        now.fetch_sub(1, Ordering::SeqCst);
        say(stream, "200 OK", "", &came.line);
    });
    let urls: Vec<String> = (0..6).map(|n| format!("'http://{}/{n}'", upstream.address)).collect();
    let (server, _folder) = serve(&format!("urls = [{}]\nrequests_at_once = 2", urls.join(", ")));
    let (lines, said) = fetch(&server, &[]);
    let mut came = results(&lines);
    came.sort_unstable();
    assert_eq!(came, ["GET /0", "GET /1", "GET /2", "GET /3", "GET /4", "GET /5"], "{said}");
    assert_eq!(most.load(Ordering::SeqCst), 2);
}

#[test]
fn a_body_of_another_sort_is_told() {
    let upstream = Upstream::start(|_, stream| say(stream, "200 OK", "content-type: application/json\r\n", "{}"));
    let (code, message) = error(&format!("url = 'http://{}/'\nsplit = 'events'", upstream.address));
    assert!(code == 9 && message.contains("application/json"), "{message}");
    let upstream = Upstream::start(|_, stream| say(stream, "200 OK", "content-encoding: gzip\r\n", "{}"));
    let (code, message) = error(&format!("url = 'http://{}/'", upstream.address));
    assert!(code == 9 && message.contains("gzip"), "{message}");
}
