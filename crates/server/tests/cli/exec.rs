//! A command as the source: its lines as they are written, its end, and that nothing of it is left.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::program::{Server, outflow, processes_with, text, wait, within};

fn all_gone(marker: &str) -> bool {
    within(Duration::from_secs(8), || (processes_with(marker) == 0).then_some(())).is_some()
}

/// A server and a client of it, whose command runs, has `marker` in its arguments, and ignores TERM.
fn running_although_told_to_end(marker: &str) -> (Server, Child) {
    let script = format!("trap '' TERM; echo started; while :; do sleep 0.1; done; : {marker}");
    let server = Server::start(&["--", "sh", "-c", &script]);
    let mut fetch = outflow(&["fetch", "1", "--server", &server.address]);
    let client = fetch.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    assert!(within(Duration::from_secs(5), || (processes_with(marker) > 0).then_some(())).is_some());
    (server, client)
}

#[test]
fn each_line_is_a_response_the_moment_it_is_written() {
    let server = Server::start(&["--", "sh", "-c", "echo first {id}; sleep 1h & wait; : instant-lines"]);
    let mut child = outflow(&["fetch", "-5", "--server", &server.address]).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut first).unwrap();
    assert_eq!(first, "first -5\n");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(all_gone("instant-lines"), "its shell is left");
}

#[test]
fn arguments_stay_arguments_whatever_the_id() {
    let server = Server::start(&["--", "printf", "%s|", "a{id}b", "{id}{id}", "$HOME; {x} {print $1}"]);
    let (output, _) = server.fetch(&["-1"]);
    assert_eq!(text(&output.stdout), "a-1b|-1-1|$HOME; {x} {print $1}|\n");
}

#[test]
fn a_failing_exit_is_the_jobs_error_with_the_last_lines_of_stderr() {
    let server = Server::start(&["--", "sh", "-c", "echo good; echo bad >&2; echo worse >&2; exit 3"]);
    let (output, _) = server.fetch(&["1", "--format", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let lines: Vec<serde_json::Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["result"], "good");
    assert_eq!(lines[1]["error"]["message"], "`sh` exited with status 3: bad\nworse");
    assert!(text(&output.stderr).contains("exited with status 3"), "{}", text(&output.stderr));
}

#[test]
fn a_reader_who_leaves_ends_the_whole_group() {
    let script = "sleep 3601 & (sleep 3602 & wait) & echo started; wait; : whole-group";
    for (leave, said) in [
        (&["--limit", "1"][..], "reader had enough after response 1, 1 job stopped"),
        (&["--within", "500ms"], "the reader's deadline passed after response 1, 1 job stopped"),
    ] {
        let server = Server::start(&["--", "sh", "-c", script]);
        let (output, _) = server.fetch(&[&["1"][..], leave].concat());
        assert_eq!(text(&output.stdout), "started\n");
        server.line(said);
        assert!(all_gone("whole-group"), "the shell is left");
        assert!(all_gone("sleep\u{0}360"), "a grandchild is left");
    }
}

#[test]
fn a_command_is_asked_to_end_before_it_is_made_to() {
    let folder = tempfile::tempdir().unwrap();
    let goodbye = folder.path().join("goodbye");
    // It waits and starts nothing: a shell that is about to start a program may miss a signal.
    let script = format!("trap 'echo goodbye >{}; exit' TERM; sleep 3604 & echo started; wait", goodbye.display());
    let server = Server::start(&["--", "sh", "-c", &script]);
    server.fetch(&["1", "--limit", "1"]);
    let said =
        within(Duration::from_secs(5), || std::fs::read_to_string(&goodbye).ok().filter(|text| !text.is_empty()));
    assert_eq!(said.as_deref(), Some("goodbye\n"));
}

#[test]
fn the_end_of_the_server_ends_the_command_also_one_that_ignores_term() {
    let (mut server, mut client) = running_although_told_to_end("ignores-term");
    server.signal(Signal::TERM);
    let (status, took) = server.wait();
    assert!(status.success() && took < Duration::from_secs(8), "{status} after {took:?}");
    assert_eq!(processes_with("ignores-term"), 0, "nothing is left when the server has ended");
    wait(&mut client);
}

#[test]
fn a_second_signal_does_not_wait_for_the_grace() {
    let (mut server, mut client) = running_although_told_to_end("second-signal");
    server.signal(Signal::INT);
    server.line("send error: server is shutting down");
    server.signal(Signal::INT);
    let (status, took) = server.wait();
    assert!(status.success() && took < Duration::from_millis(1_900), "{status} after {took:?}");
    assert_eq!(processes_with("second-signal"), 0);
    wait(&mut client);
}

#[test]
fn a_command_that_ends_leaves_nothing_of_its_group() {
    let server = Server::start(&["--", "sh", "-c", "sleep 3603 >/dev/null 2>&1 & echo done"]);
    let (output, _) = server.fetch(&["1"]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), "done\n"));
    assert!(all_gone("sleep\u{0}3603"), "what it left in the background is left");
}

#[test]
fn output_without_line_ends_comes_in_parts_that_are_text() {
    let script = "i=0; while [ $i -lt 20000 ]; do printf '%s' 'aé€😀aé€😀aé€😀aé€😀aé€😀aé€😀'; i=$((i+1)); done";
    let server = Server::start(&["--", "sh", "-c", script]);
    let (output, _) = server.fetch(&["1"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout).trim_end(), "aé€😀".repeat(6 * 20_000));
    let (output, _) = server.fetch(&["1", "--format", "json"]);
    assert!(text(&output.stdout).contains(r#""partial":true"#));
}

#[test]
fn what_is_no_text_fails_and_says_what_to_do() {
    let server = Server::start(&["--", "printf", r"fine\n\377\n"]);
    let (output, _) = server.fetch(&["1"]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), "fine\n"));
    assert!(text(&output.stderr).contains(r#"payload = "bytes""#), "{}", text(&output.stderr));
}

#[test]
fn bulky_output_arrives_whole_in_flat_memory_also_at_a_slow_reader() {
    let server = Server::start(&["--", "seq", "1000000"]);
    let (output, _) = server.fetch(&["1"]);
    let expected: String = (1..=1_000_000).map(|n| format!("{n}\n")).collect();
    assert!(output.stdout == expected.as_bytes(), "{} bytes", output.stdout.len());

    let before = server.memory_kib("VmRSS");
    let mut child = outflow(&["fetch", "1", "--server", &server.address]).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut first = [0; 2];
    stdout.read_exact(&mut first).unwrap();
    // Nobody takes the rest for a while: the command stands still in its pipe.
    let until = Instant::now() + Duration::from_millis(500);
    let mut peak = 0;
    within(Duration::from_secs(1), || {
        peak = peak.max(server.memory_kib("VmRSS"));
        (Instant::now() > until).then_some(())
    });
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert!(wait(&mut child).success());
    assert!(text(&first).to_owned() + &rest == expected, "{} bytes", rest.len());
    assert!(peak < before + 16 * 1024, "from {before} to {peak} KiB");
}

#[test]
fn output_is_split_as_it_is_asked_for() {
    let server = Server::start(&["--split", r"delimiter=\0", "--", "printf", r"one\ntwo\0three\0\0four"]);
    let (output, _) = server.fetch(&["1", "--format", "json"]);
    let lines = text(&output.stdout).lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let results: Vec<_> = lines.map(|line| line["result"].as_str().unwrap_or_default().to_owned()).collect();
    assert_eq!(results, ["one\ntwo", "three", "", "four"]);
}

#[test]
fn a_delimiter_is_found_wherever_reads_end_and_long_pieces_come_in_parts() {
    // Pieces around the size of a read, and one that no response holds.
    let script = "for n in 65530 65533 65534 65535 65536 65537 1500000 3; do head -c $n /dev/zero | tr '\\0' x; printf -- '<=>'; done";
    let server = Server::start(&["--split", "delimiter=<=>", "--", "sh", "-c", script]);
    let (output, _) = server.fetch(&["1"]);
    let sizes: Vec<_> = text(&output.stdout).lines().map(str::len).collect();
    assert_eq!(sizes, [65530, 65533, 65534, 65535, 65536, 65537, 1_500_000, 3]);
}

#[test]
fn chunks_are_what_there_is_as_bytes() {
    let server = Server::start(&["--split", "chunks", "--", "sh", "-c", r"printf 'a\377\n'; sleep 0.3; printf 'b'"]);
    let (output, _) = server.fetch(&["1", "--format", "json"]);
    let lines = text(&output.stdout).lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let data: Vec<_> = lines.map(|line| line["data"].as_str().unwrap_or_default().to_owned()).collect();
    assert_eq!(data, ["Yf8K", "Yg=="], "in base64");
}

#[test]
fn ten_readers_share_one_command_and_a_late_one_gets_all_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let runs = directory.path().join("runs");
    let script = format!("echo run >>{}; for i in 1 2 3; do echo {{id}} $i; sleep 0.2; done", runs.display());
    let data = directory.path().join("data");
    let server =
        Server::start(&["--data", data.to_str().unwrap(), "--shared", "--reuse", "1m", "--", "sh", "-c", &script]);
    let readers: Vec<_> = (0..10)
        .map(|_| {
            let mut fetch = outflow(&["fetch", "7", "--server", &server.address]);
            fetch.stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for reader in readers {
        let output = reader.wait_with_output().unwrap();
        assert_eq!(text(&output.stdout), "7 1\n7 2\n7 3\n");
    }
    let (output, _) = server.fetch(&["7"]);
    assert_eq!(text(&output.stdout), "7 1\n7 2\n7 3\n", "an ended one is used again");
    assert_eq!(std::fs::read_to_string(runs).unwrap(), "run\n");
}

#[test]
fn a_command_that_lingers_goes_on_without_its_reader() {
    let directory = tempfile::tempdir().unwrap();
    let ended = directory.path().join("ended");
    let script = format!("echo one; sleep 0.5; echo two; : >{}", ended.display());
    let data = directory.path().join("data");
    let server = Server::start(&["--data", data.to_str().unwrap(), "--linger", "1m", "--", "sh", "-c", &script]);
    let (output, _) = server.fetch(&["1", "--limit", "1"]);
    assert_eq!(text(&output.stdout), "one\n");
    assert!(within(Duration::from_secs(8), || ended.exists().then_some(())).is_some(), "it was stopped");
}

#[test]
fn what_is_said_of_a_command_needs_one_and_is_checked_before_a_port_is_bound() {
    for (arguments, told) in [
        (&["--shared"][..], "<COMMAND>"),
        (&["--reuse", "1m", "--", "true"], "--shared"),
        (&["--split", "words", "--", "true"], "lines, chunks and delimiter=TEXT"),
        (&["--split", "delimiter=", "--", "true"], "1 to 256"),
        (&["--linger", "long", "--", "true"], "--linger"),
    ] {
        let output = outflow(&["serve"]).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(told), "{arguments:?}: {}", text(&output.stderr));
    }
}
