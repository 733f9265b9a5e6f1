//! A session with the database: a client and its connection, driven together by whoever waits for an answer. It knows
//! nothing of queries and rows.

use std::{
    future::poll_fn,
    pin::pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::timeout;
use tokio_postgres::{Client, Config, Connection, Error, NoTls, Socket, Statement, tls::NoTlsStream};

/// How long a transaction in which nothing is under way may take to end.
const ROLLBACK_TIME: Duration = Duration::from_secs(5);
/// How long a query may take to end after it was cancelled; then its connection is closed, which it notices when it next
/// writes to it.
const CANCEL_TIME: Duration = Duration::from_secs(5);

pub(super) struct Session {
    pub(super) client: Client,
    pub(super) wire: Wire,
}

/// The connection of a session, as long as there is one.
pub(super) struct Wire(Option<Connection<Socket, NoTlsStream>>);

impl Session {
    pub(super) async fn open(config: &Config) -> Result<Self, Error> {
        let (client, connection) = config.connect(NoTls).await?;
        Ok(Self { client, wire: Wire(Some(connection)) })
    }

    /// Whether one that nobody used for a while is still there, as far as can be seen without asking.
    pub(super) fn is_alive(&mut self) -> bool {
        self.wire.poll(&mut Context::from_waker(std::task::Waker::noop()));
        self.wire.0.is_some()
    }

    /// Begins a transaction, which cannot write, and prepares the query in it.
    pub(super) async fn prepared(&mut self, query: &str) -> Result<Statement, Error> {
        let Self { client, wire } = self;
        // They go out together. Where the first fails, so does the second, or it does no harm.
        let work = async { tokio::join!(client.batch_execute("BEGIN READ ONLY"), client.prepare(query)) };
        let (begun, prepared) = wire.drive(work).await;
        begun.and(prepared)
    }

    /// Ends the transaction, and with it whatever a query may have set in the session. Whether it can be used again.
    pub(super) async fn is_rolled_back(&mut self) -> bool {
        let Self { client, wire } = self;
        let rolled_back = timeout(ROLLBACK_TIME, wire.drive(client.batch_execute("ROLLBACK"))).await;
        matches!(rolled_back, Ok(Ok(())))
    }

    /// Cancels what is under way and closes the connection. It is not used again: a cancellation says only on which
    /// connection, and one that comes late would meet the next query.
    pub(super) async fn end(self) {
        let Self { client, wire: Wire(connection) } = self;
        let Some(connection) = connection else { return };
        let cancel = client.cancel_token();
        drop(client);
        // At the same time: a database that waits for its socket hears nothing before somebody reads on.
        let ended = timeout(CANCEL_TIME, async { tokio::join!(cancel.cancel_query(NoTls), connection) }).await;
        match ended {
            Ok((Ok(()), _)) => {}
            Ok((Err(error), _)) => tracing::warn!("a query of PostgreSQL cannot be cancelled: {error}"),
            Err(_) => tracing::warn!("a query of PostgreSQL goes on {CANCEL_TIME:?} after it was cancelled"),
        }
    }
}

impl Wire {
    /// Does `work` of the client of this connection.
    pub(super) async fn drive<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(done);
            }
            self.poll(cx);
            // What came is what it waits for; or nothing will come, and it is told.
            work.as_mut().poll(cx)
        })
        .await
    }

    /// Writes and reads what can be without waiting. Where the connection is over, the client's work ends with that.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        while let Some(connection) = &mut self.0 {
            match connection.poll_message(cx) {
                Poll::Pending => return,
                // A notice, which is for a person at a terminal.
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(_)) | None) => self.0 = None,
            }
        }
    }
}
