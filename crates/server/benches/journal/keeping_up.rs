//! Whether the archive keeps up with the live journal: what waits there over time, at a rate that is given and at the
//! highest there is.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::{
    Bench, Outcome,
    crowd::drain,
    directory::{Live, allocated, archive, live},
    drain::LARGE,
    process::pause,
    replay::journaled,
};

/// How long is written at the given rate.
const SECONDS: u64 = 20;
const SAMPLE_EVERY: Duration = Duration::from_millis(50);
const RUNS: u32 = 1_000;

pub(crate) fn measure(bench: &Bench) -> Outcome<()> {
    println!("\nWhether the archive keeps up with the live journal: {RUNS} runs, small responses, a reader each");
    if bench.data == "memory" {
        println!("  (in memory there is no archive)");
        return Ok(());
    }
    let seconds = SECONDS / bench.shrink.min(20);
    for (rate, what) in [
        (1_000_000, "1 million/s"),
        (2_000_000, "2 million/s"),
        (4_000_000, "4 million/s"),
        (0, "as fast as it goes"),
    ] {
        let (process, store) = bench.start()?;
        let folder = store.ok_or("no folder")?;
        let directory = folder.path().join("data");
        // 64 at once, so many times a second.
        let each = if rate == 0 { 60_000 / bench.shrink } else { rate / u64::from(RUNS) * seconds };
        let every =
            if rate == 0 { Duration::ZERO } else { Duration::from_secs(64) / (rate / u64::from(RUNS)) as u32 };
        let pairs = [
            ("responses", each.to_string()),
            ("batch", "64".to_owned()),
            ("every", format!("{}us", every.as_micros())),
        ];
        let pairs = pairs.each_ref().map(|(name, value)| (*name, value.as_str()));
        let requests: Vec<_> = (0..RUNS).map(|n| journaled(n, &pairs)).collect();
        let is_over = AtomicBool::new(false);
        let began = Instant::now();
        let (taken, samples) = thread::scope(|scope| {
            let watching = scope.spawn(|| {
                let mut samples: Vec<(Duration, Live, u64)> = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    if let Ok(live) = live(&directory) {
                        let archived = allocated(&archive(&directory)).unwrap_or(0);
                        samples.push((began.elapsed(), live, archived));
                    }
                    pause(SAMPLE_EVERY);
                }
                samples
            });
            let taken = drain(&process, &requests, LARGE);
            is_over.store(true, Ordering::Relaxed);
            (taken, watching.join().expect("no panic"))
        });
        taken?.print(what);
        print(&samples);
    }
    Ok(())
}

fn print(samples: &[(Duration, Live, u64)]) {
    // All but the one that is being written and the reserve.
    let is_full = |live: &Live| live.bytes >= 240 << 20 && live.waiting_bytes + (16 << 20) >= live.bytes;
    let full = samples.iter().filter(|(_, live, _)| is_full(live)).count();
    let most = samples.iter().map(|(_, live, _)| live.waiting_bytes).max().unwrap_or(0);
    let over_time: Vec<String> = samples
        .iter()
        .step_by((samples.len() / 10).max(1))
        .map(|(at, live, archived)| {
            format!("{:.0} s {} ({})", at.as_secs_f64(), live.waiting_bytes >> 20, archived >> 20)
        })
        .collect();
    println!("    MiB that wait in the live journal (MiB of the archive): {}", over_time.join(", "));
    let said = if full == 0 {
        "the archive keeps up".to_owned()
    } else {
        format!("the journal was full in {} of {} looks: jobs waited for the archive", full, samples.len())
    };
    println!("    at most {} MiB; {said}", most >> 20);
}
