//! What is left of the store when the machine, the disk or the process fails at any moment.
//!
//! `OUTFLOW_SEED` repeats what was seen, `OUTFLOW_ROUNDS` makes so many rounds, and `OUTFLOW_ALL_CRASHES` looks at every
//! moment of each and not only at some.

use std::{io, sync::Arc, time::Duration};

use outflow_engine::{Batch, Record, Room, RunId, Sequence, Store as _, StoreError};
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::{
    super::{
        archive::Archive,
        embedded::{Embedded, Settings, Workers},
    },
    aftermath::Crashes,
    commit,
    disk::{Disk, Failure},
    ended, frames, id, key,
    load::{Load, Model},
    start,
};

/// A journal so small that it is soon used again.
const TINY: Settings =
    Settings { journal_bytes: 5 * 32 * 1024, segment_bytes: 32 * 1024, index_bytes: 96 << 20, bytes_max: 1 << 30 };

fn seed() -> u64 {
    let seed = std::env::var("OUTFLOW_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| rand::rng().next_u64());
    println!("OUTFLOW_SEED={seed}");
    seed
}

fn rounds(few: u64) -> u64 {
    std::env::var("OUTFLOW_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(few)
}

fn open(disk: &Disk, workers: Workers) -> Result<Embedded, StoreError> {
    let archive = |name: &str| {
        let backing = disk.backing(name).map_err(|error| StoreError::Failed(error.to_string()))?;
        Archive::open_on(name.to_owned(), backing)
    };
    Embedded::open(Arc::new(disk.clone()), archive, TINY, workers)
}

/// Moves what has to, as much at once as usual or so little that runs are moved in parts.
fn work_off(store: &Embedded, is_quiet: bool, random: &mut SmallRng) -> Result<(), StoreError> {
    store.shared().work.lock().share = [1, 64, 4_096][random.random_range(0..3)];
    store.shared().work_off(is_quiet)
}

/// What was answered, with how many operations had been done on the disk by then.
struct Answered {
    operations: usize,
    /// What must be there.
    model: Model,
    /// What may be there instead: batches that were tried since, and not answered or refused.
    tried: Vec<Model>,
}

/// A store under a load, and what it answered.
struct Life {
    disk: Disk,
    load: Load,
    model: Model,
    answered: Vec<Answered>,
}

impl Life {
    fn new(seed: u64) -> Self {
        let mut life = Self {
            disk: Disk::default(),
            load: Load::new(SmallRng::seed_from_u64(seed)),
            model: Model::default(),
            answered: Vec::new(),
        };
        life.answer();
        life
    }

    fn answer(&mut self) {
        let (operations, model) = (self.disk.operations_count(), self.model.clone());
        self.answered.push(Answered { operations, model, tried: Vec::new() });
    }

    /// Commits something; says whether it was answered.
    fn commit(&mut self, store: &Embedded) -> Result<(), StoreError> {
        let batch = self.load.batch(&self.model);
        let mut after = self.model.clone();
        after.add(&batch);
        self.answered.last_mut().expect("the first is there").tried.push(after.clone());
        store.commit(&batch, Room::Ordinary)?;
        self.model = after;
        self.answer();
        Ok(())
    }

    /// Commits something, and moves where there is no room.
    fn must_commit(&mut self, store: &Embedded) {
        for _ in 0..3 {
            match self.commit(store) {
                Ok(()) => return,
                Err(StoreError::Full(_)) => store.shared().work_off(true).unwrap(),
                Err(error) => panic!("{error}"),
            }
        }
        panic!("the journal stays full");
    }

    /// Whether a store that was opened after so many operations holds what it must.
    fn check(&self, store: &Embedded, operations: usize, what: &str) -> Model {
        let at = self.answered.iter().rposition(|answered| answered.operations <= operations).expect("the first");
        let Answered { model, tried, .. } = &self.answered[at];
        let mut differences = Vec::new();
        for model in std::iter::once(model).chain(tried) {
            match model.differs(store) {
                Ok(None) => return model.clone(),
                Ok(Some(difference)) => differences.push(difference),
                Err(error) => differences.push(error.to_string()),
            }
        }
        panic!("{what}: answer {at} is not there:\n{}", differences.join("\n\nnor the next one:\n"));
    }
}

fn is_every_moment() -> bool {
    std::env::var_os("OUTFLOW_ALL_CRASHES").is_some()
}

/// Opens what a crash after each operation leaves, and goes on from there.
fn crash_everywhere(life: &Life, random: &mut SmallRng, moments_max: usize) {
    let count = life.disk.operations_count();
    let chance = if is_every_moment() { 1.0 } else { (moments_max as f64 / count as f64).min(1.0) };
    let mut crashes = Crashes::of(&life.disk);
    let mut operations = 0;
    while crashes.advance() {
        operations += 1;
        if !random.random_bool(chance) {
            continue;
        }
        let disk = crashes.crash(random);
        let what = format!("a crash after {operations} of {count} operations");
        let store = open(&disk, Workers::Caller).unwrap_or_else(|error| panic!("{what}: {error}"));
        let mut model = life.check(&store, operations, &what);
        if random.random_bool(0.3) {
            // It goes on from there, and what it then answers it has after the next crash, too.
            let mut next = Life::new(random.next_u64());
            next.load.follow(&life.load);
            (next.disk, next.model) = (disk.clone(), model.clone());
            for _ in 0..3 {
                next.must_commit(&store);
            }
            store.shared().work_off(true).unwrap();
            model = next.model;
            drop(store);
            let mut crashes = Crashes::of(&disk);
            while crashes.advance() {}
            let store = open(&crashes.crash(random), Workers::Caller).unwrap();
            let difference = model.differs(&store).unwrap();
            assert_eq!(difference, None, "{what}, and one more after three commits");
        }
    }
}

#[test]
fn a_crash_at_any_moment_loses_nothing_that_was_answered_and_invents_nothing() {
    let seed = seed();
    for round in 0..rounds(6) {
        println!("round {round}");
        let mut random = SmallRng::seed_from_u64(seed.wrapping_add(round));
        let mut life = Life::new(random.next_u64());
        let mut store = open(&life.disk, Workers::Caller).unwrap();
        for _ in 0..120 {
            life.must_commit(&store);
            match random.random_range(0..12) {
                0 => work_off(&store, true, &mut random).unwrap(),
                1 | 2 => work_off(&store, false, &mut random).unwrap(),
                3 => {
                    drop(store);
                    store = open(&life.disk, Workers::Caller).unwrap();
                }
                _ => {}
            }
        }
        assert_eq!(life.model.differs(&store).unwrap(), None);
        drop(store);
        crash_everywhere(&life, &mut random, 250);
    }
}

#[test]
fn after_writes_and_syncs_that_failed_it_goes_on_and_a_crash_loses_nothing() {
    let seed = seed();
    for round in 0..rounds(6) {
        println!("round {round}");
        let mut random = SmallRng::seed_from_u64(seed.wrapping_add(round));
        let mut life = Life::new(random.next_u64());
        let mut store = open(&life.disk, Workers::Caller).unwrap();
        for _ in 0..120 {
            if random.random_bool(0.3) {
                let kind = [io::ErrorKind::Other, io::ErrorKind::StorageFull][random.random_range(0..2)];
                let (after, times) = (random.random_range(0..12), [1, 1, 3, 20][random.random_range(0..4)]);
                life.disk.fail(Failure { after, times, kind });
            }
            let committed = life.commit(&store);
            if random.random_bool(0.3) {
                let is_quiet = random.random_bool(0.5);
                _ = work_off(&store, is_quiet, &mut random);
            }
            let is_killed = random.random_bool(0.1);
            life.disk.heal();
            if committed.is_err() {
                // Readers see what was answered, and nothing else.
                assert_eq!(life.model.differs(&store).unwrap(), None);
            }
            if is_killed {
                // What was tried and not answered may be there, and then it was shown.
                drop(store);
                store = open(&life.disk, Workers::Caller).unwrap();
                life.model = life.check(&store, usize::MAX, "killed");
                life.answer();
            }
        }
        life.must_commit(&store);
        assert_eq!(life.model.differs(&store).unwrap(), None);
        drop(store);
        crash_everywhere(&life, &mut random, 250);
    }
}

#[test]
fn a_full_disk_is_told_and_what_was_answered_stays() {
    let seed = seed();
    for round in 0..rounds(4) {
        println!("round {round}");
        let mut random = SmallRng::seed_from_u64(seed.wrapping_add(round));
        let mut life = Life::new(random.next_u64());
        let mut store = open(&life.disk, Workers::Caller).unwrap();
        for _ in 0..6 {
            life.disk.fill_up(random.random_range(0..200_000));
            let mut refused = 0;
            for _ in 0..30 {
                match life.commit(&store) {
                    Ok(()) => {}
                    Err(StoreError::Full(_)) => {
                        refused += 1;
                        _ = work_off(&store, true, &mut random);
                    }
                    Err(error) => panic!("{error}"),
                }
                assert_eq!(life.model.differs(&store).unwrap(), None);
            }
            println!("{refused} of 30 refused");
            if random.random_bool(0.5) {
                drop(store);
                store = open(&life.disk, Workers::Caller).unwrap();
                life.model = life.check(&store, usize::MAX, "opened on a full disk");
                life.answer();
            }
            life.disk.has_room();
            life.must_commit(&store);
        }
        drop(store);
        crash_everywhere(&life, &mut random, 100);
    }
}

#[test]
fn with_its_threads_too_a_crash_loses_nothing_that_was_answered() {
    let seed = seed();
    for round in 0..rounds(2) {
        println!("round {round}");
        let mut random = SmallRng::seed_from_u64(seed.wrapping_add(round));
        let mut life = Life::new(random.next_u64());
        let store = open(&life.disk, Workers::Threads).unwrap();
        for _ in 0..200 {
            life.commit(&store).unwrap();
        }
        assert_eq!(life.model.differs(&store).unwrap(), None);
        drop(store);
        crash_everywhere(&life, &mut random, 200);
    }
}

#[test]
fn what_a_failed_commit_leaves_is_at_no_moment_taken_for_damage() {
    let seed = seed();
    let mut random = SmallRng::seed_from_u64(seed);
    for after in 0.. {
        let disk = Disk::default();
        let store = open(&disk, Workers::Caller).unwrap();
        commit(&store, 1, [(id(1), start(&[])), (id(1), Record::Frames(frames(1, 1, 20_000)))]);
        // It takes three segments, of which any operation fails.
        let parts = (0..3).map(|n| (id(1), Record::Frames(frames(2 + n, 1, 25_000)))).collect();
        let batch = Batch { in_service: Duration::from_secs(2), records: parts };
        disk.fail(Failure { after, times: 1, kind: io::ErrorKind::Other });
        let committed = store.commit(&batch, Room::Ordinary);
        if disk.heal() {
            // It fails nowhere later.
            assert!(committed.is_ok() && after > 10);
            break;
        }
        if !committed.unwrap_err().to_string().contains("committing") {
            continue;
        }
        let failed_at = disk.operations_count();
        // Segments are prepared, which takes those of it.
        for n in 0..5 {
            if store.commit(&Batch { records: large(2 + n), ..batch.clone() }, Room::Ordinary).is_err() {
                store.shared().work_off(false).unwrap();
                store.commit(&Batch { records: large(2 + n), ..batch.clone() }, Room::Ordinary).unwrap();
            }
        }
        drop(store);
        let mut crashes = Crashes::of(&disk);
        let mut operations = 0;
        while crashes.advance() {
            operations += 1;
            if operations < failed_at {
                continue;
            }
            let store = open(&crashes.crash(&mut random), Workers::Caller).unwrap();
            let found = store.find(id(1)).unwrap();
            let end = found.and_then(|run| run.ended);
            assert_eq!(end, None, "operation {after} failed, a crash after {operations}");
        }
    }
}

/// Frames of a run that fill most of a segment.
fn large(first: u64) -> Vec<(RunId, Record)> {
    vec![(id(1), Record::Frames(frames(first, 1, 25_000)))]
}

#[test]
fn a_segment_that_failed_and_is_needed_no_more_is_at_no_moment_missed() {
    let disk = Disk::default();
    let archive = |name: &str| Archive::open_on(name.to_owned(), disk.backing(name).unwrap());
    let settings = Settings { journal_bytes: 4 * 32 * 1024, ..TINY };
    let store = Embedded::open(Arc::new(disk.clone()), archive, settings, Workers::Caller).unwrap();
    commit(&store, 1, [(id(1), start(&[])), (id(1), Record::Frames(frames(1, 1, 20_000)))]);
    disk.fail(Failure { after: 0, times: 1, kind: io::ErrorKind::Other });
    let more = Record::Frames(frames(2, 1, 5_000));
    store.commit(&Batch { records: vec![(id(1), more)], ..Batch::default() }, Room::Ordinary).unwrap_err();
    let large = |first| Record::Frames(frames(first, 1, 25_000));
    commit(&store, 2, [(id(2), start(&[])), (id(2), large(1))]);
    commit(&store, 3, [(id(2), large(2))]);
    let batch = Batch { in_service: Duration::from_secs(4), records: vec![(id(2), large(3))] };
    store.commit(&batch, Room::Ordinary).unwrap_err();
    // All there are are in use, or ready, but for the one that failed.
    let before = disk.operations_count();
    store.shared().work_off(false).unwrap();
    store.commit(&batch, Room::Ordinary).unwrap();
    let mut random = SmallRng::seed_from_u64(seed());
    for _ in 0..5 {
        let (mut crashes, mut operations) = (Crashes::of(&disk), 0);
        while crashes.advance() {
            operations += 1;
            if operations < before {
                continue;
            }
            let store = open(&crashes.crash(&mut random), Workers::Caller).unwrap();
            for n in [1, 2] {
                let end = store.find(id(n)).unwrap().unwrap().ended;
                assert_eq!(end, None, "run {n}, a crash after {operations}");
            }
        }
    }
}

#[test]
fn what_was_deleted_counts_no_more_before_the_archive_has_deleted_it() {
    let store = open(&Disk::default(), Workers::Caller).unwrap();
    let empty = store.bytes();
    for n in 1..=20 {
        let head = Record::HeadDropped(Sequence::new(9));
        commit(
            &store,
            n,
            [(id(n), start(&[])), (id(n), Record::Frames(frames(1, 10, 500))), (id(n), head), (id(n), ended(n))],
        );
    }
    store.shared().work_off(true).unwrap();
    let before = store.bytes();
    commit(&store, 21, (1..=10).map(|n| (id(n), Record::Deleted)));
    let (after, half) = (store.bytes() - empty, (before - empty) / 2);
    assert!(after.abs_diff(half) < half / 10, "{after} are left, and {half} is half of what there was");
    store.shared().work_off(true).unwrap();
    assert_eq!(store.bytes() - empty, after);
}

#[test]
fn a_key_that_is_bound_to_a_run_in_the_archive_is_bound() {
    let disk = Disk::default();
    let store = open(&disk, Workers::Caller).unwrap();
    commit(&store, 1, [(id(1), start(&[])), (id(1), ended(1))]);
    store.shared().work_off(true).unwrap();
    commit(&store, 2, [(id(1), Record::KeyBound(key("late")))]);
    assert_eq!(store.bound(&key("late")).unwrap(), Some(id(1)));
    drop(store);
    let store = open(&disk, Workers::Caller).unwrap();
    assert_eq!(store.bound(&key("late")).unwrap(), Some(id(1)));
    store.shared().work_off(true).unwrap();
    assert_eq!(store.bound(&key("late")).unwrap(), Some(id(1)));
    assert_eq!(store.find(id(1)).unwrap().unwrap().keys, [key("late")]);
}
