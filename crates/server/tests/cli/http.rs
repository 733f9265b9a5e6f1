//! What other services answer as the source: how it is asked for and split, and that nothing of it is left when a run stops.

mod errors;
mod upstream;

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use self::upstream::{Came, Secure, Upstream, begin, go_on, say, until_closed};
use crate::{
    kills::Killed,
    program::{Server, outflow, text, wait, within},
};

const PATIENCE: Duration = Duration::from_secs(15);

/// A server with one source of this kind, and its folder.
fn serve(settings: &str) -> (Server, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let server = serve_in(&folder, settings);
    (server, folder)
}

fn serve_in(folder: &TempDir, settings: &str) -> Server {
    let path = folder.path().join("outflow.toml");
    std::fs::write(&path, source(settings)).unwrap();
    Server::start(&["--config", path.to_str().unwrap()])
}

fn source(settings: &str) -> String {
    format!("[[source]]\nname = 'web'\nkind = 'http'\ndefault = true\n{settings}\n")
}

/// What a fetch of id 7 prints as JSON, and what it says.
fn fetch(server: &Server, arguments: &[&str]) -> (Vec<Value>, String) {
    let (output, _) = server.fetch(&[&["7", "--format", "json"][..], arguments].concat());
    let lines = text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (lines, text(&output.stderr).to_owned())
}

fn results(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["result"].as_str().unwrap_or_else(|| panic!("{line}"))).collect()
}

/// Says a body in pieces of one byte, so that everything is cut everywhere.
fn in_bytes(stream: &mut TcpStream, kind: &str, body: &str) {
    begin(stream, kind);
    stream.set_nodelay(true).unwrap();
    for byte in body.bytes() {
        go_on(stream, std::str::from_utf8(&[byte]).unwrap());
    }
    _ = stream.write_all(b"0\r\n\r\n");
}

#[test]
fn a_body_is_whole_or_lines_or_chunks_or_events() {
    let upstream = Upstream::start(|_, stream| {
        in_bytes(
            stream,
            "text/event-stream",
            ": hello\r\ndata: one\ndata: two\r\n\r\nevent: x\ndata:three\r\rdata: cut",
        );
    });
    let address = upstream.address;
    let body = ": hello\r\ndata: one\ndata: two\r\n\r\nevent: x\ndata:three\r\rdata: cut";
    let cases = [("whole", vec![body]), ("lines", body.split('\n').collect()), ("events", vec!["one\ntwo", "three"])];
    for (split, wanted) in cases {
        let (server, _folder) = serve(&format!("url = 'http://{address}/x'\nsplit = '{split}'"));
        let (lines, said) = fetch(&server, &[]);
        assert_eq!(results(&lines), wanted, "{split}: {said}");
    }
    let (server, _folder) = serve(&format!("url = 'http://{address}/x'\nsplit = 'chunks'\npayload = 'text'"));
    let (lines, _) = fetch(&server, &[]);
    assert_eq!(results(&lines).concat(), body);
    assert!(lines.len() > 1, "{lines:?}");
    let came = &upstream.came()[0];
    assert_eq!((&*came.line, came.header("accept-encoding")), ("GET /x", Some("identity")));
    assert!(came.header("user-agent").unwrap().starts_with("outflow/"), "{came:?}");
}

#[test]
fn a_long_body_comes_whole_in_parts() {
    let upstream = Upstream::start(|_, stream| say(stream, "200 OK", "", &"é".repeat(1_500_000)));
    let (server, _folder) = serve(&format!("url = 'http://{}/'", upstream.address));
    let (lines, said) = fetch(&server, &[]);
    assert!(lines.len() > 2, "{said}");
    assert_eq!(results(&lines).concat(), "é".repeat(1_500_000));
    assert!(lines.iter().rev().skip(1).all(|line| line["partial"] == true), "all but the last go on");
}

/// Answers `/a` only when `/b` was asked, and `/bad` with an error.
fn three(came: &Came, stream: &mut TcpStream, b_was: &AtomicBool) {
    match &*came.line {
        "GET /a" => {
            within(PATIENCE, || b_was.load(Ordering::SeqCst).then_some(())).unwrap();
            say(stream, "200 OK", "", "from a");
        }
        "GET /b" => {
            say(stream, "200 OK", "", "from b");
            b_was.store(true, Ordering::SeqCst);
        }
        _ => say(stream, "404 Not Found", "", "no\nsuch page"),
    }
}

#[test]
fn many_are_asked_at_once_and_answers_come_as_they_arrive_also_beside_a_failing_one() {
    for (errors, code) in [("tolerate", 0), ("fail", 1)] {
        let b_was = AtomicBool::new(false);
        let upstream = Upstream::start(move |came, stream| three(came, stream, &b_was));
        let at = format!("http://{}", upstream.address);
        let (server, _folder) = serve(&format!("urls = ['{at}/a', '{at}/bad', '{at}/b']\njob_errors = '{errors}'"));
        let (output, _) = server.fetch(&["7", "--format", "json"]);
        let lines: Vec<Value> =
            text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
        let good: Vec<&str> = lines.iter().filter_map(|line| line["result"].as_str()).collect();
        assert_eq!(good.iter().filter(|result| result.starts_with("from")).count(), 2, "{lines:?}");
        assert!(
            good.iter().position(|result| *result == "from b") < good.iter().position(|result| *result == "from a")
        );
        let error = lines.iter().find(|line| line["error"].is_object()).unwrap();
        assert_eq!(error["error"]["message"], format!("GET {at}/bad answered 404 Not Found: no such page"));
        assert_eq!((&error["error"]["code"], &error["job"]), (&5.into(), &1.into()), "{error}");
    }
}

#[test]
fn a_model_is_asked_by_post_and_its_key_is_nowhere_to_be_seen() {
    // A variable that every test of cargo has, as the secret.
    let key = std::env::var("CARGO_PKG_DESCRIPTION").unwrap();
    let upstream = Upstream::start(|came, stream| {
        if came.body.contains("fail") {
            let said = format!("bad key {}", came.header("authorization").unwrap());
            return say(stream, "401 Unauthorized", "", &said);
        }
        begin(stream, "text/event-stream; charset=utf-8");
        for token in ["{\"t\":\"Hel\"}", "{\"t\":\"lo\"}", "[DONE]"] {
            go_on(stream, &format!("data: {token}\n\n"));
        }
        _ = stream.write_all(b"0\r\n\r\n");
    });
    let (server, _folder) = serve(&format!(
        "method = 'POST'\nurls = ['http://{}/v1/chat?key={{parameters.prompt}}']\nsplit = 'events'\n\
         headers = {{ authorization = 'Bearer {{env.CARGO_PKG_DESCRIPTION}}', x-id = '{{id}}' }}\n\
         body = {{ stream = true, n = 3, m = [ {{ role = 'user', text = 'Say: {{parameters.prompt}}' }} ] }}\n\
         parameters.prompt = {{ type = 'text' }}",
        upstream.address
    ));
    let prompt = "a \"quoted\", {id}\n\\ \u{1f600} }],";
    let (lines, said) = fetch(&server, &["--param", &format!("prompt={prompt}")]);
    assert_eq!(results(&lines), ["{\"t\":\"Hel\"}", "{\"t\":\"lo\"}", "[DONE]"], "{said}");
    let came = upstream.came().remove(0);
    assert_eq!(came.header("authorization"), Some(&*format!("Bearer {key}")));
    assert_eq!((came.header("content-type"), came.header("x-id")), (Some("application/json"), Some("7")));
    assert_eq!(came.header("accept"), Some("text/event-stream"));
    let wanted = serde_json::json!({
        "stream": true, "n": 3, "m": [{ "role": "user", "text": format!("Say: {prompt}") }]
    });
    assert_eq!(serde_json::from_str::<Value>(&came.body).unwrap(), wanted);
    let (lines, said) = fetch(&server, &["--param", "prompt=fail"]);
    let error = lines[0]["error"]["message"].as_str().unwrap();
    assert!(error.ends_with("/v1/chat answered 401 Unauthorized: bad key Bearer …"), "{error}");
    assert_eq!(upstream.came().len(), 2, "it is not tried again");
    assert!(!said.contains(&key) && !server.log().join("\n").contains(&key), "{said}");
}

#[test]
fn a_run_that_stops_closes_its_connections() {
    let upstream = Upstream::start(|_, stream| {
        begin(stream, "text/plain");
        go_on(stream, "first\n");
        until_closed(stream);
    });
    let (server, _folder) = serve(&format!("url = 'http://{}/'\nsplit = 'lines'", upstream.address));
    let (lines, _) = fetch(&server, &["--limit", "1"]);
    assert_eq!(results(&lines), ["first"]);
    assert!(within(PATIENCE, || (upstream.gone() == 1).then_some(())).is_some(), "its connection is still open");
}

#[test]
fn a_run_that_stops_before_there_is_an_answer_closes_its_connection_too() {
    let upstream = Upstream::start(|_, stream| until_closed(stream));
    let (server, _folder) = serve(&format!("url = 'http://{}/'", upstream.address));
    let (output, _) = server.fetch(&["7", "--within", "500ms"]);
    assert_eq!(output.status.code(), Some(124), "{}", text(&output.stderr));
    assert!(within(PATIENCE, || (upstream.gone() == 1).then_some(())).is_some(), "its connection is still open");
}

#[test]
fn a_slow_reader_stalls_the_other_side() {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let upstream = Upstream::start(move |_, stream| {
        begin(stream, "text/plain");
        let line = "x".repeat(9_999) + "\n";
        while go_on(stream, &line) {
            count.fetch_add(line.len(), Ordering::SeqCst);
        }
    });
    let (server, _folder) = serve(&format!("url = 'http://{}/'\nsplit = 'lines'", upstream.address));
    let before = server.memory_kib("VmRSS");
    let mut child = outflow(&["fetch", "7", "--server", &server.address]).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 100]).unwrap();
    // Nobody takes the rest: it comes to a standstill.
    let mut last = (0, 0);
    let stands = within(PATIENCE, || {
        let now = sent.load(Ordering::SeqCst);
        last = if now == last.0 { (now, last.1 + 1) } else { (now, 0) };
        (last.1 > 100).then_some(now)
    });
    let stands = stands.expect("it goes on although nobody reads");
    assert!(stands < 32 << 20, "{stands} bytes were sent");
    let grown = server.memory_kib("VmRSS").saturating_sub(before);
    assert!(grown < 32 << 10, "{grown} KiB more");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(within(PATIENCE, || (upstream.gone() == 1).then_some(())).is_some());
}

#[test]
fn a_run_that_lingers_is_read_after_its_client_left() {
    let go = Arc::new(AtomicBool::new(false));
    let may = go.clone();
    let upstream = Upstream::start(move |_, stream| {
        begin(stream, "text/event-stream");
        go_on(stream, "data: early\n\n");
        within(PATIENCE, || may.load(Ordering::SeqCst).then_some(())).unwrap();
        go_on(stream, "data: late\n\n");
        _ = stream.write_all(b"0\r\n\r\n");
    });
    let (server, _folder) = serve(&format!("url = 'http://{}/'\nsplit = 'events'\nlinger = '1m'", upstream.address));
    let mut client = outflow(&["fetch", "7", "--key", "k", "--server", &server.address])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut first = [0; 6];
    client.stdout.take().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(text(&first), "early\n");
    client.kill().unwrap();
    wait(&mut client);
    go.store(true, Ordering::SeqCst);
    let (lines, said) = fetch(&server, &["--key", "k"]);
    assert_eq!(results(&lines), ["early", "late"], "{said}");
    assert_eq!(upstream.came().len(), 1, "it is asked once");
}

#[test]
fn after_a_restart_a_run_goes_on_only_where_it_is_said_to_be_repeatable() {
    for repeatable in [false, true] {
        let upstream = Upstream::start({
            let asked = AtomicUsize::new(0);
            move |_, stream| {
                begin(stream, "text/plain");
                go_on(stream, "one\ntwo\n");
                if asked.fetch_add(1, Ordering::SeqCst) == 0 {
                    return until_closed(stream);
                }
                go_on(stream, "three\n");
                _ = stream.write_all(b"0\r\n\r\n");
            }
        });
        let settings = format!(
            "url = 'http://{}/'\nsplit = 'lines'\nlinger = '1m'\nrepeatable = {repeatable}",
            upstream.address
        );
        let mut server = Killed::start(&source(&settings));
        let address = server.address.to_string();
        let fetch = |arguments: &[&str]| {
            let all = ["fetch", "7", "--server", &address, "--key", "k", "--no-resume"];
            crate::program::run(&[&all, arguments].concat()).0
        };
        assert_eq!(text(&fetch(&["--limit", "2"]).stdout), "one\ntwo\n");
        server.kill_and_start();
        let output = fetch(&[]);
        if repeatable {
            assert_eq!(text(&output.stdout), "one\ntwo\nthree\n", "{}", text(&output.stderr));
            assert_eq!(upstream.came().len(), 2);
        } else {
            assert_eq!(text(&output.stdout), "one\ntwo\n");
            assert!(text(&output.stderr).contains("interrupted"), "{}", text(&output.stderr));
            assert_eq!(upstream.came().len(), 1);
        }
    }
}

#[test]
fn tls_is_checked_and_the_protocol_is_agreed_on() {
    for (protocols, version) in [(&["h2", "http/1.1"][..], "2"), (&["http/1.1"], "1"), (&[], "1")] {
        let folder = tempfile::tempdir().unwrap();
        let upstream = Secure::start(&folder.path().join("ca.pem"), protocols);
        let port = upstream.address.port();
        let server = serve_in(&folder, &format!("url = 'https://localhost:{port}/'\nca = 'ca.pem'\nretries = 0"));
        let (lines, said) = fetch(&server, &[]);
        assert_eq!(results(&lines), [format!("by HTTP/{version}\n")], "{said}");
        // Not by another name, and not without its authority.
        for settings in [
            format!("url = 'https://127.0.0.1:{port}/'\nca = 'ca.pem'"),
            format!("url = 'https://localhost:{port}/'"),
        ] {
            let (lines, _) = fetch(&serve_in(&folder, &settings), &[]);
            let error = &lines[0]["error"];
            assert!(error["message"].as_str().unwrap().contains("no TLS"), "{error}");
            assert_eq!(error["code"], 9, "{error}");
        }
    }
}

#[test]
fn a_run_that_stops_resets_its_stream_also_on_a_connection_that_others_use() {
    for protocol in ["h2", "http/1.1"] {
        let folder = tempfile::tempdir().unwrap();
        let upstream = Secure::start(&folder.path().join("ca.pem"), &[protocol]);
        let url = format!("https://localhost:{}/endless", upstream.address.port());
        let server = serve_in(&folder, &format!("urls = ['{url}', '{url}']\nsplit = 'lines'\nca = 'ca.pem'"));
        fetch(&server, &["--limit", "3"]);
        let gone = within(PATIENCE, || (upstream.gone.load(Ordering::SeqCst) == 2).then_some(()));
        assert!(gone.is_some(), "{protocol}: its requests are still there");
    }
}

#[test]
fn the_example_works_as_it_is_but_for_the_hosts_and_the_key() {
    let upstream = Upstream::start(|came, stream| match &*came.line {
        "POST /v1/chat" => in_bytes(stream, "text/event-stream", &format!("data: {}\n\n", came.body)),
        "GET /quote/7" => say(stream, "200 OK", "", "a quote"),
        line => panic!("{line}"),
    });
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/http.toml");
    let mut config = std::fs::read_to_string(example).unwrap().replace("{env.LLM_KEY}", "key");
    for host in ["a", "b", "llm"] {
        config = config.replace(&format!("https://{host}.example/"), &format!("http://{}/", upstream.address));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outflow.toml");
    std::fs::write(&path, config).unwrap();
    let server = Server::start(&["--config", path.to_str().unwrap()]);
    let (lines, said) = fetch(&server, &["--source", "quotes"]);
    assert_eq!(results(&lines), ["a quote", "a quote"], "{said}");
    let (lines, said) = fetch(&server, &["--source", "tokens", "--param", "prompt=hello"]);
    assert_eq!(results(&lines), [r#"{"messages":[{"content":"hello","role":"user"}],"stream":true}"#], "{said}");
}
