//! `fetch --output FILE`: a file that is half written is gone on with exactly, and nothing in a file is lost unasked.

use std::{
    fs::{self, File},
    io,
    net::{Shutdown, TcpListener, TcpStream},
    path::PathBuf,
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::program::{Server, interruptible, outflow, run, text, wait, within};

/// A server and a folder with a file to write to.
pub(super) struct Place {
    pub(super) server: Server,
    folder: TempDir,
    pub(super) file: PathBuf,
}

impl Place {
    fn new() -> Self {
        Self::on(&[])
    }

    /// On a server with these arguments.
    pub(super) fn on(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { server: Server::start(arguments), file: folder.path().join("results"), folder }
    }

    pub(super) fn path(&self) -> &str {
        self.file.to_str().unwrap()
    }

    pub(super) fn bookmark(&self) -> PathBuf {
        self.folder.path().join("results.outflow")
    }

    /// What the bookmark says.
    fn noted(&self) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.bookmark()).unwrap()).unwrap()
    }

    /// `fetch … --output FILE` to its end.
    fn fetch(&self, arguments: &[&str]) -> Output {
        self.server.fetch(&[arguments, &["--output", self.path()]].concat()).0
    }

    /// The same, ended by `signal` when the bookmark says that there are `responses`.
    fn fetch_until(&self, responses: u64, signal: Signal, arguments: &[&str]) -> Output {
        let all = [&["fetch", "--server", &self.server.address], arguments, &["--output", self.path()]].concat();
        let mut child = outflow(&all).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let noted = || {
            let text = fs::read(self.bookmark()).ok()?;
            let noted: serde_json::Value = serde_json::from_slice(&text).unwrap();
            (noted["responses"].as_u64().unwrap() >= responses).then_some(())
        };
        within(Duration::from_secs(20), noted).expect("it gets so far");
        kill_process(Pid::from_child(&child), signal).unwrap();
        wait(&mut child);
        child.wait_with_output().unwrap()
    }

    fn contents(&self) -> String {
        fs::read_to_string(&self.file).unwrap()
    }

    /// That nothing is there but the file itself, and what it holds.
    pub(super) fn whole(&self) -> String {
        let names: Vec<_> =
            fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["results"]);
        self.contents()
    }
}

fn lines(results: std::ops::Range<u32>) -> String {
    results.map(|n| format!("Request #{n} For Id:1\n")).collect()
}

/// That it ended so, and said this.
#[track_caller]
fn said(output: &Output, code: i32, parts: &[&str]) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    for part in parts {
        assert!(stderr.contains(part), "no {part:?} in {stderr}");
    }
}

const SLOW: [&str; 5] = ["1", "--param", "step=300ms", "--linger", "1m"];

#[test]
fn the_same_command_goes_on_and_so_does_the_one_that_is_printed() {
    let place = Place::new();
    let output = place.fetch_until(2, Signal::INT, &SLOW);
    said(&output, 130, &["the run goes on; continue with: outflow fetch --run "]);
    assert_eq!((place.contents(), place.noted()["bytes"].as_u64()), (lines(0..2), Some(40)));
    let output = place.fetch_until(3, Signal::INT, &SLOW);
    let (_, command) = text(&output.stderr).split_once("continue with: outflow ").unwrap();
    let command: Vec<&str> = command.split_whitespace().collect();
    said(&run(&command).0, 0, &[]);
    assert_eq!(place.whole(), lines(0..5));
}

#[test]
fn a_killed_one_is_gone_on_with_from_what_was_synced() {
    let place = Place::new();
    place.fetch_until(2, Signal::KILL, &SLOW);
    // What came behind the bookmark may be anything.
    let torn = [&fs::read(&place.file).unwrap()[..], b"Request #2 Fo"].concat();
    fs::write(&place.file, torn).unwrap();
    let run = place.noted()["run"].clone();
    place.fetch_until(3, Signal::KILL, &SLOW);
    assert_eq!(place.noted()["run"], run, "it is the same run");
    said(&place.fetch(&SLOW), 0, &[]);
    assert_eq!(place.whole(), lines(0..5));
}

#[test]
fn a_limit_counts_what_is_in_the_file_and_the_last_so_many_are_counted_once() {
    let place = Place::new();
    let limited = [&SLOW[..], &["--limit", "4"]].concat();
    place.fetch_until(2, Signal::KILL, &limited);
    let run = place.noted()["run"].as_str().unwrap().to_owned();
    said(&place.fetch(&SLOW), 1, &["--limit 4, not no --limit", "--limit 4 --server"]);
    said(&place.fetch(&limited), 0, &[]);
    assert_eq!(place.whole(), lines(0..4));

    fs::remove_file(&place.file).unwrap();
    let last = ["--run", &run, "--last", "1"];
    place.fetch_until(1, Signal::KILL, &last);
    let first = place.noted()["sequence"].as_u64().unwrap() as u32;
    said(&place.fetch(&last), 0, &[]);
    assert_eq!(place.whole(), lines(first - 1..5));
    fs::remove_file(&place.file).unwrap();
    said(&place.fetch(&["--run", &run, "--after", "3"]), 0, &[]);
    assert_eq!(place.whole(), lines(3..5));
}

#[test]
fn a_limit_that_was_reached_when_it_was_killed_needs_no_server() {
    let mut place = Place::new();
    let limited = [&SLOW[..], &["--limit", "2"]].concat();
    place.fetch_until(1, Signal::KILL, &limited);
    let mut noted = place.noted();
    (noted["sequence"], noted["responses"], noted["bytes"]) = (2.into(), 2.into(), 40.into());
    fs::write(place.bookmark(), noted.to_string()).unwrap();
    fs::write(&place.file, lines(0..2) + "Req").unwrap();
    place.server.signal(Signal::TERM);
    place.server.wait();
    said(&place.fetch(&limited), 0, &[]);
    assert_eq!(place.whole(), lines(0..2));
}

#[test]
fn a_file_that_is_there_is_written_over_only_when_somebody_says_so() {
    let place = Place::new();
    fs::write(&place.file, "dear to somebody").unwrap();
    let quick = ["1", "--param", "step=0s"];
    said(&place.fetch(&quick), 1, &["cannot write the results", "is there already", "--overwrite"]);
    let refused = ["1", "--source", "nobody", "--overwrite", "--linger", "1m"];
    said(&place.fetch(&refused), 1, &["no source is called `nobody`"]);
    let nobody =
        outflow(&["fetch", "1", "--overwrite", "--server", "127.0.0.1:1", "--output", place.path()]).output();
    said(&nobody.unwrap(), 69, &["can not connect"]);
    assert_eq!(place.whole(), "dear to somebody");
    said(&place.fetch(&[&quick[..], &["--overwrite"]].concat()), 0, &[]);
    assert_eq!(place.whole().len(), 100);
    // An empty file is nobody's.
    fs::write(&place.file, "").unwrap();
    said(&place.fetch(&quick), 0, &[]);
    assert_eq!(place.whole().len(), 100);
    said(&run(&["fetch", "1", "--overwrite"]).0, 2, &["--output"]);
}

#[test]
fn a_failed_attempt_leaves_everything_as_it_was() {
    let place = Place::new();
    said(&place.fetch(&["1", "--source", "nobody", "--linger", "1m"]), 1, &["nobody"]);
    assert_eq!(fs::read_dir(place.folder.path()).unwrap().count(), 0, "not even an empty file");
    place.fetch_until(2, Signal::KILL, &SLOW);
    let (contents, noted) = (place.contents(), place.noted());
    // Also where something else was to be written over it.
    said(&place.fetch(&["1", "--source", "nobody", "--linger", "1m", "--overwrite"]), 1, &["nobody"]);
    assert_eq!((place.contents(), place.noted()), (contents, noted));
    said(&place.fetch(&SLOW), 0, &[]);
    assert_eq!(place.whole(), lines(0..5));
}

#[test]
fn who_is_interrupted_before_there_is_an_answer_leaves_what_is_needed_to_find_the_run_and_nothing_else() {
    let place = Place::new();
    // It takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let interrupt = |arguments: &[&str]| {
        let all = [&["fetch", "1", "--server", &address, "--output", place.path()], arguments].concat();
        let mut child = outflow(&all).stderr(Stdio::piped()).spawn().unwrap();
        let _connection = silent.accept().unwrap();
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        wait(&mut child);
        child.wait_with_output().unwrap()
    };
    said(&interrupt(&[]), 130, &[]);
    assert_eq!(fs::read_dir(place.folder.path()).unwrap().count(), 0);
    let unknown = "whether the run was started is not known; the same command goes on with it and ";
    said(&interrupt(&["--linger", "1m"]), 130, &[unknown]);
    assert!(place.noted()["key"].is_string());
}

#[test]
fn who_waits_for_the_reader_of_a_pipe_by_name_can_be_interrupted() {
    let place = Place::new();
    assert!(Command::new("mkfifo").arg(&place.file).status().unwrap().success());
    let all = [&["fetch", "--server", &place.server.address, "--output", place.path()], &SLOW[..]].concat();
    let mut child = interruptible(&all).spawn().unwrap();
    place.server.line("fetch response for id : 1");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert!(!wait(&mut child).success());
}

#[test]
fn a_bookmark_that_cannot_be_written_is_told_and_leaves_nothing() {
    let place = Place::new();
    let in_the_way = place.folder.path().join("results.outflow.new");
    fs::create_dir(&in_the_way).unwrap();
    for arguments in [&SLOW[..], &["1", "--param", "step=0s"]] {
        said(&place.fetch(arguments), 1, &["results.outflow, which says how far ", "name another file"]);
        assert!(!place.file.exists() && !place.bookmark().exists());
    }
}

#[test]
fn a_bookmark_of_a_whole_file_that_a_power_cut_brought_back_is_removed_without_a_server() {
    let mut place = Place::new();
    place.fetch_until(2, Signal::KILL, &SLOW);
    let mut noted = place.noted();
    said(&place.fetch(&SLOW), 0, &[]);
    (noted["sequence"], noted["responses"], noted["bytes"]) = (5.into(), 5.into(), 100.into());
    noted["whole"] = true.into();
    fs::write(place.bookmark(), noted.to_string()).unwrap();
    place.server.signal(Signal::KILL);
    place.server.wait();
    said(&place.fetch(&["2"]), 1, &["id 1, not id 2"]);
    said(&place.fetch(&SLOW), 0, &[]);
    assert_eq!(place.whole(), lines(0..5));
}

#[test]
fn a_plain_run_that_was_cut_is_not_taken_for_a_whole_one() {
    let place = Place::new();
    let plain = ["1", "--param", "step=100ms", "--param", "jobs=50"];
    place.fetch_until(0, Signal::KILL, &plain);
    // It may have been killed before there was anything.
    fs::write(&place.file, lines(0..2)).unwrap();
    said(&place.fetch(&plain), 1, &["holds a part of a run that cannot be gone on with", "--overwrite", "--linger"]);
    assert_eq!(place.contents(), lines(0..2));
    let cut = [&plain[..], &["--overwrite", "--within", "250ms"]].concat();
    said(&place.fetch(&cut), 124, &["holds only a part, and cannot be gone on with"]);
    fs::remove_file(place.bookmark()).unwrap();
    let interrupted = place.fetch_until(0, Signal::INT, &[&plain[..], &["--overwrite"]].concat());
    said(&interrupted, 130, &["holds only a part"]);
    said(&place.fetch(&["1", "--param", "step=0s", "--overwrite"]), 0, &[]);
    assert_eq!(place.whole().len(), 100);
}

#[test]
fn a_bookmark_of_another_request_is_not_followed_and_says_of_which() {
    let place = Place::new();
    place.fetch_until(2, Signal::KILL, &SLOW);
    let run = place.noted()["run"].as_str().unwrap().to_owned();
    let before = (place.contents(), place.noted());
    let lingering = |rest: &[&'static str]| [rest, &["--linger", "1m"]].concat();
    for (arguments, difference) in [
        (lingering(&["2", "--param", "step=300ms"]), "id 1, not id 2"),
        (lingering(&["1", "--param", "step=200ms"]), "--param step of 300ms, not --param step of 200ms"),
        (lingering(&["1"]), "--param step of 300ms, not no --param step of"),
        ([&SLOW[..], &["--source", "simulate"]].concat(), "no --source, not --source simulate"),
        ([&SLOW[..], &["--key", "k"]].concat(), "no --key, not --key k"),
        ([&SLOW[..], &["--format", "json"]].concat(), "--format plain, not --format json"),
        (vec!["--run", "another"], "no --run, not --run another"),
        (vec!["--run", &run, "--limit", "9"], "no --limit, not --limit 9"),
    ] {
        let go_on = format!("go on with that by: outflow fetch --run {run} --output {}", place.path());
        said(
            &place.fetch(&arguments),
            1,
            &["is half written for another request", difference, &go_on, "--overwrite"],
        );
    }
    // The same request of another server is another one; the run by its name is not.
    let other = Server::start(&[]);
    let elsewhere = [&["--output", place.path()], &SLOW[..]].concat();
    said(&other.fetch(&elsewhere).0, 1, &["--server", &other.address]);
    let (unknown, _) = other.fetch(&["--run", &run, "--output", place.path()]);
    said(&unknown, 1, &["no run is called", "stays as it is, with 2 responses", "--overwrite starts anew"]);
    assert_eq!((place.contents(), place.noted()), before);
    said(&place.fetch(&["--run", &run, "--linger", "2m"]), 0, &[]);
    assert_eq!(place.whole(), lines(0..5));
}

#[test]
fn a_run_that_is_gone_costs_nothing_that_is_there() {
    let mut place = Place::new();
    place.fetch_until(2, Signal::KILL, &SLOW);
    let before = (place.contents(), place.noted());
    // What it kept in memory is gone with it.
    place.server.signal(Signal::KILL);
    place.server.wait();
    said(&place.fetch(&SLOW), 69, &["stays as it is, with 2 responses; try again later"]);
    let address = place.server.address.clone();
    place.server = Server::start(&["--listen", &address]);
    let (gone, _) = run(&[&["fetch", "--server", &address, "--output", place.path()], &SLOW[..]].concat());
    said(&gone, 1, &["no run is called", "stays as it is, with 2 responses; --overwrite starts anew"]);
    assert_eq!((place.contents(), place.noted()), before);
}

#[test]
fn a_file_that_somebody_changed_is_not_gone_on_with() {
    let place = Place::new();
    place.fetch_until(2, Signal::KILL, &SLOW);
    let noted = place.noted();
    fs::write(&place.file, "Request").unwrap();
    said(&place.fetch(&SLOW), 1, &["has 7 bytes", "says that 40 were written", "--overwrite"]);
    assert_eq!(place.contents(), "Request");
    fs::remove_file(&place.file).unwrap();
    said(&place.fetch(&SLOW), 1, &["has 0 bytes", "changed or removed it"]);
    assert!(!place.file.exists() && place.noted() == noted);
    for (broken, why) in [("{\"version\": 2}", "of version 2"), ("\0\0\0", "expected value"), ("", "EOF")] {
        fs::write(place.bookmark(), broken).unwrap();
        said(&place.fetch(&SLOW), 1, &["cannot be understood", why, "--overwrite", "remove the bookmark"]);
        assert!(!place.file.exists() && fs::read_to_string(place.bookmark()).unwrap() == broken);
    }
    said(&place.fetch(&["1", "--param", "step=0s", "--overwrite"]), 0, &[]);
    assert_eq!(place.whole().len(), 100);
}

#[test]
fn a_file_has_one_writer() {
    let place = Place::new();
    let all = [&["fetch", "--server", &place.server.address, "--output", place.path()], &SLOW[..]].concat();
    let mut first = outflow(&all).spawn().unwrap();
    within(Duration::from_secs(20), || place.bookmark().exists().then_some(())).unwrap();
    for more in [&["--overwrite"][..], &[]] {
        said(&place.fetch(&[&SLOW[..], more].concat()), 1, &["is being written by another outflow"]);
    }
    // By another name, too.
    let link = place.folder.path().join("link");
    std::os::unix::fs::symlink(&place.file, &link).unwrap();
    let (linked, _) = place.server.fetch(&[&["--output", link.to_str().unwrap()], &SLOW[..]].concat());
    said(&linked, 1, &["is being written by another outflow"]);
    fs::remove_file(link).unwrap();
    assert!(wait(&mut first).success());
    assert_eq!(place.whole(), lines(0..5));
}

#[test]
fn a_link_is_followed_and_a_device_is_no_file() {
    let place = Place::new();
    let link = place.folder.path().join("link");
    std::os::unix::fs::symlink(&place.file, &link).unwrap();
    let quick = ["1", "--param", "step=0s", "--output", link.to_str().unwrap()];
    said(&place.server.fetch(&quick).0, 1, &["No such file"]);
    File::create(&place.file).unwrap();
    said(&place.server.fetch(&quick).0, 0, &[]);
    assert_eq!(place.contents().len(), 100);
    let fetch = |path: &str| place.server.fetch(&["1", "--param", "step=0s", "--output", path]).0;
    said(&fetch("/dev/null"), 0, &[]);
    said(&fetch("/dev/full"), 1, &["cannot write the results: /dev/full: No space left"]);
    // What was not written can be read again, also where the run has ended meanwhile.
    let kept = ["1", "--param", "step=0s", "--key", "k", "--output"];
    for device in ["/dev/null", "/dev/full"] {
        let output = place.server.fetch(&[&kept[..], &[device]].concat()).0;
        if device == "/dev/full" {
            said(&output, 1, &["/dev/full: No space left", "continue with: outflow fetch --run "]);
        }
    }
    said(&fetch(place.folder.path().to_str().unwrap()), 1, &["cannot write the results"]);
    said(&fetch("/nowhere/at/all"), 1, &["cannot write the results: /nowhere/at/all"]);
}

#[test]
fn a_file_that_could_not_grow_is_gone_on_with_when_it_can() {
    let place = Place::new();
    let arguments = ["1", "--linger", "1m", "--param", "jobs=1", "--param", "responses=200", "--param", "every=1ms"];
    // What a full disk does, to anybody: two blocks of 512 bytes, and an error instead of a signal.
    let limited = r#"trap "" XFSZ; ulimit -f 2; exec "$@""#;
    let mut shell = Command::new("sh");
    shell.args(["-c", limited, "sh", env!("CARGO_BIN_EXE_outflow"), "fetch", "--server", &place.server.address]);
    let full = shell.args(arguments).args(["--output", place.path()]).output().unwrap();
    said(
        &full,
        1,
        &["cannot write the results", place.path(), "File too large", "continue with: outflow fetch --run"],
    );
    assert!(place.noted()["bytes"].as_u64().unwrap() <= 1024);
    said(&place.fetch(&arguments), 0, &[]);
    assert_eq!(place.whole(), "Request #0 For Id:1\n".repeat(200));
}

#[test]
fn a_run_that_failed_is_whole_and_its_exit_code_says_that_it_failed() {
    let place = Place::new();
    let failing = [&SLOW[..], &["--param", "fail=2"]].concat();
    place.fetch_until(1, Signal::KILL, &failing);
    said(&place.fetch(&failing), 1, &["job 2 failed", "cannot receive"]);
    assert_eq!(place.whole(), lines(0..2) + &lines(3..5));
}

/// The address of a way to `server` on which nothing comes back from the first connection.
pub(super) fn way_that_answers_from_the_second_on(server: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, server) = (listener.local_addr().unwrap().to_string(), server.to_owned());
    thread::spawn(move || {
        for (number, client) in listener.incoming().enumerate() {
            let (client, server) = (client.unwrap(), TcpStream::connect(&server).unwrap());
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || {
                _ = io::copy(&mut from, &mut to);
                _ = to.shutdown(Shutdown::Both);
            });
            let (mut from, mut to) = (server, client);
            thread::spawn(move || match number {
                0 => io::copy(&mut from, &mut io::sink()),
                _ => io::copy(&mut from, &mut to),
            });
        }
    });
    address
}

#[test]
fn a_run_whose_answer_did_not_arrive_before_the_kill_is_found_and_not_started_again() {
    let place = Place::new();
    let way = way_that_answers_from_the_second_on(&place.server.address);
    let all = [&["fetch", "--server", &way, "--output", place.path()], &SLOW[..]].concat();
    let mut child = outflow(&all).spawn().unwrap();
    place.server.line("fetch response for id : 1");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(place.noted()["key"].is_string() && place.noted()["run"].is_null(), "{}", place.noted());
    said(&run(&all).0, 0, &[]);
    assert_eq!(place.whole(), lines(0..5));
    let (listed, _) = run(&["runs", "--json", "--server", &place.server.address]);
    assert_eq!(text(&listed.stdout).lines().count(), 1, "{}", text(&listed.stdout));
}
