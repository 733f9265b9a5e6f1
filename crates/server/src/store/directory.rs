//! Whose a data directory is: the marker in it says that it is ours and of which format, and a lock that it is ours
//! alone. It knows nothing of what else is there.

use std::io;

use outflow_engine::StoreError;

use super::{
    archive::Archive,
    files::Files,
    log::{self, DirectoryId},
};

/// The archive's file.
pub(super) const ARCHIVE: &str = "archive.redb";
/// The archive before it has its name.
const ARCHIVE_NEW: &str = "archive.new";
const LOCK: &str = "lock";
pub(super) const MARKER: &str = "outflow";
/// The marker before it has its name.
const MARKER_NEW: &str = "outflow.new";
const MAGIC: &[u8; 8] = b"outflowD";
/// The format of the directory as a whole; its files have versions of their own.
const VERSION: u32 = 1;
/// Magic, version, four zeros, the directory's id, CRC32C of all that, and zeros up to a sector.
const MARKER_BYTES: usize = 512;
/// A process id, as text.
const HOLDER_BYTES: usize = 20;

/// A directory that is ours alone.
pub(super) struct Claimed {
    pub(super) id: DirectoryId,
    _lock: Box<dyn Send + Sync>,
}

/// Takes a directory for this process, and makes it ours where it is empty.
pub(super) fn claim(files: &dyn Files) -> Result<Claimed, StoreError> {
    let place = files.place();
    let failed = |error: &io::Error| {
        StoreError::Failed(format!("cannot use the data directory {place}: {error}; name another one"))
    };
    let names = files.list().map_err(|error| failed(&error))?;
    let is_ours = names.iter().any(|name| name == MARKER);
    let is_empty = names.iter().all(|name| [LOCK, MARKER_NEW].contains(&name.as_str()));
    if !is_ours && !is_empty {
        return Err(StoreError::Failed(format!(
            "{place} is not empty and no data directory of outflow (it has no file `{MARKER}`); name an empty or a new \
             one with --data"
        )));
    }
    let Some(lock) = files.lock(LOCK).map_err(|error| failed(&error))? else {
        let holder = holder(files).map_or_else(String::new, |process| format!(" (process {process})"));
        return Err(StoreError::Failed(format!(
            "the data directory {place} is in use by another outflow{holder}; stop that one, or name another directory"
        )));
    };
    note_holder(files).map_err(|error| failed(&error))?;
    if is_ours {
        // A process that was killed may have named files that are to be relied on, and not synced that.
        files.sync_directory().map_err(|error| failed(&error))?;
    }
    let id = if is_ours { read(files)? } else { make(files).map_err(|error| failed(&error))? };
    Ok(Claimed { id, _lock: lock })
}

/// The id of the directory, from its marker.
fn read(files: &dyn Files) -> Result<DirectoryId, StoreError> {
    let place = files.place();
    let mut marker = [0; MARKER_BYTES];
    let read = files.open(MARKER).and_then(|file| file.read_at(&mut marker, 0));
    read.map_err(|error| StoreError::Failed(format!("cannot read {MARKER} in the data directory {place}: {error}")))?;
    let crc = u32::from_le_bytes(marker[32..36].try_into().expect("four bytes"));
    if marker[..8] != *MAGIC || crc != crc32c::crc32c(&marker[..32]) {
        return Err(StoreError::Damaged(format!(
            "{MARKER} in {place} is not what was written there; restore the directory from a backup, or name another one"
        )));
    }
    match u32::from_le_bytes(marker[8..12].try_into().expect("four bytes")) {
        VERSION => Ok(marker[16..32].try_into().expect("sixteen bytes")),
        version => Err(StoreError::Failed(format!(
            "the data directory {place} is of format {version}, and this version of outflow reads none newer than \
             {VERSION}; use the one that wrote it, or a newer one"
        ))),
    }
}

/// Makes the directory ours. Where that is cut short it is still empty to the next process.
fn make(files: &dyn Files) -> io::Result<DirectoryId> {
    let id: DirectoryId = rand::random();
    let mut marker = [0; MARKER_BYTES];
    marker[..8].copy_from_slice(MAGIC);
    marker[8..12].copy_from_slice(&VERSION.to_le_bytes());
    marker[16..32].copy_from_slice(&id);
    let crc = crc32c::crc32c(&marker[..32]);
    marker[32..36].copy_from_slice(&crc.to_le_bytes());
    let file = files.create(MARKER_NEW, MARKER_BYTES as u64)?;
    file.write_at(&marker, 0)?;
    file.sync()?;
    files.rename(MARKER_NEW, MARKER)?;
    files.sync_directory()?;
    Ok(id)
}

/// Notes which process has the lock, for people.
fn note_holder(files: &dyn Files) -> io::Result<()> {
    let file = files.open(LOCK)?;
    file.set_length(HOLDER_BYTES as u64)?;
    let text = format!("{:<HOLDER_BYTES$}", std::process::id());
    file.write_at(text.as_bytes(), 0)
}

fn holder(files: &dyn Files) -> Option<u32> {
    let mut text = [0; HOLDER_BYTES];
    files.open(LOCK).and_then(|file| file.read_at(&mut text, 0)).ok()?;
    std::str::from_utf8(&text).ok()?.trim().parse().ok()
}

/// Opens the archive in a directory that is ours, with what opens one in the file of a name. A new one is made under
/// another name: half of one is no archive.
///
/// # Errors
/// [`StoreError::Damaged`] where it was there and is not: a new one in its place would pass over what was in it.
pub(super) fn open_archive(
    files: &dyn Files,
    open: impl Fn(&str) -> Result<Archive, StoreError>,
) -> Result<Archive, StoreError> {
    let place = files.place();
    let failed = |error: &io::Error| {
        StoreError::Failed(format!("cannot make the archive in the data directory {place}: {error}"))
    };
    let lost = |what| {
        StoreError::Damaged(format!(
            "{ARCHIVE} in the data directory {place} {what}, and with it the runs that had ended; put it back, restore the \
             directory from a backup, or name another one"
        ))
    };
    let names = files.list().map_err(|error| failed(&error))?;
    if names.iter().any(|name| name == ARCHIVE) {
        let length = files.open(ARCHIVE).and_then(|file| file.length()).map_err(|error| {
            StoreError::Failed(format!("cannot open {ARCHIVE} in the data directory {place}: {error}"))
        })?;
        if length == 0 {
            return Err(lost("is empty"));
        }
        return open(ARCHIVE);
    }
    // It is made before anything is journaled.
    if names.iter().any(|name| log::is_file(name)) {
        return Err(lost("is missing"));
    }
    if names.iter().any(|name| name == ARCHIVE_NEW) {
        files.remove(ARCHIVE_NEW).map_err(|error| failed(&error))?;
    }
    drop(open(ARCHIVE_NEW)?);
    let named = files.rename(ARCHIVE_NEW, ARCHIVE).and_then(|()| files.sync_directory());
    named.map_err(|error| failed(&error))?;
    open(ARCHIVE)
}
