//! The seam between the store and the disk: the few operations through which files are touched, so that tests can lose,
//! tear, reorder and refuse them. It owns what an operation means and the real ones. It knows nothing of what is in a
//! file.

use std::{
    fs, io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The files of one directory.
pub(super) trait Files: Send + Sync + 'static {
    /// What the directory is called, for people.
    fn place(&self) -> String;

    /// The names of the files in the directory, in any order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// A new file of so many bytes, all of them written as zeros: whoever writes there later changes no metadata and
    /// meets no full disk. Neither the bytes nor the name are durable yet.
    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn File>>;

    /// A file that is there.
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// Gives a file another name, in place of the file that has it. Durable with [`Files::sync_directory`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Takes a file away. Durable with [`Files::sync_directory`].
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes what was created, renamed and removed durable.
    fn sync_directory(&self) -> io::Result<()>;

    /// Takes the directory for this process alone, for as long as what it gives is kept; `None` where another has it.
    fn lock(&self, name: &str) -> io::Result<Option<Box<dyn Send + Sync>>>;
}

/// One open file. Every operation names its place: a file has no position.
pub(super) trait File: Send + Sync + 'static {
    /// Its length in bytes.
    fn length(&self) -> io::Result<u64>;

    /// Makes it so long; what is added reads as zeros.
    fn set_length(&self, bytes: u64) -> io::Result<()>;

    /// Fills `bytes` with what lies from `offset` on.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `bytes` from `offset` on. Durable with [`File::sync`].
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes what was written durable. After an error nobody knows what is: the kernel may have dropped the pages and
    /// called them clean, and a second attempt would then say that all is well.
    fn sync(&self) -> io::Result<()>;
}

/// Zeros are written by so many bytes at once.
const ZEROS_BYTES: usize = 1024 * 1024;

/// A directory of the real disk.
pub(super) struct Directory {
    path: PathBuf,
}

impl Directory {
    /// The directory at `path`, made with those above it where it is not there, and then their names are durable.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        make(path)?;
        Ok(Self { path: path.to_owned() })
    }
}

/// Makes a directory where it is not there, and those above it. The name of each is durable where the one that holds it is
/// synced.
fn make(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make(above)?;
    match fs::create_dir(path) {
        // Somebody else made it meanwhile.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        made => made?,
    }
    fs::File::open(above)?.sync_all()
}

impl Files for Directory {
    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        // A name that is no text is not one of ours, and counts all the same: the directory is not empty.
        fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn File>> {
        let path = self.path.join(name);
        let file = fs::File::options().read(true).write(true).create(true).truncate(true).open(path)?;
        // Written, not only reserved: space that is merely allocated costs a change of metadata at its first write,
        // and so every commit a second write of the file system's own journal.
        let zeros = vec![0; ZEROS_BYTES.min(bytes as usize)];
        let mut at = 0;
        while at < bytes {
            let piece = (bytes - at).min(ZEROS_BYTES as u64);
            file.write_all_at(&zeros[..piece as usize], at)?;
            at += piece;
        }
        Ok(Arc::new(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(fs::File::options().read(true).write(true).open(self.path.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        fs::File::open(&self.path)?.sync_all()
    }

    fn lock(&self, name: &str) -> io::Result<Option<Box<dyn Send + Sync>>> {
        let path = self.path.join(name);
        let file = fs::File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

impl File for fs::File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_length(&self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        // `fdatasync`: the length is synced with it where it changed.
        self.sync_data()
    }
}
