//! From emit to receipt, through the disk.

use std::{fs::File, os::unix::fs::FileExt as _, path::Path, time::Duration};

use outflow_client::{Client, Fetch, Payload};

use crate::{Bench, Outcome, process::pause, server};

/// A quantile of sorted times, in milliseconds.
fn quantile(sorted: &[u64], per_mille: usize) -> f64 {
    let at = (sorted.len() * per_mille / 1_000).min(sorted.len() - 1);
    sorted[at] as f64 / 1e6
}

fn print(what: &str, mut nanos: Vec<u64>) {
    nanos.sort_unstable();
    println!(
        "  {what}: p50 {:.3} ms, p90 {:.3}, p99 {:.3}, p99.9 {:.3}, max {:.3} ({} samples)",
        quantile(&nanos, 500),
        quantile(&nanos, 900),
        quantile(&nanos, 990),
        quantile(&nanos, 999),
        quantile(&nanos, 1_000),
        nanos.len()
    );
}

/// Times from emit to receipt of `runs` runs, each with so many responses, one `every`.
fn receipts(bench: &Bench, runs: u32, responses: u64, every: Duration) -> Outcome<Vec<u64>> {
    let (process, _store) = bench.start()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let address = format!("http://{}", process.address);
    runtime.block_on(async {
        let mut clients = Vec::new();
        for _ in 0..10 {
            clients.push(Client::connect(&address).await?);
        }
        let mut readers = tokio::task::JoinSet::new();
        for run in 0..runs {
            let client = clients[run as usize % clients.len()].clone();
            readers.spawn(async move {
                let fetch = Fetch::id(run.cast_signed())
                    .source("stamp")
                    .parameter("responses", responses.to_string())
                    .parameter("every_us", every.as_micros().to_string())
                    .linger(Duration::from_secs(60));
                let mut stream = client.fetch(fetch).await?;
                let mut nanos = Vec::new();
                let mut batch = Vec::new();
                while stream.next_batch(&mut batch, 4_096).await? > 0 {
                    let now = server::now();
                    for response in batch.drain(..) {
                        if let Payload::Text(text) = &response.payload {
                            nanos.push(now.saturating_sub(text.parse().map_err(|_| "no time in a response")?));
                        }
                    }
                }
                Outcome::Ok(nanos)
            });
        }
        let mut all = Vec::new();
        while let Some(nanos) = readers.join_next().await {
            all.extend(nanos??);
        }
        Ok(all)
    })
}

pub(crate) fn paced(bench: &Bench) -> Outcome<()> {
    println!("\n1,000 runs with 100 responses a second each, emit to receipt (the client decodes on the same cores)");
    for _ in 0..bench.rounds {
        let seconds = if bench.shrink == 1 { 5 } else { 1 };
        print("100,000 a second", receipts(bench, 1_000, 100 * seconds, Duration::from_millis(10))?);
    }
    Ok(())
}

pub(crate) fn quiet(bench: &Bench) -> Outcome<()> {
    println!("\nOne quiet run: emit to receipt, and what one sync costs on the same disk");
    for _ in 0..bench.rounds {
        if bench.data != "memory" {
            print("one write of 4 KiB and fdatasync", syncs(Path::new(&bench.data))?);
        }
        let responses = if bench.shrink == 1 { 500 } else { 50 };
        print("emit to receipt", receipts(bench, 1, responses, Duration::from_millis(10))?);
    }
    Ok(())
}

/// What a sync costs that changes no metadata, with pauses as long as those of the run.
fn syncs(folder: &Path) -> Outcome<Vec<u64>> {
    let file = tempfile::tempfile_in(folder)?;
    let file: File = file;
    file.write_all_at(&vec![0; 4 << 20], 0)?;
    file.sync_all()?;
    let mut nanos = Vec::new();
    for n in 0..500 {
        pause(Duration::from_millis(10));
        let began = server::now();
        file.write_all_at(&[1; 4096], n * 4096)?;
        file.sync_data()?;
        nanos.push(server::now() - began);
    }
    Ok(nanos)
}
