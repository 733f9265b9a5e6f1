//! Room on the disk that is kept for when it is full. redb copies what it changes, so that a deletion needs room before
//! it makes any; and its file is sparse, so that even what is put into room that deletions made may need some of the
//! disk. It knows how much is kept, and not what is written.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use redb::StorageBackend;

/// Where the archive's file lies, on a disk of which some can be kept.
pub(in super::super) trait Backing: StorageBackend {
    /// Keeps so many bytes of the disk from everybody, from now on and when it is opened again; fewer than before gives
    /// the others back. One that cannot says that it did.
    ///
    /// # Errors
    /// One for which [`is_full`] where there are not so many.
    fn keep(&self, bytes: u64) -> io::Result<()>;

    /// How many it keeps.
    fn kept(&self) -> io::Result<u64>;

    /// Bytes of the disk that the file has, whatever its length.
    fn taken(&self) -> io::Result<u64>;
}

/// Whether an error says that there is no room.
pub(super) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// The file, and what is kept beside it. Clones are the same one, so that redb can be opened on it again.
#[derive(Clone, Debug)]
pub(super) struct Room {
    backing: Arc<dyn Backing>,
    kept: Arc<AtomicU64>,
}

/// What is kept beside a file of this length. What a deletion needs grows with redb's own books, which every commit
/// writes anew: about half a MiB for 4 GiB.
fn reserve_bytes(length: u64) -> u64 {
    const STEP: u64 = 4 * 1024 * 1024;
    STEP + (length / 512).next_multiple_of(STEP)
}

impl Room {
    pub(super) fn new(backing: Arc<dyn Backing>) -> io::Result<Self> {
        let kept = Arc::new(backing.kept()?.into());
        Ok(Self { backing, kept })
    }

    /// Gives back all that is kept, for a deletion; says whether that was anything.
    pub(super) fn release(&self) -> bool {
        self.lower_to(0)
    }

    /// Gives back half of what is kept, so that what is put gets at the room within the file, of which it uses so many
    /// bytes; says whether that was anything, and there is such room.
    pub(super) fn release_half(&self, used: u64) -> bool {
        let (Ok(length), Ok(taken)) = (self.backing.len(), self.backing.taken()) else { return false };
        let reserve = reserve_bytes(length);
        // What is used is counted to a tenth or so. What is put takes new room only for the odd page, since redb likes
        // low places best; a deletion must be possible afterwards.
        let has_room_within = taken >= used + used / 8 + reserve / 2;
        let kept = self.kept.load(Ordering::Relaxed);
        has_room_within && kept > reserve / 8 && self.lower_to(kept / 2)
    }

    fn lower_to(&self, bytes: u64) -> bool {
        let kept = self.kept.swap(bytes, Ordering::Relaxed);
        kept > bytes && self.backing.keep(bytes).is_ok()
    }

    /// Keeps what should be kept, or as much as there is. Where that fails, the next time may do better: it costs
    /// nobody anything now.
    pub(super) fn refill(&self) {
        let Ok(length) = self.backing.len() else { return };
        let kept = self.kept.load(Ordering::Relaxed);
        let reserve = reserve_bytes(length);
        for wanted in (1..=16).rev().map(|sixteenths| reserve / 16 * sixteenths).take_while(|wanted| *wanted > kept) {
            if self.backing.keep(wanted).is_ok() {
                self.kept.store(wanted, Ordering::Relaxed);
                return;
            }
        }
    }
}

impl StorageBackend for Room {
    fn len(&self) -> io::Result<u64> {
        self.backing.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.backing.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.backing.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.backing.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.backing.write(offset, data)
    }
}
