//! `fetch` of runs that go on without it.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use super::program::{Server, outflow, run, text, wait, within};

/// The command that the program says goes on with a run, as its arguments.
fn continuation(stderr: &str) -> Vec<String> {
    let line =
        stderr.lines().find(|line| line.contains("continue with: outflow ")).unwrap_or_else(|| panic!("{stderr}"));
    let (_, command) = line.split_once("continue with: outflow ").unwrap();
    command.split(' ').map(str::to_owned).collect()
}

#[test]
fn what_an_interrupted_fetch_says_goes_on_with_the_run() {
    let server = Server::start(&[]);
    let asked = ["fetch", "1", "--server", &server.address, "--linger", "1m", "--param", "step=300ms"];
    let mut child = outflow(&asked).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let began = std::time::Instant::now();
    _ = within(std::time::Duration::from_millis(800), || None::<()>);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(wait(&mut child).code(), Some(130), "after {:?}", began.elapsed());
    let output = child.wait_with_output().unwrap();
    let seen = text(&output.stdout).lines().count();
    assert!(seen > 0, "it was interrupted before there was anything");

    let arguments = continuation(text(&output.stderr));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (rest, _) = run(&arguments);
    assert!(rest.status.success(), "{rest:?}");
    let all: Vec<&str> = text(&output.stdout).lines().chain(text(&rest.stdout).lines()).collect();
    let expected: Vec<String> = (0..5).map(|n| format!("Request #{n} For Id:1")).collect();
    assert_eq!(all, expected);
    let [_, _, id, ..] = arguments[..] else { panic!("{arguments:?}") };
    let (last, _) = run(&["fetch", "--run", id, "--last", "2", "--server", &server.address]);
    assert_eq!(text(&last.stdout).lines().count(), 2);
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
