//! An archive of format 1 that lies in the repository: what it says can be read for ever.

use std::{fs, io::Read as _, time::Duration};

use flate2::{Compression, bufread::GzDecoder, read::GzEncoder};
use outflow_engine::{Chunk, Code, End, Ended, JobError, JobIndex, Record, Sequence, StoreError, Timestamp};
use outflow_proto::protobuf::Response;
use prost::Message as _;

use super::{
    Archive, Place, chunk,
    model::{Fate, Model, moves},
    moved, run,
};

const FIXTURE: &[u8] = include_bytes!("version-1.gz");

/// Two frames that lie across two pieces of a block, and are short when they are packed.
fn long_frames() -> Chunk {
    let mut frames = Vec::new();
    for sequence in 1..=2 {
        let response = Response { sequence, result: "long ".repeat(8000), ..Response::default() };
        frames.push(0);
        frames.extend_from_slice(&(response.encoded_len() as u32).to_be_bytes());
        response.encode(&mut frames).unwrap();
    }
    Chunk::new(Sequence::new(1), Sequence::new(2), [frames.into()])
}

/// What is in it.
fn fill(archive: Option<&Archive>) -> Model {
    let mut model = Model::default();
    let put = |model: &mut Model, moved: &[super::Moved], seconds| {
        if let Some(archive) = archive {
            archive.put(moved, Duration::from_secs(seconds)).unwrap();
        }
        model.put(moved, Duration::from_secs(seconds));
    };
    for step in 0..12 {
        let payload = [10, 100, 1000][step as usize % 3];
        let fate = [Fate::GoesOn, Fate::Ends, Fate::HeadDropped, Fate::TakesKey][step as usize % 4];
        let moved = moves(&model, &[(step % 5, 9, payload, fate)], step);
        put(&mut model, &moved, step);
    }
    // One block of several pieces.
    let mut record = run(20, &["a key"]);
    let first = moved(&mut record, vec![long_frames()]);
    put(&mut model, &[first], 12);
    for change in [
        Record::JobStarted(JobIndex::new(3)),
        Record::JobEnded(JobIndex::new(3), Some(JobError::new(Code::NotFound, "not there"))),
        Record::LingerRaised(Duration::from_millis(99)),
    ] {
        record.add(&change);
    }
    let second = moved(&mut record, vec![]);
    put(&mut model, &[second], 13);
    let ends =
        [End::Failed(JobError::new(Code::DataLoss, "lost")), End::Deadline, End::Interrupted("restart".to_owned())];
    for (n, end) in (30..).zip(ends) {
        let mut ended = moved(&mut run(n, &[]), vec![chunk(n, 1..=3, 24)]);
        let (at, in_service) = (Timestamp::from_millis(5), Duration::from_secs(14));
        ended.record.add(&Record::Ended(Ended { end, jobs_failed: 1, at, in_service }));
        put(&mut model, &[ended], 14);
    }
    model
}

#[test]
#[ignore = "makes the fixture, which was made once"]
fn make_the_fixture() {
    let place = Place::new();
    fill(Some(&place.open()));
    let image = fs::read(&place.path).unwrap();
    let mut packed = Vec::new();
    GzEncoder::new(&image[..], Compression::best()).read_to_end(&mut packed).unwrap();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/store/archive/tests/version-1.gz");
    assert!(!std::path::Path::new(path).metadata().is_ok_and(|found| found.len() > 0), "{path} is there");
    fs::write(path, packed).unwrap();
}

#[test]
fn an_archive_of_format_1_is_read_as_it_was_written() {
    let place = Place::new();
    let mut image = Vec::new();
    GzDecoder::new(FIXTURE).read_to_end(&mut image).unwrap();
    fs::write(&place.path, image).unwrap();
    let archive = place.open();
    let mut model = fill(None);
    model.assert_in(&archive);
    // And it goes on from there.
    let more = moves(&model, &[(0, 100, 100, Fate::GoesOn), (9, 3, 10, Fate::Ends)], 20);
    archive.put(&more, Duration::from_secs(20)).unwrap();
    model.put(&more, Duration::from_secs(20));
    model.assert_in(&archive);
}

#[test]
fn an_archive_of_a_newer_format_is_refused() {
    let place = Place::new();
    let archive = place.open();
    archive
        .write(super::super::room::Growth::OfDisk, |_, state| {
            state.version = 2;
            Ok(())
        })
        .unwrap();
    drop(archive);
    let error = Archive::open(&place.path).unwrap_err();
    assert!(
        matches!(&error, StoreError::Failed(said) if said.contains("format 2") && said.contains("newer")),
        "{error}"
    );
}
