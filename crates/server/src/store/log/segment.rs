//! One segment of the live journal: its file under a number, what files of the journal are called, and how one is put aside.
//! It knows nothing of the others.

use std::{
    fmt, io,
    sync::{Arc, atomic::AtomicBool},
};

use super::{
    super::files::{File, Files},
    record::Salt,
};

/// A segment file's name is this, its slot, and [`SUFFIX`].
const PREFIX: &str = "live-";
const SUFFIX: &str = ".journal";

/// The file name of a slot.
pub(super) fn name(slot: u32) -> String {
    format!("{PREFIX}{slot:03}{SUFFIX}")
}

/// The slot that a file of this name is; `None` where it is no segment.
pub(super) fn slot(file: &str) -> Option<u32> {
    let slot = file.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok()?;
    (name(slot) == file).then_some(slot)
}

/// A segment that was put aside has this name, its number, 0 where that is not known, its slot, which of several that would
/// have one name, and [`SUFFIX`].
const ASIDE_PREFIX: &str = "damaged-";

fn name_aside(number: u64, slot: u32, copy: u32) -> String {
    format!("{ASIDE_PREFIX}{number}-{slot:03}-{copy}{SUFFIX}")
}

/// The number of the segment that was put aside in a file of this name; `None` where none was.
pub(super) fn number_aside(file: &str) -> Option<u64> {
    file.strip_prefix(ASIDE_PREFIX)?.strip_suffix(SUFFIX)?.split('-').next()?.parse().ok()
}

/// Puts a segment aside for whoever can make something of it: it is never looked at again, nor written.
pub(super) fn put_aside(files: &dyn Files, segment: &Segment) -> io::Result<()> {
    let names = files.list()?;
    let mut aside = (0..).map(|copy| name_aside(segment.number, segment.slot, copy));
    let aside = aside.find(|aside| !names.contains(aside)).expect("there are more names than files");
    files.rename(&name(segment.slot), &aside)?;
    files.sync_directory()?;
    tracing::error!("{segment:?} of the live journal in {} is damaged, and kept aside as {aside}", files.place());
    Ok(())
}

/// One file under one number. It is freed when the last reader has let go of it.
pub(in super::super) struct Segment {
    /// Segments are numbered in the order of their use; a file that is used again gets a new number.
    pub(super) number: u64,
    pub(super) slot: u32,
    pub(super) bytes: u32,
    pub(super) salt: Salt,
    pub(super) file: Arc<dyn File>,
    /// A write or sync failed: the file is never written again.
    pub(super) failed: AtomicBool,
    /// What was written there is not what lies there: the file is kept aside and never written again.
    pub(super) damaged: AtomicBool,
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {} in {}", self.number, name(self.slot))
    }
}
