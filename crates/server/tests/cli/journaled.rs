//! `fetch` of runs that go on without it.

use std::{
    io::{BufRead as _, BufReader},
    process::{Output, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use super::{
    output::way_that_answers_from_the_second_on,
    program::{Server, outflow, paste, run, text, wait, within},
};

/// The command that the program says goes on with a run.
fn continuation(stderr: &str) -> &str {
    let line =
        stderr.lines().find(|line| line.contains("continue with: outflow ")).unwrap_or_else(|| panic!("{stderr}"));
    assert!(line.contains("the run goes on; "), "{stderr}");
    line.split_once("continue with: ").unwrap().1
}

/// `fetch` with these arguments, interrupted as soon as it has printed something.
fn interrupted(server: &Server, arguments: &[&str]) -> Output {
    let all = [&["fetch", "1", "--server", &server.address, "--linger", "1m"], arguments].concat();
    let mut child = outflow(&all).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut printed = String::new();
    stdout.read_line(&mut printed).unwrap();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let status = wait(&mut child);
    std::io::Read::read_to_string(&mut stdout, &mut printed).unwrap();
    let stderr = child.wait_with_output().unwrap().stderr;
    Output { status, stdout: printed.into_bytes(), stderr }
}

const EVERY: [&str; 2] = ["--param", "step=300ms"];

#[test]
fn what_an_interrupted_fetch_says_goes_on_with_the_run_when_it_is_pasted() {
    let server = Server::start(&[]);
    for (format, limit) in [("plain", 5), ("json", 5), ("json", 4)] {
        let limit = limit.to_string();
        let asked = [&["--format", format, "--limit", &limit], &EVERY[..]].concat();
        let output = interrupted(&server, &asked);
        assert_eq!(output.status.code(), Some(130));
        assert!(!output.stdout.is_empty(), "it was interrupted before there was anything");
        let command = continuation(text(&output.stderr));
        let rest = paste(command);
        assert!(rest.status.success(), "{rest:?}");
        let run_id = command.split(' ').nth(3).unwrap();
        let whole = ["fetch", "--server", &server.address, "--run", run_id, "--format", format, "--limit", &limit];
        assert_eq!([output.stdout, rest.stdout].concat(), run(&whole).0.stdout);
        if limit == "5" {
            let (last, _) = run(&["fetch", "--run", run_id, "--last", "2", "--server", &server.address]);
            assert_eq!(text(&last.stdout).lines().count(), 2);
        }
    }
}

#[test]
fn a_closed_pipe_leaves_the_run_alive_and_what_is_said_goes_on_with_it_when_it_is_pasted() {
    let server = Server::start(&[]);
    let asked = ["fetch", "1", "--server", &server.address, "--linger", "1m", "--format", "json"];
    let all = [&asked[..], &EVERY].concat();
    let mut child = outflow(&all).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    // The reader of the pipe is dropped when it has read a line.
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(wait(&mut child).code(), Some(0));
    let stderr = child.wait_with_output().unwrap().stderr;
    let command = continuation(text(&stderr));
    let (_, after) = command.split_once(" --after ").unwrap();
    let after: u64 = after.split(' ').next().unwrap().parse().unwrap();
    assert!(after > 0);
    let rest = paste(command);
    assert!(rest.status.success(), "{rest:?}");
    let objects = first.lines().chain(text(&rest.stdout).lines()).map(|line| serde_json::from_str(line).unwrap());
    let sequences: Vec<_> = objects.map(|object: serde_json::Value| object["sequence"].as_u64().unwrap()).collect();
    let expected: Vec<_> = [1].into_iter().chain(after + 1..=5).collect();
    assert_eq!(sequences, expected);
}

#[test]
fn who_is_interrupted_while_nobody_reads_the_pipe_ends_too_and_says_how_to_go_on() {
    let server = Server::start(&[]);
    let all = ["fetch", "1", "--server", &server.address, "--linger", "1m", "--format", "json"];
    let many = ["--param", "jobs=1", "--param", "responses=20000", "--param", "size=100"];
    let mut child =
        outflow(&[&all[..], &many].concat()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    // Full, but for what is less than the largest piece that is written at once.
    let is_full = || (rustix::io::ioctl_fionread(&stdout).unwrap() >= 60 * 1024).then_some(());
    within(Duration::from_secs(20), is_full).expect("the pipe fills");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(wait(&mut child).code(), Some(130));
    let mut printed = String::new();
    std::io::Read::read_to_string(&mut stdout, &mut printed).unwrap();
    let stderr = child.wait_with_output().unwrap().stderr;
    let rest = paste(continuation(text(&stderr)));
    assert!(rest.status.success(), "{rest:?}");
    let sequence =
        |line: &str| Some(serde_json::from_str::<serde_json::Value>(line).ok()?["sequence"].as_u64().unwrap());
    // Of what the pipe has, the last lines may come again: nobody knew that they were read.
    let printed: Vec<_> = printed.lines().map_while(sequence).collect();
    let rest: Vec<_> = text(&rest.stdout).lines().map_while(sequence).collect();
    assert!(rest[0] <= printed.len() as u64 + 1, "{} after {}", rest[0], printed.len());
    assert!(printed.iter().copied().eq(1..=printed.len() as u64));
    assert!(rest.iter().copied().eq(rest[0]..=20_000));
}

#[test]
fn a_file_of_any_name_is_gone_on_with_when_what_is_said_is_pasted() {
    let server = Server::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("it's half \"written\" $HOME; ü.txt");
    let path = file.to_str().unwrap();
    let all = ["fetch", "1", "--server", &server.address, "--linger", "1m", "--output", path, EVERY[0], EVERY[1]];
    let mut child = outflow(&all).stderr(Stdio::piped()).spawn().unwrap();
    let begun = || std::fs::metadata(&file).is_ok_and(|file| file.len() > 0).then_some(());
    within(Duration::from_secs(20), begun).expect("it begins");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(wait(&mut child).code(), Some(130));
    let stderr = child.wait_with_output().unwrap().stderr;
    let rest = paste(continuation(text(&stderr)));
    assert!(rest.status.success(), "{rest:?}");
    let expected: String = (0..5).map(|n| format!("Request #{n} For Id:1\n")).collect();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), expected);
}

#[test]
fn who_is_interrupted_before_there_is_an_answer_is_told_the_key_that_finds_the_run() {
    let server = Server::start(&[]);
    let way = way_that_answers_from_the_second_on(&server.address);
    let asked = ["fetch", "1", "--server", &way, "--linger", "1m", EVERY[0], EVERY[1]];
    let mut child = outflow(&asked).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    server.line("fetch response for id : 1");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(wait(&mut child).code(), Some(130));
    let output = child.wait_with_output().unwrap();
    let said = text(&output.stderr);
    let (_, key) = said.split_once("the same command with --key ").unwrap_or_else(|| panic!("{said}"));
    let key = key.split(' ').next().unwrap();
    let (all, _) = run(&[&asked[..], &["--key", key]].concat());
    assert_eq!(text(&all.stdout).lines().count(), 5, "{all:?}");
    let (listed, _) = run(&["runs", "--json", "--server", &server.address]);
    assert_eq!(text(&listed.stdout).lines().count(), 1, "{listed:?}");
}

#[test]
fn one_key_is_one_run_and_a_run_takes_no_id() {
    let server = Server::start(&[]);
    let asked =
        ["fetch", "1", "--server", &server.address, "--key", "k", "--param", "step=0s", "--param", "differ=true"];
    let (first, _) = run(&asked);
    let (second, _) = run(&asked);
    assert_eq!(text(&first.stdout).lines().count(), 5);
    assert_eq!(text(&first.stdout), text(&second.stdout), "what differs each time is the same");
    for wrong in [&["fetch"][..], &["fetch", "1", "--run", "x"], &["fetch", "1", "--after", "2"]] {
        assert_eq!(run(wrong).0.status.code(), Some(2), "{wrong:?}");
    }
    let (unknown, _) = run(&["fetch", "--run", "x", "--server", &server.address]);
    assert_eq!(unknown.status.code(), Some(1));
    for part in ["no run is called `x`", "`outflow runs` lists"] {
        assert!(text(&unknown.stderr).contains(part), "{}", text(&unknown.stderr));
    }
}
