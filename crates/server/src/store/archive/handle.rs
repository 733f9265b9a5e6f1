//! redb's database, kept open while it is used: it is opened again after an error that redb does not get over and after a
//! rest, and its errors and panics are made the store's. It knows no tables.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use outflow_engine::StoreError;
use parking_lot::{Mutex, RwLock, RwLockUpgradableReadGuard};
use redb::{
    CommitError, Database, DatabaseError, ReadTransaction, ReadableDatabase as _, StorageError, TableError,
    TransactionError, WriteTransaction,
};

use super::room::{Backing, Growth, Room, is_full};

/// Bytes of pages that redb holds. Half of them may be of the transaction that is written; what that writes beyond it goes
/// to the file early, and is read and partly written again. Of runs as they are moved it is little: with four times as many
/// the server wrote 4 to 12 % less, in the same CPU time, and read as fast, since the kernel holds the file's pages, too.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// From so much on that was read and written since it was opened, redb may hold so much that letting it go is worth it.
const WORTH_BYTES: u64 = 4 * 1024 * 1024;

/// The database at a place.
#[derive(Debug)]
pub(super) struct Handle {
    /// The place, for messages.
    name: String,
    room: Room,
    /// `None` while it rests, or could not be opened again.
    database: RwLock<Opened>,
    traffic: Mutex<Traffic>,
}

#[derive(Debug)]
struct Opened {
    database: Option<Database>,
    /// How often it was opened, so that of many that met the same error one opens it again.
    times: u64,
    /// It was closed in order to grow or to rest, and not because of an error.
    is_well: bool,
}

/// What passed between redb and the file when that was last looked at, and since when it is so much.
#[derive(Debug)]
struct Traffic {
    bytes: u64,
    since: Instant,
}

/// Why something was not done.
pub(super) enum Fault {
    /// redb says so.
    Redb(redb::Error),
    /// We say so.
    Store(StoreError),
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

macro_rules! from_redb {
    ($($error:ty)*) => {$(
        impl From<$error> for Fault {
            fn from(error: $error) -> Self {
                Self::Redb(error.into())
            }
        }
    )*};
}
from_redb!(CommitError DatabaseError StorageError TableError TransactionError);

impl Handle {
    /// Opens the database, or makes it where there is none.
    pub(super) fn open(name: String, backing: Arc<dyn Backing>) -> Result<Self, StoreError> {
        let mut handle = Self::closed(name, backing)?;
        // What was written is not to be kept from being read because the disk is full.
        let database = handle.make_room(|| handle.open_database())?;
        *handle.database.get_mut() = Opened { database: Some(database), times: 1, is_well: false };
        Ok(handle)
    }

    /// One that is not open yet.
    fn closed(name: String, backing: Arc<dyn Backing>) -> Result<Self, StoreError> {
        let room = Room::new(backing).map_err(|error| StoreError::Failed(format!("cannot open {name}: {error}")))?;
        let database = RwLock::new(Opened { database: None, times: 0, is_well: false });
        Ok(Self { name, room, database, traffic: Mutex::new(Traffic { bytes: 0, since: Instant::now() }) })
    }

    /// Does what makes room, where need be with the room that is kept for it.
    pub(super) fn make_room<T>(&self, mut make: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
        match make() {
            // Not for want of pages, or all that is kept would not have been enough for it in pieces.
            Err(StoreError::Full(_)) if self.room.release() => make(),
            made => made,
        }
    }

    /// Puts something in, where so many bytes are used, unless nothing could be deleted any more afterwards.
    pub(super) fn use_room<T>(
        &self,
        used: u64,
        put: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if !self.room.has_room_for_deletions(used) {
            self.room.refill();
            if !self.room.has_room_for_deletions(used) {
                return Err(self.full("what is left is kept for deletions"));
            }
        }
        put()
    }

    /// The place, for messages.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Reads: what `read` gives, of what was committed before this call.
    pub(super) fn read<T>(&self, read: impl Fn(&ReadTransaction) -> Result<T, Fault>) -> Result<T, StoreError> {
        self.with(|database| read(&database.begin_read()?))
    }

    /// Writes: all that `write` does is durable when this returns, or nothing of it is done.
    ///
    /// After an error nobody can say which of the two is true of the disk, and either may be seen from then on; what is
    /// then written next is durable together with all that is seen.
    pub(super) fn write<T>(
        &self,
        growth: Growth,
        write: impl Fn(&WriteTransaction) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let write = |database: &Database| {
            let mut transaction = database.begin_write()?;
            // Opens in milliseconds after a kill, whatever the size.
            transaction.set_quick_repair(true);
            let given = write(&transaction)?;
            transaction.commit()?;
            self.room.refill();
            Ok(given)
        };
        loop {
            match self.with(write) {
                Err(StoreError::Full(_)) if self.grow(growth) => {}
                written => return written,
            }
        }
    }

    /// A moment of it, to be read through [`Handle::guard`] until [`Handle::end_read`].
    pub(super) fn begin_read(&self) -> Result<ReadTransaction, StoreError> {
        // Before it is read from: it is not to be closed any more from here on.
        self.room.hold();
        self.with(|database| Ok(database.begin_read()?)).inspect_err(|_| self.room.let_go())
    }

    /// The end of a moment.
    pub(super) fn end_read(&self) {
        self.room.let_go();
    }

    /// Reads a moment. It is not tried again: where the database was closed since, the moment is gone.
    pub(super) fn guard<T>(&self, read: impl FnOnce() -> Result<T, Fault>) -> Result<T, StoreError> {
        match catch_unwind(AssertUnwindSafe(read)) {
            Ok(Ok(given)) => Ok(given),
            Ok(Err(Fault::Store(error))) => Err(error),
            Ok(Err(Fault::Redb(error))) => Err(self.store_error(&error)),
            Err(panic) => Err(self.panicked(&*panic)),
        }
    }

    /// Opens the database, reading all of it.
    pub(super) fn check(name: String, backing: Arc<dyn Backing>) -> Result<(), StoreError> {
        let handle = Self::closed(name, backing)?;
        // It makes its books anew, and nobody would open it again where it grows for that.
        handle.room.hold();
        handle.try_open(Check::ReadAll).map(close)
    }

    /// Gives back to the disk what the database does not need.
    pub(super) fn compact(&self) -> Result<(), StoreError> {
        drop(self.opened()?);
        let mut opened = self.database.write();
        let database = opened.database.as_mut().expect("it was opened");
        // Each round may make the next one possible.
        let rounds = || {
            while database.compact()? {}
            Ok::<_, redb::CompactionError>(())
        };
        self.room.hold();
        let compacted = catch_unwind(AssertUnwindSafe(rounds));
        self.room.let_go();
        match compacted {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.store_error(&error.into())),
            Err(panic) => Err(self.panicked(&*panic)),
        }
    }

    fn with<T>(&self, act: impl Fn(&Database) -> Result<T, Fault>) -> Result<T, StoreError> {
        // Where another one's error is met, that one was told, and this one begins anew.
        for _ in 0..2 {
            let mut opened = self.opened()?;
            if self.room.is_spoilt() {
                let times = opened.times;
                drop(opened);
                self.reopen(times);
                opened = self.opened()?;
            }
            let times = opened.times;
            let database = opened.database.as_ref().expect("it is open");
            let result = catch_unwind(AssertUnwindSafe(|| act(database)));
            drop(opened);
            let error = match result {
                Ok(Ok(given)) => return Ok(given),
                Ok(Err(Fault::Store(error))) => return Err(error),
                Ok(Err(Fault::Redb(error))) => error,
                Err(panic) => {
                    // redb asserts what its pages say; where they were changed below it, it panics and its locks are
                    // of no more use.
                    self.reopen(times);
                    return Err(self.panicked(&*panic));
                }
            };
            match error {
                redb::Error::PreviousIo | redb::Error::DatabaseClosed | redb::Error::LockPoisoned(_) => {
                    self.reopen(times);
                }
                error => {
                    // redb refuses everything after an error of its file, and every write after a commit that failed.
                    if !matches!(error, redb::Error::Corrupted(_)) {
                        self.reopen(times);
                    }
                    return Err(self.store_error(&error));
                }
            }
        }
        Err(StoreError::Failed(format!("{} fails again and again; look at the errors before this", self.name)))
    }

    /// The open database; where it is not, because it could not be opened again, it is tried here.
    fn opened(&self) -> Result<parking_lot::RwLockReadGuard<'_, Opened>, StoreError> {
        let opened = self.database.read();
        if opened.database.is_some() {
            return Ok(opened);
        }
        drop(opened);
        let opened = self.database.upgradable_read();
        if opened.database.is_some() {
            return Ok(RwLockUpgradableReadGuard::downgrade(opened));
        }
        let database = self.make_room(|| self.open_database())?;
        let mut opened = RwLockUpgradableReadGuard::upgrade(opened);
        if opened.is_well {
            tracing::debug!(archive = self.name, "opened again");
        } else {
            tracing::warn!(archive = self.name, "opened again after an error");
        }
        *opened = Opened { database: Some(database), times: opened.times + 1, is_well: false };
        Ok(parking_lot::RwLockWriteGuard::downgrade(opened))
    }

    /// Closes the database that was opened as the `times`th one. The next who needs one opens it.
    fn reopen(&self, times: u64) {
        let mut opened = self.database.write();
        if opened.times == times
            && let Some(database) = opened.database.take()
        {
            close(database);
        }
    }

    /// Makes the file longer, where that is what redb wanted; says whether it is.
    fn grow(&self, growth: Growth) -> bool {
        let mut opened = self.database.write();
        let grows = self.room.grow(growth);
        // Somebody may have opened it meanwhile, with the length that it had.
        if grows && !self.room.is_held() {
            opened.is_well = true;
            if let Some(database) = opened.database.take() {
                close(database);
            }
        }
        grows
    }

    /// Has redb let go what it holds in memory, where nothing was read or written for so long since the first look and it
    /// may hold much; says whether it did. The next who needs the database opens it, which takes some milliseconds.
    pub(super) fn rest(&self, idle: Duration) -> bool {
        let bytes = self.room.passed();
        {
            let mut traffic = self.traffic.lock();
            if traffic.bytes != bytes {
                *traffic = Traffic { bytes, since: Instant::now() };
                return false;
            }
            if bytes < WORTH_BYTES || traffic.since.elapsed() < idle {
                return false;
            }
        }
        // Who reads or writes now is not waited for: then it does not rest.
        let Some(mut opened) = self.database.try_write() else { return false };
        if self.room.is_held() {
            return false;
        }
        let Some(database) = opened.database.take() else { return false };
        opened.is_well = true;
        close(database);
        true
    }

    fn open_database(&self) -> Result<Database, StoreError> {
        loop {
            match self.open_as_long_as_it_is() {
                Err(StoreError::Full(_)) if self.room.grow(Growth::OfReserve) => {}
                opened => return opened,
            }
        }
    }

    fn open_as_long_as_it_is(&self) -> Result<Database, StoreError> {
        match self.try_open(Check::Trust) {
            // Perhaps only redb's books about free pages are damaged, which it makes anew from the rest.
            Err(StoreError::Damaged(said)) => {
                tracing::warn!(
                    archive = self.name,
                    said,
                    "cannot be opened, and is read from end to end to be repaired"
                );
                self.try_open(Check::ReadAll)
            }
            opened => opened,
        }
    }

    fn try_open(&self, check: Check) -> Result<Database, StoreError> {
        self.room.begin();
        let open = || {
            let mut builder = Database::builder();
            builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(check == Check::ReadAll);
            builder.create_with_backend(self.room.clone())
        };
        match catch_unwind(AssertUnwindSafe(open)) {
            Ok(Ok(database)) => Ok(database),
            Ok(Err(DatabaseError::UpgradeRequired(version))) => Err(StoreError::Failed(format!(
                "{} is of redb's file format {version}, which this version of outflow does not read; use the one that \
                 wrote it",
                self.name
            ))),
            Ok(Err(error)) => Err(self.store_error(&error.into())),
            Err(panic) => Err(self.panicked(&*panic)),
        }
    }

    fn panicked(&self, panic: &(dyn Any + Send)) -> StoreError {
        StoreError::Damaged(format!("{} is damaged: {}", self.name, panic_message(panic)))
    }

    fn full(&self, why: &str) -> StoreError {
        StoreError::Full(format!("{} cannot grow ({why}); give its disk room, or delete runs", self.name))
    }

    fn store_error(&self, error: &redb::Error) -> StoreError {
        let name = &self.name;
        match error {
            redb::Error::Io(error) if is_full(error) => self.full(&error.to_string()),
            redb::Error::Corrupted(what) => StoreError::Damaged(format!("{name} is damaged: {what}")),
            error => StoreError::Failed(format!("{name} failed: {error}")),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(database) = self.database.get_mut().database.take() {
            close(database);
        }
    }
}

/// Closes a database. It has nothing left to do for what was committed, and over damage redb may panic.
fn close(database: Database) {
    drop(catch_unwind(AssertUnwindSafe(|| drop(database))));
}

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Check {
    /// As it was left, in milliseconds.
    Trust,
    /// All of it is read, and redb's books are made anew.
    ReadAll,
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it cannot be read")
}
