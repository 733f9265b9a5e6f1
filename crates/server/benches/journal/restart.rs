//! A server that is killed with a full live journal over an archive of many GiB: how soon the next one answers.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use outflow_client::{Client, Fetch, RunFilter};
use tempfile::TempDir;

use crate::{
    Bench, Outcome,
    crowd::drain,
    directory::{allocated, archive, live},
    drain::{Connection, Keep, LARGE},
    process::{Process, pause},
    replay::journaled,
};

/// What is not written by then is left out, and the page says so.
const WRITING_MAX: Duration = Duration::from_secs(900);
/// Bytes of a response of a long run, and how many it has: 64 MiB.
const LONG: (u64, u64) = (65_000, 1_024);
/// Long runs at once.
const AT_ONCE: u32 = 4;
/// Small ones to a long one.
const SMALL: u32 = 100;
/// Runs that are under way when the server is killed.
const UNDER_WAY: u32 = 1_000;
/// By when they have filled the live journal.
const FILLING_MAX: Duration = Duration::from_secs(60);

pub(crate) fn measure(bench: &Bench, gib: f64) -> Outcome<()> {
    println!("\nKilled with a full live journal and {gib} GiB of ended runs, and started again");
    if bench.data == "memory" {
        println!("  (in memory there is nothing to see)");
        return Ok(());
    }
    let store = TempDir::with_prefix_in("journal", &bench.data)?;
    let folder = store.path().join("data");
    let data = folder.to_string_lossy().into_owned();
    let process = Bench::start_on(&data)?;
    fill(&process, &folder, gib)?;
    let ended = journaled(0, &[("responses", "5")]);
    drain(&process, std::slice::from_ref(&ended), LARGE)?;
    let mut process = process;
    for round in 0..bench.rounds {
        for (batch, size) in [("1", "0"), ("1", "1000")] {
            let first = 1_000_000 + round * 100_000 + u32::from(size != "0") * 10_000;
            let before = under_way(&process, &folder, first, batch, size)?;
            drop(process);
            let (next, bound, answered) = start(&data)?;
            process = next;
            let stopped = stop_all(&process)?;
            println!(
                "  {} segments ({} MiB) of which {} MiB wait, archive {:.1} GiB, {UNDER_WAY} runs under way with responses \
                 of {size} bytes of padding: listening after {bound:.0} ms, first answer after {answered:.0} ms \
                 ({stopped} of the runs went on)",
                before.segments,
                before.bytes >> 20,
                before.waiting_bytes >> 20,
                allocated(&archive(&folder))? as f64 / f64::from(1 << 30),
            );
        }
    }
    Ok(())
}

/// Writes so many GiB of runs that end.
fn fill(process: &Process, folder: &Path, gib: f64) -> Outcome<()> {
    let began = Instant::now();
    let (size, responses) = (LONG.0.to_string(), LONG.1.to_string());
    let wanted = (gib * f64::from(1 << 30) / (LONG.0 * LONG.1) as f64).ceil() as u32;
    let mut n = 1;
    while n <= wanted && began.elapsed() < WRITING_MAX {
        let mut requests: Vec<_> =
            (n..n + AT_ONCE).map(|n| journaled(n, &[("responses", &responses), ("size", &size)])).collect();
        // And small ones, of which there are many in practice.
        requests.extend((0..AT_ONCE * SMALL).map(|m| journaled(500_000 + n * SMALL + m, &[("responses", "5")])));
        drain(process, &requests, LARGE)?;
        n += AT_ONCE;
    }
    println!(
        "  {} runs of 64 MiB and {} small ones written in {:.0} s; archive {:.1} GiB",
        n - 1,
        (n - 1) * SMALL,
        began.elapsed().as_secs_f64(),
        allocated(&archive(folder))? as f64 / f64::from(1 << 30)
    );
    Ok(())
}

/// Starts runs that do not end soon, and waits until the live journal is full of them.
fn under_way(
    process: &Process,
    folder: &Path,
    first: u32,
    batch: &str,
    size: &str,
) -> Outcome<crate::directory::Live> {
    let (before, began) = (live(folder)?, Instant::now());
    for index in 0..10 {
        let requests: Vec<_> = (0..UNDER_WAY / 10)
            .map(|n| {
                journaled(first + index * 1_000 + n, &[("responses", "100000000"), ("batch", batch), ("size", size)])
            })
            .collect();
        let mut connection = Connection::open(process.address, LARGE)?;
        // It ends with the server.
        thread::spawn(move || {
            for request in &requests {
                if connection.fetch(request, Keep::Nothing).is_err() {
                    return;
                }
            }
            _ = connection.finish();
        });
    }
    loop {
        let live = live(folder)?;
        // All segments are of these runs, and as good as none of them is free.
        let is_new = live.newest >= before.newest + live.segments as u64;
        let is_full = live.waiting_bytes + live.bytes / 8 >= live.bytes && live.bytes >= 200 << 20;
        if is_new && is_full || began.elapsed() > FILLING_MAX {
            return Ok(live);
        }
        pause(Duration::from_millis(10));
    }
}

/// Stops what has been taken up again, and says how many runs that were.
fn stop_all(process: &Process) -> Outcome<u32> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = Client::connect(&format!("http://{}", process.address)).await?;
        let mut runs = client.runs(RunFilter::all().running());
        let mut all = Vec::new();
        while let Some(run) = runs.next().await? {
            all.push(run.run_id);
        }
        let mut stopping = tokio::task::JoinSet::new();
        for run in &all {
            let (client, run) = (client.clone(), run.clone());
            stopping.spawn(async move { client.stop(run).await });
        }
        while let Some(stopped) = stopping.join_next().await {
            stopped??;
        }
        Ok(u32::try_from(all.len())?)
    })
}

/// Starts a server; gives it, and the milliseconds until it listens and until it has answered.
fn start(data: &str) -> Outcome<(Process, f64, f64)> {
    let began = Instant::now();
    let process = Bench::start_on(data)?;
    let bound = began.elapsed();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answered = runtime.block_on(async {
        let client = Client::connect(&format!("http://{}", process.address)).await?;
        // The run that ended last, by its key.
        let fetch = Fetch::id(0)
            .parameter("jobs", "1")
            .parameter("step", "0s")
            .parameter("responses", "5")
            .linger(Duration::from_secs(60))
            .idempotency_key("key 000000000000");
        let mut stream = client.fetch(fetch).await?;
        let mut responses = 0;
        while let Some(response) = stream.next().await {
            response?;
            responses += 1;
        }
        if responses == 5 { Outcome::Ok(began.elapsed()) } else { Err(format!("{responses} of 5 responses").into()) }
    })?;
    Ok((process, bound.as_secs_f64() * 1e3, answered.as_secs_f64() * 1e3))
}
