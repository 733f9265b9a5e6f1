//! What is left of the archive when the machine, the disk or the process fails in the middle.

use std::{io, time::Duration};

use outflow_engine::{Sequence, StoreError};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::{
    Archive, Moved,
    disk::{Disk, Failure, crash, seed},
    model::{Fate, Model, moves},
    moved, run, run_id,
    small_disk::SmallDisk,
};

/// How many seeds are tried: `OUTFLOW_ROUNDS`, or a few.
fn rounds(few: u64) -> u64 {
    std::env::var("OUTFLOW_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(few)
}

fn open(disk: &Disk) -> Result<Archive, StoreError> {
    Archive::open_on("the archive".to_owned(), disk.backing())
}

/// What happens next, at random: runs go on, or one is deleted.
enum Next {
    Put(Vec<Moved>),
    Delete(u64),
}

fn next(model: &Model, random: &mut SmallRng, step: u64) -> Next {
    if random.random_bool(0.2) {
        return Next::Delete(random.random_range(0..6));
    }
    let runs: Vec<_> = (0..random.random_range(1..4))
        .map(|_| {
            let fate = [Fate::GoesOn, Fate::TakesKey, Fate::Ends, Fate::HeadDropped][random.random_range(0..4)];
            let payload = [10, 100, 3000, 40_000][random.random_range(0..4)];
            (random.random_range(0..6), random.random_range(0..20), payload, fate)
        })
        .collect();
    Next::Put(moves(model, &runs, step))
}

/// Does it to the archive and, where that went well, to the model.
fn act(archive: &Archive, model: &mut Model, next: &Next, step: u64) -> Result<(), StoreError> {
    // Every step is told by its time in service.
    let in_service = Duration::from_secs(step);
    match next {
        Next::Put(moved) => archive.put(moved, in_service)?,
        Next::Delete(run) => archive.delete(&[run_id(*run)]).and_then(|()| archive.put(&[], in_service))?,
    }
    match next {
        Next::Put(moved) => model.put(moved, in_service),
        Next::Delete(run) => {
            model.delete(&[run_id(*run)]);
            model.put(&[], in_service);
        }
    }
    Ok(())
}

#[test]
fn a_crash_at_any_moment_loses_nothing_that_was_put_and_invents_nothing() {
    let seed = seed();
    for round in 0..rounds(3) {
        let mut random = SmallRng::seed_from_u64(seed.wrapping_add(round));
        let disk = Disk::default();
        let archive = open(&disk).unwrap();
        // The model after each step, and how many operations had been done when it was answered.
        let mut answered = vec![(Model::default(), disk.operations_count())];
        for step in 1..=12 {
            let mut model = answered.last().unwrap().0.clone();
            let next = next(&model, &mut random, step);
            act(&archive, &mut model, &next, step).unwrap();
            answered.push((model, disk.operations_count()));
        }
        let operations = disk.operations();
        for done in answered[0].1..=operations.len() {
            let image = Disk::with(crash(&operations[..done], &mut random));
            let archive = open(&image).unwrap_or_else(|error| panic!("after {done} operations: {error}"));
            let promised = answered.iter().rposition(|(_, operations)| *operations <= done).unwrap();
            let found = archive.in_service().as_secs() as usize;
            assert!(found == promised || found == promised + 1, "step {found} after {promised} was answered");
            let model = &answered[found].0;
            // A deletion is two transactions here, and the first may be all there is.
            let deleted =
                answered.get(found + 1).map(|(next, _)| Model { in_service: model.in_service, ..next.clone() });
            match deleted {
                Some(next) if model.runs.keys().any(|run| archive.find(*run).unwrap().is_none()) => {
                    next.assert_in(&archive);
                }
                _ => model.assert_in(&archive),
            }
        }
    }
}

#[test]
fn after_a_write_or_a_sync_that_failed_it_goes_on() {
    let seed = seed();
    for round in 0..rounds(150) {
        let mut random = SmallRng::seed_from_u64(seed.wrapping_add(round));
        let disk = Disk::default();
        let mut archive = open(&disk).unwrap();
        let mut model = Model::default();
        for step in 1..=8 {
            let next = next(&model, &mut random, step);
            let kind = if random.random_bool(0.5) { io::ErrorKind::Other } else { io::ErrorKind::StorageFull };
            disk.fail(Failure { after: random.random_range(0..40), kind });
            if let Err(error) = act(&archive, &mut model, &next, step) {
                let is_told = match kind {
                    io::ErrorKind::StorageFull => matches!(error, StoreError::Full(_)),
                    _ => matches!(error, StoreError::Failed(_)),
                };
                assert!(is_told, "{error:?}");
                for (run, (record, _)) in &model.runs {
                    let last = archive.find(*run).unwrap().map(|found| found.last);
                    assert!(last >= Some(record.last) || matches!(next, Next::Delete(_)), "what was there is there");
                }
                act(&archive, &mut model, &next, step).unwrap();
            }
            model.assert_in(&archive);
            disk.heal();
            if random.random_bool(0.2) {
                // All that was not synced is lost, though it could be read.
                archive = open(&Disk::with(disk.durable())).unwrap();
                model.assert_in(&archive);
                archive = open(&disk).unwrap();
            }
        }
        drop(archive);
        disk.heal();
        model.assert_in(&open(&Disk::with(disk.durable())).unwrap());
    }
}

#[test]
fn a_disk_that_is_full_is_told_and_deletions_make_room() {
    let disk = Disk::default();
    let archive = open(&disk).unwrap();
    let mut model = Model::default();
    let put = |model: &mut Model, n: u64| {
        let moved = [moved(&mut run(n, &[]), vec![super::chunk(n, 1..=200, 1000)])];
        archive.put(&moved, Duration::ZERO).map(|()| model.put(&moved, Duration::ZERO))
    };
    for n in 0..100 {
        put(&mut model, n).unwrap();
    }
    for round in 1..20 {
        disk.fill_up(round % 3 * 1_000_000);
        let mut n = 1000 * round;
        let full = loop {
            match put(&mut model, n) {
                Ok(()) => n += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(full, StoreError::Full(_)), "{full:?}");
        assert!(full.to_string().contains("room"), "{full}");
        model.assert_in(&archive);
        // 10 MB go, and there is room for half of that at once.
        let oldest: Vec<_> = model.runs.keys().copied().take(50).collect();
        for run in oldest {
            archive.delete(&[run]).unwrap();
            model.delete(&[run]);
        }
        for n in n..n + 25 {
            put(&mut model, n).unwrap();
        }
    }
    disk.has_room();
    for n in 0..20 {
        put(&mut model, 100_000 + n).unwrap();
    }
    drop(archive);
    model.assert_in(&open(&Disk::with(disk.durable())).unwrap());
}

#[test]
#[ignore = "needs root, to mount a small disk"]
fn a_full_tmpfs_is_told_and_deletions_make_room() {
    fill_a_real_disk(&SmallDisk::tmpfs(100));
}

#[test]
#[ignore = "needs root, to mount a small disk"]
fn a_full_ext4_is_told_and_deletions_make_room() {
    fill_a_real_disk(&SmallDisk::ext4(100));
}

fn fill_a_real_disk(disk: &SmallDisk) {
    let path = disk.path().join("archive");
    let mut archive = Archive::open(&path).unwrap();
    let mut model = Model::default();
    let mut n = 0;
    for round in 0..10 {
        let full = loop {
            n += 1;
            let moved = [moved(&mut run(n, &[]), vec![super::chunk(n, 1..=200, 1000)])];
            match archive.put(&moved, Duration::ZERO) {
                Ok(()) => model.put(&moved, Duration::ZERO),
                Err(error) => break error,
            }
        };
        assert!(matches!(full, StoreError::Full(_)), "{full:?}");
        println!("round {round}: full with {} runs", model.runs.len());
        if round % 3 == 0 {
            drop(archive);
            archive = Archive::open(&path).unwrap();
        }
        model.assert_in(&archive);
        let oldest: Vec<_> = model.runs.keys().copied().take(model.runs.len() / 3).collect();
        archive.delete(&oldest).unwrap();
        model.delete(&oldest);
        for _ in 0..model.runs.len() / 8 {
            n += 1;
            let moved = [moved(&mut run(n, &[]), vec![super::chunk(n, 1..=200, 1000)])];
            archive.put(&moved, Duration::ZERO).unwrap();
            model.put(&moved, Duration::ZERO);
        }
    }
    model.assert_in(&archive);
}

#[test]
fn readers_go_on_while_a_writer_fails() {
    let disk = Disk::default();
    let archive = open(&disk).unwrap();
    let mut record = run(1, &[]);
    archive.put(&[moved(&mut record, vec![super::chunk(1, 1..=2000, 100)])], Duration::ZERO).unwrap();
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    for from in 0..2000 {
                        let read = archive.read(run_id(1), Sequence::new(from + 1), 1).unwrap();
                        assert!(read[0].first().get() <= from + 1);
                    }
                })
            })
            .collect();
        let mut failed = 0;
        while !readers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            disk.fail(Failure { after: 5, kind: io::ErrorKind::Other });
            let put = moved(&mut run(2 + failed, &[]), vec![super::chunk(2, 1..=2000, 100)]);
            archive.put(&[put], Duration::ZERO).unwrap_err();
            failed += 1;
        }
        assert!(failed > 0);
    });
}
