//! Room on the disk: what the archive's file has of it, and what is kept for when it is full. It knows how much that is,
//! and not what is written.
//!
//! The file never has holes. redb would make it twice as long each time it needs a page more, write wherever it likes in
//! that, and on a full disk meet holes that nothing can fill while there is room enough elsewhere in the file. So redb is
//! refused its own growth, and the file is made longer, in smaller steps and with all its bytes, while redb has it closed.
//!
//! redb also copies what it changes, so that a deletion needs room before it makes any. Some is kept for that.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use redb::StorageBackend;

/// Where the archive's file lies, on a disk of which some can be kept.
pub(in super::super) trait Backing: StorageBackend {
    /// Makes the file so long, and gives it what that takes of the disk.
    ///
    /// # Errors
    /// One for which [`is_full`] where there is not so much. Then the file is as it was.
    fn extend(&self, bytes: u64) -> io::Result<()>;

    /// Keeps so many bytes of the disk from everybody, from now on and when it is opened again. Fewer than before are
    /// nothing new. One that cannot says that it did.
    ///
    /// # Errors
    /// One for which [`is_full`] where there are not so many.
    fn keep(&self, bytes: u64) -> io::Result<()>;

    /// Gives back all that is kept beyond so many bytes.
    fn give_back(&self, bytes: u64) -> io::Result<()>;

    /// How many it keeps.
    fn kept(&self) -> io::Result<u64>;
}

/// Whether an error says that there is no room.
pub(super) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// The file grows by an eighth of itself, but at least and at most by so much.
const STEP_BYTES: (u64, u64) = (4 << 20, 1 << 30);
/// On a disk that is nearly full it grows by less, down to this; so much of the reserve is given to it at once, too.
const STEP_BYTES_MIN: u64 = 1 << 20;
/// redb's pages.
const PAGE_BYTES: u64 = 4096;

/// From where a file may grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Growth {
    /// From the disk.
    OfDisk,
    /// From the disk, and where that is full from what is kept for it.
    OfReserve,
}

/// The file, and what is kept beside it. Clones are the same one, so that redb can be opened on it again.
#[derive(Clone, Debug)]
pub(super) struct Room {
    backing: Arc<dyn Backing>,
    kept: Arc<AtomicU64>,
    growing: Arc<Mutex<Growing>>,
    /// Bytes read and written since redb was opened.
    passed: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Growing {
    /// How many need redb to stay open. As long as there are any, it grows in its own way.
    holders: usize,
    /// It was refused to grow, and no room was made yet.
    is_wanted: bool,
    /// It was refused to grow, and is of no more use until it is opened again.
    is_spoilt: bool,
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
        Ok(Self { backing, kept, growing: Arc::default(), passed: Arc::default() })
    }

    /// redb is about to be opened.
    pub(super) fn begin(&self) {
        self.growing.lock().is_spoilt = false;
        self.passed.store(0, Ordering::Relaxed);
    }

    /// Bytes that redb read and wrote since it was opened.
    pub(super) fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    /// Whether redb is open, and must be opened again before it is of use.
    pub(super) fn is_spoilt(&self) -> bool {
        self.growing.lock().is_spoilt
    }

    /// From now on redb is not to be closed in order to grow.
    pub(super) fn hold(&self) {
        self.growing.lock().holders += 1;
    }

    /// The end of a [`Room::hold`].
    pub(super) fn let_go(&self) {
        self.growing.lock().holders -= 1;
    }

    pub(super) fn is_held(&self) -> bool {
        self.growing.lock().holders > 0
    }

    /// Makes the file longer where redb was refused that; says whether it is. redb sees it when it is opened again.
    pub(super) fn grow(&self, growth: Growth) -> bool {
        if !std::mem::take(&mut self.growing.lock().is_wanted) {
            return false;
        }
        let Ok(length) = self.backing.len() else { return false };
        let mut step = (length / 8).clamp(STEP_BYTES.0, STEP_BYTES.1).next_multiple_of(PAGE_BYTES);
        while step >= STEP_BYTES_MIN {
            if self.extend(length + step).is_ok() {
                return true;
            }
            step = (step / 4).next_multiple_of(PAGE_BYTES);
        }
        let kept = self.kept.load(Ordering::Relaxed);
        let given = kept.min(STEP_BYTES_MIN) / PAGE_BYTES * PAGE_BYTES;
        growth == Growth::OfReserve && given > 0 && self.lower_to(kept - given) && self.extend(length + given).is_ok()
    }

    /// Durable before redb writes down how long the file is: one that is shorter than that it does not open.
    fn extend(&self, bytes: u64) -> io::Result<()> {
        self.backing.extend(bytes)?;
        self.backing.sync_data()
    }

    /// Gives back all that is kept, for a deletion; says whether that was anything.
    pub(super) fn release(&self) -> bool {
        self.lower_to(0)
    }

    /// Whether deletions are possible also where what is put now, beside so many bytes that are used, fills the file.
    pub(super) fn has_room_for_deletions(&self, used: u64) -> bool {
        let Ok(length) = self.backing.len() else { return true };
        let reserve = reserve_bytes(length);
        // What is used is counted to a tenth or so.
        self.kept.load(Ordering::Relaxed) >= reserve / 2 || length >= used + used / 8 + reserve / 2
    }

    fn lower_to(&self, bytes: u64) -> bool {
        let kept = self.kept.swap(bytes, Ordering::Relaxed);
        kept > bytes && self.backing.give_back(bytes).is_ok()
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
        self.passed.fetch_add(out.len() as u64, Ordering::Relaxed);
        self.backing.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let length = self.backing.len()?;
        if len <= length {
            return self.backing.set_len(len);
        }
        let mut growing = self.growing.lock();
        // A new file is made as redb wants it.
        if growing.holders > 0 || length == 0 {
            return self.extend(len);
        }
        growing.is_wanted = true;
        growing.is_spoilt = true;
        Err(io::ErrorKind::StorageFull.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.backing.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.passed.fetch_add(data.len() as u64, Ordering::Relaxed);
        self.backing.write(offset, data)
    }
}
