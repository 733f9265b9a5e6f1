//! A disk in memory, on which the live journal and the archive lie together, that loses, tears and reorders what was not
//! synced, refuses, and is full. All that is done to it is kept in order, so that the state after a crash at any moment can
//! be made (`aftermath.rs`). It knows nothing of what is in a file.
//!
//! After a sync that failed it is as Linux: what was written is read back, is never written to the disk by a later sync, and
//! that sync says that all is well.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

use parking_lot::Mutex;
use redb::StorageBackend;

use super::super::{
    archive::Backing,
    files::{File, Files},
};

/// What a file system gives to a file.
pub(super) const EXTENT_BYTES: usize = 4096;

/// One thing that was done to the disk, to the file of a number or to the directory.
#[derive(Clone, Debug)]
pub(super) enum Operation {
    Write(usize, u64, Vec<u8>),
    SetLength(usize, u64),
    /// It was there from the beginning.
    Whole(usize, Vec<u8>),
    /// As so many zeros are written.
    Grow(usize, u64),
    Sync(usize),
    SyncFailed(usize),
    Name(Name),
    SyncDirectory,
}

/// What was done to a name.
#[derive(Clone, Debug)]
pub(super) enum Name {
    Given(String, usize),
    Changed(String, String, usize),
    Removed(String, usize),
}

/// Which operations fail, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    /// So many operations are done before.
    pub(super) after: usize,
    /// So many fail then.
    pub(super) times: usize,
    pub(super) kind: io::ErrorKind,
}

/// The disk. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk(Arc<Mutex<State>>);

struct Unreadable {
    file: usize,
    /// It can be read so many times before.
    after: usize,
    /// And then so many times not.
    times: usize,
    failed: usize,
}

#[derive(Default)]
struct State {
    names: BTreeMap<String, usize>,
    files: Vec<Content>,
    operations: Vec<Operation>,
    failure: Option<Failure>,
    /// Which file cannot be read.
    unreadable: Option<Unreadable>,
    /// Extents that there are for all files.
    extents_max: Option<usize>,
    /// Extents that are kept beside the archive.
    kept: usize,
}

#[derive(Clone, Default)]
struct Content {
    bytes: Vec<u8>,
    extents: BTreeSet<usize>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Disk {
    /// From now on these fail.
    pub(super) fn fail(&self, failure: Failure) {
        self.0.lock().failure = Some(failure);
    }

    /// Nothing fails any more; says whether something was still to fail.
    pub(super) fn heal(&self) -> bool {
        self.0.lock().failure.take().is_some()
    }

    /// After so many times this file cannot be read so many times.
    pub(super) fn fail_reads(&self, name: &str, after: usize, times: usize) {
        let mut state = self.0.lock();
        state.unreadable = Some(Unreadable { file: state.names[name], after, times, failed: 0 });
    }

    /// Everything can be read; says whether something could not.
    pub(super) fn heal_reads(&self) -> bool {
        self.0.lock().unreadable.take().is_some_and(|unreadable| unreadable.failed > 0)
    }

    /// From now on files get no more than so many bytes beyond what they have.
    pub(super) fn fill_up(&self, left: usize) {
        let mut state = self.0.lock();
        state.extents_max = Some(state.extents() + left / EXTENT_BYTES);
    }

    /// The disk has room again.
    pub(super) fn has_room(&self) {
        self.0.lock().extents_max = None;
    }

    pub(super) fn operations(&self) -> Vec<Operation> {
        self.0.lock().operations.clone()
    }

    pub(super) fn operations_count(&self) -> usize {
        self.0.lock().operations.len()
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.0.lock().names.keys().cloned().collect()
    }

    /// The archive's file of this name, as redb sees it.
    pub(super) fn backing(&self, name: &str) -> io::Result<Arc<dyn Backing>> {
        let mut state = self.0.lock();
        let file = match state.names.get(name) {
            Some(file) => *file,
            None => state.give(name)?,
        };
        // As the real one, which then has names that are durable.
        state.begin(Operation::SyncDirectory)?;
        Ok(Arc::new(Open { disk: self.clone(), file }))
    }
}

impl State {
    fn extents(&self) -> usize {
        self.names.values().map(|file| self.files[*file].extents.len()).sum::<usize>() + self.kept
    }

    /// Does an operation, or fails.
    fn begin(&mut self, operation: Operation) -> io::Result<()> {
        if let Some(failure) = &mut self.failure {
            if failure.after > 0 {
                failure.after -= 1;
            } else {
                let kind = failure.kind;
                failure.times -= 1;
                if failure.times == 0 {
                    self.failure = None;
                }
                match operation {
                    Operation::Sync(file) => self.operations.push(Operation::SyncFailed(file)),
                    // Some of it may be there.
                    Operation::Write(file, offset, mut bytes) => {
                        bytes.truncate(bytes.len() / 2);
                        self.see(file, offset, &bytes);
                        self.operations.push(Operation::Write(file, offset, bytes));
                    }
                    _ => {}
                }
                return Err(kind.into());
            }
        }
        self.operations.push(operation);
        Ok(())
    }

    fn see(&mut self, file: usize, offset: u64, bytes: &[u8]) {
        write(&mut self.files[file].bytes, offset, bytes);
    }

    /// Gives the file what it has not of this range.
    fn extend(&mut self, file: usize, offset: u64, bytes: usize) -> io::Result<()> {
        let range = offset as usize / EXTENT_BYTES..(offset as usize + bytes).div_ceil(EXTENT_BYTES);
        let added: Vec<usize> = range.filter(|extent| !self.files[file].extents.contains(extent)).collect();
        if self.extents_max.is_some_and(|max| !added.is_empty() && self.extents() + added.len() > max) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.files[file].extents.extend(added);
        Ok(())
    }

    fn give(&mut self, name: &str) -> io::Result<usize> {
        let file = self.files.len();
        self.begin(Operation::Name(Name::Given(name.to_owned(), file)))?;
        self.files.push(Content::default());
        self.names.insert(name.to_owned(), file);
        Ok(file)
    }

    fn set_length(&mut self, file: usize, bytes: u64) -> io::Result<()> {
        self.begin(Operation::SetLength(file, bytes))?;
        self.files[file].bytes.resize(bytes as usize, 0);
        self.files[file].extents.split_off(&(bytes as usize).div_ceil(EXTENT_BYTES));
        Ok(())
    }

    fn file(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or(io::ErrorKind::NotFound.into())
    }
}

pub(super) fn write(image: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let end = offset as usize + bytes.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    image[offset as usize..end].copy_from_slice(bytes);
}

impl Files for Disk {
    fn place(&self) -> String {
        "the disk".to_owned()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.names())
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn File>> {
        let mut state = self.0.lock();
        let file = match state.names.get(name).copied() {
            Some(file) => {
                state.set_length(file, 0)?;
                file
            }
            None => state.give(name)?,
        };
        state.extend(file, 0, bytes as usize)?;
        // Zeros are zeros, written or not.
        state.begin(Operation::Grow(file, bytes))?;
        state.files[file].bytes.resize(bytes as usize, 0);
        Ok(Arc::new(Open { disk: self.clone(), file }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = self.0.lock().file(name)?;
        Ok(Arc::new(Open { disk: self.clone(), file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        let file = state.file(from)?;
        state.begin(Operation::Name(Name::Changed(from.to_owned(), to.to_owned(), file)))?;
        state.names.remove(from);
        state.names.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        let file = state.file(name)?;
        state.begin(Operation::Name(Name::Removed(name.to_owned(), file)))?;
        state.names.remove(name);
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.0.lock().begin(Operation::SyncDirectory)
    }

    fn lock(&self, name: &str) -> io::Result<Option<Box<dyn Send + Sync>>> {
        let mut state = self.0.lock();
        if !state.names.contains_key(name) {
            state.give(name)?;
        }
        Ok(Some(Box::new(())))
    }
}

/// An open file.
#[derive(Debug)]
struct Open {
    disk: Disk,
    file: usize,
}

impl Open {
    fn read_all(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        if let Some(unreadable) = state.unreadable.as_mut().filter(|unreadable| unreadable.file == self.file) {
            if unreadable.after > 0 {
                unreadable.after -= 1;
            } else if unreadable.failed < unreadable.times {
                unreadable.failed += 1;
                return Err(io::Error::other("unreadable sector"));
            }
        }
        let found = state.files[self.file].bytes.get(offset as usize..offset as usize + bytes.len());
        bytes.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_all(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        state.extend(self.file, offset, bytes.len())?;
        state.begin(Operation::Write(self.file, offset, bytes.to_vec()))?;
        state.see(self.file, offset, bytes);
        Ok(())
    }
}

impl File for Open {
    fn length(&self) -> io::Result<u64> {
        Ok(self.disk.0.lock().files[self.file].bytes.len() as u64)
    }

    fn set_length(&self, bytes: u64) -> io::Result<()> {
        self.disk.0.lock().set_length(self.file, bytes)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_all(bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.0.lock().begin(Operation::Sync(self.file))
    }
}

impl StorageBackend for Open {
    fn len(&self) -> io::Result<u64> {
        File::length(self)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.read_all(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_length(self, len)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync(self)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_all(data, offset)
    }
}

impl Backing for Open {
    fn extend(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        let content = &state.files[self.file];
        let (before, length) = (content.extents.clone(), content.bytes.len() as u64);
        state.extend(self.file, length, bytes.saturating_sub(length) as usize)?;
        // As `fallocate` and `ftruncate`: where the second fails, the first is undone.
        state.set_length(self.file, bytes).inspect_err(|_| state.files[self.file].extents = before)
    }

    fn keep(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        let wanted = (bytes as usize / EXTENT_BYTES).max(state.kept);
        if state.extents_max.is_some_and(|max| state.extents() - state.kept + wanted > max) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.kept = wanted;
        Ok(())
    }

    fn give_back(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        state.kept = state.kept.min(bytes as usize / EXTENT_BYTES);
        Ok(())
    }

    fn kept(&self) -> io::Result<u64> {
        Ok((self.disk.0.lock().kept * EXTENT_BYTES) as u64)
    }
}

impl Disk {
    /// A disk with these names and files on it, as durable as can be.
    pub(super) fn with(names: &BTreeMap<String, usize>, files: &BTreeMap<usize, Vec<u8>>) -> Self {
        let disk = Self::default();
        {
            let mut state = disk.0.lock();
            for (name, file) in names {
                let image = files.get(file).cloned().unwrap_or_default();
                let new = state.give(name).expect("nothing fails");
                state.begin(Operation::Whole(new, image.clone())).expect("nothing fails");
                state.files[new].extents = (0..image.len().div_ceil(EXTENT_BYTES)).collect();
                state.files[new].bytes = image;
            }
            state.begin(Operation::SyncDirectory).expect("nothing fails");
        }
        disk
    }
}
