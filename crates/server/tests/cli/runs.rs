//! `outflow runs`: what is kept, how one is getting on, and stopping it.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::Stdio,
};

use outflow_client::{Client, Fetch};
use serde_json::Value;

use super::program::{Server, outflow, run, text, wait};

/// What `outflow runs` says to stdout and stderr, and its exit code.
fn runs(server: &Server, arguments: &[&str]) -> (String, String, i32) {
    let (output, _) = run(&[&["runs", "--server", &server.address], arguments].concat());
    (text(&output.stdout).to_owned(), text(&output.stderr).to_owned(), output.status.code().unwrap())
}

/// The runs that it lists, as JSON.
fn listed(server: &Server, arguments: &[&str]) -> Vec<Value> {
    let (stdout, stderr, code) = runs(server, &[&["--json"], arguments].concat());
    assert_eq!((code, &stderr[..]), (0, ""));
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ids(runs: &[Value]) -> Vec<&str> {
    runs.iter().map(|run| run["run_id"].as_str().unwrap()).collect()
}

/// A journaled run that has ended, and one that has not and whose reader was killed.
fn ended_and_running(server: &Server) {
    let failing = ["1", "--param", "step=1ms", "--param", "fail=2", "--linger", "10m"];
    assert_eq!(server.fetch(&failing).0.status.code(), Some(1));
    let lingering = ["fetch", "-7", "--server", &server.address, "--param", "step=1h", "--linger", "90s"];
    let mut child = outflow(&lingering).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(first, "Request #0 For Id:-7\n");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn runs_are_listed_newest_first_with_what_one_wants_to_know() {
    let server = Server::start(&[]);
    let (stdout, stderr, code) = runs(&server, &[]);
    assert_eq!((code, &stdout[..]), (0, ""));
    assert!(stderr.contains("no run is kept there") && stderr.contains("--linger"), "{stderr}");
    ended_and_running(&server);
    // A plain run is nobody's but its reader's.
    server.fetch(&["5", "--param", "step=0s"]);
    let (stdout, stderr, code) = runs(&server, &[]);
    assert_eq!((code, &stderr[..]), (0, ""));
    let rows: Vec<Vec<&str>> = stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    let [head, newest, oldest] = &rows[..] else { panic!("{stdout}") };
    assert_eq!(head.join(" "), "RUN SOURCE ID STATE LAST JOBS FAILED READERS AGE EXPIRES");
    // Whether it was noticed already that the reader is gone is another matter.
    assert_eq!(newest[1..7], ["simulate", "-7", "running", "1", "5", "0"]);
    assert_eq!(newest[9], "-");
    assert_eq!(oldest[1..8], ["simulate", "1", "failed", "5", "5", "1", "0"]);
    assert_eq!(oldest[9], "23h");
    let columns: Vec<_> = stdout.lines().map(|line| line.find("SOURCE").or(line.find("simulate"))).collect();
    assert_eq!(columns, [Some(38); 3], "names stand below each other");

    let both = listed(&server, &[]);
    assert_eq!(ids(&both), [newest[0], oldest[0]]);
    for (filter, found) in [
        (&["--state", "running"][..], vec![newest[0]]),
        (&["--state", "ended"], vec![oldest[0]]),
        (&["--max", "1"], vec![newest[0]]),
        (&["--max", "9", "--source", "simulate"], vec![newest[0], oldest[0]]),
        (&["--source", "nobody"], vec![]),
    ] {
        assert_eq!(ids(&listed(&server, filter)), found, "{filter:?}");
    }
    let (_, stderr, code) = runs(&server, &["--source", "nobody"]);
    assert!(code == 0 && stderr.contains("no such run is kept"), "{stderr}");
}

#[test]
fn all_that_is_known_of_a_run_is_shown() {
    let server = Server::start(&[]);
    ended_and_running(&server);
    let both = listed(&server, &[]);
    let [running, failed] = &both[..] else { panic!("{both:?}") };
    let expected = serde_json::json!({
        "source": "simulate", "id": 1, "parameters": { "step": "1ms", "fail": "2" }, "state": "ended", "end": "failed",
        "end_message": "job 2 failed, as `fail` asked it to", "end_code": 13, "first_sequence": 1, "last_sequence": 5,
        "jobs": 5, "jobs_failed": 1, "durability": "memory", "linger": "600s", "readers": 0,
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(failed[name], *value, "{name}");
    }
    let times = ["start_time", "end_time", "expire_time"].map(|name| failed[name].as_str().unwrap());
    assert!(times[0] <= times[1] && times[1] < times[2], "{times:?}");
    assert_eq!((&running["state"], running.get("end"), running.get("end_time")), (&"running".into(), None, None));

    let [running, failed] = ids(&both)[..] else { panic!("{both:?}") };
    let (stdout, _, code) = runs(&server, &["show", failed]);
    assert_eq!(code, 0);
    for line in [
        "parameter   fail=2",
        "state       failed: INTERNAL: job 2 failed, as `fail` asked it to",
        "jobs        5, 1 failed",
        "linger      10m",
        &format!("read it by  outflow fetch --run {failed} --server {}", server.address),
    ] {
        assert!(stdout.lines().any(|found| found == line), "no {line:?} in {stdout}");
    }
    let (stdout, _, _) = runs(&server, &["show", running]);
    assert!(stdout.contains("state       running\nresponses   1, ") && !stdout.contains("expires"), "{stdout}");
    let (one, _, _) = runs(&server, &["show", "--json", failed]);
    assert_eq!(serde_json::from_str::<Value>(&one).unwrap(), both[1]);
}

#[test]
fn a_run_is_stopped_for_all_its_readers_and_may_be_stopped_again() {
    let server = Server::start(&[]);
    ended_and_running(&server);
    let both = listed(&server, &[]);
    let [running, failed] = ids(&both)[..] else { panic!("{both:?}") };
    let reading = ["fetch", "--run", running, "--server", &server.address];
    let mut reader = outflow(&reading).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(reader.stdout.take().unwrap());
    out.read_line(&mut String::new()).unwrap();
    let (stdout, stderr, code) = runs(&server, &["stop", running, "nosuchrun", failed]);
    assert_eq!(code, 1, "one is not there");
    let ended =
        format!("{failed}: had ended after response 5: failed: INTERNAL: job 2 failed, as `fail` asked it to");
    assert_eq!(stdout.lines().collect::<Vec<_>>(), [format!("{running}: stopped after response 1"), ended]);
    assert!(stderr.contains("no run is called `nosuchrun`") && stderr.contains("`outflow runs` lists"), "{stderr}");
    assert_eq!(wait(&mut reader).code(), Some(1));
    let mut told = String::new();
    reader.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert!(told.contains("CANCELLED") && !told.contains("continue with"), "{told}");
    let (again, _, code) = runs(&server, &["stop", running, "--json"]);
    assert_eq!(code, 0);
    assert_eq!(serde_json::from_str::<Value>(&again).unwrap()["end"], "stopped");
}

#[test]
fn what_cannot_be_answered_says_what_to_do_and_has_its_exit_code() {
    let server = Server::start(&[]);
    let (_, stderr, code) = runs(&server, &["show", "nosuchrun"]);
    assert!(code == 1 && stderr.contains("no run is called `nosuchrun`"), "{stderr}");
    for wrong in [
        &["show"][..],
        &["show", "No Such"],
        &["show", ""],
        &["stop"],
        &["stop", "../x"],
        &["--max", "0"],
        &["--state", "asleep"],
        &["--max", "1", "show", "x"],
        &["--state", "ended", "stop", "x"],
        &["pause", "x"],
    ] {
        let (stdout, stderr, code) = runs(&server, wrong);
        assert_eq!((code, &stdout[..]), (2, ""), "{wrong:?}: {stderr}");
        assert!(!stderr.is_empty());
    }
    let (nowhere, _) = run(&["runs", "--server", "127.0.0.1:1"]);
    assert_eq!(nowhere.status.code(), Some(69), "{}", text(&nowhere.stderr));
    let (nonsense, _) = run(&["runs", "show", "x", "--server", "ftp://x"]);
    assert_eq!(nonsense.status.code(), Some(2), "{}", text(&nonsense.stderr));
}

#[test]
fn more_than_a_page_is_listed_to_its_end_or_to_where_somebody_has_enough() {
    let server = Server::start(&[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let started: Vec<String> = runtime.block_on(async {
        let client = Client::connect(&server.address).await.unwrap();
        let mut started = Vec::new();
        for id in 0..1_100 {
            let fetch = Fetch::id(id).parameter("jobs", "0").idempotency_key(format!("run {id}"));
            let mut responses = client.fetch(fetch).await.unwrap();
            assert!(responses.next().await.is_none());
            started.push(responses.run_id().unwrap().to_owned());
        }
        started
    });
    let all = listed(&server, &[]);
    let mut expected: Vec<&str> = started.iter().map(String::as_str).collect();
    // By their ids, which begin with the time of their start.
    expected.sort_unstable_by(|a, b| b.cmp(a));
    assert_eq!(ids(&all), expected);
    assert_eq!(ids(&listed(&server, &["--max", "505"])), expected[..505]);
    let (table, _, _) = runs(&server, &[]);
    assert_eq!(table.lines().filter(|line| line.starts_with("RUN ")).count(), 1);
    assert_eq!(table.lines().count(), 1_101);

    let listing = ["runs", "--server", &server.address];
    let mut child = outflow(&listing).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    BufReader::with_capacity(100, child.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    // The reader of the pipe is dropped here.
    assert_eq!(wait(&mut child).code(), Some(0));
    assert_eq!(text(&child.wait_with_output().unwrap().stderr), "");
}
