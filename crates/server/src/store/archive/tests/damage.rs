//! Bytes of the file that are not what was written.

use std::{fs, ops::Range, path::Path, time::Duration};

use bytes::Bytes;
use outflow_engine::{Filter, RunRecord, Sequence, StoreError};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::{
    Archive, Moved, Place, chunk,
    disk::Disk,
    ended,
    model::{Model, frames},
    moved, row, run, run_id,
};

/// Changes a byte of these bytes, wherever they lie in the file: copying on writing may have left some of old.
pub(super) fn damage(path: &Path, bytes: &[u8]) {
    let mut image = fs::read(path).unwrap();
    let found = image.windows(bytes.len()).enumerate().filter(|(_, window)| *window == bytes);
    let found: Vec<usize> = found.map(|(at, _)| at).collect();
    assert!(!found.is_empty(), "they are there");
    for at in found {
        image[at + bytes.len() - 1] ^= 0x10;
    }
    fs::write(path, image).unwrap();
}

fn frame(archive: &Archive, record: &RunRecord, sequence: u64) -> Bytes {
    let read = archive.read(record.id, Sequence::new(sequence), 1).unwrap();
    frames(&read[0]).find(|(found, _)| *found == sequence).unwrap().1
}

#[test]
fn a_damaged_block_is_told_and_the_rest_is_read() {
    for payload in [24, 90_000] {
        let place = Place::new();
        let archive = place.open();
        let mut runs = [run(1, &[]), run(2, &[])];
        for (salt, record) in (1..).zip(&mut runs) {
            let last = if payload == 24 { 20_000 } else { 12 };
            archive.put(&[moved(record, vec![chunk(salt, 1..=last, payload)])], Duration::ZERO).unwrap();
        }
        let [record, other] = runs;
        let damaged = record.last.get() / 2;
        let bytes = frame(&archive, &record, damaged);
        let block = archive.read(record.id, Sequence::new(damaged), 1).unwrap();
        let (first, last) = (block[0].first().get(), block[0].last().get());
        drop(archive);
        // Of a long frame the end, which lies in its block's second piece.
        damage(&place.path, &bytes[bytes.len() - 20..]);

        let archive = place.open();
        let before = archive.read(record.id, Sequence::FIRST, 1 << 30).unwrap();
        assert_eq!(before.last().unwrap().last().get(), first - 1, "it is read up to the damage");
        for sequence in [first, damaged, last] {
            let error = archive.read(record.id, Sequence::new(sequence), 1 << 30).unwrap_err();
            assert!(matches!(&error, StoreError::Damaged(said) if said.contains(&record.id.to_string())), "{error}");
        }
        let after = archive.read(record.id, Sequence::new(last + 1), 1 << 30).unwrap();
        assert_eq!(after.last().unwrap().last(), record.last, "and from behind it to the end");
        assert_eq!(archive.find(record.id).unwrap().as_ref(), Some(&record));
        assert_eq!(super::model::read_all(&archive, &other, 1 << 20).len() as u64, other.last.get());
        archive.delete(&[record.id]).unwrap();
        assert_eq!(archive.find(record.id).unwrap(), None);
    }
}

#[test]
fn a_damaged_record_is_told_and_hides_no_other() {
    let place = Place::new();
    let archive = place.open();
    let mut runs = Vec::new();
    for n in 1..=3 {
        let mut put = moved(&mut run(n, &[&format!("the key of {n}")]), vec![chunk(n, 1..=5, 24)]);
        put.record.add(&ended(n));
        archive.put(&[put.clone()], Duration::from_secs(n)).unwrap();
        runs.push(put.record);
    }
    let bytes = frame(&archive, &runs[1], 3);
    drop(archive);
    damage(&place.path, &bytes);

    let archive = place.open();
    let damaged = run_id(2);
    for error in [archive.find(damaged).unwrap_err(), archive.read(damaged, Sequence::FIRST, 1).unwrap_err()] {
        assert!(matches!(&error, StoreError::Damaged(said) if said.contains(&damaged.to_string())), "{error}");
    }
    let others = [run_id(1), run_id(3)];
    let ended = archive.ended_first(None, 10).unwrap();
    assert_eq!(ended.iter().map(|record| record.id).collect::<Vec<_>>(), others);
    assert_eq!(archive.list(&Filter::default(), None, 10).unwrap().len(), 2);
    archive.delete(&[damaged]).unwrap();
    assert_eq!(archive.find(damaged).unwrap(), None);
    assert_eq!(archive.bound(&runs[1].start.keys[0]).unwrap(), None);
    assert_eq!(archive.ended_first(None, 10).unwrap().len(), 2);
}

#[test]
fn a_state_that_is_damaged_is_made_again() {
    let place = Place::new();
    let archive = place.open();
    let mut put = moved(&mut run(1, &[]), vec![chunk(1, 1..=5, 24)]);
    put.record.add(&ended(7));
    archive.put(&[put], Duration::from_secs(7)).unwrap();
    let bytes = archive.bytes();
    drop(archive);
    let state = row::StateRow { version: 1, in_service_nanos: 7_000_000_000, bytes };
    damage(&place.path, &row::encode(b"state", &state));
    let archive = place.open();
    assert_eq!(archive.in_service(), Duration::from_secs(7));
    assert_eq!(archive.bytes(), bytes);
}

/// Changes a byte of an archive, again and again, and reads all of it: everything that is read is as it was written, or
/// it is said that it is not; `WRONG` is printed otherwise.
pub(super) fn read_with_changed_bytes(seed: u64, changes: Range<usize>) {
    let disk = Disk::default();
    let archive = Archive::open_on("the archive".to_owned(), disk.backing()).unwrap();
    let mut model = Model::default();
    for n in 0..60 {
        let payload = [20, 300, 3000, 9000][n as usize % 4];
        let mut put = moved(&mut run(n, &[&format!("key {n}")]), vec![chunk(n, 1..=n % 7 + 1, payload)]);
        if n % 2 == 0 {
            put.record.add(&ended(n));
        }
        archive.put(std::slice::from_ref(&put), Duration::from_secs(n)).unwrap();
        model.put(&[put], Duration::from_secs(n));
    }
    drop(archive);
    let image = disk.image();
    let (mut refused, mut told) = (0, 0);
    for change in changes {
        println!("\nchange {change}");
        let mut random = SmallRng::seed_from_u64(seed.wrapping_add(change as u64));
        let mut image = image.clone();
        // Half of them in the first pages, where the trees begin.
        let range = if change % 2 == 0 { 0..image.len() } else { 0..image.len().min(200_000) };
        image[random.random_range(range)] ^= 1 << random.random_range(0..8);
        match Archive::open_on("the archive".to_owned(), Disk::with(image).backing()) {
            Ok(archive) => told += told_as_damaged(&archive, &model),
            Err(_) => refused += 1,
        }
    }
    println!("{refused} times refused as a whole, {told} reads told");
}

/// redb does not look at the checksums of its pages when it reads, so that a damaged page above the records can make one
/// look absent. Then a check says that something is damaged; also when what was put since has given that page a new
/// checksum, which redb says is right.
#[test]
fn what_looks_absent_behind_a_damaged_page_is_found_by_a_check() {
    let disk = Disk::default();
    let archive = Archive::open_on("the archive".to_owned(), disk.backing()).unwrap();
    let mut model = Model::default();
    for step in 0..20 {
        let mut put: Vec<Moved> = Vec::new();
        for n in step * 50..step * 50 + 50 {
            put.push(moved(&mut run(n, &[&format!("key {n}")]), vec![chunk(n, 1..=5, 24)]));
            if n % 2 == 0 {
                put.last_mut().unwrap().record.add(&ended(n));
            }
        }
        archive.put(&put, Duration::from_secs(step)).unwrap();
        model.put(&put, Duration::from_secs(step));
    }
    drop(archive);
    let image = disk.image();
    // A branch of redb's: its kind, and from the third byte on the number of its keys; from the ninth on the checksums of
    // its children, one more than keys, then their places, then the keys. Some of what looks like one is not used.
    let branches = (0..image.len()).step_by(4096).filter(|at| image[*at] == 2);
    let branches: Vec<usize> = branches.filter(|at| (1..200).contains(&keys_of(&image, *at))).collect();
    assert!(branches.len() >= 4, "runs, keys and both orders have branches: {branches:?}");
    let (mut absent, mut absent_with_right_checksums) = (0, 0);
    for branch in branches {
        let keys = keys_of(&image, branch);
        let (children, first_key) = (branch + 8 + (keys + 1) * 16, branch + 8 + (keys + 1) * 24);
        // The first bytes of runs' keys are the same: those that differ are the last of the time, and what follows.
        let in_keys = [0, keys / 2, keys - 1].map(|key| first_key + key * 22 + 5);
        for at in in_keys.into_iter().chain([children + 8 * (keys / 2)]) {
            let mut image = image.clone();
            image[at] ^= 0x08;
            let opened = Archive::open_on("the archive".to_owned(), Disk::with(image.clone()).backing());
            let Ok(archive) = opened else { continue };
            if !looks_absent(&archive, &model) {
                continue;
            }
            absent += 1;
            assert!(is_found(&archive), "{branch:#x}, {at:#x}: nothing is said of it");
            // One more run, one that goes on, and one that goes: pages above them are written anew.
            let put = [moved(&mut run(5000, &["a key more"]), vec![chunk(1, 1..=5, 24)])];
            _ = archive.put(&put, Duration::from_secs(100)).and_then(|()| archive.delete(&[run_id(999), run_id(0)]));
            let mut model = model.clone();
            model.delete(&[run_id(999), run_id(0)]);
            if looks_absent(&archive, &model) {
                absent_with_right_checksums += 1;
                assert!(is_found(&archive), "{branch:#x}, {at:#x}: nothing is said of it any more");
            }
        }
    }
    println!("{absent} times something looked absent, {absent_with_right_checksums} times with something put since");
    assert!(absent > 0 && absent_with_right_checksums > 0, "it can happen");
}

fn keys_of(image: &[u8], branch: usize) -> usize {
    usize::from(u16::from_le_bytes([image[branch + 2], image[branch + 3]]))
}

/// Whether a run or a key is answered as one that never was.
fn looks_absent(archive: &Archive, model: &Model) -> bool {
    model.runs.keys().any(|run| matches!(archive.find(*run), Ok(None)))
        || model.keys.iter().any(|(key, run)| model.runs.contains_key(run) && matches!(archive.bound(key), Ok(None)))
}

/// Whether a check finds anything.
fn is_found(archive: &Archive) -> bool {
    let mut found = 0;
    let checked = archive.snapshot().and_then(|snapshot| snapshot.check(&mut |_| found += 1));
    checked.is_err() || found > 0
}

/// How often `archive` says that something is damaged.
fn told_as_damaged(archive: &Archive, model: &Model) -> usize {
    let right = |is_right: bool, what: &dyn std::fmt::Debug| {
        if !is_right {
            println!("WRONG: {what:?}");
        }
    };
    let mut told = 0;
    for (id, (record, kept)) in &model.runs {
        match archive.find(*id) {
            // redb does not look at its checksums when it reads: what no page names is not there.
            Ok(None) | Err(_) => told += 1,
            Ok(Some(found)) => right(found == *record, &found),
        }
        for from in 1..=record.last.get() {
            let read = archive.read(*id, Sequence::new(from), 1);
            told += usize::from(read.is_err());
            for (sequence, frame) in read.unwrap_or_default().iter().flat_map(frames) {
                right(kept.get(&sequence) == Some(&frame), &(id, sequence));
            }
        }
    }
    for (key, run) in &model.keys {
        if let Ok(Some(bound)) = archive.bound(key) {
            right(bound == *run, key);
        }
    }
    for record in archive.ended_first(None, 100).unwrap_or_default() {
        right(model.runs.get(&record.id).is_some_and(|(known, _)| *known == record), &record);
    }
    told
}
