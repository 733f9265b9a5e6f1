//! That the live journal keeps to its bounds, on the disk and in memory, whatever the runs are and whatever becomes of the
//! archive.

use std::{io, sync::Arc, time::Duration};

use outflow_engine::{Batch, Code, Filter, JobError, JobIndex, Record, Room, Sequence, Store as _, StoreError};

use super::{
    super::{
        archive::Archive,
        embedded::{Embedded, Settings, Workers},
        files::Directory,
    },
    Folder, commit,
    disk::{Disk, Failure},
    ended, expected, frames, id, key, read_all, start,
};

const SETTINGS: Settings =
    Settings { journal_bytes: 64 << 20, segment_bytes: 64 * 1024, index_bytes: 500_000, bytes_max: 1 << 30 };

/// A store whose archive lies on a disk of its own.
fn open(archive: &Disk, workers: Workers) -> Embedded {
    open_with(archive, workers, SETTINGS)
}

fn open_with(archive: &Disk, workers: Workers, settings: Settings) -> Embedded {
    let disk = Disk::default();
    let archive = |name: &str| {
        disk.backing(name).unwrap();
        Archive::open_on(name.to_owned(), archive.backing(name).unwrap())
    };
    Embedded::open(Arc::new(disk.clone()), archive, settings, workers).unwrap()
}

/// A hundred runs that begin and end.
fn small_runs(n: u64) -> Batch {
    Batch {
        in_service: Duration::from_secs(n),
        records: (n * 100..n * 100 + 100).flat_map(|n| [(id(n), start(&[])), (id(n), ended(n))]).collect(),
    }
}

#[test]
fn small_runs_that_ended_wait_for_the_archive_before_the_index_grows_beyond_its_bound() {
    let store = open(&Disk::default(), Workers::Caller);
    let mut refused = 0;
    for n in 1..60 {
        if let Err(error) = store.commit(&small_runs(n), Room::Ordinary) {
            assert!(matches!(&error, StoreError::Full(said) if said.contains("memory")), "{error}");
            refused += 1;
            // Ends and deletions are not refused.
            store.commit(&Batch { in_service: Duration::from_secs(n), records: vec![] }, Room::Reserve).unwrap();
            store.shared().work_off(false).unwrap();
            store.commit(&small_runs(n), Room::Ordinary).unwrap();
        }
        let bytes = store.shared().index.lock().memory();
        assert!(bytes < 600_000, "{bytes} bytes");
    }
    assert!(refused > 2, "{refused}");
    assert_eq!(store.list(&Filter::default(), None, 10_000).unwrap().len(), 5_900);
    // Runs without an end cannot be moved away, and nobody waits for that.
    for n in 100..200 {
        let records = (n * 100..n * 100 + 100).map(|n| (id(n), start(&[]))).collect();
        store.commit(&Batch { in_service: Duration::from_secs(n), records }, Room::Ordinary).unwrap();
        store.shared().work_off(false).unwrap();
    }
    assert!(store.shared().index.lock().memory() > 1_000_000);
}

#[test]
fn deletions_wait_for_the_archive_before_the_index_grows_beyond_its_bound() {
    let store = open(&Disk::default(), Workers::Caller);
    for n in 1..=60 {
        store.commit(&small_runs(n), Room::Ordinary).unwrap();
        store.shared().work_off(true).unwrap();
    }
    let deletions = |n: u64| Batch {
        in_service: Duration::from_secs(100),
        records: (n * 100..n * 100 + 100).map(|n| (id(n), Record::Deleted)).collect(),
    };
    let mut refused = 0;
    for n in 1..=60 {
        if let Err(error) = store.commit(&deletions(n), Room::Ordinary) {
            assert!(matches!(&error, StoreError::Full(said) if said.contains("memory")), "{error}");
            refused += 1;
            store.shared().work_off(false).unwrap();
            store.commit(&deletions(n), Room::Ordinary).unwrap();
        }
        let bytes = store.shared().index.lock().memory();
        assert!(bytes < 600_000, "{bytes} bytes");
    }
    assert!(refused > 0);
    store.shared().work_off(true).unwrap();
    assert_eq!(store.shared().index.lock().memory(), 0);
    assert!(store.list(&Filter::default(), None, 10).unwrap().is_empty());
}

/// Commits until that is refused because the archive, which fails, would have to take something; then the archive is there
/// again.
fn fill_and_heal(archive: &Disk, store: &Embedded, batch: impl Fn(u64) -> Batch) -> (String, u64) {
    archive.fail(Failure { after: 0, times: usize::MAX, kind: io::ErrorKind::Other });
    let refused = (1..1_000).find_map(|n| Some((n, store.commit(&batch(n), Room::Ordinary).err()?)));
    let (n, error) = refused.expect("that is too much");
    let StoreError::Full(said) = error else { panic!("{error}") };
    assert!(said.contains("archive.redb"), "{said}");
    store.commit(&small_runs(1_000), Room::Reserve).unwrap();
    assert!(archive.heal(), "it failed all the time");
    // Who committed tries again, and the mover does so by itself.
    let again = (0..10).find(|_| store.commit(&batch(n), Room::Ordinary).is_ok());
    assert!(again.is_some(), "the archive is used again");
    (said, n)
}

#[test]
fn an_archive_that_fails_is_told_where_memory_waits_for_it_and_is_used_again() {
    let archive = Disk::default();
    let store = open(&archive, Workers::Threads);
    let (said, n) = fill_and_heal(&archive, &store, small_runs);
    assert!(said.contains("memory"), "{said}");
    assert_eq!(store.list(&Filter::default(), None, 10_000).unwrap().len() as u64, n * 100 + 100);
}

#[test]
fn an_archive_that_fails_is_told_where_the_journal_waits_for_it_and_is_used_again() {
    let archive = Disk::default();
    let settings = Settings { journal_bytes: 8 * 64 * 1024, ..SETTINGS };
    let store = open_with(&archive, Workers::Threads, settings);
    commit(&store, 0, [(id(1), start(&[]))]);
    let (said, n) = fill_and_heal(&archive, &store, |n| Batch {
        in_service: Duration::from_secs(n),
        records: vec![(id(1), Record::Frames(frames(n, 1, 30_000)))],
    });
    assert!(said.contains("is full"), "{said}");
    assert_eq!(read_all(&store, id(1), 1), (expected(1, n, 30_000), n));
}

#[test]
fn ended_runs_that_the_archive_has_are_not_taken_up_again() {
    let folder = Folder::new();
    let open = || {
        let files = Arc::new(Directory::open(&folder.path()).unwrap());
        Embedded::open(files, |name| Archive::open(&folder.path().join(name)), SETTINGS, Workers::Caller).unwrap()
    };
    let store = open();
    for n in 1..=100 {
        let failed = Some(JobError::new(Code::Aborted, "it failed"));
        let job = |job| JobIndex::new(job);
        let jobs = [
            Record::JobStarted(job(0)),
            Record::JobEnded(job(0), failed),
            Record::LingerRaised(Duration::from_secs(7)),
            Record::LingerRaised(Duration::from_secs(9)),
            Record::Frames(frames(1, 3, 20)),
            Record::HeadDropped(Sequence::new(2)),
            Record::HeadDropped(Sequence::new(3)),
        ];
        let jobs = jobs.into_iter().map(|record| (id(n), record));
        commit(&store, n, [(id(n), start(&["key"]))].into_iter().chain(jobs).chain([(id(n), ended(n))]));
    }
    store.shared().work_off(true).unwrap();
    assert_eq!(store.shared().index.lock().memory(), 0);
    let found = store.find(id(1)).unwrap();
    drop(store);
    let store = open();
    assert_eq!(store.shared().index.lock().memory(), 0);
    assert_eq!(store.find(id(1)).unwrap(), found);
    assert_eq!(store.bound(&key("key")).unwrap(), Some(id(100)));
}

#[test]
fn a_quiet_journal_lets_go_of_what_a_large_batch_took() {
    let settings = Settings { segment_bytes: 4 << 20, ..SETTINGS };
    let store = open_with(&Disk::default(), Workers::Caller, settings);
    commit(&store, 1, [(id(1), start(&[])), (id(1), Record::Frames(frames(1, 500, 1_000)))]);
    assert!(store.shared().log.rest(), "half a megabyte");
    assert!(!store.shared().log.rest(), "that was all");
    commit(&store, 2, [(id(1), Record::Frames(frames(501, 1, 1_000)))]);
    assert!(!store.shared().log.rest(), "a small batch takes nothing worth speaking of");
    commit(&store, 3, [(id(1), Record::Frames(frames(502, 1, 1_000)))]);
    assert_eq!(read_all(&store, id(1), 1), (expected(1, 502, 1_000), 502));
}
