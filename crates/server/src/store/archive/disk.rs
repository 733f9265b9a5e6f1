//! The archive's file, as redb sees it. It knows nothing of what is in it.
//!
//! There is no lock on it: whoever opens the directory holds the lock on that.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use redb::StorageBackend;
use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};

use super::room::Backing;

/// The archive's file, and one beside it that only takes room.
#[derive(Debug)]
pub(super) struct Disk {
    file: File,
    reserve: File,
}

impl Disk {
    /// Opens the files, or makes them, and then their names are durable, too.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let open = |path: &Path| OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let disk = Self { file: open(path)?, reserve: open(&reserve(path))? };
        disk.fill_holes()?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
        Ok(disk)
    }

    /// Gives the file what it does not have of the disk: one that was copied may have got holes. A full disk is met when
    /// they are written to.
    fn fill_holes(&self) -> io::Result<()> {
        let found = self.file.metadata()?;
        if found.blocks() * 512 < found.len() {
            match fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, found.len()) {
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOSPC | Errno::DQUOT) => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// Removes the files that [`Disk::open`] makes.
    pub(super) fn remove(path: &Path) {
        _ = fs::remove_file(path);
        _ = fs::remove_file(reserve(path));
    }
}

/// The file that only takes room.
fn reserve(path: &Path) -> PathBuf {
    path.with_extension("reserve")
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }
}

impl Backing for Disk {
    fn extend(&self, bytes: u64) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        // The length last: where there is not so much room, some file systems give what there is.
        match fallocate(&self.file, FallocateFlags::KEEP_SIZE, length, bytes.saturating_sub(length).max(1)) {
            // There are file systems that give room only when it is written to.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.file.set_len(bytes),
            Err(error) => {
                self.file.set_len(length)?;
                Err(error.into())
            }
        }
    }

    fn keep(&self, bytes: u64) -> io::Result<()> {
        match fallocate(&self.reserve, FallocateFlags::empty(), 0, bytes.max(1)) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            result => Ok(result?),
        }
    }

    fn give_back(&self, bytes: u64) -> io::Result<()> {
        let kept = self.kept()?;
        self.reserve.set_len(bytes.min(kept))
    }

    fn kept(&self) -> io::Result<u64> {
        Ok(self.reserve.metadata()?.len())
    }
}
