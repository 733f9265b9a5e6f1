//! `outflow fetch`: what it prints where, what ends it, and with which exit code.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    process::Stdio,
    time::Duration,
};

use crate::program::{Server, outflow, run, text, wait, within};

#[test]
fn into_a_pipe_go_the_results_and_nothing_else() {
    let server = Server::start(&[]);
    let (output, _) = server.fetch(&["1", "--param", "step=20ms"]);
    assert_eq!(output.status.code(), Some(0));
    let expected: String = (0..5).map(|n| format!("Request #{n} For Id:1\n")).collect();
    assert_eq!((text(&output.stdout), text(&output.stderr)), (expected.as_str(), ""));
}

#[test]
fn any_id_can_be_asked_for() {
    let server = Server::start(&[]);
    for id in ["0", "-1", "2147483647", "-2147483648"] {
        let (output, _) = server.fetch(&[id, "--limit", "1"]);
        assert_eq!(text(&output.stdout), format!("Request #0 For Id:{id}\n"));
    }
}

#[test]
fn two_are_enough_and_the_other_three_jobs_are_stopped() {
    let server = Server::start(&[]);
    let (output, took) = server.fetch(&["1", "--limit", "2"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout), "Request #0 For Id:1\nRequest #1 For Id:1\n");
    assert!(took < Duration::from_secs(2), "it took {took:?}");
    server.line("reader had enough after response 2, 3 jobs stopped");
}

#[test]
fn who_has_waited_too_long_keeps_what_came() {
    let server = Server::start(&[]);
    let (output, took) = server.fetch(&["1", "--within", "2500ms"]);
    assert_eq!(output.status.code(), Some(124), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout).lines().count(), 3);
    assert!((Duration::from_millis(2_500)..Duration::from_secs(5)).contains(&took), "it took {took:?}");
    server.line("send error: the reader's deadline passed after response 3, 2 jobs stopped");
}

#[test]
fn patience_is_for_the_next_response() {
    let server = Server::start(&[]);
    let (output, took) = server.fetch(&["1", "--patience", "500ms"]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(124), "Request #0 For Id:1\n"));
    assert!(took < Duration::from_secs(3), "it took {took:?}");
    server.line("send error: reader left after response 1, 4 jobs stopped");
    let (output, _) = server.fetch(&["1", "--patience", "10s", "--param", "step=20ms"]);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn connecting_is_waiting_too() {
    // It takes the connection and then says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    for bound in ["--patience", "--within"] {
        let (output, took) = run(&["fetch", "1", "--server", &address, bound, "300ms"]);
        assert_eq!(output.status.code(), Some(124), "{}", text(&output.stderr));
        assert!(took < Duration::from_secs(5), "it took {took:?}");
    }
}

#[test]
fn no_connection_is_exit_code_69() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (output, _) = run(&["fetch", "1", "--server", &free]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(69), ""));
    assert!(text(&output.stderr).contains("can not connect with server"), "{}", text(&output.stderr));
}

#[test]
fn a_refused_request_is_exit_code_1_and_says_why() {
    let server = Server::start(&[]);
    for (arguments, named) in [
        (["1", "--source", "nobody"], "no source is called `nobody`"),
        (["1", "--param", "jobs=1001"], "parameters.jobs: is 1001; 0 to 1000 is allowed"),
    ] {
        let (output, _) = server.fetch(&arguments);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), ""));
        let stderr = text(&output.stderr);
        assert!(stderr.contains("open stream error") && stderr.contains(named), "{stderr}");
    }
}

#[test]
fn what_makes_no_sense_is_exit_code_2() {
    for arguments in [
        &["fetch"][..],
        &["fetch", "one"],
        &["fetch", "2147483648"],
        &["fetch", "1", "--limit", "0"],
        &["fetch", "1", "--within", "soon"],
        &["fetch", "1", "--param", "jobs"],
        &["fetch", "1", "--server", "ftp://somewhere"],
        &["fetch", "1", "--format", "xml"],
        &["--log", "loud", "fetch", "1"],
        &["pour"],
    ] {
        let (output, _) = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output.stderr));
        assert!(!output.stderr.is_empty() && output.stdout.is_empty());
    }
}

#[test]
fn a_failed_job_is_told_and_the_others_go_on() {
    let server = Server::start(&[]);
    let (output, _) = server.fetch(&["1", "--param", "step=20ms", "--param", "fail=1"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout).lines().count(), 4);
    let stderr = text(&output.stderr);
    assert!(stderr.contains("job 1 failed") && stderr.contains("cannot receive"), "{stderr}");
}

#[test]
fn json_is_an_object_for_each_response() {
    let server = Server::start(&[]);
    let parameters = ["--param", "jobs=2", "--param", "step=20ms", "--param", "fail=1"];
    let (output, _) = server.fetch(&[&["1", "--format", "json"][..], &parameters].concat());
    let objects: Vec<serde_json::Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let expected = [
        serde_json::json!({ "sequence": 1, "job": 0, "result": "Request #0 For Id:1" }),
        serde_json::json!({
            "sequence": 2, "job": 1,
            "error": { "code": 13, "message": "job 1 failed, as `fail` asked it to" }
        }),
    ];
    assert_eq!(objects, expected);
}

#[test]
fn the_log_format_is_the_tutorials() {
    let server = Server::start(&[]);
    let (output, _) = server.fetch(&["1", "--limit", "1", "--format", "log"]);
    let lines: Vec<&str> = text(&output.stdout).lines().map(|line| &line[20..]).collect();
    assert_eq!(lines, ["Resp received: Request #0 For Id:1", "finished"]);
}

#[test]
fn a_file_holds_what_a_pipe_would() {
    let server = Server::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("results.txt");
    let path = file.to_str().unwrap();
    let many = ["1", "--param", "jobs=1", "--param", "responses=200000", "--output", path];
    let (output, _) = server.fetch(&many);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), ""));
    assert_eq!(fs::read_to_string(&file).unwrap(), "Request #0 For Id:1\n".repeat(200_000));
}

#[test]
fn a_closed_pipe_ends_it_quietly_and_stops_the_work_although_nothing_more_comes() {
    let server = Server::start(&[]);
    let mut child = outflow(&["fetch", "1", "--param", "step=1h", "--server", &server.address])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(first, "Request #0 For Id:1\n");
    // The reader of the pipe is dropped here.
    assert_eq!(wait(&mut child).code(), Some(0));
    assert_eq!(text(&child.wait_with_output().unwrap().stderr), "");
    server.line("send error: reader left after response 1, 4 jobs stopped");
}

#[test]
fn a_killed_client_stops_the_work() {
    let server = Server::start(&[]);
    let mut child = outflow(&["fetch", "1", "--param", "step=1h", "--server", &server.address])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    server.line("finishing request number : 0");
    child.kill().unwrap();
    child.wait().unwrap();
    let stopped = || server.log().into_iter().find(|line| line.contains("4 jobs stopped"));
    assert!(within(Duration::from_secs(5), stopped).is_some(), "{:#?}", server.log());
}
