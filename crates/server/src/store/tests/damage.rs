//! What a damaged live journal costs: what is readable is there, what is not is said to whom it concerns and by a check, and
//! a damaged file is kept aside and never written again.

use std::{io, ops::Range, path::Path, sync::Arc};

use outflow_engine::{Chunk, End, JobIndex, Record, Sequence, Store as _, StoreError};
use rand::{SeedableRng as _, rngs::SmallRng};

use super::{
    super::{
        archive::Archive,
        data,
        embedded::{Embedded, Workers},
        files::Files as _,
    },
    Folder, SMALL,
    aftermath::Crashes,
    commit,
    disk::{Disk, Failure},
    ended, expected, frames, id, key, read_all, start,
};

const HEADER: Range<usize> = 0..52;
/// What a disk loses at once.
const PAGE_BYTES: usize = 4096;

/// A store on a simulated disk, whose work is done when it is asked for.
fn open(disk: &Disk) -> Embedded {
    let archive = |name: &str| Archive::open_on(name.to_owned(), disk.backing(name).unwrap());
    Embedded::open(Arc::new(disk.clone()), archive, SMALL, Workers::Caller).unwrap()
}

fn content(disk: &Disk, name: &str) -> Vec<u8> {
    let file = disk.open(name).unwrap();
    let mut bytes = vec![0; file.length().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn overwrite(disk: &Disk, name: &str, at: Range<usize>, byte: u8) {
    disk.open(name).unwrap().write_at(&vec![byte; at.len()], at.start as u64).unwrap();
}

fn aside(disk: &Disk) -> Vec<String> {
    disk.names().into_iter().filter(|name| name.starts_with("damaged-")).collect()
}

/// The segment in which these frames lie, and where.
fn find(disk: &Disk, frames: &Chunk) -> (String, Range<usize>) {
    let frames = frames.parts().concat();
    let mut found = disk.names().into_iter().filter(|name| name.ends_with(".journal")).filter_map(|name| {
        let at = content(disk, &name).windows(frames.len()).position(|window| window == frames)?;
        Some((name, at..at + frames.len()))
    });
    found.next().expect("they are in the journal")
}

/// Where the head is of the record in which these frames lie.
fn find_head(disk: &Disk, frames: &Chunk) -> (String, Range<usize>) {
    let (name, at) = find(disk, frames);
    (name, at.start - 48..at.start)
}

fn interruption(store: &Embedded, n: u64) -> Option<String> {
    match store.find(id(n)).unwrap()?.ended.map(|ended| ended.end) {
        Some(End::Interrupted(reason)) => Some(reason),
        _ => None,
    }
}

/// What a check says of a directory.
fn check(path: &Path) -> Vec<String> {
    let mut findings = Vec::new();
    data::check(path, &mut |finding| findings.push(finding.to_owned())).unwrap();
    findings
}

/// Fills segments, so that those that are filled before move to the archive.
fn fill(store: &Embedded, n: u64) {
    commit(store, 50, [(id(n), start(&[]))]);
    for round in 0..20 {
        store.shared().work_off(true).unwrap();
        commit(store, 50, [(id(n), Record::Frames(frames(round * 50 + 1, 50, 600)))]);
    }
    store.shared().work_off(true).unwrap();
}

#[test]
fn a_segment_whose_header_is_damaged_loses_nothing() {
    for byte in [0, 0xff] {
        for is_newest in [true, false] {
            let disk = Disk::default();
            let store = open(&disk);
            commit(&store, 1, [(id(1), start(&["k"])), (id(1), Record::Frames(frames(1, 10, 100)))]);
            if !is_newest {
                commit(&store, 2, [(id(2), start(&[])), (id(2), Record::Frames(frames(1, 50, 1_200)))]);
                commit(&store, 2, [(id(2), Record::Frames(frames(51, 50, 1_200)))]);
            }
            drop(store);
            let (name, _) = find(&disk, &frames(1, 10, 100));
            overwrite(&disk, &name, HEADER, byte);
            let damaged = content(&disk, &name);

            let store = open(&disk);
            assert_eq!(read_all(&store, id(1), 1), (expected(1, 10, 100), 10));
            assert_eq!(store.bound(&key("k")).unwrap(), Some(id(1)));
            assert_eq!(interruption(&store, 1), None, "nothing is lost");
            assert_eq!(content(&disk, &name), damaged, "it is left as it is");
            commit(&store, 3, [(id(1), Record::Frames(frames(11, 5, 100))), (id(1), ended(3))]);
            fill(&store, 9);
            let kept = aside(&disk);
            assert_eq!(kept.len(), 1, "{:?}", disk.names());
            assert_eq!(content(&disk, &kept[0]), damaged, "it was written again");
            drop(store);
            let store = open(&disk);
            assert_eq!(read_all(&store, id(1), 1), (expected(1, 15, 100), 15));
            assert_eq!(interruption(&store, 9), None, "what was put aside is no loss");
            assert_eq!(read_all(&store, id(9), 1), (expected(1, 1_000, 600), 1_000));
        }
    }
}

/// A disk with a run, in a segment with a damaged place that is nobody's, and what is in its file.
fn with_damaged_segment() -> (Disk, Vec<u8>) {
    let disk = Disk::default();
    let store = open(&disk);
    commit(&store, 1, [(id(1), start(&[])), (id(1), Record::Frames(frames(1, 5, 100)))]);
    commit(&store, 2, [(id(1), Record::Frames(frames(6, 5, 100)))]);
    commit(&store, 3, [(id(1), Record::JobStarted(JobIndex::new(0)))]);
    drop(store);
    let (name, at) = find_head(&disk, &frames(6, 5, 100));
    overwrite(&disk, &name, at.start - 96..at.start, 0xff);
    disk.open(&name).unwrap().sync().unwrap();
    let damaged = content(&disk, &name);
    (disk, damaged)
}

#[test]
fn a_damaged_segment_stays_whatever_fails_and_crashes_while_it_is_put_aside() {
    let has = |disk: &Disk, damaged: &Vec<u8>| disk.names().iter().any(|name| content(disk, name) == *damaged);
    for after in 0..60 {
        let (disk, damaged) = with_damaged_segment();
        let store = open(&disk);
        commit(&store, 2, [(id(2), start(&[]))]);
        for round in 0..8 {
            commit(&store, 3, [(id(2), Record::Frames(frames(round * 50 + 1, 50, 600)))]);
        }
        disk.fail(Failure { after, times: 1, kind: io::ErrorKind::Other });
        _ = store.shared().work_off(true);
        disk.heal();
        if after % 2 == 0 {
            fill(&store, 8);
        }
        assert!(has(&disk, &damaged), "after {after} operations");
        assert_eq!(read_all(&store, id(1), 1), (expected(1, 10, 100), 10), "after {after} operations");
        drop(store);
        let store = open(&disk);
        assert_eq!(read_all(&store, id(1), 1), (expected(1, 10, 100), 10), "after {after} operations");
        fill(&store, 9);
        assert_eq!(aside(&disk).len(), 1, "after {after} operations");
        assert!(has(&disk, &damaged), "after {after} operations");
    }
    let (disk, damaged) = with_damaged_segment();
    let before = disk.operations_count();
    let store = open(&disk);
    fill(&store, 9);
    drop(store);
    let mut random = SmallRng::seed_from_u64(7);
    let (mut crashes, mut operations) = (Crashes::of(&disk), 0);
    while crashes.advance() {
        operations += 1;
        if operations < before {
            continue;
        }
        let disk = crashes.crash(&mut random);
        let store = open(&disk);
        assert!(has(&disk, &damaged), "a crash after {operations} operations");
        assert_eq!(read_all(&store, id(1), 1), (expected(1, 10, 100), 10), "a crash after {operations} operations");
        assert_eq!(interruption(&store, 1), None, "a crash after {operations} operations");
        assert_eq!(interruption(&store, 9), None, "a crash after {operations} operations");
        fill(&store, 8);
        assert!(has(&disk, &damaged), "a crash after {operations} operations, and written on");
    }
}

#[test]
fn a_newest_segment_that_tells_nothing_interrupts_what_had_not_ended() {
    let disk = Disk::default();
    let store = open(&disk);
    commit(&store, 1, [(id(1), start(&[])), (id(1), Record::Frames(frames(1, 10, 100))), (id(1), ended(1))]);
    commit(&store, 2, [(id(2), start(&[])), (id(2), Record::Frames(frames(1, 50, 1_200)))]);
    // In another segment.
    commit(&store, 3, [(id(2), Record::Frames(frames(51, 10, 1_200)))]);
    drop(store);
    let (name, _) = find(&disk, &frames(51, 10, 1_200));
    overwrite(&disk, &name, 0..PAGE_BYTES, 0);
    let damaged = content(&disk, &name);

    let store = open(&disk);
    assert_eq!(read_all(&store, id(1), 1), (expected(1, 10, 100), 10));
    assert_eq!(interruption(&store, 1), None);
    assert_eq!(read_all(&store, id(2), 1), (expected(1, 50, 1_200), 50));
    assert!(interruption(&store, 2).unwrap().contains("damaged"));
    let kept = aside(&disk);
    assert_eq!(kept.iter().map(|name| content(&disk, name)).collect::<Vec<_>>(), [damaged]);
    // What was shown stays, although nobody finds the damage again.
    commit(&store, 4, [(id(3), start(&[]))]);
    drop(store);
    let store = open(&disk);
    assert!(interruption(&store, 2).is_some());
    assert_eq!(interruption(&store, 3), None);
}

#[test]
fn a_segment_that_was_only_prepared_may_have_a_damaged_header() {
    let disk = Disk::default();
    let store = open(&disk);
    commit(&store, 1, [(id(1), start(&[])), (id(1), Record::Frames(frames(1, 10, 100)))]);
    drop(store);
    let (used, _) = find(&disk, &frames(1, 10, 100));
    let is_other = |name: &String| name.starts_with("live-") && *name != used;
    let prepared = disk.names().into_iter().find(is_other).expect("one is kept prepared");
    overwrite(&disk, &prepared, HEADER, 0xff);
    let store = open(&disk);
    assert_eq!(interruption(&store, 1), None, "nothing was lost");
    assert_eq!(aside(&disk).len(), 1);
}

#[test]
fn a_damaged_record_head_takes_no_tail_away_silently() {
    let disk = Disk::default();
    let store = open(&disk);
    let first = |n: u64| (id(n), Record::Frames(frames(1, 10, 100)));
    commit(&store, 1, [(id(1), start(&[])), first(1), (id(2), start(&[])), first(2), (id(4), start(&[]))]);
    commit(&store, 2, [(id(1), Record::Frames(frames(11, 10, 77))), (id(1), ended(2))]);
    commit(&store, 3, [(id(2), Record::JobStarted(JobIndex::new(0)))]);
    commit(&store, 4, [(id(4), ended(4)), (id(3), start(&[]))]);
    drop(store);
    let (name, at) = find_head(&disk, &frames(11, 10, 77));
    overwrite(&disk, &name, at, 0xff);

    let mut store = open(&disk);
    for _ in 0..3 {
        let one = store.find(id(1)).unwrap().unwrap();
        assert_eq!(one.last.get(), 20, "its end says how far it came");
        assert_eq!(one.ended.unwrap().end, End::Complete);
        let (bytes, last) = {
            let chunks = store.read(id(1), Sequence::FIRST, 10_000).unwrap();
            (chunks.iter().flat_map(Chunk::parts).flatten().copied().collect::<Vec<u8>>(), chunks[0].last().get())
        };
        assert_eq!((bytes, last), (expected(1, 10, 100), 10));
        let lost = store.read(id(1), Sequence::new(11), 10_000);
        assert!(matches!(lost, Err(StoreError::Damaged(_))), "{lost:?}");
        assert!(interruption(&store, 2).is_some(), "what was lost may have been its");
        assert_eq!(interruption(&store, 3), None, "it began behind that");
        assert_eq!(store.find(id(4)).unwrap().unwrap().ended.unwrap().end, End::Complete);
        store.shared().work_off(true).unwrap();
        drop(store);
        store = open(&disk);
    }
}

#[test]
fn a_damaged_batch_head_is_nobodys_loss() {
    let disk = Disk::default();
    let store = open(&disk);
    commit(&store, 1, [(id(1), start(&[]))]);
    commit(&store, 2, [(id(1), Record::Frames(frames(1, 10, 100)))]);
    commit(&store, 3, [(id(1), Record::Frames(frames(11, 10, 100)))]);
    drop(store);
    let (name, at) = find_head(&disk, &frames(1, 10, 100));
    overwrite(&disk, &name, at.start - 96..at.start - 80, 0xff);
    let store = open(&disk);
    assert_eq!(read_all(&store, id(1), 1), (expected(1, 20, 100), 20));
    assert_eq!(interruption(&store, 1), None);
}

#[test]
fn a_damaged_part_of_a_batch_costs_only_what_is_in_it() {
    let disk = Disk::default();
    let store = open(&disk);
    commit(&store, 1, [(id(1), start(&[]))]);
    // One batch over three segments.
    let pieces = (0..6).map(|piece| (id(1), Record::Frames(frames(piece * 20 + 1, 20, 1_200))));
    commit(&store, 2, pieces);
    commit(&store, 3, [(id(1), Record::Frames(frames(121, 1, 1_200)))]);
    drop(store);
    let (name, at) = find(&disk, &frames(61, 20, 1_200));
    assert_ne!(name, find(&disk, &frames(1, 20, 1_200)).0);
    assert_ne!(name, find(&disk, &frames(101, 20, 1_200)).0);
    overwrite(&disk, &name, at.start + 100..at.start + 110, 0xff);
    let store = open(&disk);
    for sequence in 1..=121 {
        let read = store.read(id(1), Sequence::new(sequence), 1);
        let is_lost = matches!(read, Err(StoreError::Damaged(_)));
        assert_eq!(is_lost, (61..=80).contains(&sequence), "{sequence}: {read:?}");
    }
}

#[test]
fn a_segment_that_is_shorter_than_it_was_made_is_said() {
    let disk = Disk::default();
    let store = open(&disk);
    commit(&store, 1, [(id(1), start(&[])), (id(1), Record::Frames(frames(1, 10, 100)))]);
    commit(&store, 2, [(id(1), Record::Frames(frames(11, 10, 100)))]);
    drop(store);
    let (name, at) = find_head(&disk, &frames(11, 10, 100));
    disk.open(&name).unwrap().set_length(at.start as u64).unwrap();
    let store = open(&disk);
    assert_eq!(read_all(&store, id(1), 1), (expected(1, 10, 100), 10));
    assert!(interruption(&store, 1).is_some());
}

#[test]
fn a_check_says_what_is_damaged_and_changes_nothing() {
    let folder = Folder::new();
    let store = folder.open();
    commit(&*store, 1, [(id(1), start(&[])), (id(1), Record::Frames(frames(1, 10, 100)))]);
    drop(store);
    assert_eq!(check(&folder.path()), Vec::<String>::new());
    let segment = folder.path().join("live-000.journal");
    let bytes = std::fs::read(&segment).unwrap();

    let write = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bytes.clone();
        change(&mut bytes);
        std::fs::write(&segment, bytes).unwrap();
        check(&folder.path()).join("\n")
    };
    let findings = write(&|bytes| bytes[20] ^= 1);
    assert!(findings.contains("live-000.journal: its header is damaged; it is segment 1"), "{findings}");
    let findings = write(&|bytes| bytes[..PAGE_BYTES].fill(0));
    assert_eq!(findings, "", "a page of zeros and nothing behind it was never written");
    let findings = write(&|bytes| bytes[..PAGE_BYTES].fill(7));
    assert!(findings.contains("what was committed last is lost"), "{findings}");
    let findings = write(&|bytes| bytes.truncate(PAGE_BYTES));
    assert!(findings.contains("it is 4096 bytes long, and was made 65536 bytes long"), "{findings}");
    assert!(findings.contains("is interrupted"), "{findings}");
    std::fs::write(&segment, &bytes).unwrap();
    assert_eq!(check(&folder.path()), Vec::<String>::new(), "a check changes nothing");
}

#[test]
fn what_a_disk_does_not_read_is_waited_for_before_it_is_lost() {
    for times in [1, usize::MAX] {
        let disk = Disk::default();
        let store = open(&disk);
        commit(&store, 1, [(id(1), start(&[])), (id(1), Record::Frames(frames(1, 10, 100))), (id(1), ended(1))]);
        commit(&store, 2, [(id(2), start(&[])), (id(2), Record::Frames(frames(1, 53, 1_200))), (id(2), ended(1))]);
        let (name, _) = find(&disk, &frames(1, 10, 100));
        let (other, _) = find(&disk, &frames(1, 53, 1_200));
        assert_ne!(name, other);
        disk.fail_reads(&name, 0, times);
        let said = store.shared().work_off(true).unwrap_err().to_string();
        assert!(said.contains(&name) && said.contains("unreadable sector"), "{said}");
        // The other one has moved.
        assert!(!store.shared().index.lock().is_here(id(2)));
        store.shared().work_off(true).unwrap();
        assert!(disk.heal_reads());
        let read = store.read(id(1), Sequence::FIRST, 1);
        if times == 1 {
            assert_eq!(read_all(&store, id(1), 1), (expected(1, 10, 100), 10), "nothing is lost");
        } else {
            assert!(matches!(read, Err(StoreError::Damaged(_))), "{read:?}");
        }
        assert_eq!(read_all(&store, id(2), 1), (expected(1, 53, 1_200), 53));
        commit(&store, 3, [(id(3), start(&[]))]);
    }
}
