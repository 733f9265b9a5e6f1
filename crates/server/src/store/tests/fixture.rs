//! A data directory of format 1 that lies in the repository, as a server leaves it that was killed: live journal and archive
//! together. This version and every later one finds in it what is here.

use std::{fs, io, io::Read as _, path::Path, sync::Arc, time::Duration};

use flate2::{Compression, bufread::GzDecoder, read::GzEncoder};
use outflow_engine::{
    Batch, Code, End, Ended, JobError, JobIndex, Record, Room, RunId, Sequence, Start, Store, Timestamp,
};

use super::{
    super::{archive::Archive, data, embedded::Embedded, embedded::Workers, files::Files as _, open},
    SMALL, commit,
    disk::{Disk, Failure},
    frames, id, key,
    load::Model,
};

const FIXTURE: &[u8] = include_bytes!("directory-1.gz");

/// What is done on the way to it.
enum Step {
    Commit(Vec<(RunId, Record)>),
    /// It fails, and so never happened.
    Fail(Vec<(RunId, Record)>),
    /// What has to leave the journal does, or all that ended.
    Move(bool),
    Reopen,
}

fn begins(n: u64, keys: &[u64]) -> (RunId, Record) {
    let start = Start {
        source: format!("source {n}").into(),
        configuration: u64::MAX - n,
        id: -(n as i32),
        parameters: [("name", "é"), ("empty", "")].into_iter().collect(),
        keys: keys.iter().map(|n| key(&format!("key {n}"))).collect(),
        at: Timestamp::from_millis(n),
        jobs: 3,
        linger: Duration::from_millis(1_500),
        reuse: n.is_multiple_of(2).then_some(Duration::from_secs(n)),
        ..Start::default()
    };
    (id(n), Record::Started(Arc::new(start)))
}

fn emits(n: u64, first: u64, count: u64, payload: usize) -> (RunId, Record) {
    (id(n), Record::Frames(frames(first, count, payload)))
}

fn ends(n: u64, end: End, seconds: u64) -> (RunId, Record) {
    let (at, in_service) = (Timestamp::from_millis(n + 5), Duration::from_secs(seconds));
    (id(n), Record::Ended(Ended { end, jobs_failed: 0, at, in_service }))
}

fn steps() -> Vec<Step> {
    let job = |n, job| (id(n), Record::JobStarted(JobIndex::new(job)));
    let over = |n, job, error: Option<JobError>| (id(n), Record::JobEnded(JobIndex::new(job), error));
    let error = JobError::new(Code::NotFound, "not there");
    let mut steps = vec![
        Step::Commit(vec![begins(1, &[0]), job(1, 0), emits(1, 1, 10, 20)]),
        Step::Commit(vec![
            begins(2, &[1, 2]),
            emits(2, 1, 1, 0),
            over(2, 1, Some(error.clone())),
            emits(1, 11, 5, 0),
        ]),
        // A batch in several parts.
        Step::Commit((0..6).map(|piece| emits(2, piece * 20 + 2, 20, 1_200)).collect()),
        Step::Fail(vec![emits(1, 16, 100, 7), begins(66, &[5])]),
        Step::Commit(vec![over(1, 0, None), (id(1), Record::LingerRaised(Duration::from_secs(9)))]),
        Step::Move(true),
        Step::Reopen,
    ];
    // So much that it is moved, and files are used again.
    for round in 0..12 {
        steps.push(Step::Commit(vec![emits(2, round * 40 + 122, 40, 1_000), emits(1, round + 16, 1, 300)]));
        steps.push(Step::Move(false));
    }
    steps.extend([
        Step::Commit(vec![begins(3, &[3]), emits(3, 1, 3, 40), ends(3, End::Complete, 5)]),
        Step::Commit(vec![begins(4, &[]), emits(4, 1, 9, 5), (id(4), Record::HeadDropped(Sequence::new(4)))]),
        Step::Commit(vec![begins(5, &[4]), ends(5, End::Stopped, 6), begins(6, &[]), ends(6, End::Deadline, 7)]),
        Step::Move(true),
        Step::Reopen,
        // The rest lies in the journal.
        Step::Commit(vec![begins(7, &[1]), emits(7, 1, 2, 30), ends(7, End::Failed(error), 8)]),
        Step::Commit(vec![begins(8, &[]), ends(8, End::Interrupted("restart".to_owned()), 9)]),
        Step::Commit(vec![(id(3), Record::Deleted), (id(6), Record::KeyBound(key("key 0")))]),
        Step::Commit(vec![begins(9, &[5]), job(9, 2), emits(9, 1, 3, 20_000), over(9, 2, None)]),
        Step::Commit(vec![emits(1, 28, 4, 100), emits(2, 602, 4, 100), ends(2, End::Complete, 10)]),
    ]);
    steps
}

/// What is in it.
fn model() -> Model {
    let mut model = Model::default();
    for (at, step) in steps().into_iter().enumerate() {
        if let Step::Commit(records) = step {
            model.add(&batch(at, records));
        }
    }
    model
}

fn batch(at: usize, records: Vec<(RunId, Record)>) -> Batch {
    Batch { in_service: Duration::from_millis(at as u64 * 250), records }
}

#[test]
#[ignore = "makes the fixture, which was made once"]
fn make_the_fixture() {
    let disk = Disk::default();
    let open = || {
        let archive = |name: &str| Archive::open_on(name.to_owned(), disk.backing(name).unwrap());
        Embedded::open(Arc::new(disk.clone()), archive, SMALL, Workers::Caller).unwrap()
    };
    let mut store = open();
    for (at, step) in steps().into_iter().enumerate() {
        match step {
            Step::Commit(records) => store.commit(&batch(at, records), Room::Ordinary).unwrap(),
            Step::Fail(records) => {
                // The write is done, and the sync fails.
                disk.fail(Failure { after: 1, times: 1, kind: io::ErrorKind::Other });
                store.commit(&batch(at, records), Room::Ordinary).unwrap_err();
                assert!(!disk.heal());
            }
            Step::Move(is_quiet) => store.shared().work_off(is_quiet).unwrap(),
            Step::Reopen => {
                drop(store);
                store = open();
            }
        }
    }
    assert_eq!(model().differs(&store).unwrap(), None);
    drop(store);
    let mut image = Vec::new();
    for name in disk.names() {
        let file = disk.open(&name).unwrap();
        let mut bytes = vec![0; file.length().unwrap() as usize];
        file.read_at(&mut bytes, 0).unwrap();
        for part in [name.as_bytes(), &bytes] {
            image.extend_from_slice(&(part.len() as u32).to_le_bytes());
            image.extend_from_slice(part);
        }
    }
    let mut packed = Vec::new();
    GzEncoder::new(&image[..], Compression::best()).read_to_end(&mut packed).unwrap();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/store/tests/directory-1.gz");
    assert!(!Path::new(path).metadata().is_ok_and(|found| found.len() > 0), "{path} is there");
    fs::write(path, packed).unwrap();
}

/// Lays it out: each file is the length of its name, its name, its length, and its bytes.
fn unpack(folder: &Path) {
    let mut image = Vec::new();
    GzDecoder::new(FIXTURE).read_to_end(&mut image).unwrap();
    let mut rest = &image[..];
    let mut take = || {
        let (length, more) = rest.split_first_chunk()?;
        let (part, more) = more.split_at(u32::from_le_bytes(*length) as usize);
        rest = more;
        Some(part)
    };
    while let (Some(name), Some(bytes)) = (take(), take()) {
        fs::write(folder.join(std::str::from_utf8(name).unwrap()), bytes).unwrap();
    }
}

#[test]
fn a_directory_of_format_1_is_opened_as_it_was_written_and_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    unpack(folder.path());
    let mut findings = Vec::new();
    let checked = data::check(folder.path(), &mut |finding| findings.push(finding.to_owned())).unwrap();
    assert_eq!((findings, checked.runs), (Vec::new(), 8));

    let mut model = model();
    let mut store = open(folder.path(), SMALL).unwrap();
    for round in 0..3 {
        assert_eq!(model.differs(&*store).unwrap(), None, "round {round}");
        let more = [emits(1, 32 + round * 50, 50, 900), begins(20 + round, &[round]), emits(20 + round, 1, 2, 10)];
        model.add(&Batch { in_service: Duration::from_secs(20), records: more.to_vec() });
        commit(&*store, 20, more);
        drop(store);
        store = open(folder.path(), SMALL).unwrap();
    }
    assert_eq!(model.differs(&*store).unwrap(), None);
}
