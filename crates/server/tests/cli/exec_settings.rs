//! The settings of kind `exec`, and what a command finds when it starts.

use std::{
    fs,
    process::{Command, Output},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::program::{Server, run, text};

/// A configuration of one command, which is the default.
fn configured(settings: &str) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("outflow.toml");
    let text = format!("[[source]]\nname = 'it'\nkind = 'exec'\ndefault = true\n{settings}\n");
    fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap().to_owned();
    (folder, file)
}

/// What a request of a server with these settings gets.
fn fetched(settings: &str, arguments: &[&str]) -> Output {
    let (_folder, file) = configured(settings);
    Server::start(&["--config", &file]).fetch(&[&["1"][..], arguments].concat()).0
}

fn responses(output: &Output) -> Vec<Value> {
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_command_gets_no_descriptor_no_signal_and_no_input_of_the_servers() {
    // The server inherits a descriptor and ignored signals, as from a shell that starts it in the background.
    let mut shell = Command::new("sh");
    shell.args([
        "-c",
        "trap '' INT QUIT HUP USR1; exec 7</dev/null; exec \"$0\" \"$@\"",
        env!("CARGO_BIN_EXE_outflow"),
    ]);
    let script = "grep -E 'SigIgn|SigBlk' /proc/self/status; for fd in /proc/self/fd/*; do echo fd ${fd##*/}; done; \
                  readlink /proc/self/fd/0; cat; ps -o sid= -p $$ | grep -qw $$ || echo in a session";
    let server = Server::start_as(shell, &["--", "sh", "-c", script]);
    let (output, _) = server.fetch(&["1"]);
    let said = text(&output.stdout);
    for signals in said.lines().filter_map(|line| line.strip_prefix("SigIgn:").or(line.strip_prefix("SigBlk:"))) {
        // But for 32 and 33, which are the C library's own.
        let signals = u64::from_str_radix(signals.trim(), 16).unwrap() & !(0b11 << 31);
        assert_eq!(signals, 0, "{said}");
    }
    // The shell opens the folder itself.
    let descriptors: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("fd ")).collect();
    assert_eq!(descriptors[..3], ["0", "1", "2"], "{said}");
    assert!(descriptors.len() <= 4 && !descriptors.contains(&"7"), "{said}");
    assert!(said.contains("/dev/null\n") && said.contains("in a session"), "{said}");
}

#[test]
fn only_what_is_on_the_list_of_the_environment_reaches_a_command() {
    let settings = |environment: &str| format!("command = ['env']\n{environment}");
    let variables = |environment: &str| {
        let (_folder, file) = configured(&settings(environment));
        let mut program = Command::new(env!("CARGO_BIN_EXE_outflow"));
        program.env("OUTFLOW_SECRET", "hush").env("DB_PASSWORD", "hush").env("CARGO_X", "x").env("LC_ALL", "C");
        let (output, _) = Server::start_as(program, &["--config", &file]).fetch(&["7"]);
        let mut lines: Vec<String> = text(&output.stdout).lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    let usual = variables("");
    assert!(usual.iter().any(|line| line.starts_with("PATH=")) && usual.contains(&"LC_ALL=C".into()), "{usual:?}");
    assert!(!usual.iter().any(|line| line.contains("hush") || line.starts_with("OUTFLOW")), "{usual:?}");
    let listed = "environment = { pass = ['CARGO_X', 'OUT*'], set = { BUILD = 'id {id}', LC_ALL = 'mine' } }";
    assert_eq!(variables(listed), ["BUILD=id 7", "CARGO_X=x", "LC_ALL=mine"]);
}

#[test]
fn several_commands_are_the_jobs_of_one_run_and_one_that_fails_spoils_no_other() {
    let commands = "commands = [['echo', 'one {id}'], ['sh', '-c', 'echo no >&2; exit 4'], ['echo', 'three']]";
    let output = fetched(commands, &["--format", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let mut seen: Vec<_> = responses(&output)
        .iter()
        .map(|response| {
            let text = response["result"].as_str().filter(|text| !text.is_empty());
            let text = text.or(response["error"]["message"].as_str()).unwrap();
            (response["job"].as_u64().unwrap_or(0), text.to_owned())
        })
        .collect();
    seen.sort_unstable();
    let expected = [(0, "one 1"), (1, "`sh` exited with status 4: no"), (2, "three")];
    assert_eq!(seen, expected.map(|(job, text)| (job, text.to_owned())));
    let output = fetched(&format!("{commands}\njob_errors = 'tolerate'"), &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[test]
fn stderr_goes_where_it_is_sent() {
    let command = "command = ['sh', '-c', 'echo a; echo b >&2; echo c; printf d >&2; exit 3']";
    let output = fetched(&format!("{command}\nstderr = 'merge'"), &["--format", "json"]);
    let results: Vec<_> = responses(&output);
    let texts: Vec<_> = results.iter().filter_map(|response| response["result"].as_str()).collect();
    assert_eq!(texts[..4], ["a", "b", "c", "d"]);
    assert_eq!(results[4]["error"]["message"], "`sh` exited with status 3");

    let (_folder, file) = configured(&format!("{command}\nstderr = 'log'"));
    let server = Server::start(&["--config", &file]);
    let (output, _) = server.fetch(&["1"]);
    assert_eq!(text(&output.stdout), "a\nc\n");
    server.line("it: b");
    server.line("it: d");
    assert!(text(&output.stderr).contains("exited with status 3"));
}

#[test]
fn a_log_of_a_talkative_command_is_bounded() {
    let script = "i=0; while [ $i -lt 5000 ]; do echo talk $i; i=$((i+1)); done >&2; printf '\\033[2Jescape\\n' >&2; sleep 1.2; echo end >&2";
    let (_folder, file) = configured(&format!("stderr = 'log'\ncommand = ['sh', '-c', '''{script}''']"));
    let server = Server::start(&["--config", &file]);
    server.fetch(&["1"]);
    server.line("lines left out");
    server.line("it: end");
    let lines = server.log().iter().filter(|line| line.contains("it: talk")).count();
    assert!((100..1_500).contains(&lines), "{lines} lines");
    assert!(!server.log().iter().any(|line| line.contains("it: ") && line.contains('\u{1b}')));
}

#[test]
fn commands_run_in_their_directory() {
    let (folder, file) = configured("directory = 'work'\ncommand = ['./here.sh']");
    let work = folder.path().join("work");
    fs::create_dir(&work).unwrap();
    let script = work.join("here.sh");
    fs::write(&script, "#!/bin/sh\npwd\n").unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let server = Server::start(&["--config", &file]);
    let (output, _) = server.fetch(&["1"]);
    assert_eq!(text(&output.stdout).trim_end(), work.canonicalize().unwrap().to_str().unwrap());
    fs::remove_dir_all(&work).unwrap();
    let (output, _) = server.fetch(&["1"]);
    assert!(text(&output.stderr).contains("is no directory (any more)"), "{}", text(&output.stderr));
}

#[test]
fn a_command_that_cannot_start_says_why() {
    let (folder, file) = configured("directory = '.'\ncommand = ['./gone.sh']");
    let script = folder.path().join("gone.sh");
    fs::write(&script, "#!/nowhere/interpreter\n").unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let server = Server::start(&["--config", &file]);
    let (output, _) = server.fetch(&["1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cannot start `./gone.sh`: No such file"), "{}", text(&output.stderr));
}

#[test]
fn an_argument_is_one_argument_whatever_a_parameter_says() {
    let settings =
        "command = ['printf', '%s|', '{parameters.x}', '-{parameters.x}-']\nparameters.x = { type = 'text' }";
    let (_folder, file) = configured(settings);
    let server = Server::start(&["--config", &file]);
    for value in ["a b", "$(id); `id` && id | id > /x", "'\"\\", "--help", "*", "{id}", "ä\u{202e}€"] {
        let (output, _) = server.fetch(&["1", "--param", &format!("x={value}")]);
        assert_eq!(text(&output.stdout).trim_end_matches('\n'), format!("{value}|-{value}-|"));
    }
    let (output, _) = server.fetch(&["1", "--param", "y=1"]);
    assert!(text(&output.stderr).contains("parameters.y"), "{}", text(&output.stderr));
}

#[test]
fn a_run_whose_command_ended_does_not_wait_for_who_has_its_stderr() {
    let server = Server::start(&["--", "sh", "-c", "sleep 3614 >/dev/null & echo a; echo why >&2; exit 2"]);
    let began = Instant::now();
    let (output, _) = server.fetch(&["1"]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), "a\n"));
    assert!(text(&output.stderr).contains("status 2: why"), "{}", text(&output.stderr));
    assert!(began.elapsed() < Duration::from_secs(15));
}

#[test]
fn a_run_that_takes_too_long_is_over_with_its_command() {
    let output = fetched("command = ['sh', '-c', 'echo a; sleep 3615']\ntime_limit = '300ms'", &[]);
    assert_eq!(text(&output.stdout), "a\n");
    assert!(text(&output.stderr).contains("DEADLINE_EXCEEDED"), "{}", text(&output.stderr));
    let gone = crate::program::within(Duration::from_secs(8), || {
        (crate::program::processes_with("sleep\u{0}3615") == 0).then_some(())
    });
    assert!(gone.is_some());
}

#[test]
fn settings_that_make_no_sense_are_told_with_their_place() {
    for (settings, told) in [
        ("", "it has no command"),
        ("command = []", "no command is given"),
        ("commands = []", "no command is given"),
        ("commands = [['true'], []]", "commands.1: no command"),
        ("command = ['true']\ncommands = [['true']]", "there is a command, too"),
        ("command = ['no-such-program-anywhere']", ":5: source `it`: command: cannot run `no-such-program-anywhere`"),
        ("commands = [['true'], ['no-such-program-anywhere']]", "commands.1: cannot run"),
        ("command = ['echo', '{parameters.x}']", "command.1: "),
        ("command = ['true']\nstderr = 'out'", ":6: source `it`: unknown variant `out`"),
        ("command = ['true']\nstder = 'log'", "did you mean `stderr`?"),
        ("command = ['true']\ngrace = 'soon'", ":6: source `it`: grace: `soon` is no time"),
        ("command = ['true']\ngrace = '31s'", "the longest is 30s"),
        ("command = ['true']\ndirectory = 'nowhere'", ":6: source `it`: directory: cannot run commands in"),
        ("command = ['true']\nenvironment.pass = ['A=B']", "`A=B` is no name"),
        ("command = ['true']\nenvironment.set = { 'A*' = 'x' }", "`A*` is no name"),
        ("command = ['true']\nenvironment.set = { A = '{parameters.y}' }", "environment.set.A: "),
        ("command = ['true']\nenvironment.sett = { A = 'x' }", "did you mean `set`?"),
        ("command = ['true']\nsplit = { delimiter = '' }", "1 to 256"),
    ] {
        let (_folder, file) = configured(settings);
        let (output, _) = run(&["config", "check", &file]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{settings}: {said}");
        assert!(said.contains(told), "{settings}: {said}");
    }
}

#[test]
fn the_example_works_as_it_is() {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/exec.toml");
    let mut program = Command::new(env!("CARGO_BIN_EXE_outflow"));
    program.env("LC_ALL", "C").env("DB_PASSWORD", "hush");
    let server = Server::start_as(program, &["--config", config]);
    let answered = |arguments: &[&str]| {
        let (output, _) = server.fetch(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        output
    };
    let lines = |arguments: &[&str]| -> Vec<String> {
        text(&answered(arguments).stdout).lines().map(str::to_owned).collect()
    };

    let log = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/logs/service-7.log")).unwrap();
    assert_eq!(lines(&["1"]), [log.lines().last().unwrap()]);

    let facts = |name| {
        let name = format!("name={name}");
        let output = answered(&["0", "--source", "facts", "--format", "json", "--param", &name]);
        let mut told: Vec<_> = responses(&output)
            .iter()
            .map(|response| {
                let error = response["error"]["message"].as_str();
                (response["job"].as_u64().unwrap_or(0), error.or(response["result"].as_str()).unwrap().to_owned())
            })
            .collect();
        told.sort_unstable();
        told
    };
    let report = fs::metadata(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/reports/rivers.csv")).unwrap();
    let [(0, counted), (1, digest), (2, size)] = &facts("rivers")[..] else { panic!("three jobs, a line each") };
    assert!(counted.ends_with(" rivers.csv") && digest.ends_with("  rivers.csv"), "{counted}, {digest}");
    assert!(size.starts_with(&format!("{} bytes, changed ", report.len())), "{size}");
    let missing = facts("nothing");
    assert_eq!(missing.len(), 3, "{missing:?}");
    assert!(missing.iter().all(|(_, told)| told.contains("exited with status 1: ")), "{missing:?}");
    let (refused, _) = server.fetch(&["0", "--source", "facts", "--param", "name=-rivers"]);
    assert!(text(&refused.stderr).contains("parameters.name"), "{refused:?}");

    let folder = tempfile::tempdir().unwrap();
    let noise = folder.path().join("noise.bin");
    let noise_of = ["0", "--source", "noise", "--output", noise.to_str().unwrap(), "--param", "bytes=1000000"];
    answered(&noise_of);
    assert_eq!(fs::metadata(&noise).unwrap().len(), 1_000_000);
    let (limited, _) = server.fetch(&["0", "--source", "noise", "--param", "bytes=60000000", "--format", "json"]);
    assert!(text(&limited.stderr).contains("output_limit"), "{}", text(&limited.stderr));

    let mut variables = lines(&["7", "--source", "environment"]);
    variables.retain(|variable| !variable.starts_with("PATH="));
    variables.sort_unstable();
    assert_eq!(variables, ["LC_ALL=C", "REQUEST=7"]);

    let build = ["7", "--source", "build", "--param", "branch=next"];
    let built = ["step 1 of next", "step 2 of next", "step 3 of next"];
    std::thread::scope(|scope| {
        let readers = [(); 3].map(|()| scope.spawn(|| lines(&build)));
        for reader in readers {
            assert_eq!(reader.join().unwrap(), built);
        }
    });
    assert_eq!(lines(&build), built);
    let (runs, _) = run(&["runs", "--server", &server.address, "--source", "build", "--json"]);
    assert_eq!(text(&runs.stdout).lines().count(), 1, "{}", text(&runs.stdout));
}
