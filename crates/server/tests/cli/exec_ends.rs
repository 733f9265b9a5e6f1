//! That nothing of a command outlives its run, or its server, however that ends; and that no run is taken up again before
//! that is so.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::program::{Server, outflow, processes_with, text, wait, within};

const PATIENCE: Duration = Duration::from_secs(10);

fn all_gone(marker: &str) -> bool {
    within(PATIENCE, || (processes_with(marker) == 0).then_some(())).is_some()
}

/// A shell script that leaves its group in every way, ignores TERM in each, says `started` and goes on. All its processes
/// have `marker` in their arguments.
fn that_gets_away(marker: &str) -> String {
    let stays = format!("trap \"\" TERM; while :; do sleep 0.1; done; : {marker}");
    format!(
        "trap '' TERM
        sh -c '{stays}' &
        setsid sh -c '{stays}' &
        (setsid sh -c '{stays}' >/dev/null 2>&1 &)
        (setsid sh -c '(setsid sh -c \"trap : TERM; while :; do sleep 0.1; done; : {marker}\" &) ; {stays}' &)
        sleep 0.3; echo started; wait; while :; do sleep 0.1; done; : {marker}"
    )
}

/// The supervisor of the command that has `marker` in its arguments.
fn supervisor_of(marker: &str) -> Option<Pid> {
    let is_it = |process: &fs::DirEntry| {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        line.starts_with(b"outflow-supervise\0") && String::from_utf8_lossy(&line).contains(marker)
    };
    let process = fs::read_dir("/proc").unwrap().flatten().find(is_it)?;
    Pid::from_raw(process.file_name().to_str()?.parse().ok()?)
}

/// How many children of `parent` have ended and were not waited for.
fn zombies_of(parent: u32) -> usize {
    let stats = fs::read_dir("/proc").unwrap().flatten();
    let stats = stats.filter_map(|process| fs::read_to_string(process.path().join("stat")).ok());
    let is_one = |stat: &String| {
        let behind_the_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let mut fields = behind_the_name.split_whitespace();
        fields.next() == Some("Z") && fields.next() == Some(&parent.to_string())
    };
    stats.filter(is_one).count()
}

/// A client that waits for the first line of its run.
fn fetching(server: &Server) -> (Child, String) {
    let mut fetch = outflow(&["fetch", "1", "--no-resume", "--server", &server.address]);
    let mut client = fetch.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(client.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    (client, line)
}

#[test]
fn what_left_its_group_ends_with_the_run_too() {
    let server = Server::start(&["--", "sh", "-c", &that_gets_away("gets-away")]);
    let (output, _) = server.fetch(&["1", "--limit", "1"]);
    assert_eq!(text(&output.stdout), "started\n");
    assert!(all_gone("gets-away"), "{} are left", processes_with("gets-away"));
    assert!(within(PATIENCE, || (zombies_of(server.id()) == 0).then_some(())).is_some(), "a zombie is left");
}

#[test]
fn what_a_command_that_ends_leaves_behind_in_a_session_of_its_own_ends_with_the_run() {
    let script = "(setsid sh -c 'trap \"\" TERM; sleep 3611; : left-behind' >/dev/null 2>&1 &); sleep 0.2; echo done";
    let server = Server::start(&["--", "sh", "-c", script]);
    let (output, _) = server.fetch(&["1"]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), "done\n"));
    assert!(all_gone("left-behind"));
}

#[test]
fn nothing_outlives_a_server_that_is_killed() {
    let mut server = Server::start(&["--", "sh", "-c", &that_gets_away("outlives")]);
    let (mut client, line) = fetching(&server);
    assert_eq!(line, "started\n");
    assert!(processes_with("outlives") >= 5, "{}", processes_with("outlives"));
    server.signal(Signal::KILL);
    server.wait();
    assert!(all_gone("outlives"), "{} are left", processes_with("outlives"));
    assert!(!wait(&mut client).success());
}

#[test]
fn a_command_whose_supervisor_is_killed_is_killed_with_it() {
    let server = Server::start(&["--", "sh", "-c", "sleep 3612 & echo started; wait; : without-supervisor"]);
    let (client, _) = fetching(&server);
    let supervisor = supervisor_of("without-supervisor").expect("there is one");
    kill_process(supervisor, Signal::KILL).unwrap();
    let output = client.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("supervising process is gone"), "{}", text(&output.stderr));
    assert!(all_gone("without-supervisor"));
    assert!(all_gone("sleep\u{0}3612"));
}

/// A configuration of one command in a folder for it and its data.
fn configured(script: &str, more: &str) -> (TempDir, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("script"), script).unwrap();
    let config = format!(
        "[[source]]\nname = 'it'\nkind = 'exec'\ndefault = true\nlinger = '1m'\ndirectory = '.'\n\
         command = ['sh', './script', '{{id}}']\n{more}\n"
    );
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("outflow.toml"), config).unwrap();
    let arguments = ["--data".into(), path("data"), "--config".into(), path("outflow.toml")];
    (folder, arguments.into())
}

fn lines(folder: &Path, file: &str) -> Vec<String> {
    fs::read_to_string(folder.join(file)).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn a_repeatable_job_begins_again_only_when_what_was_killed_with_its_server_is_gone() {
    // Whoever begins looks whether one that began before is alive; TERM does not end it.
    let script = "trap '' TERM
        for pid in $(cat pids 2>/dev/null); do kill -0 $pid 2>/dev/null && echo $pid >>overlap; done
        echo $$ >>pids
        for n in 1 2 3 4 5 6 7 8 9 10; do echo $n; sleep 0.2; done";
    let (folder, arguments) = configured(script, "repeatable = true");
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut server = Server::start(&arguments);
    let mut fetch = outflow(&["fetch", "1", "--server", &server.address]);
    let mut client = fetch.stdout(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    let mut stdout = BufReader::new(client.stdout.take().unwrap());
    stdout.read_line(&mut first).unwrap();
    server.signal(Signal::KILL);
    server.wait();
    let server = Server::start_at(&server.address, &arguments);
    server.line("still ending");
    let rest: Vec<String> = stdout.lines().map(Result::unwrap).collect();
    assert!(wait(&mut client).success());
    assert_eq!([&[first.trim_end().to_owned()][..], &rest].concat().join(" "), "1 2 3 4 5 6 7 8 9 10");
    assert_eq!(lines(folder.path(), "pids").len(), 2, "it did not begin again");
    assert_eq!(lines(folder.path(), "overlap"), [""; 0], "it began beside the one before");
}

#[test]
fn a_job_that_is_not_repeatable_is_interrupted_by_a_kill_and_does_not_run_again() {
    let (folder, arguments) = configured("echo $$ >>pids; echo one; sleep 3613", "");
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut server = Server::start(&arguments);
    let mut fetch = outflow(&["fetch", "1", "--server", &server.address]);
    let mut client = fetch.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(client.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    server.signal(Signal::KILL);
    server.wait();
    let _server = Server::start_at(&server.address, &arguments);
    let output = client.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("interrupted"), "{}", text(&output.stderr));
    assert_eq!(lines(folder.path(), "pids").len(), 1);
    assert!(all_gone("sleep\u{0}3613"));
}

#[test]
fn a_server_whose_program_is_replaced_still_runs_commands() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("outflow");
    fs::copy(env!("CARGO_BIN_EXE_outflow"), &program).unwrap();
    let server = Server::start_as(std::process::Command::new(&program), &["--", "echo", "still here"]);
    fs::remove_file(&program).unwrap();
    fs::write(&program, "something else").unwrap();
    let (output, _) = server.fetch(&["1"]);
    assert_eq!(text(&output.stdout), "still here\n");
}

#[test]
fn a_grace_is_as_long_as_it_is_set() {
    // A shell says that its `sleep` was terminated, into a pipe that nobody reads any more.
    let script = "exec 2>/dev/null
        trap 'sleep 2.5; echo goodbye >goodbye; exit' TERM; echo started; while :; do sleep 0.1; done";
    for (grace, says) in [("10s", true), ("100ms", false)] {
        let (folder, arguments) = configured(script, &format!("grace = '{grace}'"));
        let config = fs::read_to_string(&arguments[3]).unwrap().replace("linger = '1m'\n", "");
        fs::write(&arguments[3], config).unwrap();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let server = Server::start(&arguments);
        let (output, _) = server.fetch(&["1", "--limit", "1"]);
        assert_eq!(text(&output.stdout), "started\n", "{}", text(&output.stderr));
        // Only its supervisor has this in its arguments.
        let lock = folder.path().join("data/commands");
        assert!(all_gone(lock.to_str().unwrap()), "{grace}: it does not end");
        assert_eq!(folder.path().join("goodbye").exists(), says, "{grace}");
    }
}
