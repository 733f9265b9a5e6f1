//! The responses of one stream, from the response headers to its end. HOT.
//!
//! Owns: the body, and what each thing that may come on it means: a chunk, the trailers, a break, a deadline. Must not
//! know: how frames, messages, numbers and statuses are read.

use std::{
    error::Error,
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_core::Stream;
use http::{HeaderMap, Response as Answer};
use hyper::body::{Body as _, Incoming};

use crate::{
    BreakCause, Code, Durability, End, Fetch, FetchError, Outcome, Position, Response, Status, Violation,
    connection::Connection,
    decode::decode,
    frames::Frames,
    head::Head,
    link::Link,
    numbering::{Admitted, By, Numbering},
    outcome::Told,
    status::GRPC_STATUS,
    timers::{Deadline, Silence},
};

/// The responses to one [`Fetch`], in order.
///
/// Read it with [`next`](Self::next), with [`next_batch`](Self::next_batch), or as a [`Stream`]. After the end, and
/// after an error, it gives `None` for ever. Responses that were received before an error are given before it.
///
/// **Dropping it resets the stream** (`RST_STREAM`, `CANCEL`): a server stops work that nobody else waits for. Where it
/// is the last owner of the connection, the connection is closed instead.
///
/// A caller that does not read lets the server send one stream window more, and then nothing: that is the
/// back-pressure. Lying unread costs memory, and see
/// [`connection_window_bytes`](crate::ClientBuilder::connection_window_bytes).
pub struct Responses {
    /// `None`: over. Dropping it before its end is what resets the stream; it stands before the connection.
    body: Option<Incoming>,
    frames: Frames,
    numbering: Numbering,
    head: Head,
    /// Headers that have a status, though they do not end the stream; for when nothing else has one.
    head_status: Option<Box<HeaderMap>>,
    /// What ended the stream after responses that had to be given first.
    failed: Option<FetchError>,
    outcome: Option<Outcome>,
    deadline: Option<Deadline>,
    silence: Option<Silence>,
    unsupported: Vec<&'static str>,
    asked: Fetch,
    link: Arc<Link>,
    /// What the body comes on; it stands behind the body.
    _connection: Arc<Connection>,
}

impl Responses {
    /// The run, as the server calls it; `None` from a plain server.
    pub fn run_id(&self) -> Option<&str> {
        self.head.run_id.as_deref()
    }

    /// How long the run lives; `None` from a plain server.
    pub fn durability(&self) -> Option<Durability> {
        self.head.durability
    }

    /// Whether this is a plain server: one of the tutorial's contract that is no Outflow. Its responses are numbered
    /// and limited by this client, and cannot be resumed.
    pub fn is_plain(&self) -> bool {
        self.head.run_id.is_none()
    }

    /// What the caller asked for and a plain server cannot give, by the names of the contract's fields: `source`,
    /// `parameters`, `heartbeat` and so on. Empty from Outflow.
    pub fn unsupported(&self) -> &[&'static str] {
        &self.unsupported
    }

    /// The sequence of the last response that was given, or the request's `after`.
    pub fn last_sequence(&self) -> u64 {
        self.numbering.last()
    }

    /// How far the stream came, for resuming and for messages.
    pub fn position(&self) -> Position {
        Position {
            address: Arc::clone(self.link.name()),
            run_id: self.head.run_id.clone(),
            durability: self.head.durability,
            last_sequence: self.numbering.last(),
        }
    }

    /// How the stream ended: `None` before its end, and for one that broke or was cut, so that its run may go on.
    ///
    /// With [`FetchError::Status`] it tells that the run ended so.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// The next response; `None` after the end. Waits until there is one.
    ///
    /// # Errors
    /// See [`FetchError`]: after an error comes `None`.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Result<Response, FetchError>> {
        poll_fn(|cx| self.poll_response(cx)).await
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
                match self.poll_response(cx) {
                    Poll::Ready(Some(Ok(response))) => into.push(response),
                    Poll::Ready(Some(Err(error))) if count == 0 => return Poll::Ready(Err(error)),
                    Poll::Ready(Some(Err(error))) => {
                        self.failed = Some(error);
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

    /// A stream whose headers have not come.
    pub(crate) fn opening(link: Arc<Link>, connection: Arc<Connection>, asked: Fetch) -> Self {
        Self {
            body: None,
            frames: Frames::new(link.settings().message_bytes_max),
            numbering: Numbering::new(By::Server, asked.request()),
            head: Head { run_id: None, durability: None },
            head_status: None,
            failed: None,
            outcome: None,
            deadline: None,
            silence: None,
            unsupported: Vec::new(),
            asked,
            link,
            _connection: connection,
        }
    }

    /// The headers came. An error is for the caller of `fetch`.
    pub(crate) fn open(mut self, answer: Answer<Incoming>, deadline: Option<Deadline>) -> Result<Self, FetchError> {
        let over = answer.body().is_end_stream();
        let (parts, body) = answer.into_parts();
        self.head = Head::read(parts.status, &parts.headers).map_err(|violation| self.violated(violation))?;
        if self.is_plain() {
            self.numbering = Numbering::new(By::Client, self.asked.request());
            self.unsupported = self.asked.beyond_a_plain_server();
        }
        if over {
            // Trailers-only: these headers are the trailers.
            match self.end(&parts.headers) {
                Err(error) if self.is_plain() => return Err(error),
                Err(error) => self.failed = Some(error),
                Ok(()) => {}
            }
        } else {
            if parts.headers.contains_key(GRPC_STATUS) {
                self.head_status = Some(Box::new(parts.headers));
            }
            self.body = Some(body);
            self.deadline = deadline;
            let heartbeat = self.asked.heartbeat_interval().filter(|_| !self.is_plain());
            self.silence = heartbeat.map(Silence::of_heartbeat);
        }
        match self.asked.run_id() {
            Some(run_id) if self.is_plain() => Err(self.violated(Violation::NoRuns { run_id: run_id.to_owned() })),
            _ => Ok(self),
        }
    }

    /// Everything that `next` and its like are made of.
    fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Response, FetchError>>> {
        loop {
            match self.received() {
                Ok(Some(response)) => return Poll::Ready(Some(Ok(response))),
                Ok(None) => {}
                Err(violation) => {
                    self.close();
                    return Poll::Ready(Some(Err(self.violated(violation))));
                }
            }
            if self.body.is_none() {
                return Poll::Ready(self.failed.take().map(Err));
            }
            if let Err(error) = ready!(self.poll_body(cx)) {
                self.close();
                return Poll::Ready(Some(Err(error)));
            }
        }
    }

    /// The next response of what was received. Heartbeats are swallowed.
    #[inline]
    fn received(&mut self) -> Result<Option<Response>, Violation> {
        while let Some(message) = self.frames.next()? {
            let mut response = decode(message).map_err(Violation::Message)?;
            if self.numbering.admit(&mut response)? == Admitted::Response {
                if self.is_plain() && self.numbering.is_full() {
                    // Nobody told the server that this is enough; the reset does.
                    self.close();
                    self.outcome = Some(Outcome::Limit { last_sequence: self.numbering.last() });
                }
                return Ok(Some(response));
            }
        }
        Ok(None)
    }

    /// Waits for the next thing on the body. `Ok`: look again.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), FetchError>> {
        let body = self.body.as_mut().expect("polled while it is open");
        let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) else {
            return self.poll_timers(cx).map(Err);
        };
        if let Some(silence) = &mut self.silence {
            silence.heard();
        }
        Poll::Ready(match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(chunk) => self.take_chunk(chunk, cx),
                Err(frame) => match frame.into_trailers() {
                    Ok(trailers) => {
                        let ended = self.end(&trailers);
                        self.close();
                        ended
                    }
                    // HTTP has no third kind of frame.
                    Err(_) => Ok(()),
                },
            },
            Some(Err(lost)) => Err(self.lost(lost)),
            None => {
                // Some servers send the status in headers that do not end the stream, and then end it.
                let headers = self.head_status.take().unwrap_or_default();
                let ended = self.end(&headers);
                self.close();
                ended
            }
        })
    }

    fn take_chunk(&mut self, chunk: Bytes, cx: &mut Context<'_>) -> Result<(), FetchError> {
        // A server that goes on after the deadline is not waited for, but it never stops being ready either.
        if let Some(deadline) = &mut self.deadline
            && deadline.poll(cx).is_ready()
        {
            let allowed = deadline.allowed();
            return Err(self.waited_too_long(allowed));
        }
        self.frames.push(chunk);
        Ok(())
    }

    /// Nothing is there: the error where that has lasted too long.
    fn poll_timers(&mut self, cx: &mut Context<'_>) -> Poll<FetchError> {
        if let Some(deadline) = &mut self.deadline
            && deadline.poll(cx).is_ready()
        {
            let allowed = deadline.allowed();
            return Poll::Ready(self.waited_too_long(allowed));
        }
        if let Some(silence) = &mut self.silence
            && silence.poll(cx).is_ready()
        {
            let limit = silence.limit();
            return Poll::Ready(self.broke(BreakCause::Silent { limit }, None));
        }
        Poll::Pending
    }

    /// The stream was ended by the server, with what may be trailers.
    fn end(&mut self, trailers: &HeaderMap) -> Result<(), FetchError> {
        let status = match Status::received(trailers) {
            None => return Err(self.broke(BreakCause::NoStatus, None)),
            Some(Err(received)) => return Err(self.violated(Violation::GrpcStatus { received })),
            Some(Ok(status)) => status,
        };
        if status.code() == Code::OK {
            let outcome = self.outcome_of_ok(trailers);
            self.outcome = Some(outcome.map_err(|violation| self.violated(violation))?);
            return Ok(());
        }
        if self.is_plain() && self.numbering.given() == 0 {
            return Err(FetchError::Refused { address: Arc::clone(self.link.name()), status });
        }
        if !self.is_plain() {
            // Trailers that contradict what came explain nothing; the status is told all the same.
            self.outcome = self.told(trailers).ok().flatten();
        }
        Err(FetchError::Status { position: self.boxed_position(), status })
    }

    fn outcome_of_ok(&self, trailers: &HeaderMap) -> Result<Outcome, Violation> {
        if !self.frames.is_between_messages() {
            return Err(Violation::Truncated);
        }
        let last_sequence = self.numbering.last();
        if self.is_plain() {
            return Ok(Outcome::Ended { end: End::Complete, jobs_failed: 0, last_sequence });
        }
        match self.told(trailers)? {
            // An end with another status is none that `OK` may come with: a failed run must not look like a good one.
            Some(ended @ Outcome::Ended { end: End::Complete | End::Other, .. }) => Ok(ended),
            None if self.numbering.is_full() => Ok(Outcome::Limit { last_sequence }),
            _ => Err(Violation::EndMissing),
        }
    }

    /// What the trailers tell of the run's end, if it ended.
    fn told(&self, trailers: &HeaderMap) -> Result<Option<Outcome>, Violation> {
        let told = Told::by(trailers)?;
        let last_sequence = match told.last_sequence {
            Some(told) if self.numbering.agrees_with(told) => told,
            Some(told) => return Err(Violation::LastSequence { told }),
            None => self.numbering.last(),
        };
        Ok(told.end.map(|(end, jobs_failed)| Outcome::Ended { end, jobs_failed, last_sequence }))
    }

    /// Over: a body that has not ended is reset, and what was received after the end is forgotten.
    fn close(&mut self) {
        self.body = None;
        self.frames = Frames::new(self.link.settings().message_bytes_max);
        self.deadline = None;
        self.silence = None;
    }

    fn boxed_position(&self) -> Box<Position> {
        Box::new(self.position())
    }

    fn violated(&self, violation: Violation) -> FetchError {
        FetchError::Protocol { position: self.boxed_position(), violation: Box::new(violation) }
    }

    fn broke(&self, cause: BreakCause, source: Option<Box<dyn Error + Send + Sync>>) -> FetchError {
        FetchError::Break { position: self.boxed_position(), cause, source }
    }

    pub(crate) fn lost(&self, source: hyper::Error) -> FetchError {
        self.broke(BreakCause::Lost, Some(source.into()))
    }

    pub(crate) fn waited_too_long(&self, deadline: Duration) -> FetchError {
        FetchError::WaitedTooLong { position: self.boxed_position(), deadline }
    }
}

impl Stream for Responses {
    type Item = Result<Response, FetchError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_response(cx)
    }
}

impl fmt::Debug for Responses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responses")
            .field("position", &self.position())
            .field("over", &self.body.is_none())
            .field("outcome", &self.outcome)
            .finish_non_exhaustive()
    }
}
