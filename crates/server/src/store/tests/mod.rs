//! What every store keeps to, and what only one in a directory can: that it is there again after it was opened anew.

mod aftermath;
mod bounds;
mod crashes;
mod damage;
mod disk;
mod figures;
mod fixture;
mod load;
mod model;
mod opening;

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use outflow_engine::{
    Batch, Chunk, End, Ended, Filter, JobIndex, Key, MemoryStore, Record, Room, RunId, Sequence, Start, Store,
    StoreError, Timestamp,
};
use tempfile::TempDir;

use super::{Settings, open};

/// Segments so small that runs move to the archive while the test goes on.
const SMALL: Settings =
    Settings { journal_bytes: 8 * 64 * 1024, segment_bytes: 64 * 1024, index_bytes: 96 << 20, bytes_max: 1 << 30 };

fn id(n: u64) -> RunId {
    RunId::journaled(Timestamp::from_millis(n), u128::from(n) << 64 | 7)
}

fn key(text: &str) -> Key {
    Key(Bytes::copy_from_slice(text.as_bytes()))
}

/// Frames as they go on the wire: a prefix, and a message that here is only padding.
fn frames(first: u64, count: u64, payload: usize) -> Chunk {
    let mut bytes = Vec::new();
    for n in first..first + count {
        bytes.push(0);
        bytes.extend_from_slice(&(payload as u32).to_be_bytes());
        bytes.extend(std::iter::repeat_n(n as u8, payload));
    }
    Chunk::new(Sequence::new(first), Sequence::new(first + count - 1), [bytes.into()])
}

fn start(keys: &[&str]) -> Record {
    Record::Started(Arc::new(Start {
        source: "test".into(),
        id: 7,
        parameters: [("a", "b")].into_iter().collect(),
        keys: keys.iter().map(|text| key(text)).collect(),
        jobs: 2,
        linger: Duration::from_secs(3),
        ..Start::default()
    }))
}

fn ended(seconds: u64) -> Record {
    let in_service = Duration::from_secs(seconds);
    Record::Ended(Ended { end: End::Complete, jobs_failed: 0, at: Timestamp::from_millis(9), in_service })
}

fn commit(store: &dyn Store, seconds: u64, records: impl IntoIterator<Item = (RunId, Record)>) {
    let batch = Batch { in_service: Duration::from_secs(seconds), records: records.into_iter().collect() };
    store.commit(&batch, Room::Ordinary).unwrap();
}

/// The bytes of a run's frames from a sequence on, and the last sequence.
fn read_all(store: &dyn Store, run: RunId, from: u64) -> (Vec<u8>, u64) {
    let (mut bytes, mut next) = (Vec::new(), from);
    loop {
        let chunks = store.read(run, Sequence::new(next), 10_000).unwrap();
        if chunks.is_empty() {
            return (bytes, next - 1);
        }
        for chunk in chunks {
            assert!(chunk.first().get() <= next && next <= chunk.last().get(), "{chunk:?} does not begin at {next}");
            let chunk = chunk.between(Sequence::new(next), chunk.last());
            chunk.parts().iter().for_each(|part| bytes.extend_from_slice(part));
            next = chunk.last().get() + 1;
        }
    }
}

fn expected(first: u64, last: u64, payload: usize) -> Vec<u8> {
    if last < first { Vec::new() } else { frames(first, last - first + 1, payload).parts().concat() }
}

/// What every store keeps to; `again` gives the store as it is when it is needed next.
fn store_contract(mut again: impl FnMut() -> Arc<dyn Store>) {
    let store = again();
    assert!(store.find(id(1)).unwrap().is_none() && store.unended().unwrap().is_empty());
    commit(&*store, 1, [(id(1), start(&["one", "both"])), (id(1), Record::Frames(frames(1, 3, 20)))]);
    commit(
        &*store,
        2,
        [
            (id(2), start(&["two", "both"])),
            (id(2), Record::JobStarted(JobIndex::new(0))),
            (id(1), Record::Frames(frames(4, 2, 20))),
            (id(1), Record::JobEnded(JobIndex::new(1), None)),
            (id(2), Record::KeyBound(key("late"))),
            (id(2), Record::LingerRaised(Duration::from_secs(9))),
        ],
    );
    drop(store);
    let store = again();
    let one = store.find(id(1)).unwrap().unwrap();
    assert_eq!((one.last.get(), one.jobs.ended.len(), one.start.jobs), (5, 1, 2));
    assert!(one.start.parameters.iter().eq([("a", "b")]));
    let two = store.find(id(2)).unwrap().unwrap();
    assert_eq!((two.last.get(), two.linger, two.jobs.started.len()), (0, Duration::from_secs(9), 1));
    assert_eq!(store.unended().unwrap().iter().map(|run| run.id).collect::<Vec<_>>(), [id(1), id(2)]);
    for (text, bound) in [("one", Some(1)), ("two", Some(2)), ("both", Some(2)), ("late", Some(2)), ("none", None)] {
        assert_eq!(store.bound(&key(text)).unwrap(), bound.map(id), "{text}");
    }
    for from in 1..=5 {
        assert_eq!(read_all(&*store, id(1), from), (expected(from, 5, 20), 5));
    }
    assert!(store.read(id(1), Sequence::new(6), 100).unwrap().is_empty(), "beyond the tail there is nothing");
    assert!(store.in_service() >= Duration::from_secs(2));

    commit(&*store, 3, [(id(2), ended(3))]);
    commit(&*store, 4, [(id(1), ended(4)), (id(3), start(&[]))]);
    drop(store);
    let store = again();
    let list = |filter: &Filter, before, max| -> Vec<RunId> {
        store.list(filter, before, max).unwrap().into_iter().map(|run| run.id).collect()
    };
    let all = Filter::default();
    assert_eq!(list(&all, None, 9), [id(3), id(2), id(1)]);
    assert_eq!(list(&all, Some(id(3)), 1), [id(2)]);
    assert_eq!(list(&Filter { ended: Some(true), ..all.clone() }, None, 9), [id(2), id(1)]);
    assert!(list(&Filter { source: Some("other".into()), ..all.clone() }, None, 9).is_empty());
    let first = store.ended_first(None, 9).unwrap();
    assert_eq!(first.iter().map(|run| run.id).collect::<Vec<_>>(), [id(2), id(1)]);
    let behind = Some((Duration::from_secs(3), id(2)));
    assert_eq!(store.ended_first(behind, 9).unwrap().len(), 1);

    commit(&*store, 5, [(id(2), Record::Deleted)]);
    assert!(store.find(id(2)).unwrap().is_none());
    drop(store);
    let store = again();
    assert!(store.find(id(2)).unwrap().is_none() && store.read(id(2), Sequence::FIRST, 9).unwrap().is_empty());
    for text in ["two", "both", "late"] {
        assert_eq!(store.bound(&key(text)).unwrap(), None, "{text} was bound to the run that was deleted");
    }
    assert_eq!(store.bound(&key("one")).unwrap(), Some(id(1)));
    assert_eq!(store.ended_first(None, 9).unwrap().len(), 1);
    commit(&*store, 6, [(id(3), Record::Frames(frames(1, 9, 50))), (id(3), Record::HeadDropped(Sequence::new(4)))]);
    assert!(store.read(id(3), Sequence::new(3), 9).unwrap().is_empty());
    assert_eq!(read_all(&*store, id(3), 4), (expected(4, 9, 50), 9));
}

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("data")
    }

    fn open(&self) -> Arc<dyn Store> {
        open(&self.path(), SMALL).unwrap()
    }
}

#[test]
fn a_store_in_memory_keeps_to_it() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(1 << 20));
    store_contract(|| store.clone());
}

#[test]
fn a_store_in_a_directory_keeps_to_it() {
    let folder = Folder::new();
    let store = folder.open();
    store_contract(|| store.clone());
}

#[test]
fn a_store_that_is_opened_anew_each_time_keeps_to_it() {
    let folder = Folder::new();
    store_contract(|| folder.open());
}

#[test]
fn what_leaves_the_journal_is_in_the_archive_and_nothing_is_lost_or_seen_twice() {
    let folder = Folder::new();
    let mut store = folder.open();
    let runs = 40;
    let mut last = vec![0; runs as usize];
    for n in 0..runs {
        commit(&*store, 1, [(id(n + 1), start(&[&format!("key {n}")]))]);
    }
    // Several times what the journal holds, so that it has to move, and be used again.
    for round in 0..60_u64 {
        let batch = (0..runs).filter(|n| (n + round) % 3 > 0 && *n < runs - round / 4).map(|n| {
            let first = last[n as usize] + 1;
            last[n as usize] += 5;
            (id(n + 1), Record::Frames(frames(first, 5, 200)))
        });
        let batch: Vec<_> = batch.collect();
        commit(&*store, 2 + round, batch);
        if round % 20 == 19 {
            drop(store);
            store = folder.open();
        }
        if round % 4 == 3 {
            commit(&*store, 2 + round, [(id(runs - round / 4), ended(2 + round))]);
        }
        for n in [round % runs, (round * 7) % runs] {
            let from = last[n as usize] / 2 + 1;
            let all = (expected(from, last[n as usize], 200), last[n as usize].max(from - 1));
            assert_eq!(read_all(&*store, id(n + 1), from), all, "run {n} in round {round}");
        }
    }
    drop(store);
    let store = folder.open();
    for n in 0..runs {
        let record = store.find(id(n + 1)).unwrap().unwrap();
        assert_eq!(record.last.get(), last[n as usize]);
        assert_eq!(read_all(&*store, id(n + 1), 1), (expected(1, last[n as usize], 200), last[n as usize]));
        assert_eq!(store.bound(&key(&format!("key {n}"))).unwrap(), Some(id(n + 1)));
    }
    assert_eq!(store.list(&Filter::default(), None, 1_000).unwrap().len(), runs as usize);
    let ended = store.ended_first(None, 1_000).unwrap().len();
    assert_eq!(ended + store.unended().unwrap().len(), runs as usize);
    let journal: u64 = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("live-"))
        .map(|entry| entry.metadata().unwrap().len())
        .sum();
    assert!(journal <= SMALL.journal_bytes, "{journal} bytes");
}

fn refusal(path: &std::path::Path) -> String {
    match open(path, SMALL) {
        Ok(_) => panic!("it was opened"),
        Err(StoreError::Failed(message) | StoreError::Damaged(message) | StoreError::Full(message)) => message,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_directory_that_is_not_ours_is_left_alone() {
    let folder = Folder::new();
    fs::create_dir(folder.path()).unwrap();
    fs::write(folder.path().join("letter.txt"), "dear").unwrap();
    assert!(refusal(&folder.path()).contains("is not empty and no data directory"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing was written there");
}

#[test]
fn a_directory_in_use_names_the_process_that_uses_it() {
    let folder = Folder::new();
    let store = folder.open();
    let message = refusal(&folder.path());
    assert!(message.contains("in use") && message.contains(&std::process::id().to_string()), "{message}");
    drop(store);
    folder.open();
}

#[test]
fn a_directory_of_a_newer_format_is_refused() {
    let folder = Folder::new();
    drop(folder.open());
    let marker = folder.path().join("outflow");
    let mut bytes = fs::read(&marker).unwrap();
    bytes[8] = 2;
    let crc = crc32c::crc32c(&bytes[..32]);
    bytes[32..36].copy_from_slice(&crc.to_le_bytes());
    fs::write(&marker, bytes).unwrap();
    assert!(refusal(&folder.path()).contains("is of format 2"));
}

#[test]
fn a_place_where_no_directory_can_be_is_said() {
    let folder = Folder::new();
    fs::write(folder.path(), "a file").unwrap();
    assert!(refusal(&folder.path()).contains("name another one with --data"));
}

#[test]
fn one_damaged_place_costs_its_readers_and_nobody_else() {
    let folder = Folder::new();
    let store = folder.open();
    commit(&*store, 1, [(id(1), start(&[])), (id(1), Record::Frames(frames(1, 10, 100)))]);
    commit(&*store, 2, [(id(2), start(&[])), (id(2), Record::Frames(frames(1, 10, 100)))]);
    commit(&*store, 3, [(id(1), Record::Frames(frames(11, 10, 100)))]);
    drop(store);
    // The first frame of the second run, by what its payloads are.
    let (path, mut bytes, at) = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "journal"))
        .find_map(|path| {
            let bytes = fs::read(&path).unwrap();
            let mut found = bytes.windows(100).enumerate().filter(|(_, window)| window.iter().all(|byte| *byte == 5));
            let at = found.by_ref().map(|(at, _)| at).nth(1)?;
            Some((path, bytes, at))
        })
        .unwrap();
    bytes[at] ^= 0xff;
    fs::write(path, bytes).unwrap();
    let store = folder.open();
    assert_eq!(read_all(&*store, id(1), 1), (expected(1, 20, 100), 20));
    let damaged = store.read(id(2), Sequence::FIRST, 1_000);
    assert!(matches!(damaged, Err(StoreError::Damaged(_))), "{damaged:?}");
    commit(&*store, 4, [(id(2), Record::Frames(frames(11, 2, 100)))]);
    assert_eq!(read_all(&*store, id(2), 11), (expected(11, 12, 100), 12));
}

#[test]
fn a_torn_tail_is_cut_and_what_was_answered_is_there() {
    let folder = Folder::new();
    let store = folder.open();
    commit(&*store, 1, [(id(1), start(&["k"])), (id(1), Record::Frames(frames(1, 10, 100)))]);
    drop(store);
    // What a crash may leave behind: half of a batch that was never answered.
    let segment = folder.path().join("live-000.journal");
    let mut bytes = fs::read(&segment).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    bytes.splice(end..end + 300, (0..300).map(|n| n as u8 | 1));
    fs::write(&segment, bytes).unwrap();
    for round in 0..3 {
        let store = folder.open();
        let last = 10 + round;
        assert_eq!(read_all(&*store, id(1), 1), (expected(1, last, 100), last));
        commit(&*store, 2 + round, [(id(1), Record::Frames(frames(last + 1, 1, 100)))]);
    }
}

#[test]
fn ended_runs_leave_a_quiet_journal() {
    let folder = Folder::new();
    let store = folder.open();
    for n in 1..=20 {
        commit(&*store, n, [(id(n), start(&[])), (id(n), Record::Frames(frames(1, 3, 10))), (id(n), ended(n))]);
    }
    let began = Instant::now();
    let archive = || fs::metadata(folder.path().join("archive.redb")).unwrap().modified().unwrap();
    let before = archive();
    while archive() == before {
        assert!(began.elapsed() < Duration::from_secs(30), "nothing was moved");
        #[expect(clippy::disallowed_methods, reason = "a test's thread may wait")]
        std::thread::sleep(Duration::from_millis(50));
    }
    for n in 1..=20 {
        assert_eq!(read_all(&*store, id(n), 1), (expected(1, 3, 10), 3));
    }
}
