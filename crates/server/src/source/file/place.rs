//! Which files can be had: names below a root and nothing else, opened so that nobody can lead out of it, also not by
//! changing folders meanwhile. It knows nothing of what is done with a file.

use std::{
    fs::{File, Metadata},
    io,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::Path,
    time::SystemTime,
};

use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    io::Errno,
};

/// No system call takes a longer path.
const PATH_BYTES_MAX: usize = 4095;
/// Nor a longer name, on any file system.
const NAME_BYTES_MAX: usize = 255;
/// How often a path is tried again of which a part was moved while it was walked.
#[cfg(target_os = "linux")]
const MOVED_MAX: usize = 16;

/// Why a text is no path below a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotBelow {
    #[error("it is empty, or a name in it is")]
    Empty,
    #[error("`.` and `..` are no names of files")]
    Dots,
    #[error("it is too long for a path, or a name in it is")]
    Long,
    #[error("it has a zero byte in it")]
    Zero,
}

/// The names that lead to a file, each below the one before. What they mean nothing special in, is a name like any other:
/// `%2e%2e` is no `..`, and a backslash separates nothing.
pub(super) fn names(path: &str) -> Result<Vec<&str>, NotBelow> {
    if path.len() > PATH_BYTES_MAX {
        return Err(NotBelow::Long);
    }
    let name = |name| match name {
        "" => Err(NotBelow::Empty),
        "." | ".." => Err(NotBelow::Dots),
        name if name.contains('\0') => Err(NotBelow::Zero),
        name if name.len() > NAME_BYTES_MAX => Err(NotBelow::Long),
        name => Ok(name),
    };
    path.split('/').map(name).collect()
}

/// Why a file was not opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotOpened {
    /// There is none, or what is there is no file, or it lies outside. Nobody is told which.
    #[error("there is no such file")]
    Missing,
    #[error("the server may not read it")]
    Denied,
    /// The process has no place for another one.
    #[error("no more files can be opened: {0}")]
    Full(io::Error),
    #[error("{0}")]
    Failed(io::Error),
}

impl From<Errno> for NotOpened {
    fn from(error: Errno) -> Self {
        match error {
            // XDEV: it leads outside. LOOP: a symbolic link, where none is followed, or too many. NXIO: a socket.
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::NXIO | Errno::NAMETOOLONG => {
                Self::Missing
            }
            Errno::ACCESS | Errno::PERM => Self::Denied,
            Errno::MFILE | Errno::NFILE | Errno::NOMEM => Self::Full(error.into()),
            error => Self::Failed(error.into()),
        }
    }
}

impl From<io::Error> for NotOpened {
    fn from(error: io::Error) -> Self {
        Errno::from_io_error(&error).map_or_else(|| Self::Failed(error), Self::from)
    }
}

/// How a path is walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Walk {
    /// By the kernel, which sees to it that no part leads out. Symbolic links are followed that stay below the root.
    Kernel,
    /// Name by name, where the kernel does not know that. No symbolic link is followed.
    Names,
}

/// Opens the file below `root` that `names` lead to. It may block.
pub(super) fn open(root: &Path, names: &[&str]) -> Result<File, NotOpened> {
    #[cfg(target_os = "linux")]
    match open_by(Walk::Kernel, root, names) {
        // Linux before 5.6, and sandboxes.
        Err(NotOpened::Failed(error)) if error.kind() == io::ErrorKind::Unsupported => {}
        opened => return opened,
    }
    open_by(Walk::Names, root, names)
}

/// The same, walked so.
pub(super) fn open_by(walk: Walk, root: &Path, names: &[&str]) -> Result<File, NotOpened> {
    // Each time anew, since a root may be put in place of another one.
    let root = openat(CWD, root, HANDLE | OFlags::DIRECTORY, Mode::empty())
        .map_err(|error| NotOpened::Failed(io::Error::other(format!("the root cannot be opened: {error}"))))?;
    // First without opening it: that could end somebody's wait at a pipe, or have a device do something.
    let seen = File::from(walked(walk, &root, names, HANDLE)?).metadata()?;
    if !seen.is_file() {
        return Err(NotOpened::Missing);
    }
    // It may be something else by now. Nothing is waited for.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(walked(walk, &root, names, flags)?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(NotOpened::Missing) }
}

#[cfg(target_os = "linux")]
const HANDLE: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
#[cfg(not(target_os = "linux"))]
const HANDLE: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

fn walked(walk: Walk, root: &OwnedFd, names: &[&str], flags: OFlags) -> Result<OwnedFd, NotOpened> {
    match walk {
        #[cfg(target_os = "linux")]
        Walk::Kernel => by_kernel(root, &names.join("/"), flags),
        _ => by_names(root, names, flags),
    }
}

#[cfg(target_os = "linux")]
fn by_kernel(root: &OwnedFd, path: &str, flags: OFlags) -> Result<OwnedFd, NotOpened> {
    use rustix::fs::{ResolveFlags, openat2};

    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mut moved = 0;
    loop {
        return match openat2(root, path, flags, Mode::empty(), resolve) {
            // A folder was moved while `..` of a link was walked, and it cannot be told that it stays below.
            Err(Errno::AGAIN) if moved < MOVED_MAX => {
                moved += 1;
                continue;
            }
            Err(Errno::AGAIN) => Err(NotOpened::Missing),
            Err(Errno::INTR) => continue,
            // Some sandboxes refuse what they do not know as if it were not permitted.
            Err(Errno::NOSYS | Errno::PERM) => Err(NotOpened::Failed(io::ErrorKind::Unsupported.into())),
            Err(error) => Err(error.into()),
            Ok(file) => Ok(file),
        };
    }
}

/// Each name in the folder that the one before led to: what is moved meanwhile leads nowhere else.
fn by_names(root: &OwnedFd, names: &[&str], flags: OFlags) -> Result<OwnedFd, NotOpened> {
    let (last, folders) = names.split_last().ok_or(NotOpened::Missing)?;
    let mut folder = None;
    for name in folders {
        let above = folder.as_ref().unwrap_or(root);
        folder = Some(openat(above, *name, HANDLE | OFlags::DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?);
    }
    Ok(openat(folder.as_ref().unwrap_or(root), *last, flags | OFlags::NOFOLLOW, Mode::empty())?)
}

/// Which file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    inode: u64,
    /// The file system, which may be called something else after it was mounted anew. `None` where the time of birth is
    /// known, which tells as well that no other file was given the same inode.
    device: Option<u64>,
    born: Option<SystemTime>,
}

impl Identity {
    pub(super) fn of(metadata: &Metadata) -> Self {
        let born = metadata.created().ok();
        Self { inode: metadata.ino(), device: born.is_none().then(|| metadata.dev()), born }
    }
}

#[cfg(test)]
mod tests;
