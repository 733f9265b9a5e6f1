//! What is done with a data directory as a whole: it is checked, gives back what it does not need, and is copied while it
//! is used. It knows which parts a directory has, and not how each is laid out.

mod ask;
mod backup;
#[cfg(test)]
mod tests;

use std::{
    cell::Cell,
    ffi::OsStr,
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use outflow_engine::{RunRecord, Sequence, StoreError};

pub(super) use self::{ask::Asked, backup::Moment};
use super::{
    archive::{Archive, Moved, kept_bytes},
    directory::{self, ARCHIVE, Claimed, MARKER},
    embedded::{MOVED_BYTES, to_move},
    files::{Directory, Files},
    log::{self, Doomed, Index, Opened, Size, Unread},
};

/// The question for a backup is this, and the path of the new directory.
const BACKUP: &[u8] = b"backup ";
/// Bytes of frames that are read at once.
const READ_BYTES: usize = 1 << 20;

/// A directory whose server does not run.
struct Idle {
    archive: Archive,
    index: Index,
    /// What is damaged in the live journal.
    findings: Vec<String>,
    /// Released last.
    _claimed: Claimed,
}

/// What a check went through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Checked {
    pub(crate) runs: u64,
    /// Bytes of frames that are kept and readable, wherever they lie.
    pub(crate) bytes: u64,
}

/// Reads all that is in the directory at `path`, which no server uses, and tells whatever is not as it was written.
///
/// # Errors
/// Where the directory is none, is in use, or cannot be read at all.
pub(crate) fn check(path: &Path, tell: &mut dyn FnMut(&str)) -> Result<Checked, StoreError> {
    let idle = open(path)?;
    let is_damaged = Cell::new(false);
    let mut tell = |finding: &str| {
        is_damaged.set(true);
        tell(finding);
    };
    idle.findings.iter().for_each(|finding| tell(finding));
    let in_archive = idle.archive.snapshot()?.check(&mut |finding| tell(&format!("{ARCHIVE}: {finding}")))?;
    let mut checked = Checked { runs: in_archive.runs, bytes: in_archive.bytes };
    let archived = |run| idle.archive.find(run).ok().flatten();
    for Doomed { run, .. } in idle.index.to_delete(usize::MAX) {
        if let Some(record) = archived(run) {
            checked.runs -= 1;
            checked.bytes = checked.bytes.saturating_sub(readable_bytes(&idle.archive, &record));
        }
    }
    for piece in idle.index.moment(MOVED_BYTES) {
        let (run, first, last) = (piece.record.id, piece.first, piece.last);
        let archived = archived(run);
        // One that is archived in part was counted there.
        checked.runs += u64::from(piece.whole && archived.is_none());
        let counted = archived.map_or(0, |record| record.last.get()).max(piece.record.first.get() - 1);
        let (chunks, is_whole) = log::salvage(&piece.extents, run, first, Unread::Refused)?;
        checked.bytes += chunks.iter().map(|chunk| kept_bytes(chunk, counted)).sum::<u64>();
        if !is_whole {
            tell(&format!("live journal: run {run}: some of the responses {first} to {last} are damaged, and lost"));
        }
    }
    // What redb says of its own pages is of use only where nothing was found that can be named.
    drop(idle.archive);
    if !is_damaged.get()
        && let Err(error) = Archive::check_pages(&path.join(ARCHIVE))
    {
        tell(&error.to_string());
    }
    Ok(checked)
}

/// Bytes of the frames of a run that an archive has and that are readable.
fn readable_bytes(archive: &Archive, record: &RunRecord) -> u64 {
    let (mut bytes, mut counted) = (0, record.first.get() - 1);
    while counted < record.last.get() {
        let Ok(chunks) = archive.read(record.id, Sequence::new(counted + 1), READ_BYTES) else { break };
        let Some(last) = chunks.last().map(|chunk| chunk.last().get()) else { break };
        bytes += chunks.iter().map(|chunk| kept_bytes(chunk, counted)).sum::<u64>();
        counted = last;
    }
    bytes
}

/// Gives the room back to the disk that the directory at `path`, which no server uses, does not need; says how many bytes
/// it took before and takes afterwards.
///
/// # Errors
/// Where the directory is none, is in use, or the disk fails. Nothing is lost.
pub(crate) fn compact(path: &Path) -> Result<(u64, u64), StoreError> {
    let taken = || disk_bytes(path).map_err(|error| cannot("read", path, &error));
    let before = taken()?;
    let idle = open(path)?;
    idle.archive.compact()?;
    drop(idle);
    Ok((before, taken()?))
}

/// Copies the directory at `path` to `target`, which is a new one afterwards, with all that was durable when this began.
/// The server that uses it is asked to do that; where there is none it is done here.
///
/// # Errors
/// Where the directory is none, the target is there already, or a disk fails. Then there is no target.
pub(crate) fn backup(path: &Path, target: &Path) -> Result<(), StoreError> {
    let target = std::path::absolute(target).map_err(|error| cannot("name", target, &error))?;
    let question = [BACKUP, target.as_os_str().as_bytes()].concat();
    if let Some(answer) = ask::ask(path, &question) {
        return answer.map_err(StoreError::Failed);
    }
    let idle = open(path)?;
    let moment = Moment {
        archive: idle.archive.snapshot()?,
        live: idle.index.moment(MOVED_BYTES).into_iter().map(|snapshot| to_move(snapshot, Unread::Refused)),
        deleted: idle.index.to_delete(usize::MAX),
        in_service: idle.index.in_service(),
    };
    write(moment, &target, &AtomicBool::new(false))
}

/// Answers what a command asks of the server that uses a directory, which holds what `moment` gives.
pub(super) fn answer<'a, L: Iterator<Item = Result<Moved, StoreError>>>(
    question: &[u8],
    moment: impl FnOnce() -> Result<Moment<'a, L>, StoreError>,
    is_ending: &AtomicBool,
) -> Result<(), String> {
    let Some(target) = question.strip_prefix(BACKUP) else {
        return Err(
            "the server that uses the directory does not know what it is asked; is it of another version?".into()
        );
    };
    let target = Path::new(OsStr::from_bytes(target));
    let written = moment().and_then(|moment| write(moment, target, is_ending));
    match &written {
        Ok(()) => tracing::info!("made a backup in {}", target.display()),
        Err(error) => tracing::warn!("no backup was made in {}: {error}", target.display()),
    }
    written.map_err(|error| error.to_string())
}

/// Writes a moment as a new directory: under another name, so that half a one is never taken for a whole.
fn write<L>(moment: Moment<'_, L>, target: &Path, is_ending: &AtomicBool) -> Result<(), StoreError>
where
    L: Iterator<Item = Result<Moved, StoreError>>,
{
    if fs::symlink_metadata(target).is_ok() {
        let target = target.display();
        return Err(StoreError::Failed(format!("{target} is there already; give a place where nothing is")));
    }
    let mut partial = target.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    fs::create_dir(&partial).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => StoreError::Failed(format!(
            "{} is there: another backup is being made, or one was cut short; then remove it",
            partial.display()
        )),
        _ => cannot("make", &partial, &error),
    })?;
    let written = write_files(moment, &partial, is_ending).and_then(|()| {
        let renamed = fs::rename(&partial, target).and_then(|()| {
            let above = target.parent().unwrap_or(Path::new("/"));
            fs::File::open(above)?.sync_all()
        });
        renamed.map_err(|error| cannot("make", target, &error))
    });
    if written.is_err() {
        // The first error is the one to be told.
        _ = fs::remove_dir_all(&partial);
    }
    written
}

fn write_files<L>(moment: Moment<'_, L>, path: &Path, is_ending: &AtomicBool) -> Result<(), StoreError>
where
    L: Iterator<Item = Result<Moved, StoreError>>,
{
    let files = Directory::open(path).map_err(|error| cannot("open", path, &error))?;
    let claimed = directory::claim(&files)?;
    moment.write(&path.join(ARCHIVE), is_ending)?;
    drop(claimed);
    files.sync_directory().map_err(|error| cannot("sync", path, &error))
}

/// Opens a directory that is there, for this process alone, and without a thread that would change it.
fn open(path: &Path) -> Result<Idle, StoreError> {
    if !path.join(MARKER).exists() {
        let path = path.display();
        return Err(StoreError::Failed(format!(
            "{path} is no data directory of outflow (it has no file `{MARKER}`); name the one that `outflow serve` uses"
        )));
    }
    let files: Arc<dyn Files> = Arc::new(Directory::open(path).map_err(|error| cannot("open", path, &error))?);
    let claimed = directory::claim(&*files)?;
    let archive = directory::open_archive(&*files, |name| Archive::open(&path.join(name)))?;
    // The sizes are for what is written, and nothing is.
    let size = Size { segment_bytes: 16 << 20, segments_max: 16, patience: Duration::ZERO, ahead: false };
    let Opened { log: _, index, findings, interrupted } = log::open(files, claimed.id, size, &archive)?;
    let interrupted = interrupted.iter().map(|run| {
        format!("live journal: run {run}: what became of its jobs may be lost; it has no end, and is interrupted")
    });
    let findings = findings.iter().map(ToString::to_string).chain(interrupted).collect();
    Ok(Idle { archive, index, findings, _claimed: claimed })
}

/// Bytes of the disk that the files of a directory take.
fn disk_bytes(path: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(path)? {
        bytes += entry?.metadata()?.blocks() * 512;
    }
    Ok(bytes)
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> StoreError {
    StoreError::Failed(format!("cannot {what} {}: {error}", path.display()))
}
