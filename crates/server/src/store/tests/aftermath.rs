//! What a crash may leave of a disk, at one moment after the other: all that was synced, and of the rest anything, whole or
//! torn, in any order. It knows what was done to the disk, and not what is in a file.

use std::collections::BTreeMap;

use rand::{RngExt as _, rngs::SmallRng};

use super::disk::{Disk, EXTENT_BYTES, Name, Operation, write};

/// What is written as a whole or not at all.
const SECTOR_BYTES: usize = 512;

/// The states that crashes may leave, at one moment after the other.
pub(super) struct Crashes {
    operations: std::vec::IntoIter<Operation>,
    /// What is there for certain.
    names: BTreeMap<String, usize>,
    files: BTreeMap<usize, Vec<u8>>,
    /// What was done to names and is not synced.
    named: Vec<Name>,
    /// What was done to files and is not synced, in order.
    pending: Vec<(usize, Pending)>,
}

enum Pending {
    Length(u64),
    Growth(u64),
    /// Within a sector; and whether a later sync makes it durable.
    Piece(u64, Vec<u8>, IsDirty),
}

#[derive(Clone, Copy, PartialEq)]
enum IsDirty {
    Yes,
    /// A sync of it failed.
    No,
}

impl Crashes {
    pub(super) fn of(disk: &Disk) -> Self {
        Self {
            operations: disk.operations().into_iter(),
            names: BTreeMap::new(),
            files: BTreeMap::new(),
            named: Vec::new(),
            pending: Vec::new(),
        }
    }

    /// Goes on by one operation; says whether there was one.
    pub(super) fn advance(&mut self) -> bool {
        let Some(operation) = self.operations.next() else { return false };
        match operation {
            Operation::Whole(file, bytes) => _ = self.files.insert(file, bytes),
            Operation::SetLength(file, bytes) => self.pending.push((file, Pending::Length(bytes))),
            Operation::Grow(file, bytes) => self.pending.push((file, Pending::Growth(bytes))),
            Operation::Write(file, offset, bytes) => {
                let (mut at, mut rest) = (offset, &bytes[..]);
                while !rest.is_empty() {
                    let left = SECTOR_BYTES - at as usize % SECTOR_BYTES;
                    let (piece, next) = rest.split_at(left.min(rest.len()));
                    self.pending.push((file, Pending::Piece(at, piece.to_vec(), IsDirty::Yes)));
                    at += piece.len() as u64;
                    rest = next;
                }
            }
            Operation::Sync(file) => self.sync(file),
            Operation::SyncFailed(file) => {
                for (_, pending) in self.pending.iter_mut().filter(|(of, _)| *of == file) {
                    if let Pending::Piece(.., dirty) = pending {
                        *dirty = IsDirty::No;
                    }
                }
            }
            Operation::Name(name) => self.named.push(name),
            Operation::SyncDirectory => {
                for name in std::mem::take(&mut self.named) {
                    name_it(&mut self.names, name);
                }
            }
        }
        true
    }

    fn sync(&mut self, file: usize) {
        let image = self.files.entry(file).or_default();
        let mut kept: Vec<(usize, Pending)> = Vec::new();
        for (of, pending) in std::mem::take(&mut self.pending) {
            if of != file {
                kept.push((of, pending));
                continue;
            }
            match pending {
                Pending::Length(bytes) | Pending::Growth(bytes) => image.resize(bytes as usize, 0),
                Pending::Piece(at, bytes, IsDirty::No) => kept.push((of, Pending::Piece(at, bytes, IsDirty::No))),
                Pending::Piece(at, bytes, IsDirty::Yes) => {
                    write(image, at, &bytes);
                    // What was written there before is overwritten, whether or not it had come so far.
                    let sector = at as usize / SECTOR_BYTES;
                    kept.retain(|(of, pending)| {
                        *of != file
                            || !matches!(pending, Pending::Piece(at, ..) if *at as usize / SECTOR_BYTES == sector)
                    });
                }
            }
        }
        self.pending = kept;
    }

    /// What a crash at this moment may leave: all that was synced, and of the rest anything, in any order.
    pub(super) fn crash(&self, random: &mut SmallRng) -> Disk {
        let mut names = self.names.clone();
        let mut files = self.files.clone();
        // Now and then everything is lost, or nothing.
        let kept = [0.0, 1.0, 0.5, 0.9, 0.1][random.random_range(0..5)];
        for name in &self.named {
            if random.random_bool(kept) {
                name_it(&mut names, name.clone());
            }
        }
        let mut pieces = Vec::new();
        for (file, pending) in &self.pending {
            match pending {
                Pending::Length(bytes) => {
                    if random.random_bool(kept) {
                        files.entry(*file).or_default().resize(*bytes as usize, 0);
                    }
                }
                Pending::Growth(bytes) => {
                    let extents = random.random_range(0..=*bytes as usize / EXTENT_BYTES);
                    let bytes = if random.random_bool(kept) { *bytes as usize } else { extents * EXTENT_BYTES };
                    files.entry(*file).or_default().resize(bytes, 0);
                }
                Pending::Piece(at, bytes, _) => pieces.push((*file, *at, bytes)),
            }
        }
        if random.random_bool(0.5) {
            for n in (1..pieces.len()).rev() {
                pieces.swap(n, random.random_range(0..=n));
            }
        }
        for (file, at, bytes) in pieces {
            if random.random_bool(kept) {
                let image = files.entry(file).or_default();
                // What is written behind the end makes a file longer, by what a file system gives at once.
                let end = (at as usize + bytes.len()).next_multiple_of(EXTENT_BYTES);
                if image.len() < at as usize + bytes.len() {
                    image.resize(end, 0);
                }
                write(image, at, bytes);
            }
        }
        Disk::with(&names, &files)
    }
}

fn name_it(names: &mut BTreeMap<String, usize>, name: Name) {
    match name {
        Name::Given(name, file) => _ = names.insert(name, file),
        Name::Changed(from, to, file) => {
            names.retain(|name, found| *found != file || *name != from);
            names.insert(to, file);
        }
        Name::Removed(name, file) => names.retain(|found, of| *of != file || *found != name),
    }
}
