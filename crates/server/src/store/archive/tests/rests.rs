//! The archive lets go of memory while nobody uses it, and goes on as before.

use std::time::Duration;

use outflow_engine::{Chunk, Sequence};

use super::{Place, chunk, moved, run};

const NOW: Duration = Duration::ZERO;

/// Six megabytes, from this sequence on.
fn chunks(first: u64) -> Vec<Chunk> {
    (0..60).map(|n| first + n * 100).map(|first| chunk(1, first..=first + 99, 1_000)).collect()
}

#[test]
fn it_rests_where_nobody_used_it_and_goes_on_where_somebody_does() {
    let place = Place::new();
    let archive = place.open();
    let mut record = run(1, &["key"]);
    archive.put(&[moved(&mut record, chunks(1))], Duration::from_secs(1)).unwrap();
    assert!(!archive.rest(NOW), "it was just used");
    assert!(!archive.rest(Duration::from_secs(3600)), "it was used within the hour");
    assert!(archive.rest(NOW));
    assert!(!archive.rest(NOW), "it rests");

    assert_eq!(archive.find(record.id).unwrap().unwrap(), record);
    archive.put(&[moved(&mut record, chunks(6_001))], Duration::from_secs(2)).unwrap();
    assert!(!archive.rest(NOW) && archive.rest(NOW));
    let read = archive.read(record.id, Sequence::new(11_999), 1 << 20).unwrap();
    assert_eq!(read.last().unwrap().last(), Sequence::new(12_000));

    // It was closed well, and is opened as it was.
    archive.put(&[moved(&mut record, chunks(12_001))], Duration::from_secs(3)).unwrap();
    assert!(!archive.rest(NOW) && archive.rest(NOW));
    drop(archive);
    assert_eq!(place.open().find(record.id).unwrap().unwrap(), record);
}

#[test]
fn it_does_not_rest_while_a_moment_of_it_is_read() {
    let place = Place::new();
    let archive = place.open();
    let mut record = run(1, &[]);
    archive.put(&[moved(&mut record, chunks(1))], Duration::from_secs(1)).unwrap();
    let moment = archive.snapshot().unwrap();
    assert!(!archive.rest(NOW) && !archive.rest(NOW));
    drop(moment);
    assert!(archive.rest(NOW));
}
