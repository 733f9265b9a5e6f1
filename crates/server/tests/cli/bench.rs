//! `outflow bench` against our own server: what it counts, checks and prints, when it ends, and with which exit code.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    process::Stdio,
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::program::{Server, interruptible, run, text, wait};

/// What `outflow bench` says about this server as JSON, and its exit code.
fn bench(server: &str, arguments: &[&str]) -> (Value, i32) {
    let (output, _) = run(&[&["bench", "--server", server, "--format", "json"], arguments].concat());
    let stdout = text(&output.stdout);
    let report = serde_json::from_str(stdout).unwrap_or_else(|_| panic!("{stdout}{}", text(&output.stderr)));
    (report, output.status.code().unwrap())
}

const ONE_JOB: [&str; 4] = ["--param", "jobs=1", "--param", "step=0s"];

fn number(report: &Value, path: &str) -> f64 {
    report.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {path} in {report}"))
}

/// What a histogram always is.
fn check_times(report: &Value, name: &str, count: u64) {
    let at = |figure: &str| number(report, &format!("/{name}/{figure}"));
    assert_eq!(report[name]["count"], count, "{name}: {report}");
    let figures = ["p50", "p90", "p99", "p999", "max"].map(at);
    assert!(figures[0] > 0.0 && figures.is_sorted() && at("mean") <= figures[4], "{name}: {report}");
}

#[test]
fn calls_and_responses_are_counted_and_sequences_followed() {
    let server = Server::start(&[]);
    let spread = ["--connections", "3", "--streams", "2", "--calls", "20"];
    for (batch, responses) in [("batch=1", 1_000), ("batch=64", 5_000)] {
        let counted = format!("responses={responses}");
        let (report, code) =
            bench(&server.address, &[&ONE_JOB[..], &spread, &["--param", batch, "--param", &counted]].concat());
        assert_eq!(code, 0, "{report}");
        assert_eq!(report["target"], server.address);
        assert_eq!((&report["connections"], &report["streams"]), (&3.into(), &2.into()));
        assert_eq!((&report["calls"], &report["cut"]), (&20.into(), &0.into()));
        assert_eq!(report["statuses"], serde_json::json!({ "OK": 20 }));
        assert_eq!(report["responses"], 20 * responses);
        // 19 bytes of text, its tag and length, and the sequence with its tag.
        let sequences = responses.min(127) * 2 + (responses - 127) * 3;
        assert_eq!(report["bytes"], 20 * (21 * responses + sequences));
        assert_eq!((&report["sequences_checked"], &report["sequence_errors"]), (&20.into(), &0.into()));
        check_times(&report, "first_response_us", 20);
        check_times(&report, "total_us", 20);
        assert!(number(&report, "/first_response_us/max") <= number(&report, "/total_us/max"));
        assert_eq!(report["latency_us"], Value::Null);
        let seconds = number(&report, "/seconds");
        assert!((number(&report, "/responses_per_second") * seconds - 20.0 * f64::from(responses)).abs() < 1.0);
        assert!(number(&report, "/client_cpu_seconds") > 0.0);
    }
}

#[test]
fn large_responses_and_small_windows_lose_nothing() {
    let server = Server::start(&[]);
    let windows: [&[&str]; 3] = [&[], &["--window", "65535", "--frame", "16384"], &["--window", "1000"]];
    for (size, responses) in [(100_000, 50), (1_000_000, 5)] {
        for windows in windows {
            let parameters = [format!("responses={responses}"), format!("size={size}")];
            let parameters = ["--param", &parameters[0], "--param", &parameters[1], "--streams", "2"];
            let (report, code) = bench(&server.address, &[&ONE_JOB[..], windows, &parameters].concat());
            assert_eq!((code, &report["sequence_errors"]), (0, &0.into()), "{report}");
            assert_eq!(report["responses"], 2 * responses);
            assert!(report["bytes"].as_u64().unwrap() > 2 * responses * size);
        }
    }
}

#[test]
fn statuses_are_counted_and_a_bad_one_is_exit_code_1() {
    let server = Server::start(&[]);
    let (report, code) = bench(&server.address, &["--param", "step=1ms", "--param", "fail=1", "--calls", "4"]);
    assert_eq!((code, &report["statuses"]), (1, &serde_json::json!({ "INTERNAL": 4 })));
    // The failed job's response is one, and in its place.
    assert_eq!((&report["responses"], &report["sequence_errors"]), (&20.into(), &0.into()));
    assert_eq!(report["messages"]["INTERNAL"], "job 1 failed, as `fail` asked it to");
    let (report, code) = bench(&server.address, &["--source", "nobody"]);
    assert_eq!((code, &report["statuses"]), (1, &serde_json::json!({ "NOT_FOUND": 1 })));
    assert_eq!((&report["responses"], &report["sequences_checked"]), (&0.into(), &0.into()));
}

#[test]
fn for_a_time_streams_begin_again_and_what_is_cut_counts() {
    let server = Server::start(&[]);
    let short = [&ONE_JOB[..], &["--param", "responses=10", "--connections", "2", "--streams", "3"]].concat();
    let (report, code) = bench(&server.address, &[&short[..], &["--for", "500ms"]].concat());
    assert_eq!(code, 0, "{report}");
    let (calls, cut) = (report["calls"].as_u64().unwrap(), report["cut"].as_u64().unwrap());
    assert!(calls > 6 && cut <= 6, "{report}");
    assert_eq!(report["statuses"], serde_json::json!({ "OK": calls - cut }));
    assert_eq!(report["sequence_errors"], 0);
    assert!(number(&report, "/seconds") >= 0.5);

    // Endless as far as this goes: each stream is cut, and what it had counts.
    let long = [&ONE_JOB[..], &["--param", "responses=1000000000", "--param", "batch=64", "--streams", "2"]].concat();
    let (report, code) = bench(&server.address, &[&long[..], &["--for", "300ms"]].concat());
    assert_eq!((code, &report["calls"], &report["cut"]), (0, &2.into(), &2.into()), "{report}");
    assert!(report["responses"].as_u64().unwrap() > 1_000 && report["statuses"] == serde_json::json!({}));
    check_times(&report, "first_response_us", 2);
    assert_eq!(report["total_us"]["count"], 0);
}

#[test]
fn a_warm_up_asks_the_same_and_is_forgotten() {
    let server = Server::start(&[]);
    let arguments = [&ONE_JOB[..], &["--param", "responses=10", "--warm-up", "300ms", "--calls", "3"]].concat();
    let (report, code) = bench(&server.address, &arguments);
    assert_eq!((code, &report["calls"], &report["responses"]), (0, &3.into(), &30.into()), "{report}");
    check_times(&report, "total_us", 3);
    let asked = server.log().iter().filter(|line| line.contains("fetch response for id : 1")).count();
    assert!(asked > 3, "{asked} requests came");
}

#[test]
fn latency_is_measured_by_the_stamps_in_the_texts() {
    let server = Server::start(&[]);
    for more in [&["--param", "every=1ms"][..], &["--param", "batch=10", "--param", "size=30"]] {
        let stamped = ["--stamps", "--param", "stamp=true", "--param", "responses=100", "--streams", "2"];
        let (report, code) = bench(&server.address, &[&ONE_JOB[..], &stamped, more].concat());
        assert_eq!((code, &report["sequence_errors"]), (0, &0.into()), "{report}");
        check_times(&report, "latency_us", 200);
        // A stamp that was misread would be years away.
        assert!(number(&report, "/latency_us/max") < 60e6, "{report}");
    }
    let (report, _) = bench(&server.address, &[&ONE_JOB[..], &["--stamps"]].concat());
    assert_eq!(report["latency_us"]["count"], 0, "texts without stamps have no latency");
    let (output, _) = run(&[&["bench", "--server", &server.address, "--stamps"], &ONE_JOB[..]].concat());
    assert!(text(&output.stdout).contains("--param stamp=true"), "and that is said, with what to do");
}

#[test]
fn what_a_server_says_is_shown_as_it_is() {
    let server = Server::start(&[]);
    let (output, _) = run(&["bench", "--server", &server.address, "--run", "zzz"]);
    assert!(text(&output.stdout).contains("another principal's"), "{}", text(&output.stdout));
}

#[test]
fn a_run_that_is_kept_can_be_read_by_many() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&["--data", folder.path().to_str().unwrap()]);
    let journaled = ["1", "--linger", "10m", "--param", "responses=2000", "--param", "jobs=1", "--format", "log"];
    let (_, _) = server.fetch(&journaled);
    let (listed, _) = run(&["runs", "--json", "--server", &server.address]);
    let run_id: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let kept = ["--run", run_id["run_id"].as_str().unwrap(), "--connections", "5", "--calls", "20"];
    let (report, code) = bench(&server.address, &kept);
    assert_eq!((code, &report["responses"], &report["sequence_errors"]), (0, &40_000.into(), &0.into()), "{report}");
    let (report, code) = bench(&server.address, &[&ONE_JOB[..], &["--linger", "1s", "--calls", "3"]].concat());
    assert_eq!((code, &report["statuses"]["OK"]), (0, &3.into()), "journaled runs: {report}");
}

#[test]
fn the_table_is_for_people() {
    let server = Server::start(&[]);
    let (output, _) =
        run(&[&["bench", "7", "--server", &server.address, "--param", "responses=1000"], &ONE_JOB[..]].concat());
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!((output.status.code(), stderr), (Some(0), ""));
    for part in
        ["1 connection, 1 stream on each", ": 1 OK\n", "1,000, ", "follow without gap or repeat, 1 stream\n", "p99.9"]
    {
        assert!(stdout.contains(part), "no {part:?} in {stdout}");
    }
    for row in ["first response", "gap", "total"] {
        assert!(stdout.lines().any(|line| line.starts_with(row)), "no {row} in {stdout}");
    }
    assert!(!stdout.contains("latency"), "{stdout}");
}

#[test]
fn the_plot_is_well_formed_svg() {
    let server = Server::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("plot.svg");
    let stamped = ["--stamps", "--param", "stamp=true", "--param", "responses=500"];
    let plot = ["--plot", file.to_str().unwrap()];
    let (_, code) = bench(&server.address, &[&ONE_JOB[..], &stamped, &plot].concat());
    assert_eq!(code, 0);
    let svg = fs::read_to_string(&file).unwrap();
    well_formed(&svg);
    for part in [
        "<svg xmlns=\"http://www.w3.org/2000/svg\"",
        "percentile (%)",
        " µs</text>",
        ">latency</text>",
        "prefers-color-scheme: dark",
    ] {
        assert!(svg.contains(part), "no {part:?} in {svg}");
    }
    let (output, _) =
        run(&["bench", "--server", &server.address, "--plot", "/nowhere/plot.svg", "--param", "step=0s"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/nowhere/plot.svg"), "{}", text(&output.stderr));
}

/// Every element is closed, in its order, and nothing stands between them that would be taken for one.
fn well_formed(xml: &str) {
    let mut open = Vec::new();
    let mut rest = xml;
    while let Some((between, tag)) = rest.split_once('<') {
        assert!(!between.contains('>'), "{between}");
        let (tag, behind) = tag.split_once('>').expect("each tag is closed");
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        match (tag.strip_prefix('/'), tag.strip_suffix('/')) {
            (Some(name), _) => assert_eq!(open.pop(), Some(name)),
            (None, Some(_)) => {}
            (None, None) => open.push(tag.split_whitespace().next().unwrap()),
        }
        rest = behind;
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "{open:?} {rest}");
}

#[test]
fn ctrl_c_ends_it_early_and_says_what_was_measured() {
    let server = Server::start(&[]);
    let endless = ["bench", "--server", &server.address, "--format", "json", "--param", "responses=1000000000"];
    let endless = [&endless[..], &ONE_JOB, &["--param", "every=1ms", "--for", "1h"]].concat();
    let mut child = interruptible(&endless).stdout(Stdio::piped()).spawn().unwrap();
    server.line("fetch response for id : 1");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(wait(&mut child).code(), Some(130));
    let mut stdout = String::new();
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&report["interrupted"], &report["cut"]), (&true.into(), &1.into()), "{report}");
}

#[test]
fn a_server_that_is_not_there_is_exit_code_69() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for server in
        [free.clone(), format!("tcp://{free}"), "unix:/nowhere/socket".into(), "http://nobody.invalid:1".into()]
    {
        let (output, _) = run(&["bench", "--server", &server]);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(69), ""), "{server}");
        let stderr = text(&output.stderr);
        assert!(stderr.contains(&format!("can not connect with server {server}: ")), "{stderr}");
    }
}

#[test]
fn what_makes_no_sense_is_exit_code_2() {
    for (arguments, named) in [
        (&["--connections", "0"][..], "--connections"),
        (&["--streams", "0"], "--streams"),
        (&["--calls", "0"], "--calls"),
        (&["--calls", "1", "--for", "1s"], "--for"),
        (&["--for", "0s"], "moment"),
        (&["--for", "soon"], "no time"),
        (&["--warm-up", "0s"], "--warm-up"),
        (&["--param", "jobs"], "NAME=VALUE"),
        (&["--window", "0"], "--window"),
        (&["--window", "2147483648"], "--window"),
        (&["--frame", "16383"], "--frame"),
        (&["--frame", "16777216"], "--frame"),
        (&["--format", "xml"], "--format"),
        (&["--server", "ftp://somewhere"], "scheme"),
        (&["--server", "tcp://http://host:1"], "tcp://"),
        (&["--server", "tcp://127.0.0.1:1", "--streams", "2"], "--connections"),
        (&["1", "--run", "01k"], "--run"),
        (&["one"], "one"),
    ] {
        let (output, _) = run(&[&["bench"], arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(named) && output.stdout.is_empty(), "{}", text(&output.stderr));
    }
}

#[test]
fn raw_tcp_is_the_framed_request_and_frames_until_it_is_closed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("tcp://{}", listener.local_addr().unwrap());
    let requests = thread::spawn(move || {
        let mut requests = Vec::new();
        for frames in [&b"\0\0\0\0\x04\x0a\x02ab\0\0\0\0\0"[..], b"\0\0\0\0\0", b"\0\0\0\0\x04\x0a"] {
            let (mut socket, _) = listener.accept().unwrap();
            let mut request = vec![0; 16];
            socket.read_exact(&mut request).unwrap();
            requests.push(request);
            socket.write_all(frames).unwrap();
        }
        requests
    });
    let (report, code) = bench(&server, &["3", "--param", "a=bc", "--calls", "3"]);
    // The last one is cut inside a message.
    assert_eq!((code, &report["statuses"]), (1, &serde_json::json!({ "OK": 2, "UNAVAILABLE": 1 })), "{report}");
    assert_eq!((&report["responses"], &report["bytes"]), (&3.into(), &4.into()));
    assert_eq!(report["sequences_checked"], 0);
    for request in requests.join().unwrap() {
        assert_eq!(request, b"\0\0\0\0\x0b\x08\x03\x1a\x07\x0a\x01a\x12\x02bc");
    }
}

#[test]
fn a_server_that_takes_connections_and_speaks_something_else_is_not_there() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let served = thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        socket.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").unwrap();
        _ = socket.set_read_timeout(Some(Duration::from_secs(10)));
        _ = socket.read_to_end(&mut Vec::new());
    });
    let (output, _) = run(&["bench", "--server", &address]);
    served.join().unwrap();
    assert_eq!(output.status.code(), Some(69));
    assert!(text(&output.stderr).contains("HTTP/1.1"), "{}", text(&output.stderr));
}
