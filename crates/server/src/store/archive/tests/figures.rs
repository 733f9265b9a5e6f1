//! What the archive costs, printed:
//! `cargo test --release -p outflow --lib archive::tests::figures -- --ignored --nocapture --test-threads=1`

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::atomic::AtomicBool,
    time::{Duration, Instant},
};

use outflow_engine::{Chunk, Filter, Key, Sequence};

use super::{Place, chunk, ended, moved, run, run_id};

const MIB: f64 = 1024.0 * 1024.0;

/// CPU seconds that this process has used.
fn cpu() -> f64 {
    let ticks = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = ticks.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks as f64 / 100.0
}

/// Bytes that this process has given to `write`.
fn written_bytes() -> f64 {
    let io = fs::read_to_string("/proc/self/io").unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap();
    line.parse().unwrap()
}

/// Bytes that the file has on the disk; its length may be more, and what is behind what was written takes nothing.
fn disk_bytes(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |found| found.blocks() * 512)
}

#[test]
#[ignore = "prints figures"]
fn bytes_that_a_small_ended_run_takes() {
    for at_once in [100, 1000, 10_000] {
        let place = Place::new();
        let archive = place.open();
        let started = Instant::now();
        for batch in 0..100_000 / at_once {
            let mut runs = Vec::new();
            for n in batch * at_once..(batch + 1) * at_once {
                let mut record = run(n, &[&format!("{:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))]);
                let mut put = moved(&mut record, vec![chunk(n, 1..=5, 24)]);
                put.record.add(&ended(n / 100));
                runs.push(put);
            }
            archive.put(&runs, Duration::from_secs(batch)).unwrap();
        }
        let took = started.elapsed();
        let (disk, length) = (disk_bytes(&place.path), fs::metadata(&place.path).unwrap().len());
        println!(
            "100,000 runs, {at_once} at once: {:.0} bytes each on the disk, {:.0} of length, {:.0} counted; {:.0} runs/s",
            disk as f64 / 1e5,
            length as f64 / 1e5,
            archive.bytes() as f64 / 1e5,
            1e5 / took.as_secs_f64(),
        );
        let micros =
            |what: &str, started: Instant| println!("  {what}: {:.1} µs", started.elapsed().as_secs_f64() * 1e3);
        let started = Instant::now();
        (0..1000).for_each(|n| assert!(archive.find(run_id(n * 97)).unwrap().is_some()));
        micros("find", started);
        let started = Instant::now();
        for n in 0..1000_u64 {
            let key = format!("{:016x}", (n * 97).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            assert_eq!(archive.bound(&Key(key.into())).unwrap(), Some(run_id(n * 97)));
        }
        micros("bound", started);
        let started = Instant::now();
        (0..1000).for_each(|n| {
            assert_eq!(archive.list(&Filter::default(), Some(run_id(n * 97 + 100)), 100).unwrap().len(), 100)
        });
        micros("list of 100", started);
        let started = Instant::now();
        (0..1000).for_each(|_| assert_eq!(archive.ended_first(None, 100).unwrap().len(), 100));
        micros("100 that ended first", started);
        let started = Instant::now();
        for batch in 0..50 {
            let runs: Vec<_> = (batch * 1000..(batch + 1) * 1000).map(run_id).collect();
            archive.delete(&runs).unwrap();
        }
        println!(
            "  50,000 deleted, 1,000 at once: {:.0} runs/s; then {:.1} MiB counted, {:.1} on the disk",
            5e4 / started.elapsed().as_secs_f64(),
            archive.bytes() as f64 / MIB,
            disk_bytes(&place.path) as f64 / MIB,
        );
        drop(archive);
        println!("  closed: {:.1} MiB on the disk", disk_bytes(&place.path) as f64 / MIB);
    }
}

#[test]
#[ignore = "prints figures"]
fn bytes_that_frames_of_a_size_take() {
    for payload in [24, 1000, 3000, 5000, 10_000, 20_000, 22_000, 33_000, 40_000, 65_000, 65_536, 100_000, 1_000_000]
    {
        let place = Place::new();
        let archive = place.open();
        let mut record = run(1, &[]);
        let count = 64 * 1024 * 1024 / (payload as u64 + 12);
        let each = (1024 * 1024 / (payload as u64 + 12)).max(1);
        let mut next = 1;
        while next <= count {
            let chunks: Vec<Chunk> = (0..16)
                .map(|n| {
                    let first = next + n * each;
                    chunk(1, first..=first + each - 1, payload)
                })
                .collect();
            next += 16 * each;
            archive.put(&[moved(&mut record, chunks)], Duration::ZERO).unwrap();
        }
        println!(
            "payloads of {payload}: {:.3} times their frames on the disk, {:.3} counted",
            disk_bytes(&place.path) as f64 / record.bytes as f64,
            archive.bytes() as f64 / record.bytes as f64,
        );
    }
}

/// 10 million responses of 24 bytes, alone or among 1,000 other runs, 8 MiB at once, as they are moved.
#[test]
#[ignore = "prints figures"]
fn responses_read_in_a_second() {
    const ALL: u64 = 10_000_000;
    for among in [0_u64, 1000] {
        let place = Place::new();
        let archive = place.open();
        let mut record = run(1, &[]);
        let mut others: Vec<_> = (2..2 + among).map(|n| run(n, &[])).collect();
        let (started, cpu_before, written_before) = (Instant::now(), cpu(), written_bytes());
        let mut making = (0.0, 0.0);
        let mut next = 1;
        let mut all_bytes = 0;
        let each = if among == 0 { 240_000 } else { 10_000 };
        while next <= ALL {
            let (made, made_cpu) = (Instant::now(), cpu());
            let mut put = Vec::new();
            let last = next + each - 1;
            // As a live journal gives them: up to 64 KiB each.
            let chunks = (next..=last).step_by(1600).map(|n| chunk(1, n..=(n + 1599).min(last), 24)).collect();
            put.push(moved(&mut record, chunks));
            for (n, record) in others.iter_mut().enumerate() {
                let first = record.last.get() + 1;
                let chunks = vec![chunk(n as u64, first..=first + 209, 24)];
                put.push(moved(record, chunks));
            }
            all_bytes += put.iter().flat_map(|put| &put.chunks).map(Chunk::len).sum::<usize>();
            next = last + 1;
            making.0 += made.elapsed().as_secs_f64();
            making.1 += cpu() - made_cpu;
            archive.put(&put, Duration::ZERO).unwrap();
            if among > 0 && all_bytes > 2 << 30 {
                break;
            }
        }
        let (wall, cpu_used) = (started.elapsed().as_secs_f64() - making.0, cpu() - cpu_before - making.1);
        println!(
            "among {among}: put {:.0} MiB at {:.0} MiB/s, {:.2} CPU s a GiB; written {:.2} times, {:.3} times on the disk",
            all_bytes as f64 / MIB,
            all_bytes as f64 / MIB / wall,
            cpu_used / (all_bytes as f64 / MIB / 1024.0),
            (written_bytes() - written_before) / all_bytes as f64,
            disk_bytes(&place.path) as f64 / all_bytes as f64,
        );
        drop(archive);
        let archive = place.open();
        for round in 0..3 {
            let (started, cpu_before) = (Instant::now(), cpu());
            let (mut from, mut calls, mut chunks) = (1, 0, 0);
            let last = record.last.get();
            while from <= last {
                let read = archive.read(record.id, Sequence::new(from), 1 << 20).unwrap();
                calls += 1;
                chunks += read.len();
                from = read.last().unwrap().last().get() + 1;
            }
            let wall = started.elapsed().as_secs_f64();
            println!(
                "  read {round}: {:.1} million/s, {:.0} MiB/s, {:.3} CPU s a million; {calls} calls, {chunks} chunks",
                last as f64 / wall / 1e6,
                record.bytes as f64 / MIB / wall,
                (cpu() - cpu_before) / (last as f64 / 1e6),
            );
        }
        let started = Instant::now();
        for n in 0..1000_u64 {
            let from = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % record.last.get() + 1;
            archive.read(record.id, Sequence::new(from), 1).unwrap();
        }
        println!("  seek: {:.0} µs", started.elapsed().as_secs_f64() * 1e3);
        let started = Instant::now();
        archive.delete(&[record.id]).unwrap();
        println!("  deleted: {:.0} MiB/s", record.bytes as f64 / MIB / started.elapsed().as_secs_f64());
    }
}

/// How long a big archive takes to open after a kill, to commit a small run, and to delete a long one.
#[test]
#[ignore = "prints figures"]
fn a_big_archive_after_a_kill() {
    let place = Place::new();
    let gib = std::env::var("OUTFLOW_GIB").map_or(4, |gib| gib.parse().unwrap());
    let mut child = super::kill::process("puts_long_runs_until_it_is_killed")
        .env(super::kill::PLACE, &place.path)
        .spawn()
        .unwrap();
    while disk_bytes(&place.path) < gib << 30 {
        std::thread::park_timeout(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let started = Instant::now();
    let archive = place.open();
    println!(
        "{:.2} GiB on the disk, killed in the middle of a put: opens in {:.1} ms",
        disk_bytes(&place.path) as f64 / MIB / 1024.0,
        started.elapsed().as_secs_f64() * 1e3,
    );
    let (started, written) = (Instant::now(), written_bytes());
    for n in 0..100 {
        archive.put(&[moved(&mut run(1_000_000 + n, &[]), vec![chunk(n, 1..=5, 24)])], Duration::ZERO).unwrap();
    }
    println!(
        "  a small run: {:.2} ms and {:.0} KiB a commit",
        started.elapsed().as_secs_f64() * 10.0,
        (written_bytes() - written) / 100.0 / 1024.0,
    );
    let runs = archive.list(&Filter::default(), Some(run_id(1_000_000)), 100).unwrap();
    let started = Instant::now();
    archive.delete(&[runs[1].id]).unwrap();
    let took = started.elapsed().as_secs_f64();
    println!("  {:.0} MiB deleted at {:.0} MiB/s", runs[1].bytes as f64 / MIB, runs[1].bytes as f64 / MIB / took);
    drop(archive);
    let started = Instant::now();
    place.open();
    println!("  closed and opened in {:.1} ms", started.elapsed().as_secs_f64() * 1e3);
}

#[test]
#[ignore = "prints figures"]
fn an_archive_as_a_whole() {
    let place = Place::new();
    let archive = place.open();
    for n in 0..128_u64 {
        let mut record = run(n, &[]);
        let chunks = (0..256).map(|m| chunk(n, m * 8 + 1..=m * 8 + 8, 8000)).collect();
        archive.put(&[moved(&mut record, chunks)], Duration::ZERO).unwrap();
    }
    for n in 0..128 {
        if n % 4 != 0 {
            archive.delete(&[run_id(n)]).unwrap();
        }
    }
    drop(archive);
    let archive = place.open();
    let taken = || {
        let length = fs::metadata(&place.path).unwrap().len();
        format!("{:.0} MiB, {:.0} MiB of length", disk_bytes(&place.path) as f64 / MIB, length as f64 / MIB)
    };
    println!("counted {:.0} MiB; before: {}", archive.bytes() as f64 / MIB, taken());
    let started = Instant::now();
    archive.snapshot().unwrap().copy(&place.path.with_file_name("copy"), &AtomicBool::new(false)).unwrap();
    println!("  copied in {:.1} s", started.elapsed().as_secs_f64());
    let started = Instant::now();
    archive.snapshot().unwrap().check(&mut |finding| panic!("{finding}")).unwrap();
    println!("  checked in {:.1} s", started.elapsed().as_secs_f64());
    let started = Instant::now();
    archive.compact().unwrap();
    println!("  compact in {:.1} s: {}", started.elapsed().as_secs_f64(), taken());
}
