//! The archive as a whole: checked, copied, made smaller.

use std::{fs, os::unix::fs::MetadataExt as _, sync::atomic::AtomicBool, time::Duration};

use outflow_engine::{Sequence, StoreError};

use super::{
    super::{
        Archive,
        snapshot::{Checked, Finding},
    },
    Place, chunk,
    model::{Fate, Model, frames, moves},
    moved, run, run_id,
};

fn check(archive: &Archive) -> (Checked, Vec<Finding>) {
    let mut found = Vec::new();
    let checked = archive.snapshot().unwrap().check(&mut |finding| found.push(finding)).unwrap();
    (checked, found)
}

/// An archive with runs of many kinds.
fn fill(archive: &Archive) -> Model {
    let mut model = Model::default();
    for step in 0..30 {
        let payload = [10, 100, 3000, 70_000][step as usize % 4];
        let fate = [Fate::GoesOn, Fate::Ends, Fate::HeadDropped][step as usize % 3];
        let moved = moves(&model, &[(step % 11, 40, payload, fate), (step % 7, 5, 24, Fate::GoesOn)], step);
        archive.put(&moved, Duration::from_secs(step)).unwrap();
        model.put(&moved, Duration::from_secs(step));
    }
    archive.delete(&[run_id(3)]).unwrap();
    model.delete(&[run_id(3)]);
    model
}

#[test]
fn nothing_is_found_where_all_is_well() {
    let place = Place::new();
    let archive = place.open();
    let model = fill(&archive);
    let (checked, found) = check(&archive);
    assert_eq!(found, []);
    assert_eq!(checked.runs, model.runs.len() as u64);
}

#[test]
fn a_moment_lasts_while_the_archive_grows() {
    let place = Place::new();
    let archive = place.open();
    let model = fill(&archive);
    let snapshot = archive.snapshot().unwrap();
    let length = fs::metadata(&place.path).unwrap().len();
    for n in 100..110 {
        archive.put(&[moved(&mut run(n, &[]), vec![chunk(n, 1..=500, 3000)])], Duration::ZERO).unwrap();
    }
    assert!(fs::metadata(&place.path).unwrap().len() > length, "it has grown");
    let checked = snapshot.check(&mut |finding| panic!("{finding}")).unwrap();
    assert_eq!(checked.runs, model.runs.len() as u64);
}

#[test]
fn the_file_has_no_holes_however_it_grew() {
    let place = Place::new();
    let archive = place.open();
    let has_no_holes = || {
        let found = fs::metadata(&place.path).unwrap();
        found.blocks() * 512 >= found.len()
    };
    for n in 0..40 {
        archive.put(&[moved(&mut run(n, &[]), vec![chunk(n, 1..=500, 1000)])], Duration::ZERO).unwrap();
        assert!(has_no_holes());
    }
    let length = fs::metadata(&place.path).unwrap().len();
    assert!(length < archive.bytes() * 5 / 4 + (8 << 20), "{length} bytes for {}", archive.bytes());
    drop(archive);
    // As a copy that leaves out zeros.
    fs::OpenOptions::new().write(true).open(&place.path).unwrap().set_len(length + (4 << 20)).unwrap();
    assert!(!has_no_holes());
    let archive = place.open();
    assert!(has_no_holes());
    assert_eq!(check(&archive).0.runs, 40);
}

#[test]
fn what_is_missing_is_found_and_named() {
    let place = Place::new();
    let archive = place.open();
    let mut record = run(1, &[]);
    moved(&mut record, vec![chunk(1, 1..=1000, 24)]);
    let chunks = vec![chunk(1, 1..=300, 24), chunk(1, 400..=900, 24)];
    archive.put(&[super::Moved { record: record.clone(), chunks, keys: Vec::new() }], Duration::ZERO).unwrap();
    let named: Vec<_> = check(&archive).1.into_iter().map(|finding| (finding.run, finding.responses)).collect();
    assert_eq!(named, [(Some(record.id), Some((301, 399))), (Some(record.id), Some((901, 1000)))]);
}

#[test]
fn what_is_damaged_is_found_and_named() {
    let place = Place::new();
    let archive = place.open();
    let mut runs = [run(1, &["key"]), run(2, &[])];
    archive.put(&[moved(&mut runs[0], vec![chunk(1, 1..=12, 90_000)])], Duration::ZERO).unwrap();
    archive.put(&[moved(&mut runs[1], vec![chunk(2, 1..=5, 24)])], Duration::ZERO).unwrap();
    let end = |run, sequence| {
        let read = archive.read(run_id(run), Sequence::new(sequence), 1).unwrap();
        let frame = frames(&read[0]).find(|(found, _)| *found == sequence).unwrap().1;
        frame.slice(frame.len() - 20..)
    };
    let (long, short) = (end(1, 6), end(2, 3));
    drop(archive);
    super::damage::damage(&place.path, &long);
    super::damage::damage(&place.path, &short);
    let archive = place.open();
    let (_, found) = check(&archive);
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!((found[0].run, found[0].responses), (Some(run_id(1)), Some((6, 6))));
    assert_eq!((found[1].run, found[1].responses), (Some(run_id(2)), None));
    assert!(found[0].to_string().starts_with(&format!("run {}: responses 6 to 6: ", run_id(1))), "{}", found[0]);
}

#[test]
fn a_copy_is_as_the_archive_was_when_it_began() {
    let place = Place::new();
    let archive = place.open();
    let model = fill(&archive);
    let snapshot = archive.snapshot().unwrap();
    // What happens meanwhile is not in it: neither a new run, nor that one is gone.
    archive.put(&[moved(&mut run(100, &[]), vec![chunk(100, 1..=5000, 24)])], Duration::from_secs(100)).unwrap();
    archive.delete(&model.runs.keys().copied().take(4).collect::<Vec<_>>()).unwrap();
    let target = place.path.with_file_name("copy");
    snapshot.copy(&target, &AtomicBool::new(false)).unwrap();
    let copy = Archive::open(&target).unwrap();
    model.assert_in(&copy);
    assert_eq!(check(&copy).1, []);
    let error = snapshot.copy(&target, &AtomicBool::new(false)).unwrap_err();
    assert!(matches!(&error, StoreError::Failed(said) if said.contains("copy")), "{error}");
    model.assert_in(&copy);
}

#[test]
fn a_compact_archive_takes_what_it_needs() {
    let place = Place::new();
    let archive = place.open();
    for n in 100..140 {
        archive.put(&[moved(&mut run(n, &[]), vec![chunk(n, 1..=20, 50_000)])], Duration::ZERO).unwrap();
    }
    let model = fill(&archive);
    archive.delete(&(100..140).map(run_id).collect::<Vec<_>>()).unwrap();
    let taken = || fs::metadata(&place.path).unwrap().blocks() * 512;
    let before = taken();
    archive.compact().unwrap();
    model.assert_in(&archive);
    assert!(taken() < before / 4, "{} of {before}", taken());
    drop(archive);
    model.assert_in(&place.open());
}
