//! A backup: a new data directory that holds what the old one held at one moment. What lies in the live journal at that
//! moment is put into the new archive, so that a backup has no live journal, and is as any directory whose server was
//! idle for a while. It knows the archive, and of the live journal only what it gives.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use outflow_engine::{Chunk, StoreError};

use super::super::{
    archive::{Archive, Moved, Snapshot},
    log::Doomed,
    mover::delete,
};

/// What is put into the new archive at once, in bytes and in runs.
const BYTES_AT_ONCE: usize = 16 * 1024 * 1024;
const RUNS_AT_ONCE: usize = 1000;

/// What a store held at one moment.
pub(in super::super) struct Moment<'a, L> {
    /// What its archive did.
    pub(in super::super) archive: Snapshot<'a>,
    /// What its live journal did, as it would be moved to the archive: in the order in which the runs started, and a long
    /// one perhaps in several pieces.
    pub(in super::super) live: L,
    /// The runs that are deleted, and may still be in the archive.
    pub(in super::super) deleted: Vec<Doomed>,
    /// How long it had been in service.
    pub(in super::super) in_service: Duration,
}

impl<L: Iterator<Item = Result<Moved, StoreError>>> Moment<'_, L> {
    /// Writes all of it to a new archive, until `is_ending` says that there is no more time.
    ///
    /// # Errors
    /// Then there is no new archive.
    pub(in super::super) fn write(self, path: &Path, is_ending: &AtomicBool) -> Result<(), StoreError> {
        self.archive.copy(path, is_ending)?;
        let added = Archive::open(path)
            .and_then(|archive| add(&archive, self.live, is_ending, self.in_service, &self.deleted));
        if added.is_err() {
            Archive::remove(path);
        }
        added
    }
}

fn add(
    archive: &Archive,
    live: impl Iterator<Item = Result<Moved, StoreError>>,
    is_ending: &AtomicBool,
    in_service: Duration,
    deleted: &[Doomed],
) -> Result<(), StoreError> {
    for doomed in deleted.chunks(RUNS_AT_ONCE) {
        delete(archive, doomed)?;
    }
    let (mut moved, mut bytes) = (Vec::new(), 0);
    for piece in live {
        let piece = piece?;
        bytes += piece.chunks.iter().map(Chunk::len).sum::<usize>();
        moved.push(piece);
        if bytes >= BYTES_AT_ONCE || moved.len() >= RUNS_AT_ONCE {
            if is_ending.load(Ordering::Acquire) {
                return Err(ending());
            }
            archive.put(&moved, in_service)?;
            moved.clear();
            bytes = 0;
        }
    }
    archive.put(&moved, in_service)
}

/// Why a copy was not finished.
pub(in super::super) fn ending() -> StoreError {
    StoreError::Failed("the server is shutting down; try again".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use outflow_engine::{RunId, RunRecord, Sequence, Start, Timestamp};

    use super::*;

    fn moved(n: u64, sequences: std::ops::RangeInclusive<u64>) -> Moved {
        let id = RunId::journaled(Timestamp::from_millis(n), u128::from(n));
        let (first, last) = (*sequences.start(), *sequences.end());
        let frames: Vec<u8> = sequences.flat_map(|sequence| [0, 0, 0, 0, 2, 2 << 3, sequence as u8]).collect();
        let mut record = RunRecord::new(id, Arc::new(Start::default()));
        (record.last, record.bytes) = (Sequence::new(last), last * 7);
        let chunk = Chunk::new(Sequence::new(first), Sequence::new(last), [frames.into()]);
        Moved { record, chunks: vec![chunk], keys: Vec::new() }
    }

    fn ids(archive: &Archive) -> Vec<(RunId, u64)> {
        let runs = archive.unended().unwrap();
        runs.into_iter().map(|run| (run.id, run.last.get())).collect()
    }

    #[test]
    fn a_moment_is_what_was_in_the_archive_and_in_the_live_journal() {
        let folder = tempfile::tempdir().unwrap();
        let archive = Archive::open(&folder.path().join("archive")).unwrap();
        archive.put(&[moved(1, 1..=10), moved(2, 1..=10), moved(3, 1..=10)], Duration::from_secs(1)).unwrap();
        let moment = || Moment {
            archive: archive.snapshot().unwrap(),
            // A run that goes on in pieces, and one that is new.
            live: [moved(2, 11..=15), moved(2, 16..=20), moved(4, 1..=3)].into_iter().map(Ok),
            deleted: vec![Doomed { run: moved(3, 1..=1).record.id, keys: Vec::new() }],
            in_service: Duration::from_secs(9),
        };
        let target = folder.path().join("target");
        moment().write(&target, &AtomicBool::new(false)).unwrap();
        let copy = Archive::open(&target).unwrap();
        let id = |n| moved(n, 1..=1).record.id;
        assert_eq!(ids(&copy), [(id(1), 10), (id(2), 20), (id(4), 3)]);
        assert_eq!(copy.in_service(), Duration::from_secs(9));
        let read = copy.read(id(2), Sequence::FIRST, 1 << 20).unwrap();
        assert_eq!(read.iter().map(|chunk| (chunk.first().get(), chunk.last().get())).collect::<Vec<_>>(), [(1, 20)]);
        assert_eq!(ids(&archive), [(id(1), 10), (id(2), 10), (id(3), 10)], "the archive itself is as it was");
    }

    #[test]
    fn what_fails_or_is_ended_early_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let archive = Archive::open(&folder.path().join("archive")).unwrap();
        archive.put(&[moved(1, 1..=10)], Duration::from_secs(1)).unwrap();
        let moment = |live: Vec<Result<Moved, StoreError>>| Moment {
            archive: archive.snapshot().unwrap(),
            live: live.into_iter(),
            deleted: Vec::new(),
            in_service: Duration::ZERO,
        };
        let files = || std::fs::read_dir(folder.path()).unwrap().count();
        let before = files();
        let target = folder.path().join("target");
        let failed = Err(StoreError::Failed("the live journal".to_owned()));
        let error = moment(vec![failed]).write(&target, &AtomicBool::new(false)).unwrap_err();
        assert!(error.to_string().contains("the live journal"), "{error}");
        let error = moment(vec![]).write(&target, &AtomicBool::new(true)).unwrap_err();
        assert_eq!(error, ending());
        assert_eq!(files(), before);
    }
}
