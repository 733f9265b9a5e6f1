//! What small runs leave behind: bytes in the store, and time at a restart.

use std::time::{Duration, Instant};

use crate::{
    Bench, Outcome,
    crowd::drain,
    directory::{allocated, archive},
    drain::LARGE,
    process::pause,
    replay::journaled,
};

/// By when all ended runs have left the live journal, where the server is quiet.
const ARCHIVED: Duration = Duration::from_secs(30);

pub(crate) fn measure(bench: &Bench) -> Outcome<()> {
    let runs = 100_000 / u32::try_from(bench.shrink)?;
    println!("\n{runs} ended runs of five responses");
    let (process, store) = bench.start()?;
    let Some(store) = store else {
        println!("  (in memory there is nothing to see)");
        return Ok(());
    };
    let folder = store.path().join("data");
    drain(&process, &[journaled(0, &[("responses", "5")])], LARGE)?;
    pause(ARCHIVED);
    let before = allocated(&archive(&folder))?;
    for hundred in 0..runs.div_ceil(1_000) {
        let requests: Vec<_> =
            (1..=1_000.min(runs)).map(|n| journaled(hundred * 1_000 + n, &[("responses", "5")])).collect();
        let taken = drain(&process, &requests, LARGE)?;
        if taken.responses != 5 * requests.len() as u64 {
            return Err(format!("{} responses came of {} runs of five", taken.responses, requests.len()).into());
        }
    }
    pause(ARCHIVED);
    let after = allocated(&archive(&folder))?;
    println!(
        "  {:.0} bytes each in the archive ({} KiB before, {} KiB after); the live journal is a ring of bounded size",
        (after as f64 - before as f64) / f64::from(runs),
        before / 1024,
        after / 1024
    );
    drop(process);
    for _ in 0..bench.rounds {
        let began = Instant::now();
        let process = Bench::start_on(&folder.to_string_lossy())?;
        println!("  killed and started again: ready after {:.0} ms", began.elapsed().as_secs_f64() * 1e3);
        drop(process);
    }
    Ok(())
}
