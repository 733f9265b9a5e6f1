//! What a data directory says of itself from outside, as `docs/format.md` describes it: how much of it waits in the live
//! journal, how long its archive is, and how the kernel is made to forget what it read of it.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{Advice, fadvise};

use crate::Outcome;

/// The archive's file.
pub(crate) fn archive(directory: &Path) -> PathBuf {
    directory.join("archive.redb")
}

/// Bytes that a file has on disk.
pub(crate) fn allocated(file: &Path) -> io::Result<u64> {
    Ok(fs::metadata(file)?.blocks() * 512)
}

/// The live journal at one moment.
#[derive(Clone, Copy, Default)]
pub(crate) struct Live {
    /// Files that there are.
    pub(crate) segments: usize,
    /// Bytes of those that still count, about: a segment or two in preparation are counted, too.
    pub(crate) waiting_bytes: u64,
    /// Bytes of all of them.
    pub(crate) bytes: u64,
    /// The greatest number of a segment.
    pub(crate) newest: u64,
}

/// Reads the headers of all segments.
pub(crate) fn live(directory: &Path) -> Outcome<Live> {
    let mut live = Live::default();
    let (mut newest, mut oldest, mut segment_bytes) = (0, 0, 0);
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with("live-") {
            continue;
        }
        let mut header = [0; 48];
        // One that is being made is not there yet.
        if File::open(entry.path()).and_then(|file| file.read_exact_at(&mut header, 0)).is_err() {
            continue;
        }
        let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        if header[..8] != *b"outflowJ" {
            continue;
        }
        segment_bytes = entry.metadata()?.len();
        live.segments += 1;
        live.bytes += segment_bytes;
        if number(32) > newest {
            (newest, oldest) = (number(32), number(40));
        }
    }
    live.newest = newest;
    live.waiting_bytes = (newest + 1 - oldest.min(newest + 1)) * segment_bytes;
    Ok(live)
}

/// Makes the kernel forget what it has of these files, so that whoever reads them reads the disk.
pub(crate) fn forget(directory: &Path) -> Outcome<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.metadata()?.is_file() {
            let file = File::open(entry.path())?;
            // What is not written yet cannot be forgotten.
            file.sync_all()?;
            fadvise(&file, 0, None, Advice::DontNeed)?;
        }
    }
    Ok(())
}
