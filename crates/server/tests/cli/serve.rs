//! `outflow serve`: what it says before it serves, and how it ends.

use std::{fs, net::TcpListener, process::Stdio, time::Duration};

use rustix::process::Signal;

use crate::program::{Server, outflow, run, text, wait};

/// What a server says that cannot start: one line, with exit code 1.
fn refusal(arguments: &[&str]) -> String {
    let (output, _) = run(arguments);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr.to_owned()
}

#[test]
fn a_port_in_use_is_said_in_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = refusal(&["serve", "--listen", &address]);
    assert!(said.contains(&format!("cannot listen on {address}: the port is in use")), "{said}");
}

#[test]
fn an_address_that_cannot_be_had_is_said_in_one_line() {
    for (address, named) in [
        ("nowhere", "`nowhere` is not an address"),
        ("127.0.0.1", "not an address"),
        ("192.0.2.1:50005", "192.0.2.1"),
    ] {
        let said = refusal(&["serve", "--listen", address]);
        assert!(said.contains(named), "{said}");
    }
}

#[test]
fn a_command_that_is_not_there_is_said_before_the_port_is_bound() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = refusal(&["serve", "--listen", &address, "--", "no-such-command-anywhere"]);
    assert!(said.contains("no-such-command-anywhere") && !said.contains("in use"), "{said}");
}

#[test]
fn a_wrong_configuration_is_said_with_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("outflow.toml");
    let path = file.to_str().unwrap();
    assert!(refusal(&["serve", "--config", path]).contains(path));
    fs::write(&file, "[[source]]\nname = 'a'\nkind = 'simulate'\nstep = 'soon'").unwrap();
    let said = refusal(&["serve", "--config", path]);
    assert!(said.contains(path) && said.contains("soon"), "{said}");
}

#[test]
fn a_configured_source_answers_within_its_settings() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("outflow.toml");
    fs::write(
        &file,
        "[[source]]\nname = 'quick'\nkind = 'simulate'\ndefault = true\nstep = '1ms'\njobs = 2\n\
         [[source]]\nname = 'echo'\nkind = 'exec'\ncommand = ['echo', 'id', '{id}']\n",
    )
    .unwrap();
    let server = Server::start(&["--config", file.to_str().unwrap()]);
    assert_eq!(text(&server.fetch(&["7"]).0.stdout), "Request #0 For Id:7\nRequest #1 For Id:7\n");
    assert_eq!(text(&server.fetch(&["7", "--source", "echo"]).0.stdout), "id 7\n");
    let (output, _) = server.fetch(&["7", "--source", "simulate"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("there is `echo`, `quick`"), "{}", text(&output.stderr));
}

#[test]
fn the_example_of_simulated_work_works_as_it_is() {
    let server = Server::start(&["--config", concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/simulate.toml")]);
    let lines = |arguments: &[&str]| -> Vec<String> {
        let (output, _) = server.fetch(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout).lines().map(str::to_owned).collect()
    };
    let says = |jobs: &[u32]| jobs.iter().map(|job| format!("Request #{job} For Id:1")).collect::<Vec<_>>();
    assert_eq!(lines(&["1"]), says(&[0, 1, 2, 3, 4]));
    assert_eq!(lines(&["1", "--param", "jobs=7", "--param", "step=50ms"]), says(&[0, 1, 2, 3, 4, 5, 6]));
    assert_eq!(lines(&["1", "--source", "flaky"]), says(&[0, 1, 3, 4]));
    let load = lines(&["1", "--source", "load", "--limit", "1000"]);
    assert!(load.len() == 1000 && load.iter().all(|line| *line == format!("Request #0 For Id:1{:.>100}", "")));
    let ticks = lines(&["1", "--source", "ticks", "--limit", "5"]);
    let times: Vec<u64> = ticks.iter().map(|line| line.parse().unwrap()).collect();
    assert!(times.is_sorted() && times[4] > times[0], "{times:?}");
}

#[test]
fn a_signal_ends_open_streams_with_unavailable_and_then_the_server() {
    for signal in [Signal::INT, Signal::TERM] {
        let mut server = Server::start(&[]);
        let mut client = outflow(&["fetch", "1", "--param", "step=1h", "--server", &server.address])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        server.line("finishing request number : 0");
        server.signal(signal);
        let (status, took) = server.wait();
        assert!(status.success() && took < Duration::from_secs(5), "{status} after {took:?}");
        assert_eq!(wait(&mut client).code(), Some(1));
        let output = client.wait_with_output().unwrap();
        assert_eq!(text(&output.stdout), "Request #0 For Id:1\n", "what was received stays received");
        assert!(text(&output.stderr).contains("UNAVAILABLE"), "{}", text(&output.stderr));
        server.line("send error: server is shutting down after response 1, 4 jobs stopped");
    }
}

#[test]
fn nobody_is_served_on_other_addresses_than_those_asked_for() {
    let server = Server::start(&[]);
    let port = server.address.rsplit(':').next().unwrap();
    let (output, _) = run(&["fetch", "1", "--server", &format!("127.0.0.2:{port}")]);
    assert_eq!(output.status.code(), Some(69));
}
