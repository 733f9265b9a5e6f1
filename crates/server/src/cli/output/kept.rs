//! A file that is written over as many attempts as it takes. It owns the lock, the bookmark's place in the order of
//! writes, and which half-written file may be gone on with; it must not know how responses come or look.
//!
//! While a bookmark is there the file is half: it is made before the first byte, and removed when the last one is
//! synced. It never says more than what is synced, so that whatever a killed program or a lost machine left behind it is
//! cut off and asked for again.

use std::{
    collections::BTreeSet,
    fmt,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Seek as _, SeekFrom, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    super::Continuation,
    Asked, Format,
    bookmark::{self, Bookmark},
};

/// What is written is synced, and the bookmark moved, after so long, or after so much. It bounds what is asked for again.
/// The first time comes soon, and each later one after twice the time, so that attempts that are cut short get on, too.
const NOTE_FIRST: Duration = Duration::from_millis(20);
const NOTE_EVERY: Duration = Duration::from_secs(1);
const NOTE_BYTES: u64 = 64 << 20;

/// Why a file cannot be written to.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum KeptError {
    #[error("{} is there already, and whole for all that is known (it has no bookmark); remove it, name another file, or say --overwrite", .file.display())]
    Exists { file: PathBuf },
    #[error("{} is being written by another outflow; wait for it, or name another file", .file.display())]
    InUse { file: PathBuf },
    #[error("{} is half written for another request: {} says {theirs}, not {ours}; {advice}say --overwrite to start anew", .file.display(), .place.display())]
    Another { file: PathBuf, place: PathBuf, theirs: String, ours: String, advice: String },
    #[error("{} has {found} bytes, and {} says that {said} were written: somebody changed or removed it; say --overwrite to start anew, with --run {run} to have the same run again", .file.display(), .place.display())]
    Short { file: PathBuf, place: PathBuf, found: u64, said: u64, run: String },
    #[error("{} holds a part of a run that cannot be gone on with; say --overwrite to start anew, and --linger so that the next one can", .file.display())]
    Dead { file: PathBuf },
    #[error("{} cannot be understood ({why}); {} is half written for all that is known: say --overwrite to start anew, or remove the bookmark to keep the file as it is", .place.display(), .file.display())]
    Bookmark { file: PathBuf, place: PathBuf, why: String },
    #[error("{}, which says how far {} has come, cannot be written ({source}); make that possible, or name another file", .place.display(), .file.display())]
    Mark { file: PathBuf, place: PathBuf, source: io::Error },
    #[error("{}: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// Whether a file that is there is written anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Existing {
    /// Only where it is half, and then it is gone on with.
    Continue,
    Overwrite,
}

/// What this attempt is about.
#[derive(Debug)]
pub(in crate::cli) struct Wanted {
    pub(in crate::cli) server: String,
    pub(in crate::cli) asked: Asked,
    pub(in crate::cli) format: Format,
}

/// A file, locked, with its bookmark.
pub(in crate::cli) struct Kept {
    file: File,
    path: PathBuf,
    /// Where the bookmark is.
    place: PathBuf,
    /// How far the file has come, ahead of the bookmark that is on the disk.
    bookmark: Bookmark,
    /// The one that was there when this attempt began.
    before: Option<Bookmark>,
    /// Whether there is one now.
    is_marked: bool,
    /// Whether this attempt made the file.
    is_made: bool,
    /// What the bookmark on the disk says, and since when.
    noted: (u64, Instant),
    /// How long after that it moves.
    pause: Duration,
}

impl Kept {
    /// Locks the file at `path`, making it where there is none, and finds out what is in it. Nothing in it is changed.
    pub(super) fn claim(path: &Path, existing: Existing, wanted: Wanted) -> Result<Self, KeptError> {
        // The bookmark stands beside the file itself, whatever name it was given by.
        let path = if path.is_symlink() { fs::canonicalize(path) } else { Ok(path.to_owned()) }
            .map_err(|source| KeptError::Io { path: path.into(), source })?;
        let (file, is_made) = lock(&path)?;
        Self::look(&path, file, is_made, existing, wanted).inspect_err(|_| unmake(&path, is_made))
    }

    fn look(path: &Path, file: File, is_made: bool, existing: Existing, wanted: Wanted) -> Result<Self, KeptError> {
        let failed = |source| KeptError::Io { path: path.into(), source };
        let length = file.metadata().map_err(failed)?.len();
        let place = bookmark::beside(path, ".outflow");
        let found = match Bookmark::read(&place) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData && existing == Existing::Overwrite => None,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(KeptError::Bookmark { file: path.into(), place, why: error.to_string() });
            }
            found => found.map_err(|source| KeptError::Io { path: place.clone(), source })?,
        };
        let bookmark = match (&found, existing) {
            (Some(found), Existing::Continue) => Half { path, place: &place, length }.go_on(found, &wanted)?,
            (None, Existing::Continue) if length > 0 => return Err(KeptError::Exists { file: path.into() }),
            _ => None,
        };
        let is_marked = found.is_some();
        let bookmark = bookmark.unwrap_or_else(|| Bookmark::new(&wanted.server, wanted.asked, wanted.format));
        let noted = (bookmark.bytes, Instant::now());
        Ok(Self {
            file,
            path: path.into(),
            place,
            bookmark,
            before: found,
            is_marked,
            is_made,
            noted,
            pause: NOTE_FIRST,
        })
    }

    /// The file's name.
    pub(in crate::cli) fn path(&self) -> &Path {
        &self.path
    }

    /// The run, where it can be gone on with, and the last of its responses that is in the file.
    pub(in crate::cli) fn run(&self) -> Option<(&str, u64)> {
        self.bookmark.run.as_deref().map(|run| (run, self.bookmark.sequence))
    }

    /// Whether it has as many as are wanted.
    pub(in crate::cli) fn is_full(&self) -> bool {
        self.bookmark.asked.limit.is_some_and(|limit| self.bookmark.responses >= limit)
    }

    /// Whether all of it is there, and only nobody was told.
    pub(in crate::cli) fn is_whole(&self) -> bool {
        self.bookmark.whole
    }

    /// Whether there is a bookmark.
    pub(in crate::cli) fn is_half(&self) -> bool {
        self.is_marked
    }

    /// Whether a run that is not known yet can be found.
    pub(in crate::cli) fn has_key(&self) -> bool {
        self.bookmark.key.is_some()
    }

    /// The command that goes on with it, where it is half.
    pub(in crate::cli) fn command(&self) -> Option<String> {
        if self.is_marked { command(&self.bookmark, &self.path) } else { None }
    }

    /// How many responses are in it.
    pub(in crate::cli) fn responses(&self) -> u64 {
        self.bookmark.responses
    }

    /// How many bytes are in it.
    pub(super) fn bytes(&self) -> u64 {
        self.bookmark.bytes
    }

    /// The key under which the run is found if the answer to this request does not arrive. It is durable when this
    /// returns, and so there is never a second run for one file.
    pub(in crate::cli) fn key(&mut self) -> Result<String, KeptError> {
        if self.bookmark.key.is_none() {
            self.bookmark.key = Some(format!("{:032x}", rand::random::<u128>()));
            self.mark()?;
        }
        Ok(self.bookmark.key.clone().expect("it was just made"))
    }

    /// The answer began: what is behind the bookmark is cut off, and the file is half from now on.
    pub(super) fn begin(&mut self, run: Option<String>) -> Result<(), KeptError> {
        self.bookmark.run = run;
        self.bookmark.key = None;
        // First, so that no moment has a file that lost something without a bookmark that says so. One that says it already
        // stays: on a full disk there is no room for another, until the file is cut.
        if self.before.as_ref() != Some(&self.bookmark) {
            self.mark()?;
        }
        let bytes = self.bookmark.bytes;
        let cut = self.file.set_len(bytes).and_then(|()| self.file.seek(SeekFrom::Start(bytes)));
        cut.map(drop).map_err(|source| self.failed(source))
    }

    /// So many more responses, the last of them with this sequence, are written.
    pub(super) fn count(&mut self, responses: u64, sequence: u64) -> Result<(), KeptError> {
        self.bookmark.responses += responses;
        self.bookmark.sequence = sequence;
        let is_due = self.due().is_some_and(|due| due <= Instant::now());
        if is_due || self.bookmark.run.is_some() && self.bookmark.bytes - self.noted.0 >= NOTE_BYTES {
            self.note()?;
        }
        Ok(())
    }

    /// When what is written has to be noted; `None` where all is, or nobody could use it.
    pub(super) fn due(&self) -> Option<Instant> {
        let is_behind = self.bookmark.run.is_some() && self.bookmark.bytes != self.noted.0;
        is_behind.then(|| self.noted.1 + self.pause)
    }

    /// Makes durable what is written, and says so.
    pub(super) fn note(&mut self) -> Result<(), KeptError> {
        self.file.sync_data().map_err(|source| self.failed(source))?;
        self.pause = (2 * self.pause).min(NOTE_EVERY);
        self.mark()
    }

    /// All is there that there will ever be.
    pub(super) fn complete(&mut self) -> Result<(), KeptError> {
        self.file.sync_all().map_err(|source| self.failed(source))?;
        bookmark::remove(&self.place).map_err(|source| self.failed_mark(source))?;
        self.is_marked = false;
        Ok(())
    }

    /// The same, and all is well: who is told so is told the truth, also where a power cut brings the bookmark back.
    pub(in crate::cli) fn complete_well(&mut self) -> Result<(), KeptError> {
        self.seal()?;
        self.complete()
    }

    /// Makes everything durable, and the bookmark say that it is everything.
    fn seal(&mut self) -> Result<(), KeptError> {
        let whole = self.file.set_len(self.bookmark.bytes).and_then(|()| self.file.sync_all());
        whole.map_err(|source| self.failed(source))?;
        if !self.bookmark.whole {
            self.bookmark.whole = true;
            // Where the disk is full the one that is there is true, too: going on with it gets what there is already.
            _ = self.mark();
        }
        Ok(())
    }

    /// There was no answer, and there will be none: everything is as it was before.
    pub(in crate::cli) fn give_up(&mut self) -> Result<(), KeptError> {
        match &self.before {
            Some(before) => before.replace(&self.place),
            None => bookmark::remove(&self.place),
        }
        .map_err(|source| self.failed_mark(source))?;
        unmake(&self.path, self.is_made);
        Ok(())
    }

    fn mark(&mut self) -> Result<(), KeptError> {
        if let Err(source) = self.bookmark.replace(&self.place) {
            if !self.is_marked {
                unmake(&self.path, self.is_made);
            }
            return Err(self.failed_mark(source));
        }
        self.is_marked = true;
        self.noted = (self.bookmark.bytes, Instant::now());
        Ok(())
    }

    fn failed(&self, source: io::Error) -> KeptError {
        KeptError::Io { path: self.path.clone(), source }
    }

    fn failed_mark(&self, source: io::Error) -> KeptError {
        KeptError::Mark { file: self.path.clone(), place: self.place.clone(), source }
    }
}

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let failed = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", self.path.display()));
        let count = self.file.write(bytes).map_err(failed)?;
        self.bookmark.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Kept {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl From<KeptError> for io::Error {
    fn from(error: KeptError) -> Self {
        let kind = match &error {
            KeptError::Io { source, .. } | KeptError::Mark { source, .. } => source.kind(),
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

/// A file that has a bookmark, as it was found.
struct Half<'a> {
    path: &'a Path,
    place: &'a Path,
    length: u64,
}

impl Half<'_> {
    /// The bookmark to go on from; `None` where there is nothing in the file.
    fn go_on(&self, found: &Bookmark, wanted: &Wanted) -> Result<Option<Bookmark>, KeptError> {
        let (file, place) = (self.path.to_owned(), self.place.to_owned());
        let difference = difference(found, wanted);
        match (&found.run, difference) {
            (Some(run), None) if self.length < found.bytes => {
                Err(KeptError::Short { file, place, found: self.length, said: found.bytes, run: run.clone() })
            }
            // It may be somewhere else by now.
            (Some(_), None) => {
                let mut bookmark = found.clone();
                bookmark.server.clone_from(&wanted.server);
                Ok(Some(bookmark))
            }
            (None, None) if found.key.is_some() => Ok(Some(found.clone())),
            (None, _) if self.length == 0 => Ok(None),
            (None, None) => Err(KeptError::Dead { file }),
            (_, Some((theirs, ours))) => {
                let go_on = command(found, self.path);
                let advice = go_on.map_or_else(String::new, |command| format!("go on with that by: {command}, or "));
                Err(KeptError::Another { file, place, theirs, ours, advice })
            }
        }
    }
}

/// The first thing in which what is wanted is not what the file holds: as it was, and as it is wanted.
fn difference(found: &Bookmark, wanted: &Wanted) -> Option<(String, String)> {
    fn option<T: PartialEq + fmt::Display>(name: &str, theirs: &T, ours: &T) -> Option<(String, String)> {
        (theirs != ours).then(|| (format!("{name} {theirs}"), format!("{name} {ours}")))
    }
    fn maybe<T: PartialEq + fmt::Display>(
        name: &str,
        theirs: Option<&T>,
        ours: Option<&T>,
    ) -> Option<(String, String)> {
        let said = |value: Option<&T>| value.map_or(format!("no {name}"), |value| format!("{name} {value}"));
        (theirs != ours).then(|| (said(theirs), said(ours)))
    }
    let (theirs, ours) = (&found.asked, &wanted.asked);
    let same_for_all = maybe("--limit", theirs.limit.as_ref(), ours.limit.as_ref())
        .or_else(|| option("--format", &found.format, &wanted.format));
    // Whoever names the run need not say again what was asked, nor where.
    if ours.run.is_some() && ours.run == found.run && ours.after.is_none() && ours.last.is_none() {
        return same_for_all;
    }
    let parameters = || {
        let names: BTreeSet<_> = theirs.parameters.keys().chain(ours.parameters.keys()).collect();
        names.into_iter().find_map(|name| {
            maybe(&format!("--param {name} of"), theirs.parameters.get(name), ours.parameters.get(name))
        })
    };
    maybe("--run", theirs.run.as_ref(), ours.run.as_ref())
        .or_else(|| maybe("id", theirs.id.as_ref(), ours.id.as_ref()))
        .or_else(|| maybe("--source", theirs.source.as_ref(), ours.source.as_ref()))
        .or_else(parameters)
        .or_else(|| maybe("--key", theirs.key.as_ref(), ours.key.as_ref()))
        .or_else(|| maybe("--after", theirs.after.as_ref(), ours.after.as_ref()))
        .or_else(|| maybe("--last", theirs.last.as_ref(), ours.last.as_ref()))
        .or_else(|| option("--server", &found.server, &wanted.server))
        .or(same_for_all)
}

/// The command that goes on with the file at `path`; none where nothing can.
fn command(bookmark: &Bookmark, path: &Path) -> Option<String> {
    let continuation = Continuation {
        run: bookmark.run.as_ref()?,
        after: None,
        last: None,
        output: Some(path),
        format: Some(bookmark.format).filter(|format| *format != Format::Plain),
        limit: bookmark.asked.limit,
        server: &bookmark.server,
    };
    Some(continuation.to_string())
}

/// Opens the file at `path`, or makes it, and locks it. Whether it was made.
fn lock(path: &Path) -> Result<(File, bool), KeptError> {
    let failed = |source| KeptError::Io { path: path.into(), source };
    loop {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let (file, is_made) = match options.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => match options.create_new(true).open(path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                made => (made.map_err(failed)?, true),
            },
            opened => (opened.map_err(failed)?, false),
        };
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(KeptError::InUse { file: path.into() }),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
            Ok(()) => {}
        }
        // One that gave up may have removed it between the two.
        let locked = file.metadata().map_err(failed)?;
        if fs::metadata(path).is_ok_and(|named| (named.dev(), named.ino()) == (locked.dev(), locked.ino())) {
            return Ok((file, is_made));
        }
    }
}

/// Removes the file again that this attempt made, and holds the lock of.
fn unmake(path: &Path, is_made: bool) {
    if is_made {
        // It is empty, and so does no harm where it stays.
        _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_to_be_whole_before_its_bookmark_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let claim = || {
            let wanted = Wanted { server: "h:1".into(), asked: Asked::default(), format: Format::Plain };
            Kept::claim(&path, Existing::Continue, wanted).unwrap()
        };
        let mut kept = claim();
        kept.begin(Some("01k".into())).unwrap();
        kept.write_all(b"all").unwrap();
        kept.count(1, 1).unwrap();
        kept.seal().unwrap();
        // Here the machine goes away, or a power cut brings this moment back.
        drop(kept);
        fs::write(&path, "all, and what does not count").unwrap();
        let mut kept = claim();
        assert!(kept.is_whole());
        kept.complete_well().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"all");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
