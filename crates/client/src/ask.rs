//! One attempt to have a request answered: a connection, the request, the response headers.
//!
//! Owns: what can go wrong up to the headers, and whether the request may have been carried out then; that a plain server
//! is not asked what it may have carried out already. Must not know: what is done about it, what follows the headers.

use std::{error::Error as _, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::Response;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout};

use crate::{
    CallError, ConnectError,
    call::{self, FETCH},
    connection::Connection,
    link::{Kind, Link},
    runs,
};

/// An attempt that is being made.
pub(crate) type Asking = Pin<Box<dyn Future<Output = Result<Answered, NotAnswered>> + Send>>;

/// The headers, and the connection on which what follows them comes.
pub(crate) struct Answered {
    pub(crate) answer: Response<Incoming>,
    pub(crate) connection: Arc<Connection>,
}

/// Why there are no headers.
pub(crate) enum NotAnswered {
    /// Nothing was sent.
    NoConnection(Arc<ConnectError>),
    /// The connection was lost, or the stream was reset.
    Lost {
        source: hyper::Error,
        /// Whether it is certain that no server acted on the request.
        is_harmless: bool,
        connection: Arc<Connection>,
    },
    /// Nothing was heard for so long.
    Silent { limit: Duration, connection: Arc<Connection> },
    /// What kind of server it is could not be found out, and so the request was not sent.
    Unsure(CallError),
    /// It is a plain server, and so the request was not sent.
    Plain,
}

/// Whom a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whom {
    Anybody,
    /// Only a server that finds the run by the request's key, and starts none a second time. Where it has not told yet what
    /// it is, it is asked that first.
    WhoKnowsKeys,
}

/// How long an attempt may take.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Times {
    /// Until the caller's deadline. It is told to the server.
    pub(crate) allowed: Option<Duration>,
    /// For the headers, once the request was handed over.
    pub(crate) silence: Option<Duration>,
}

/// Begins an attempt to have the request of this frame answered.
pub(crate) fn ask(link: Arc<Link>, frame: Bytes, whom: Whom, times: Times) -> Asking {
    Box::pin(async move {
        let begun = Instant::now();
        if whom == Whom::WhoKnowsKeys {
            match kind_of(&link).await.map_err(NotAnswered::Unsure)? {
                Kind::Plain => return Err(NotAnswered::Plain),
                Kind::Outflow | Kind::Unknown => {}
            }
        }
        let connection = link.connection().await.map_err(NotAnswered::NoConnection)?;
        // Time that went by while connecting. Not by the microsecond: the caller's round number is sent as it is.
        let waited = Duration::from_millis(begun.elapsed().as_millis() as u64);
        let allowed = times.allowed.map(|allowed| allowed.saturating_sub(waited));
        let http = call::request(link.authority(), FETCH, frame, allowed);
        let mut sender = connection.sender();
        let answer = sender.try_send_request(http);
        let answer = match times.silence {
            None => answer.await,
            Some(limit) => match timeout(limit, answer).await {
                Ok(answer) => answer,
                Err(_) => return Err(NotAnswered::Silent { limit, connection }),
            },
        };
        match answer {
            Ok(answer) => Ok(Answered { answer, connection }),
            Err(error) => {
                let was_sent = error.message().is_none();
                let source = error.into_error();
                let is_harmless = !was_sent || is_refusal(&source);
                Err(NotAnswered::Lost { source, is_harmless, connection })
            }
        }
    })
}

/// What kind of server it is, also where it has told nothing yet: one that knows runs knows keys.
async fn kind_of(link: &Link) -> Result<Kind, CallError> {
    if link.kind() == Kind::Unknown {
        let knows_runs = runs::are_known(link).await?;
        link.is_of(if knows_runs { Kind::Outflow } else { Kind::Plain });
    }
    Ok(link.kind())
}

/// Whether the other side says that it did not act on a request: it refused the stream (RFC 9113 §8.7), or it leaves, and
/// the stream is none of those that it still answers (§6.8).
fn is_refusal(error: &hyper::Error) -> bool {
    h2_error(error).is_some_and(|error| {
        let reason = error.reason();
        error.is_remote()
            && (error.is_reset() && reason == Some(h2::Reason::REFUSED_STREAM)
                || error.is_go_away() && reason == Some(h2::Reason::NO_ERROR))
    })
}

/// Whether only the stream was reset, and not the connection lost.
pub(crate) fn is_reset(error: &hyper::Error) -> bool {
    h2_error(error).is_some_and(h2::Error::is_reset)
}

fn h2_error(error: &hyper::Error) -> Option<&h2::Error> {
    error.source()?.downcast_ref()
}
