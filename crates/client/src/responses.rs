//! The responses to one request, as the caller reads them.
//!
//! Owns: the ways to read. Must not know: where they come from, what a break is.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
};

use crate::{Durability, FetchError, Outcome, Position, Response, reading::Reading};

/// The responses to one [`Fetch`](crate::Fetch), in order.
///
/// Read it with [`next`](Self::next), with [`next_batch`](Self::next_batch), or as a [`Stream`](futures_core::Stream).
/// After the end, and after an error, it gives `None` for ever. Responses that were received before an error are given
/// before it.
///
/// **It resumes by itself**, unless [told not to](crate::Fetch::no_resume): a reader does not notice that the connection was
/// lost, the stream reset or cut, the server restarted or gone silent; see the [crate's front page](crate). That takes
/// place while it is read: a reader that is away resumes nothing.
///
/// **Dropping it leaves**: the stream is reset (`RST_STREAM`, `CANCEL`), and a server stops work that nobody else waits
/// for and that nobody asked it to go on with. Where it is the last owner of the connection, the connection is closed
/// instead.
///
/// A caller that does not read lets the server send one stream window more, and then nothing: that is the
/// back-pressure. Lying unread costs memory, and see
/// [`connection_window_bytes`](crate::ClientBuilder::connection_window_bytes).
pub struct Responses(pub(crate) Reading);

impl Responses {
    /// The run, as the server calls it; `None` from a plain server.
    pub fn run_id(&self) -> Option<&str> {
        self.0.run_id()
    }

    /// How long the run lives; `None` from a plain server.
    pub fn durability(&self) -> Option<Durability> {
        self.0.durability()
    }

    /// About how many bytes the payloads of the whole run have together, as the server expected when the run began: for
    /// progress, and no promise. `None` where it did not know.
    pub fn expected_bytes(&self) -> Option<u64> {
        self.0.expected_bytes()
    }

    /// Whether this is a plain server: one of the tutorial's contract that is no Outflow. Its responses are numbered
    /// and limited by this client, and cannot be resumed.
    pub fn is_plain(&self) -> bool {
        self.0.is_plain()
    }

    /// What the caller asked for and a plain server cannot give, by the names of the contract's fields: `source`,
    /// `parameters`, `heartbeat` and so on. Empty from Outflow.
    pub fn unsupported(&self) -> &[&'static str] {
        self.0.unsupported()
    }

    /// The sequence of the last response that was given, or the request's `after`.
    pub fn last_sequence(&self) -> u64 {
        self.0.last_sequence()
    }

    /// How far the stream came.
    pub fn position(&self) -> Position {
        self.0.position()
    }

    /// How the stream ended: `None` before its end, and for one that broke or was cut, so that its run may go on.
    ///
    /// With [`FetchError::Status`] it tells that the run ended so.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.0.outcome()
    }

    /// The next response; `None` after the end. Waits until there is one.
    ///
    /// # Errors
    /// See [`FetchError`]: after an error comes `None`.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Result<Response, FetchError>> {
        poll_fn(|cx| self.0.poll_response(cx)).await
    }

    /// Waits until there is a response, and appends to `into` all that were already received, `limit` at most. Returns
    /// how many; 0 after the end, or where `limit` is 0.
    ///
    /// This spares an `await` for each response where many come at once.
    ///
    /// # Errors
    /// As [`next`](Self::next). What was received before an error is returned first, and the error by the next call.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped: it ends as soon as something was appended.
    pub async fn next_batch(&mut self, into: &mut Vec<Response>, limit: usize) -> Result<usize, FetchError> {
        if limit == 0 {
            return Ok(0);
        }
        poll_fn(|cx| {
            let mut count = 0;
            while count < limit {
                match self.0.poll_response(cx) {
                    Poll::Ready(Some(Ok(response))) => into.push(response),
                    Poll::Ready(Some(Err(error))) if count == 0 => return Poll::Ready(Err(error)),
                    Poll::Ready(Some(Err(error))) => {
                        self.0.put_back(error);
                        break;
                    }
                    Poll::Pending if count == 0 => return Poll::Pending,
                    Poll::Pending | Poll::Ready(None) => break,
                }
                count += 1;
            }
            Poll::Ready(Ok(count))
        })
        .await
    }
}

impl futures_core::Stream for Responses {
    type Item = Result<Response, FetchError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().0.poll_response(cx)
    }
}

impl fmt::Debug for Responses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responses")
            .field("position", &self.position())
            .field("state", &self.0.state_name())
            .field("outcome", &self.outcome())
            .finish_non_exhaustive()
    }
}
