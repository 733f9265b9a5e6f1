//! `fetch --output FILE` is killed at random moments, and its server, too, and the same command goes on each time: the file
//! becomes what one attempt makes of the same run, byte for byte, and there is one run for one file.

use std::{fs, process::Stdio, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{
    kills::Killed,
    output::Place,
    program::{outflow, run, text, wait, within},
};

/// How often a fetch is killed; `OUTFLOW_TEST_KILLS` says otherwise.
const KILLS: usize = 30;

#[test]
fn a_file_whose_writer_is_killed_at_any_moment_becomes_the_whole_one_byte_for_byte() {
    let kills = std::env::var("OUTFLOW_TEST_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let seed: u64 = std::env::var("OUTFLOW_TEST_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("OUTFLOW_TEST_SEED={seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    let data = tempfile::tempdir().unwrap();
    let place = Place::on(&["--data", data.path().to_str().unwrap()]);
    let mut killed = 0;
    for round in 0.. {
        let format = ["plain", "json", "log"][round % 3];
        // Many small ones, and a few of which each is more than fits into one response, so that they come in parts.
        let size = if round % 2 == 0 { "300" } else { "1048576" };
        let responses = if round % 2 == 0 { "responses=400" } else { "responses=12" };
        let every = if round % 2 == 0 { "every=3ms" } else { "every=60ms" };
        let (size, path) = (format!("size={size}"), place.path());
        let mut all = vec!["fetch", "1", "--server", &place.server.address, "--output", path, "--format", format];
        for parameter in ["jobs=2", "step=0s", responses, every, &size] {
            all.extend(["--param", parameter]);
        }
        all.extend(["--linger", "5m"]);
        loop {
            let mut child = outflow(&all).stderr(Stdio::piped()).spawn().unwrap();
            let pause = Duration::from_millis(chance.random_range(0..150));
            if killed < kills && within(pause, || child.try_wait().unwrap()).is_none() {
                child.kill().unwrap();
                child.wait().unwrap();
                killed += 1;
                let is_there = fs::metadata(&place.file).is_ok_and(|file| file.len() > 0);
                if is_there && !place.bookmark().exists() {
                    // It was done, all but for its exit code.
                    break;
                }
                continue;
            }
            let status = wait(&mut child);
            assert!(status.success(), "{:?}", child.wait_with_output());
            break;
        }
        let written = place.whole();
        let (listed, _) = run(&["runs", "--json", "--server", &place.server.address]);
        let runs: Vec<serde_json::Value> =
            text(&listed.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(runs.len(), round + 1, "there is one run for one file");
        let (once, _) = place.server.fetch(&["--run", runs[0]["run_id"].as_str().unwrap(), "--format", format]);
        assert!(once.status.success());
        let once = text(&once.stdout);
        if format == "log" {
            assert_eq!(without_stamps(&written), without_stamps(once));
        } else {
            assert!(written == once, "round {round}, {format}: {} bytes, not {}", written.len(), once.len());
        }
        fs::remove_file(&place.file).unwrap();
        if killed >= kills {
            break;
        }
    }
}

#[test]
fn a_file_becomes_the_whole_one_whoever_is_killed_its_writer_or_its_server() {
    let kills = std::env::var("OUTFLOW_TEST_KILLS").map_or(KILLS / 2, |kills| kills.parse().unwrap());
    let seed: u64 = std::env::var("OUTFLOW_TEST_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("OUTFLOW_TEST_SEED={seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    let mut server = Killed::start("");
    let address = server.address.to_string();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("results");
    let mut killed = [0, 0];
    for round in 1.. {
        let mut all =
            vec!["fetch", "1", "--server", &address, "--output", file.to_str().unwrap(), "--format", "json"];
        for parameter in ["jobs=2", "step=0s", "responses=300", "every=4ms", "size=200"] {
            all.extend(["--param", parameter]);
        }
        all.extend(["--linger", "5m"]);
        let mut child = outflow(&all).stderr(Stdio::null()).spawn().unwrap();
        while killed.iter().sum::<usize>() < kills {
            let pause = Duration::from_millis(chance.random_range(0..300));
            if within(pause, || child.try_wait().unwrap()).is_some() {
                break;
            }
            // The writer goes on by itself when it is the server; else the same command does.
            if chance.random_bool(0.5) {
                server.kill_and_start();
                killed[0] += 1;
            } else {
                child.kill().unwrap();
                child.wait().unwrap();
                killed[1] += 1;
                let is_begun = fs::metadata(&file).is_ok_and(|file| file.len() > 0);
                // Else it was done, all but for its exit code.
                if !is_begun || folder.path().join("results.outflow").exists() {
                    child = outflow(&all).stderr(Stdio::null()).spawn().unwrap();
                }
            }
        }
        let status = wait(&mut child);
        assert!(status.success() || status.code().is_none(), "{status}");
        let (listed, _) = run(&["runs", "--json", "--server", &address]);
        let runs: Vec<serde_json::Value> =
            text(&listed.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(runs.len(), round, "there is one run for one file");
        let run_id = runs[0]["run_id"].as_str().unwrap();
        let (once, _) = run(&["fetch", "--server", &address, "--run", run_id, "--format", "json"]);
        let (written, once) = (fs::read_to_string(&file).unwrap(), text(&once.stdout));
        assert_eq!(once.lines().count(), 600);
        assert!(written == once, "round {round}: {} bytes, not {}", written.len(), once.len());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        fs::remove_file(&file).unwrap();
        if killed.iter().sum::<usize>() >= kills {
            break;
        }
    }
    println!("the server was killed {} times, the writer {} times", killed[0], killed[1]);
}

/// The lines of the tutorial's format, whose times are those of their writing.
fn without_stamps(log: &str) -> Vec<&str> {
    log.lines().map(|line| &line[20..]).collect()
}
