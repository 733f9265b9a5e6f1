//! What the archive promises, one by one and against a model.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use outflow_engine::{
    Code, End, Ended, Filter, JobError, JobIndex, Key, Record, RunRecord, Sequence, Start, StoreError, Timestamp,
};
use proptest::prelude::*;

use super::{
    Archive, Moved, Place, chunk, ended,
    model::{Fate, Model, Step, frames, moves, read_all},
    moved, run, run_id,
};

fn key(text: &'static str) -> Key {
    Key(Bytes::from_static(text.as_bytes()))
}

#[test]
fn a_record_comes_back_as_it_went_in() {
    let place = Place::new();
    let archive = place.open();
    let start = Start {
        source: "sql".into(),
        configuration: u64::MAX,
        id: i32::MIN,
        parameters: [("a", "é"), ("b", "")].into_iter().collect(),
        keys: [key("one"), Key(Bytes::from(vec![0xff; Key::BYTES_MAX]))].into(),
        at: Timestamp::from_millis(1),
        jobs: u32::MAX,
        linger: Duration::new(3, 7),
        reuse: Some(Duration::ZERO),
        basis: u64::MAX - 1,
        expected_bytes: Some(0),
        ..Start::default()
    };
    let error = JobError::new(Code::DataLoss, "gone");
    let mut record = RunRecord::new(run_id(1), Arc::new(start));
    let mut model = Model::default();
    for change in [
        Record::JobStarted(JobIndex::new(0)),
        Record::JobStarted(JobIndex::new(7)),
        Record::JobEnded(JobIndex::new(7), Some(error.clone())),
        Record::LingerRaised(Duration::from_secs(100)),
    ] {
        record.add(&change);
        let put = [moved(&mut record, vec![])];
        archive.put(&put, Duration::from_secs(1)).unwrap();
        model.put(&put, Duration::from_secs(1));
        model.assert_in(&archive);
    }
    let ends = [End::Complete, End::Failed(error), End::Stopped, End::Deadline, End::Interrupted("é".to_owned())];
    for (n, end) in ends.into_iter().enumerate() {
        let mut record = RunRecord { id: run_id(2 + n as u64), ..record.clone() };
        let in_service = Duration::new(1, 1);
        record.add(&Record::Ended(Ended { end, jobs_failed: 3, at: Timestamp::from_millis(9), in_service }));
        let put = [Moved { keys: record.keys.clone(), record, chunks: vec![] }];
        archive.put(&put, in_service).unwrap();
        model.put(&put, in_service);
    }
    model.assert_in(&archive);
}

#[test]
fn frames_of_every_length_are_read_from_everywhere() {
    let place = Place::new();
    let archive = place.open();
    let lengths = [0, 24, 1000, 2035, 4030, 8100, 20_000, 33_000, 65_460, 65_470, 65_482, 65_536, 140_000, 4_190_000];
    for (n, length) in lengths.into_iter().enumerate() {
        let mut record = run(n as u64, &[]);
        let count = (300_000 / (length as u64 + 12)).clamp(3, 9000);
        let whole = chunk(n as u64, 1..=count, length);
        let put = moved(&mut record, vec![whole.clone()]);
        archive.put(&[put], Duration::ZERO).unwrap();
        let written: BTreeMap<u64, Bytes> = frames(&whole).collect();
        for bytes_max in [1, 70_000, 1 << 20] {
            assert!(read_all(&archive, &record, bytes_max) == written, "{count} of {length}, {bytes_max} at once");
        }
        for from in 1..=count.min(100) {
            let read = archive.read(record.id, Sequence::new(from), 1).unwrap();
            let frame = frames(&read[0]).find(|(sequence, _)| *sequence == from).unwrap().1;
            assert!(frame == written[&from], "frame {from} of {length}");
        }
    }
}

#[test]
fn no_part_of_a_chunk_ends_in_a_frames_head() {
    let place = Place::new();
    let archive = place.open();
    // Lengths that lay a second frame's head across the end of a page.
    for (n, length) in (65_482 - 60..65_482 + 2).enumerate() {
        let mut record = run(n as u64, &[]);
        let put = moved(
            &mut record,
            vec![chunk(0, 1..=1, length / 2), chunk(0, 2..=2, length / 2), chunk(0, 3..=3, 40_000)],
        );
        archive.put(&[put], Duration::ZERO).unwrap();
        for read in archive.read(record.id, Sequence::FIRST, 1 << 20).unwrap() {
            let mut heads = Vec::new();
            let mut at = 0;
            for (_, frame) in frames(&read) {
                heads.push(at..at + 32);
                at += frame.len();
            }
            let mut cut = 0;
            for part in read.parts() {
                assert!(!heads.iter().any(|head| head.start < cut && cut < head.end), "cut at {cut} of {length}");
                cut += part.len();
            }
        }
    }
}

#[test]
fn a_key_belongs_to_the_run_that_it_was_bound_to_last() {
    let place = Place::new();
    let archive = place.open();
    let put = |n, keys: &[&'static str], bound: &[&'static str]| {
        let bound = bound.iter().map(|text| key(text)).collect();
        let put = Moved { keys: bound, ..moved(&mut run(n, keys), vec![]) };
        archive.put(&[put], Duration::ZERO).unwrap();
    };
    put(1, &["a", "b"], &["a", "b"]);
    put(2, &["b", "c"], &["b", "c"]);
    assert_eq!(archive.bound(&key("a")).unwrap(), Some(run_id(1)));
    assert_eq!(archive.bound(&key("b")).unwrap(), Some(run_id(2)));
    // A run that is there already takes nothing back.
    put(1, &["a", "b"], &[]);
    assert_eq!(archive.bound(&key("b")).unwrap(), Some(run_id(2)));
    // One that is bound to it later is.
    let mut later = run(1, &["a", "b"]);
    later.add(&Record::KeyBound(key("d")));
    let put = Moved { keys: vec![key("d")], ..moved(&mut later, vec![]) };
    archive.put(&[put], Duration::ZERO).unwrap();
    assert_eq!(archive.bound(&key("d")).unwrap(), Some(run_id(1)));
    assert_eq!(archive.bound(&key("b")).unwrap(), Some(run_id(2)));
    assert_eq!(archive.find(run_id(1)).unwrap(), Some(later));
    archive.unbind(&[key("c")]).unwrap();
    assert_eq!(archive.bound(&key("c")).unwrap(), None);
    archive.delete(&[run_id(1)]).unwrap();
    assert_eq!(archive.bound(&key("d")).unwrap(), None);
    assert_eq!(archive.bound(&key("a")).unwrap(), None);
    assert_eq!(archive.bound(&key("b")).unwrap(), Some(run_id(2)));
    archive.delete(&[run_id(2), run_id(3)]).unwrap();
    assert_eq!(archive.bound(&key("b")).unwrap(), None);
    assert_eq!(archive.bytes(), 0);
}

#[test]
fn a_list_has_one_source_only_where_that_is_wanted() {
    let place = Place::new();
    let archive = place.open();
    for n in 0..10 {
        let mut record = run(n, &[]);
        let source = if n % 2 == 0 { "even" } else { "odd" };
        record.start = Arc::new(Start { source: source.into(), ..Start::default() });
        archive.put(&[moved(&mut record, vec![])], Duration::ZERO).unwrap();
    }
    let filter = Filter { source: Some("odd".to_owned()), ..Filter::default() };
    let listed = archive.list(&filter, Some(run_id(9)), 3).unwrap();
    assert_eq!(listed.iter().map(|run| run.id).collect::<Vec<_>>(), [run_id(7), run_id(5), run_id(3)]);
}

#[test]
fn what_is_there_already_is_passed_over() {
    let place = Place::new();
    let archive = place.open();
    let mut record = run(1, &[]);
    let mut model = Model::default();
    let mut put = |record: &RunRecord, chunks| {
        let put = [Moved { record: record.clone(), chunks, keys: Vec::new() }];
        archive.put(&put, Duration::ZERO).unwrap();
        model.put(&put, Duration::ZERO);
        model.assert_in(&archive);
    };
    moved(&mut record, vec![chunk(1, 1..=500, 24)]);
    put(&record, vec![chunk(1, 1..=500, 24)]);
    put(&record, vec![chunk(1, 1..=500, 24)]);
    moved(&mut record, vec![chunk(1, 501..=700, 24)]);
    put(&record, vec![chunk(1, 300..=600, 24), chunk(1, 601..=700, 24)]);
}

#[test]
fn a_hole_is_damage_and_the_rest_is_read() {
    let place = Place::new();
    let archive = place.open();
    let mut record = run(1, &[]);
    let whole = chunk(1, 1..=1000, 24);
    moved(&mut record, vec![whole]);
    let part = |first, last| chunk(1, first..=last, 24);
    archive
        .put(
            &[Moved { record: record.clone(), chunks: vec![part(1, 300), part(400, 900)], keys: Vec::new() }],
            Duration::ZERO,
        )
        .unwrap();
    let read = |from| archive.read(record.id, Sequence::new(from), 1 << 20);
    assert_eq!(read(1).unwrap().last().unwrap().last(), Sequence::new(300));
    for from in [301, 399, 901, 1000] {
        assert!(matches!(read(from), Err(StoreError::Damaged(_))), "{from}");
    }
    assert_eq!(read(400).unwrap()[0].first(), Sequence::new(400));
    assert_eq!(read(900).unwrap().last().unwrap().last(), Sequence::new(900));
    assert_eq!(read(1001).unwrap(), []);
}

#[test]
fn bytes_that_are_no_frames_are_refused() {
    let place = Place::new();
    let archive = place.open();
    let mut record = run(1, &[]);
    let good = chunk(1, 1..=100, 24);
    let bytes = good.parts()[0].clone();
    for (last, bytes) in [(101, bytes.clone()), (99, bytes.clone()), (100, bytes.slice(..bytes.len() - 1))] {
        let bad = outflow_engine::Chunk::new(Sequence::FIRST, Sequence::new(last), [bytes]);
        let put = moved(&mut record.clone(), vec![bad]);
        assert!(matches!(archive.put(&[put], Duration::ZERO), Err(StoreError::Damaged(_))));
    }
    assert_eq!(archive.find(record.id).unwrap(), None);
    archive.put(&[moved(&mut record, vec![good])], Duration::ZERO).unwrap();
}

#[test]
fn a_run_that_trickles_is_read_in_whole_pages() {
    let place = Place::new();
    let archive = place.open();
    let mut record = run(1, &[]);
    for n in 0..1000 {
        archive.put(&[moved(&mut record, vec![chunk(1, n * 3 + 1..=n * 3 + 3, 24)])], Duration::ZERO).unwrap();
    }
    let chunks = archive.read(record.id, Sequence::FIRST, 1 << 20).unwrap();
    assert_eq!(chunks.last().unwrap().last(), record.last);
    assert!(chunks.len() as u64 <= record.bytes / 3900 + 2, "{} chunks of {} bytes", chunks.len(), record.bytes);
    assert!(archive.bytes() < record.bytes * 3 / 2, "{} for {}", archive.bytes(), record.bytes);
}

#[test]
fn a_dropped_head_takes_no_bytes() {
    let place = Place::new();
    let archive = place.open();
    let mut record = run(1, &[]);
    let mut most = 0;
    for n in 0..20 {
        let mut put = moved(&mut record, vec![chunk(1, n * 1000 + 1..=n * 1000 + 1000, 1000)]);
        let first = Sequence::new((n * 1000).saturating_sub(500).max(1));
        put.record.add(&Record::HeadDropped(first));
        record = put.record.clone();
        archive.put(&[put], Duration::ZERO).unwrap();
        most = most.max(archive.bytes());
    }
    assert!(most < 3_000_000, "{most}");
    assert_eq!(archive.read(record.id, Sequence::new(18_499), 1).unwrap(), []);
    assert_eq!(read_all(&archive, &record, 1 << 20).len(), 1501);
}

#[test]
fn what_was_put_is_there_when_it_is_opened_again() {
    let place = Place::new();
    let archive = place.open();
    let put = [moved(&mut run(1, &["a"]), vec![chunk(1, 1..=5000, 24)])];
    let mut model = Model::default();
    archive.put(&put, Duration::from_secs(7)).unwrap();
    model.put(&put, Duration::from_secs(7));
    let bytes = archive.bytes();
    drop(archive);
    let archive = place.open();
    model.assert_in(&archive);
    assert_eq!(archive.bytes(), bytes);
}

#[test]
fn time_in_service_never_goes_back() {
    let place = Place::new();
    let archive = place.open();
    archive.put(&[], Duration::from_secs(7)).unwrap();
    archive.put(&[], Duration::from_secs(3)).unwrap();
    assert_eq!(archive.in_service(), Duration::from_secs(7));
}

#[test]
fn what_is_no_archive_is_refused() {
    let place = Place::new();
    std::fs::write(&place.path, vec![7; 10_000]).unwrap();
    let error = Archive::open(&place.path).unwrap_err();
    assert!(error.to_string().contains("archive"), "{error}");
    assert_eq!(std::fs::read(&place.path).unwrap(), vec![7; 10_000], "and is left as it was");
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let fate = prop_oneof![4 => Just(Fate::GoesOn), 1 => Just(Fate::Ends), 1 => Just(Fate::HeadDropped), 1 => Just(Fate::TakesKey)];
    let payload = prop_oneof![6 => 0..300_usize, 1 => 0..70_000_usize];
    let put = prop::collection::vec((0..8_u64, 0..60_u64, payload, fate), 1..5);
    let step = prop_oneof![
        8 => put.prop_map(Step::Put),
        1 => Just(Step::Again),
        1 => prop::collection::btree_set(0..8_u64, 0..4).prop_map(Step::Delete),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_put_and_deleted_the_archive_is_as_the_model(steps in steps()) {
        let place = Place::new();
        let mut archive = place.open();
        let mut model = Model::default();
        let mut last = (Vec::new(), Duration::ZERO);
        for (n, step) in steps.iter().enumerate() {
            let in_service = Duration::from_secs(n as u64);
            match step {
                Step::Put(runs) => {
                    let moved = moves(&model, runs, n as u64 / 3);
                    archive.put(&moved, in_service).unwrap();
                    model.put(&moved, in_service);
                    last = (moved, in_service);
                }
                Step::Again => archive.put(&last.0, last.1).unwrap(),
                Step::Delete(runs) => {
                    let runs: Vec<_> = runs.iter().map(|n| run_id(*n)).collect();
                    archive.delete(&runs).unwrap();
                    model.delete(&runs);
                    last.0.clear();
                }
                Step::Reopen => {
                    drop(archive);
                    archive = place.open();
                }
            }
            model.assert_in(&archive);
        }
        archive.delete(&model.runs.keys().copied().collect::<Vec<_>>()).unwrap();
        prop_assert_eq!(archive.bytes(), 0, "everything was counted out that was counted in");
    }
}

#[test]
fn a_long_run_is_deleted_as_a_whole() {
    let place = Place::new();
    let archive = place.open();
    let mut record = run(1, &["a"]);
    for n in 0..10 {
        let chunks = (0..16).map(|m| chunk(1, n * 160 + m * 10 + 1..=n * 160 + m * 10 + 10, 65_000)).collect();
        archive.put(&[moved(&mut record, chunks)], Duration::ZERO).unwrap();
    }
    record.add(&ended(1));
    archive.put(&[moved(&mut record, vec![])], Duration::ZERO).unwrap();
    archive.delete(&[record.id]).unwrap();
    Model { in_service: Duration::ZERO, ..Model::default() }.assert_in(&archive);
    assert_eq!(archive.read(record.id, Sequence::FIRST, 1).unwrap(), []);
    assert_eq!(archive.bound(&key("a")).unwrap(), None);
    assert_eq!(archive.bytes(), 0);
}
