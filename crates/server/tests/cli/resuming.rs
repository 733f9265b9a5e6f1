//! `fetch` while its server is killed and started again.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, ExitStatus, Stdio},
    thread::JoinHandle,
};

use rustix::process::Signal;
use tempfile::TempDir;

use super::program::{Server, outflow, paste, run, text, wait};

/// Thirty responses in a second and a half, from one job.
const ASKED: [&str; 9] =
    ["1", "--param", "jobs=1", "--param", "step=0s", "--param", "responses=30", "--param", "every=50ms"];

/// A server on a disk, and one at the same address after it was killed.
struct Place {
    server: Server,
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(&["--data", &path(&folder, "data")]);
        Self { server, folder }
    }

    fn path(&self, name: &str) -> String {
        path(&self.folder, name)
    }

    fn kill(&mut self) {
        self.server.signal(Signal::KILL);
        self.server.wait();
    }

    fn start_again(&mut self, data: &str) {
        let address = self.server.address.clone();
        self.server = Server::start_at(&address, &["--data", data]);
    }

    /// Begins a fetch, which goes on by itself for as long as it takes.
    fn begin(&self, arguments: &[&str]) -> Fetching {
        let all = [&["fetch", "--server", &self.server.address, "--format", "json"], &ASKED[..], arguments].concat();
        let mut child = outflow(&all).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let stderr = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).unwrap();
            text
        });
        Fetching { child, stderr }
    }

    /// All of the run that a line of `stderr` names.
    fn whole(&self, stderr: &str) -> String {
        let (_, run_id) = stderr.split_once(", run ").unwrap_or_else(|| panic!("no run in {stderr}"));
        let (run_id, _) = run_id.split_once(',').unwrap();
        let (whole, _) = run(&["fetch", "--server", &self.server.address, "--format", "json", "--run", run_id]);
        assert!(whole.status.success(), "{whole:?}");
        let whole = text(&whole.stdout).to_owned();
        assert_eq!(whole.lines().count(), 30);
        whole
    }
}

fn path(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).to_str().unwrap().to_owned()
}

struct Fetching {
    child: Child,
    stderr: JoinHandle<String>,
}

impl Fetching {
    /// The first lines of what it prints, and where the others will come.
    fn lines(&mut self, count: usize) -> (String, impl std::io::Read + use<>) {
        let mut stdout = BufReader::new(self.child.stdout.take().unwrap());
        let mut printed = String::new();
        for _ in 0..count {
            stdout.read_line(&mut printed).unwrap();
        }
        (printed, stdout)
    }

    fn ended(mut self) -> (ExitStatus, String) {
        let status = wait(&mut self.child);
        (status, self.stderr.join().unwrap())
    }
}

#[test]
fn it_goes_on_over_a_kill_and_says_so_in_a_line_each() {
    let mut place = Place::new();
    let mut fetching = place.begin(&["--linger", "10m"]);
    let (mut printed, mut rest) = fetching.lines(3);
    place.kill();
    place.start_again(&place.path("data"));
    rest.read_to_string(&mut printed).unwrap();
    let (status, stderr) = fetching.ended();
    assert!(status.success(), "{stderr}");
    assert_eq!(printed, place.whole(&stderr));
    let lines: Vec<&str> = stderr.lines().collect();
    let [broke, goes_on] = lines[..] else { panic!("{stderr}") };
    assert!(broke.contains(", broke: ") && goes_on.contains(", goes on after "), "{stderr}");
}

#[test]
fn a_file_is_whole_in_the_end_without_another_command() {
    let mut place = Place::new();
    let file = place.path("results");
    let fetching = place.begin(&["--linger", "10m", "--output", &file]);
    let begun = || std::fs::read_to_string(&file).is_ok_and(|text| text.lines().count() > 3).then_some(());
    super::program::within(std::time::Duration::from_secs(20), begun).expect("it begins");
    place.kill();
    place.start_again(&place.path("data"));
    let (status, stderr) = fetching.ended();
    assert!(status.success(), "{stderr}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), place.whole(&stderr));
    assert!(!std::fs::exists(format!("{file}.outflow")).unwrap(), "it is whole");
}

#[test]
fn without_resuming_a_break_is_a_failure_that_says_how_to_go_on() {
    let mut place = Place::new();
    let mut fetching = place.begin(&["--linger", "10m", "--no-resume"]);
    let (mut printed, mut rest) = fetching.lines(3);
    place.kill();
    rest.read_to_string(&mut printed).unwrap();
    let (status, stderr) = fetching.ended();
    assert_eq!(status.code(), Some(1), "{stderr}");
    place.start_again(&place.path("data"));
    let (_, command) = stderr.split_once("continue with: outflow ").unwrap_or_else(|| panic!("{stderr}"));
    let (rest, _) = run(&command.trim_end().split(' ').collect::<Vec<_>>());
    assert!(rest.status.success(), "{rest:?}");
    printed.push_str(text(&rest.stdout));
    assert_eq!(printed, place.whole(&stderr));
}

#[test]
fn a_run_that_did_not_survive_is_not_said_to_go_on() {
    let mut place = Place::new();
    let mut fetching = place.begin(&["--linger", "10m"]);
    let (_, mut rest) = fetching.lines(3);
    place.kill();
    // Somebody gave it another directory.
    place.start_again(&place.path("other"));
    rest.read_to_string(&mut String::new()).unwrap();
    let (status, stderr) = fetching.ended();
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("ended with NOT_FOUND: no run is called"), "{stderr}");
    assert!(!stderr.contains("the run goes on"), "{stderr}");
}

/// A fetch that is bounded so, and whose server goes away and comes back too late for it.
fn waits_long_enough(bound: [&str; 2], code: i32, why: &str) {
    let mut place = Place::new();
    let mut fetching = place.begin(&["--linger", "10m", bound[0], bound[1]]);
    let (mut printed, mut rest) = fetching.lines(3);
    place.kill();
    rest.read_to_string(&mut printed).unwrap();
    let (status, stderr) = fetching.ended();
    assert_eq!(status.code(), Some(code), "{bound:?}: {stderr}");
    let broke = format!("after response {}, broke", printed.lines().count());
    for part in [why, "the run goes on; continue with: outflow fetch --run ", &broke] {
        assert!(stderr.contains(part), "no {part:?} in {stderr}");
    }
    place.start_again(&place.path("data"));
    let (_, command) = stderr.split_once("continue with: ").unwrap();
    let rest = paste(command);
    assert!(rest.status.success(), "{rest:?}");
    printed.push_str(text(&rest.stdout));
    assert_eq!(printed, place.whole(&stderr));
}

#[test]
fn who_waited_long_enough_for_the_server_is_told_how_to_go_on_later() {
    let in_vain = "were in vain, the last one because: there is no connection (no connection to ";
    std::thread::scope(|scope| {
        scope.spawn(|| waits_long_enough(["--give-up-after", "2s"], 1, in_vain));
        scope.spawn(|| {
            waits_long_enough(["--within", "6s"], 124, "waited too long: the stream had not ended after 6s")
        });
        scope.spawn(|| waits_long_enough(["--patience", "4s"], 124, "waited too long: no response within 4s"));
    });
}
