//! Queries of SQLite: a thread steps through the rows, at most a buffer ahead of who takes them; a job that goes away
//! interrupts it.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use outflow_engine::{Cleanup, Code, Emitter, JobError};
use rusqlite::{Connection, ErrorCode, InterruptHandle, OpenFlags, Statement, limits::Limit, types::ValueRef};
use tokio::{task::JoinHandle, time::timeout};

use super::{
    Asked, Integers,
    bind::Bound,
    handover::{Gone, Handover},
    json::{self, Columns},
    pool::{Place, Pool},
    rows::Rows,
};
use crate::source::parameters::Meaning;

/// How long a query waits for somebody who writes. SQLite cannot be interrupted while it does.
const BUSY_TIME: Duration = Duration::from_secs(2);
/// No text and no row is longer; SQLite alone would allow 1 GB.
const VALUE_BYTES_MAX: i32 = 64 * 1024 * 1024;
/// How often a thread is interrupted that goes on: an interrupt is lost on a query that has not begun.
const INTERRUPT_EVERY: Duration = Duration::from_millis(10);

/// A database in a file.
pub(super) struct Sqlite {
    path: PathBuf,
    /// How the configuration calls it.
    name: String,
    pool: Pool<Opened>,
}

struct Opened {
    connection: Connection,
    file: File,
}

/// Which file it is, whatever it is called.
#[derive(Clone, Copy, PartialEq, Eq)]
struct File {
    device: u64,
    inode: u64,
}

/// Why a thread ends before its last row.
enum Ended {
    Gone,
    Failed(JobError),
}

impl From<Gone> for Ended {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl From<JobError> for Ended {
    fn from(error: JobError) -> Self {
        Self::Failed(error)
    }
}

impl Sqlite {
    pub(super) fn new(path: PathBuf, name: String, connections: usize) -> Self {
        Self { path, name, pool: Pool::new(connections) }
    }

    /// Emits the rows of a query.
    ///
    /// # Cancel safety
    /// Dropped, the query is interrupted, and the engine's shutdown waits until its thread has seen that.
    pub(super) async fn answer(
        self: Arc<Self>,
        asked: Arc<Asked>,
        bound: Vec<Bound>,
        emitter: Emitter,
    ) -> Result<(), JobError> {
        let place = self.pool.place().await;
        let handover = Arc::new(Handover::new());
        let theirs = handover.clone();
        let thread = tokio::task::spawn_blocking(move || {
            let _panicked = Panicked(&theirs);
            let mut rows = asked.rows();
            let outcome = self.step(&asked, &bound, place, &mut rows, &theirs);
            rows.finish();
            match (outcome, theirs.give(&mut rows)) {
                (Err(Ended::Failed(error)), _) => theirs.end(Err(error)),
                // Whole; or nobody hears it.
                (Ok(()) | Err(Ended::Gone), Ok(()) | Err(Gone)) => theirs.end(Ok(())),
            }
        });
        let stepping = Stepping { handover, thread: Some(thread), cleanup: emitter.cleanup() };
        let mut rows = Rows::new(None);
        loop {
            let over = stepping.handover.take(&mut rows).await;
            rows.emit(&emitter).await?;
            if let Some(outcome) = over {
                return outcome;
            }
        }
    }

    fn step(
        &self,
        asked: &Asked,
        bound: &[Bound],
        place: Place,
        rows: &mut Rows,
        handover: &Handover<InterruptHandle>,
    ) -> Result<(), Ended> {
        let opened = self.opened(&place)?;
        handover.set_interrupt(Some(opened.connection.get_interrupt_handle()))?;
        let outcome = query(&opened.connection, asked, bound, rows, handover);
        handover.set_interrupt(None)?;
        outcome?;
        self.pool.put_back(opened, place);
        Ok(())
    }

    fn opened(&self, place: &Place) -> Result<Opened, JobError> {
        // Another file may have got the name meanwhile.
        let now = File::at(&self.path);
        while let Some(opened) = self.pool.idle(place) {
            if now == Some(opened.file) {
                return Ok(opened);
            }
        }
        let failed = |error| {
            let JobError { code, message } = failed(&error, Code::FailedPrecondition);
            JobError::new(code, format_args!("cannot open {}: {message}", self.name))
        };
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags).map_err(failed)?;
        // Before anything is read, so that a file that is put there meanwhile is not taken for this one.
        let file =
            now.ok_or_else(|| JobError::new(Code::FailedPrecondition, format_args!("{} is gone", self.name)))?;
        connection.busy_timeout(BUSY_TIME).map_err(failed)?;
        connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX).map_err(failed)?;
        connection.pragma_update(None, "query_only", true).map_err(failed)?;
        Ok(Opened { connection, file })
    }
}

impl File {
    fn at(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().map(|data| Self { device: data.dev(), inode: data.ino() })
    }
}

/// Tells the job where the thread has no word for it any more.
struct Panicked<'a>(&'a Handover<InterruptHandle>);

impl Drop for Panicked<'_> {
    fn drop(&mut self) {
        self.0.end(Err(JobError::new(Code::Internal, "the thread that reads the database panicked, which is a bug")));
    }
}

/// Held by the job while its thread steps. Dropping it ends that.
struct Stepping {
    handover: Arc<Handover<InterruptHandle>>,
    thread: Option<JoinHandle<()>>,
    cleanup: Cleanup,
}

impl Drop for Stepping {
    fn drop(&mut self) {
        if !self.handover.leave(InterruptHandle::interrupt) {
            return;
        }
        let Some(mut thread) = self.thread.take() else { return };
        let handover = self.handover.clone();
        self.cleanup.spawn(async move {
            while timeout(INTERRUPT_EVERY, &mut thread).await.is_err() {
                handover.leave(InterruptHandle::interrupt);
            }
        });
    }
}

fn query(
    connection: &Connection,
    asked: &Asked,
    bound: &[Bound],
    rows: &mut Rows,
    handover: &Handover<InterruptHandle>,
) -> Result<(), Ended> {
    let mut statement = connection.prepare(&asked.query).map_err(|error| failed(&error, Code::FailedPrecondition))?;
    if !statement.readonly() {
        let problem = "the query writes, and a source only reads";
        return Err(JobError::new(Code::FailedPrecondition, problem).into());
    }
    let columns = Columns::new(statement.column_names())?;
    bind(&mut statement, bound)?;
    let mut found = statement.raw_query();
    let mut number: u64 = 0;
    while let Some(row) = found.next().map_err(|error| failed(&error, Code::OutOfRange))? {
        number += 1;
        let write = |column, out: &mut Vec<u8>| {
            let value = row.get_ref(column).expect("a row has its statement's columns");
            write(value, out, asked.integers).map_err(|NotText| not_text(columns.name(column), number))
        };
        rows.push(|out| columns.row(out, write))?;
        if !rows.is_empty() {
            handover.give(rows)?;
        }
    }
    Ok(())
}

/// Text that is not UTF-8.
struct NotText;

#[inline]
fn write(value: ValueRef<'_>, out: &mut Vec<u8>, integers: Integers) -> Result<(), NotText> {
    match value {
        ValueRef::Null => json::null(out),
        ValueRef::Integer(value) => json::integer(out, value, integers),
        ValueRef::Real(value) => json::float(out, value),
        ValueRef::Text(text) => json::string(out, str::from_utf8(text).map_err(|_| NotText)?),
        ValueRef::Blob(bytes) => json::base64(out, bytes),
    }
    Ok(())
}

fn not_text(column: &str, row: u64) -> JobError {
    let problem = format_args!(
        "column `{column}` of row {row} is a text that is not UTF-8; ask for cast({column} as blob), which comes as base64"
    );
    JobError::new(Code::DataLoss, problem)
}

fn bind(statement: &mut Statement<'_>, bound: &[Bound]) -> Result<(), JobError> {
    let mut wanted = 0;
    for index in 1..=statement.parameter_count() {
        let number = match statement.parameter_name(index) {
            None => index,
            // To SQLite `$1` is a name, and its number is the place where it is first met.
            Some(name) => name.strip_prefix(['$', '?']).and_then(|number| number.parse().ok()).ok_or_else(|| {
                let problem =
                    format_args!("`{name}` in the query: its values are called $1, $2 and so on, as in `bind`");
                JobError::new(Code::FailedPrecondition, problem)
            })?,
        };
        wanted = wanted.max(number);
        let Some(value) = number.checked_sub(1).and_then(|n| bound.get(n)) else { continue };
        bind_one(statement, index, value).map_err(|error| failed(&error, Code::InvalidArgument))?;
    }
    if wanted == bound.len() { Ok(()) } else { Err(super::bind::counts_differ(wanted, bound.len())) }
}

fn bind_one(statement: &mut Statement<'_>, index: usize, value: &Bound) -> Result<(), rusqlite::Error> {
    let text = &*value.text;
    let known = "a value is as it was declared";
    match value.meaning {
        Meaning::Integer => statement.raw_bind_parameter(index, text.parse::<i64>().expect(known)),
        Meaning::Number => statement.raw_bind_parameter(index, text.parse::<f64>().expect(known)),
        Meaning::Boolean => statement.raw_bind_parameter(index, text == "true"),
        Meaning::Text => statement.raw_bind_parameter(index, text),
    }
}

/// What SQLite says, with a code that fits; `usual` where it only says that something is wrong.
fn failed(error: &rusqlite::Error, usual: Code) -> JobError {
    let (code, message) = match error {
        rusqlite::Error::SqliteFailure(error, message) => (Some(error.code), message.clone()),
        rusqlite::Error::SqlInputError { error, msg, .. } => (Some(error.code), Some(msg.clone())),
        _ => (None, None),
    };
    let message = message.unwrap_or_else(|| error.to_string());
    let code = match code {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Code::Unavailable,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Code::DataLoss,
        Some(ErrorCode::TooBig | ErrorCode::OutOfMemory) => Code::ResourceExhausted,
        Some(ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied) => Code::PermissionDenied,
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly) => Code::FailedPrecondition,
        Some(ErrorCode::SystemIoFailure | ErrorCode::InternalMalfunction) => Code::Internal,
        _ => usual,
    };
    JobError::new(code, format_args!("SQLite: {message}"))
}
