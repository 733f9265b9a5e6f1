//! Queries of PostgreSQL. A session is driven by the job that has it and by nobody else: while the job waits for its reader
//! nothing is read from the socket, and the database waits too. A job that goes away has its query cancelled.

mod errors;
mod moments;
mod numeric;
mod session;
mod shape;

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use futures_core::Stream as _;
use outflow_engine::{Cleanup, Code, Emitter, JobError};
use tokio::time::sleep;
use tokio_postgres::{
    Column, Config, Error, Row, RowStream, Statement,
    config::SslMode,
    types::{Format, FromSql, IsNull, ToSql, Type, to_sql_checked},
};

use self::{
    errors::{bad_value, cannot_connect, failed, is_lost, not_bound, not_prepared},
    session::{Session, Wire},
    shape::Shape,
};
use super::{
    Asked, Integers,
    bind::{Bound, counts_differ},
    json::{self, Columns},
    pool::{Place, Pool},
    rows::Rows,
};

/// How long it takes to know that nobody answers, where the URL does not say otherwise.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// How soon a connection on which nothing comes is asked whether it is still there.
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);

/// How long a cancellation has where the server is in a hurry to end.
const HURRY_TIME: Duration = Duration::from_millis(500);

/// A database behind a URL.
pub(super) struct Postgres {
    config: Config,
    pool: Pool<Session>,
}

impl Postgres {
    /// # Errors
    /// With what is wrong with the URL. Where it has secrets, nothing of it is shown.
    pub(super) fn new(url: &str, has_secrets: bool, connections: usize) -> Result<Self, String> {
        let wanted = "postgres://USER:PASSWORD@HOST:PORT/DATABASE is wanted, with %XX for what is no letter or digit";
        let mut config: Config = url.parse().map_err(|error: Error| {
            let cause = std::error::Error::source(&error).filter(|_| !has_secrets);
            cause.map_or_else(|| wanted.to_owned(), |cause| format!("{cause}; {wanted}"))
        })?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(format!("it has no host; {wanted}"));
        }
        if config.get_user().is_none() {
            return Err(format!("it has no user; {wanted}"));
        }
        if config.get_ssl_mode() == SslMode::Require {
            return Err("sslmode=require: this build speaks to PostgreSQL without TLS".into());
        }
        if config.get_application_name().is_none() {
            config.application_name("outflow");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIME);
        }
        config.keepalives_idle(KEEPALIVE_TIME);
        let options = config.get_options().map(|options| format!("{options} ")).unwrap_or_default();
        config.options(format!("{options}-c default_transaction_read_only=on"));
        Ok(Self { config, pool: Pool::new(connections) })
    }

    /// Emits the rows of a query.
    ///
    /// # Cancel safety
    /// Dropped, the query is cancelled, and the engine's shutdown waits until the database has been told.
    pub(super) async fn answer(
        self: Arc<Self>,
        asked: Arc<Asked>,
        bound: Vec<Bound>,
        emitter: Emitter,
    ) -> Result<(), JobError> {
        let place = self.pool.place().await;
        let mut held = Held { session: None, place: Some(place), cleanup: emitter.cleanup() };
        let outcome = self.rows(&mut held, &asked, &bound, &emitter).await;
        // Also after an error, which is usually the query's or its values' and leaves the session as it was.
        if let Some(session) = &mut held.session
            && !session.is_rolled_back().await
        {
            held.session = None;
        }
        held.put_back(&self.pool);
        outcome
    }

    async fn rows(&self, held: &mut Held, asked: &Asked, bound: &[Bound], emitter: &Emitter) -> Result<(), JobError> {
        let (session, statement) = self.prepared(held, &asked.query).await?;
        if statement.params().len() != bound.len() {
            return Err(counts_differ(statement.params().len(), bound.len()));
        }
        let values = values(&statement, bound)?;
        let answer = Answer {
            columns: Columns::new(statement.columns().iter().map(Column::name))?,
            shapes: shapes(&statement)?,
            integers: asked.integers,
        };
        let Session { client, wire } = session;
        let found = wire.drive(client.query_raw(&statement, values)).await;
        let mut found = pin!(found.map_err(|error| not_bound(&error, bound))?);
        let mut rows = asked.rows();
        loop {
            let gathered = poll_fn(|cx| answer.gather(found.as_mut(), wire, &mut rows, cx)).await;
            if !matches!(gathered, Ok(Gathered::More)) {
                rows.finish();
            }
            rows.emit(emitter).await?;
            if let Gathered::All = gathered? {
                return Ok(());
            }
        }
    }

    /// A session in a transaction, and what the database makes of the query.
    async fn prepared<'h>(&self, held: &'h mut Held, query: &str) -> Result<(&'h mut Session, Statement), JobError> {
        while let Some(idle) = held.place.as_ref().and_then(|place| self.pool.idle(place)) {
            let session = held.session.insert(idle);
            if !session.is_alive() {
                continue;
            }
            match session.prepared(query).await {
                // It died a moment ago.
                Err(error) if is_lost(&error) => {}
                Err(error) => return Err(not_prepared(&error)),
                Ok(statement) => {
                    let session = held.session.as_mut().expect("it was put there");
                    return Ok((session, statement));
                }
            }
        }
        held.session = None;
        let session = Session::open(&self.config).await.map_err(|error| cannot_connect(&error))?;
        let session = held.session.insert(session);
        let statement = session.prepared(query).await.map_err(|error| not_prepared(&error))?;
        Ok((session, statement))
    }
}

/// What a job has of the pool. Dropping it ends a query that is under way.
struct Held {
    session: Option<Session>,
    place: Option<Place>,
    cleanup: Cleanup,
}

impl Held {
    /// Puts back the session, on which nothing is under way.
    fn put_back(mut self, pool: &Pool<Session>) {
        if let (Some(session), Some(place)) = (self.session.take(), self.place.take()) {
            pool.put_back(session, place);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(session) = self.session.take() else { return };
        let (place, cleanup) = (self.place.take(), self.cleanup.clone());
        self.cleanup.spawn(async move {
            tokio::select! {
                () = session.end() => {}
                // It is on its way by then, unless the network is slow; a connection that only closes ends no query.
                () = async { cleanup.hurry().await; sleep(HURRY_TIME).await } => {}
            }
            drop(place);
        });
    }
}

/// How rows are read.
struct Answer {
    columns: Columns,
    shapes: Vec<Shape>,
    integers: Integers,
}

enum Gathered {
    More,
    All,
}

impl Answer {
    /// Adds to `rows` what is there, at least one response of it, and at most what is emitted together.
    fn gather(
        &self,
        mut found: Pin<&mut RowStream>,
        wire: &mut Wire,
        rows: &mut Rows,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Gathered, JobError>> {
        let mut has_read = false;
        loop {
            match found.as_mut().poll_next(cx) {
                Poll::Ready(Some(Ok(row))) => {
                    self.write(&row, rows)?;
                    if rows.is_full() {
                        return Poll::Ready(Ok(Gathered::More));
                    }
                    has_read = false;
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(failed(&error))),
                Poll::Ready(None) => return Poll::Ready(Ok(Gathered::All)),
                Poll::Pending if !has_read => {
                    wire.poll(cx);
                    has_read = true;
                }
                Poll::Pending if rows.is_empty() => return Poll::Pending,
                Poll::Pending => return Poll::Ready(Ok(Gathered::More)),
            }
        }
    }

    fn write(&self, row: &Row, rows: &mut Rows) -> Result<(), JobError> {
        let value = |column: usize, out: &mut Vec<u8>| {
            let raw: Option<Raw<'_>> = row.try_get(column).map_err(|error| failed(&error))?;
            match raw {
                None => json::null(out),
                Some(Raw(raw)) => self.shapes[column]
                    .write(raw, out, self.integers)
                    .map_err(|problem| bad_value(self.columns.name(column), &problem))?,
            }
            Ok(())
        };
        rows.push(|out| self.columns.row(out, value))
    }
}

fn shapes(statement: &Statement) -> Result<Vec<Shape>, JobError> {
    let shape = |column: &Column| {
        Shape::of(column.type_()).map_err(|unknown| {
            let name = column.name();
            let problem = format_args!(
                "column `{name}` has the type {unknown}, which has no form in JSON here; ask for it as text, as in \
                 \"{name}\"::text"
            );
            JobError::new(Code::FailedPrecondition, problem)
        })
    };
    statement.columns().iter().map(shape).collect()
}

/// A value as the database sent it, in its binary form.
struct Raw<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// A value to bind, as a text that the database reads as whatever type its parameter has.
#[derive(Debug)]
struct Value<'a>(&'a str);

impl ToSql for Value<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

/// # Errors
/// For one that its parameter cannot be. The database would say so too, but not of which.
fn values<'b>(statement: &Statement, bound: &'b [Bound]) -> Result<Vec<Value<'b>>, JobError> {
    let value = |(index, (value, wanted)): (usize, (&'b Bound, &Type))| {
        let text = &*value.text;
        let fits = match *wanted {
            Type::INT2 => text.parse::<i16>().is_ok(),
            Type::INT4 => text.parse::<i32>().is_ok(),
            Type::INT8 => text.parse::<i64>().is_ok(),
            Type::OID => text.parse::<u32>().is_ok(),
            Type::FLOAT4 | Type::FLOAT8 => text.parse::<f64>().is_ok(),
            _ => true,
        };
        let problem = || format!("{}: it is no {wanted}, which ${} of the query is", value.name(index), index + 1);
        if fits { Ok(Value(text)) } else { Err(JobError::new(Code::InvalidArgument, problem())) }
    };
    bound.iter().zip(statement.params()).enumerate().map(value).collect()
}
