//! Tests in a process of their own, since it ends in the middle of them. Killed in the middle of a put, what it was told
//! is there; and it may end itself over a damaged file, but reads nothing wrong.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::{Archive, Place, chunk, disk::seed, model::Model, moved, run};

/// A process that runs one of the ignored tests here.
pub(super) fn process(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([&format!("archive::tests::kill::{test}"), "--ignored", "--nocapture"]);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

pub(super) const PLACE: &str = "OUTFLOW_TEST_ARCHIVE";

/// What the process puts, step by step: a run that goes on, and one that ends.
fn step(model: &Model, n: u64) -> Vec<super::Moved> {
    let known = model.runs.get(&super::run_id(0)).map(|(record, _)| record.clone());
    let mut long = known.unwrap_or_else(|| run(0, &[]));
    let first = long.last.get() + 1;
    let mut short = moved(&mut run(n + 1, &[&format!("key {n}")]), vec![chunk(n, 1..=5, 24)]);
    short.record.add(&super::ended(n));
    vec![moved(&mut long, vec![chunk(0, first..=first + n % 500, 100)]), short]
}

#[test]
#[ignore = "the process that is killed, and no test"]
fn puts_until_it_is_killed() {
    let Ok(path) = std::env::var(PLACE) else { return };
    let archive = Archive::open(path.as_ref()).unwrap();
    let mut model = Model::default();
    for n in 0..archive.in_service().as_secs() {
        model.put(&step(&model, n + 1), Duration::from_secs(n + 1));
    }
    // A bound, should nobody kill it.
    for n in model.in_service.as_secs()..100_000 {
        let moved = step(&model, n + 1);
        archive.put(&moved, Duration::from_secs(n + 1)).unwrap();
        model.put(&moved, Duration::from_secs(n + 1));
        println!("put {}", n + 1);
    }
}

#[test]
#[ignore = "the process that is killed, and no test"]
fn puts_long_runs_until_it_is_killed() {
    let Ok(path) = std::env::var(PLACE) else { return };
    let archive = Archive::open(path.as_ref()).unwrap();
    // Runs of half a GiB, 16 MiB at once.
    for n in 0..32 {
        let mut record = run(n, &[]);
        for m in 0..32 {
            let chunks = (m * 256..(m + 1) * 256).map(|m| chunk(n, m * 8 + 1..=m * 8 + 8, 8000)).collect();
            archive.put(&[moved(&mut record, chunks)], Duration::ZERO).unwrap();
        }
    }
}

#[test]
fn what_was_put_survives_a_kill() {
    let mut random = SmallRng::seed_from_u64(seed());
    let place = Place::new();
    let mut model = Model::default();
    for _ in 0..10 {
        let mut child = process("puts_until_it_is_killed").env(PLACE, &place.path).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut answered = model.in_service.as_secs();
        let enough = answered + random.random_range(1..30);
        while answered < enough {
            let line = lines.next().expect("it goes on").unwrap();
            // The harness writes its own words in front of the first.
            answered = line.rsplit_once("put ").and_then(|(_, n)| n.parse().ok()).unwrap_or(answered);
        }
        // At any moment of the next puts.
        std::thread::park_timeout(Duration::from_micros(random.random_range(0..5000)));
        child.kill().unwrap();
        child.wait().unwrap();
        let told = lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("put ")?.parse().ok()).last();
        answered = told.unwrap_or(answered);

        let archive = place.open();
        let found = archive.in_service().as_secs();
        assert!(found >= answered, "{found} of {answered}");
        for n in model.in_service.as_secs()..found {
            model.put(&step(&model, n + 1), Duration::from_secs(n + 1));
        }
        model.assert_in(&archive);
    }
}

const FLIPS: usize = 400;
const FROM: &str = "OUTFLOW_TEST_FROM";

#[test]
#[ignore = "the process that may end itself, and no test"]
fn reads_with_changed_bytes() {
    let Ok(from) = std::env::var(FROM) else { return };
    super::damage::read_with_changed_bytes(seed(), from.parse().unwrap()..FLIPS);
}

#[test]
fn whatever_byte_is_changed_nothing_wrong_is_read() {
    let seed = seed().to_string();
    let (mut from, mut ended) = (0, 0);
    while from < FLIPS {
        let mut child = process("reads_with_changed_bytes");
        let output = child.env(FROM, from.to_string()).env("OUTFLOW_SEED", &seed).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!said.contains("WRONG"), "{said}");
        // What it was at when it ended: redb panics while it cleans up after a panic, where its books are damaged.
        let last = said.lines().rev().find_map(|line| line.strip_prefix("change ")?.parse::<usize>().ok());
        from = last.expect("it begins") + 1;
        ended += usize::from(!output.status.success());
    }
    println!("{ended} of {FLIPS} times it ended itself");
    assert!(ended < FLIPS / 20, "{ended}");
}
