//! Where results go: stdout, a file that can be gone on with, or a device or pipe by name. It knows nothing of how they
//! look.

mod bookmark;
mod kept;
mod paced;
mod printer;
mod progress;

use std::{
    fs::{self, File},
    io::{self, IsTerminal as _, Write},
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

pub(super) use self::{
    bookmark::Asked,
    kept::{Existing, Kept, KeptError, Wanted},
    paced::Stuck,
    printer::{Ending, Format, Printed, Printer},
};

/// Where results will be written, once there are any.
pub(super) enum Destination {
    Stdout,
    /// A device or a pipe by name, which is opened when there is something to write.
    Special(PathBuf),
    Kept(Box<Kept>),
}

impl Destination {
    /// What `path` names, or stdout. A file is locked, and found to be one that may be written; it is not changed.
    pub(super) fn claim(path: Option<&Path>, existing: Existing, wanted: Wanted) -> Result<Self, KeptError> {
        let Some(path) = path else { return Ok(Self::Stdout) };
        match fs::metadata(path) {
            Ok(found) if !found.is_file() && !found.is_dir() => Ok(Self::Special(path.into())),
            _ => Kept::claim(path, existing, wanted).map(|kept| Self::Kept(Box::new(kept))),
        }
    }

    /// Whether somebody has to hear Ctrl-C before there is an answer: to tidy up a file, or to say how a run is found that
    /// `goes_on`. Not where opening may have to wait, and only the signal itself ends that.
    pub(super) fn listens_early(&self, goes_on: bool) -> bool {
        match self {
            Self::Stdout => goes_on,
            Self::Special(_) => false,
            Self::Kept(_) => true,
        }
    }

    /// The file, where it is one.
    pub(super) fn kept(&mut self) -> Option<&mut Kept> {
        if let Self::Kept(kept) = self { Some(kept) } else { None }
    }

    /// The answer began: now there is something to write.
    ///
    /// `run` is the one that answers, where it can be gone on with.
    pub(super) fn open(self, run: Option<String>) -> Result<Output, KeptError> {
        match self {
            Self::Stdout => Ok(Output::Stdout(io::stdout())),
            Self::Special(path) => match File::options().write(true).open(&path) {
                Ok(file) => Ok(Output::Special(file, path)),
                Err(source) => Err(KeptError::Io { path, source }),
            },
            Self::Kept(mut kept) => {
                kept.begin(run)?;
                Ok(Output::Kept(kept))
            }
        }
    }
}

/// Where results are written.
pub(super) enum Output {
    Stdout(io::Stdout),
    Special(File, PathBuf),
    Kept(Box<Kept>),
}

impl Output {
    pub(super) fn is_terminal(&self) -> bool {
        matches!(self, Self::Stdout(stdout) if stdout.is_terminal())
    }

    /// This output, where it is a pipe that somebody reads.
    pub(super) fn pipe(&self) -> Option<&Self> {
        let kind = rustix::fs::fstat(self).ok().map(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode));
        (kind == Some(rustix::fs::FileType::Fifo)).then_some(self)
    }

    /// What a full disk or a remote file system has not said yet, it says now.
    fn close(&mut self, ending: Ending) -> io::Result<()> {
        match (self, ending) {
            (Self::Kept(kept), Ending::Well) => Ok(kept.complete_well()?),
            (Self::Kept(kept), Ending::Failed) => Ok(kept.complete()?),
            (Self::Kept(kept), Ending::Cut) => Ok(kept.note()?),
            (Self::Special(file, _), _) => match file.sync_all() {
                // A device or a pipe cannot be synced and need not be.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
                synced => synced,
            },
            (Self::Kept(_), Ending::Unwritten) | (Self::Stdout(_), _) => Ok(()),
        }
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stdout(stdout) => stdout.as_fd(),
            Self::Special(file, _) => file.as_fd(),
            Self::Kept(kept) => kept.as_fd(),
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            // Not through its own buffer, which looks for line ends: every batch is flushed as a whole anyway.
            Self::Stdout(stdout) => rustix::io::write(stdout, bytes).map_err(Into::into),
            Self::Special(file, path) => file
                .write(bytes)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
            Self::Kept(kept) => kept.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
