//! Data directories as a whole, with stores in them that are used.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use outflow_engine::{
    Batch, Chunk, End, Ended, Filter, Key, Record, Room, RunId, Sequence, Start, Store, StoreError, Timestamp,
};
use tempfile::TempDir;

use super::{ARCHIVE, backup, check, compact};
use crate::store::{self, Settings};

const FRAME_BYTES: usize = 200;

fn run_id(n: u64) -> RunId {
    RunId::journaled(Timestamp::from_millis(1 + n), u128::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn key(n: u64) -> Key {
    Key(Bytes::from(format!("key {n}")))
}

/// A frame that no other is like.
fn frame(run: u64, sequence: u64) -> Vec<u8> {
    let mut frame = vec![0; FRAME_BYTES];
    frame[1..5].copy_from_slice(&(FRAME_BYTES as u32 - 5).to_be_bytes());
    frame[5..13].copy_from_slice(&run.to_be_bytes());
    frame[13..21].copy_from_slice(&sequence.to_be_bytes());
    frame
}

fn frames(run: u64, sequences: std::ops::RangeInclusive<u64>) -> Record {
    let (first, last) = (Sequence::new(*sequences.start()), Sequence::new(*sequences.end()));
    let bytes: Vec<u8> = sequences.flat_map(|sequence| frame(run, sequence)).collect();
    Record::Frames(Chunk::new(first, last, [bytes.into()]))
}

fn started(n: u64) -> Record {
    Record::Started(Arc::new(Start { keys: [key(n)].into(), ..Start::default() }))
}

fn ended(seconds: u64) -> Record {
    let at = Timestamp::from_millis(1);
    Record::Ended(Ended { end: End::Complete, jobs_failed: 0, at, in_service: Duration::from_secs(seconds) })
}

/// A store with a journal so small that everything soon moves.
fn open(path: &Path) -> Arc<dyn Store> {
    let settings = Settings { journal_bytes: 1 << 20, segment_bytes: 128 << 10, ..Settings::default() };
    store::open(path, settings).unwrap()
}

fn commit(store: &dyn Store, seconds: u64, records: Vec<(u64, Record)>) {
    let records = records.into_iter().map(|(n, record)| (run_id(n), record)).collect();
    store.commit(&Batch { in_service: Duration::from_secs(seconds), records }, Room::Ordinary).unwrap();
}

/// The last sequence of each run, with whether it ended; every frame is looked at.
fn contents(store: &dyn Store) -> BTreeMap<RunId, (u64, bool)> {
    let runs = store.list(&Filter::default(), None, usize::MAX).unwrap();
    let mut contents = BTreeMap::new();
    for run in runs {
        let mut next = 1;
        while next <= run.last.get() {
            for chunk in store.read(run.id, Sequence::new(next), 1 << 20).unwrap() {
                let bytes: Vec<u8> =
                    chunk.between(Sequence::new(next), chunk.last()).into_parts().flatten().collect();
                for found in bytes.chunks(FRAME_BYTES) {
                    let (run_number, _) = found[5..].split_first_chunk::<8>().unwrap();
                    let n = u64::from_be_bytes(*run_number);
                    assert_eq!((run_id(n), found), (run.id, &frame(n, next)[..]));
                    next += 1;
                }
            }
        }
        assert_eq!(next, run.last.get() + 1);
        for key in &run.keys {
            assert_eq!(store.bound(key).unwrap(), Some(run.id));
        }
        contents.insert(run.id, (run.last.get(), run.ended.is_some()));
    }
    contents
}

struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// A directory with ended and unended runs in journal and archive, the oldest deleted.
fn filled(path: &Path) -> BTreeMap<RunId, (u64, bool)> {
    let store = open(path);
    for n in 0..40 {
        let records = [(n, started(n)), (n, frames(n, 1..=50)), (n, frames(n, 51..=n + 100)), (n, ended(n))];
        let kept = if n % 4 == 0 { 3 } else { 4 };
        commit(&*store, n, records[..kept].to_vec());
    }
    commit(&*store, 40, (1..4).map(|n| (n, Record::Deleted)).collect());
    contents(&*store)
}

#[test]
fn a_backup_made_under_load_has_all_that_was_durable_before() {
    let place = Place::new();
    let path = place.path("data");
    let store = open(&path);
    let (is_done, durable) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            // Run 0 goes on for ever; each step a run begins, the one before ends, and an old one is deleted.
            commit(&*store, 0, vec![(0, started(0)), (1, started(1))]);
            for step in 1..20_000 {
                if is_done.load(Ordering::Acquire) {
                    return;
                }
                let mut records = vec![
                    (0, frames(0, step * 10 - 9..=step * 10)),
                    (step, frames(step, 1..=30)),
                    (step, ended(step)),
                    (step + 1, started(step + 1)),
                ];
                if step > 100 {
                    records.push((step - 100, Record::Deleted));
                }
                commit(&*store, step, records);
                durable.store(step, Ordering::Release);
            }
        });
        for n in 0..6 {
            let target = place.path(&format!("backup {n}"));
            let wanted = durable.load(Ordering::Acquire) + 40;
            while durable.load(Ordering::Acquire) < wanted {
                thread::yield_now();
            }
            let before = durable.load(Ordering::Acquire);
            backup(&path, &target).unwrap();
            let after = durable.load(Ordering::Acquire) + 1;

            let copy = open(&target);
            let found = contents(&*copy);
            let step = found[&run_id(0)].0 / 10;
            assert!((before..=after).contains(&step), "{step} of {before} to {after}");
            let mut expected: BTreeMap<_, _> =
                (1.max(step.saturating_sub(99))..=step).map(|n| (run_id(n), (30, true))).collect();
            expected.insert(run_id(0), (step * 10, false));
            expected.insert(run_id(step + 1), (0, false));
            assert_eq!(found, expected, "it is one moment, between two commits");
            assert_eq!(copy.in_service(), Duration::from_secs(step));
            assert_eq!(copy.unended().unwrap().len(), 2);
            // And it goes on from there.
            commit(&*copy, step + 1, vec![(0, frames(0, step * 10 + 1..=step * 10 + 5))]);
            assert_eq!(contents(&*copy)[&run_id(0)].0, step * 10 + 5);
            drop(copy);
            assert_eq!(check(&target, &mut |finding| panic!("{finding}")).unwrap().runs, found.len() as u64);
        }
        is_done.store(true, Ordering::Release);
    });
}

#[test]
fn a_backup_is_made_where_no_server_is() {
    let place = Place::new();
    let (path, target) = (place.path("data"), place.path("target"));
    let expected = filled(&path);
    backup(&path, &target).unwrap();
    assert_eq!(contents(&*open(&target)), expected);
    assert_eq!(contents(&*open(&path)), expected);
}

#[test]
fn a_backup_that_cannot_be_made_leaves_nothing() {
    let place = Place::new();
    let path = place.path("data");
    filled(&path);
    let store = open(&path);
    fs::create_dir(place.path("cut short.partial")).unwrap();
    let names = || fs::read_dir(place.folder.path()).unwrap().count();
    let before = names();
    for (from, target, said) in [
        (&path, path.clone(), "is there already"),
        (&path, place.path("none/target"), "cannot make"),
        (&path, place.path("cut short"), "then remove it"),
        (&place.path("other"), place.path("target"), "is no data directory"),
    ] {
        let error = backup(from, &target).unwrap_err();
        assert!(matches!(&error, StoreError::Failed(what) if what.contains(said)), "{error}");
    }
    assert_eq!(names(), before);
    drop(store);
}

#[test]
fn what_is_used_is_left_alone() {
    let place = Place::new();
    let path = place.path("data");
    filled(&path);
    let store = open(&path);
    for error in [check(&path, &mut |_| {}).unwrap_err(), compact(&path).unwrap_err()] {
        let process = std::process::id().to_string();
        assert!(
            matches!(&error, StoreError::Failed(what) if what.contains("in use") && what.contains(&process)),
            "{error}"
        );
    }
    drop(store);
    let other = place.path("other");
    fs::create_dir(&other).unwrap();
    let error = check(&other, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("is no data directory"), "{error}");
    assert_eq!(fs::read_dir(&other).unwrap().count(), 0, "and is not made one");
}

#[test]
fn a_check_finds_nothing_where_all_is_well() {
    let place = Place::new();
    let path = place.path("data");
    let expected = filled(&path);
    for _ in 0..2 {
        let checked = check(&path, &mut |finding| panic!("{finding}")).unwrap();
        assert_eq!(checked.runs, expected.len() as u64);
    }
    assert_eq!(contents(&*open(&path)), expected, "and changes nothing");
}

#[test]
fn a_check_counts_what_is_kept_wherever_it_lies() {
    let place = Place::new();
    let (path, target) = (place.path("data"), place.path("target"));
    let responses: u64 = filled(&path).values().map(|(last, _)| last).sum();
    let store = open(&path);
    let head = Record::HeadDropped(Sequence::new(11));
    // Others lie between its frames.
    for n in [50, 51] {
        commit(&*store, 50, vec![(n, started(n)), (n, frames(n, 1..=4))]);
    }
    for first in [5, 15, 25] {
        let both = [50, 51].map(|n| (n, frames(n, first..=first + 9)));
        commit(&*store, 51, both.to_vec());
    }
    commit(&*store, 52, vec![(50, head)]);
    drop(store);
    let bytes = (responses + 24 + 34) * FRAME_BYTES as u64;
    backup(&path, &target).unwrap();
    // In the journal what there is of it, and in a backup all is in the archive.
    for path in [&path, &target] {
        assert_eq!(check(path, &mut |finding| panic!("{finding}")).unwrap().bytes, bytes, "{}", path.display());
    }
}

/// Changes a byte of a frame, wherever it lies in these files; says in how many.
fn damage(path: &Path, bytes: &[u8], is_wanted: impl Fn(&str) -> bool) -> usize {
    let mut files = 0;
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_file() || !is_wanted(path.file_name().unwrap().to_str().unwrap()) {
            continue;
        }
        let mut image = fs::read(&path).unwrap();
        let found: Vec<usize> =
            image.windows(bytes.len()).enumerate().filter(|(_, window)| *window == bytes).map(|(at, _)| at).collect();
        files += usize::from(!found.is_empty());
        for at in found {
            image[at + 5] ^= 0xff;
        }
        fs::write(path, image).unwrap();
    }
    files
}

#[test]
fn a_check_names_what_is_damaged_in_archive_and_journal() {
    let place = Place::new();
    let path = place.path("data");
    filled(&path);
    let mut found = Vec::new();
    // The first run has long been in the archive, the last is in the journal only.
    assert_eq!(damage(&path, &frame(0, 3), |name| name == ARCHIVE), 1);
    assert_eq!(damage(&path, &frame(39, 3), |name| name != ARCHIVE), 1);
    check(&path, &mut |finding| found.push(finding.to_owned())).unwrap();
    for n in [0, 39] {
        assert!(found.iter().any(|finding| finding.contains(&run_id(n).to_string())), "{n} in {found:?}");
    }
    for n in [4, 5, 38] {
        assert!(!found.iter().any(|finding| finding.contains(&run_id(n).to_string())), "{n} in {found:?}");
    }
}

#[test]
fn a_backup_has_what_follows_lost_responses() {
    let place = Place::new();
    let (path, target) = (place.path("data"), place.path("target"));
    let store = open(&path);
    commit(&*store, 1, vec![(1, started(1)), (1, frames(1, 1..=50))]);
    // Others lie between, so that the three are not read as one.
    for (n, sequences) in [(2, 51..=60), (3, 61..=90)] {
        commit(&*store, n, vec![(n, started(n)), (n, frames(n, 1..=50)), (1, frames(1, sequences))]);
    }
    drop(store);
    assert_eq!(damage(&path, &frame(1, 55), |name| name != ARCHIVE), 1);
    backup(&path, &target).unwrap();
    let copy = open(&target);
    assert!(matches!(copy.read(run_id(1), Sequence::new(55), 1), Err(StoreError::Damaged(_))));
    let (mut next, mut bytes) = (61, Vec::new());
    while next <= 90 {
        for chunk in copy.read(run_id(1), Sequence::new(next), 1 << 20).unwrap() {
            chunk
                .between(Sequence::new(next), chunk.last())
                .into_parts()
                .for_each(|part| bytes.extend_from_slice(&part));
            next = chunk.last().get() + 1;
        }
    }
    assert_eq!(bytes, (61..=90).flat_map(|sequence| frame(1, sequence)).collect::<Vec<u8>>());
}

#[test]
fn a_check_names_a_page_that_only_redb_knows() {
    let place = Place::new();
    let path = place.path("data");
    filled(&path);
    // The name of a table, which none of our rows has.
    assert_eq!(damage(&path, b"[u8;32]", |name| name == ARCHIVE), 1);
    let mut found = Vec::new();
    let checked = check(&path, &mut |finding| found.push(finding.to_owned()));
    assert!(checked.is_err() || !found.is_empty());
}

#[test]
fn a_compact_directory_takes_less_and_has_the_same() {
    let place = Place::new();
    let path = place.path("data");
    let store = open(&path);
    for n in 0..200 {
        commit(&*store, n, vec![(n, started(n)), (n, frames(n, 1..=500)), (n, ended(n))]);
    }
    for n in 10..200 {
        commit(&*store, n, vec![(n, Record::Deleted)]);
    }
    // Until the archive has deleted them.
    while store.bytes() > 10 * 1_000_000 {
        thread::yield_now();
    }
    let expected = contents(&*store);
    drop(store);
    let (before, after) = compact(&path).unwrap();
    assert!(after < before, "{after} of {before}");
    assert_eq!(contents(&*open(&path)), expected);
}
