//! One stream that is open: from the response headers to whatever ends it. HOT.
//!
//! Owns: the body, the frames of what came last, and the silence between them. Must not know: what an end means, runs,
//! other streams.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::HeaderMap;
use hyper::body::{Body as _, Incoming};

use crate::{
    Response, Violation,
    connection::Connection,
    decode::decode,
    frames::Frames,
    numbering::{Admitted, Numbering},
    timers::{Deadline, Silence},
};

/// An open stream. Dropping it before its end resets it.
pub(crate) struct Stream {
    /// It stands before the connection: dropping it is what resets the stream.
    body: Incoming,
    frames: Frames,
    /// Headers that have a status, though they do not end the stream; for when nothing else has one.
    head_status: Option<Box<HeaderMap>>,
    silence: Option<Silence>,
    connection: Arc<Connection>,
}

/// What came on a stream.
pub(crate) enum Came {
    /// More to look at.
    More,
    /// Its end, and what may be trailers.
    End(Box<HeaderMap>),
    /// The connection was lost, or the stream was reset.
    Lost(hyper::Error),
    /// Nothing for so long.
    Silence(Duration),
    /// The caller's deadline passed.
    TooLate,
}

impl Stream {
    pub(crate) fn new(
        body: Incoming,
        message_bytes_max: usize,
        head_status: Option<Box<HeaderMap>>,
        heartbeat: Option<Duration>,
        connection: Arc<Connection>,
    ) -> Self {
        let frames = Frames::new(message_bytes_max);
        Self { body, frames, head_status, silence: heartbeat.map(Silence::of_heartbeat), connection }
    }

    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Whether no message is left that has only come in part.
    pub(crate) fn is_whole(&self) -> bool {
        self.frames.is_between_messages()
    }

    /// The next response of what was received. Heartbeats are swallowed.
    #[inline]
    pub(crate) fn received(&mut self, numbering: &mut Numbering) -> Result<Option<Response>, Violation> {
        while let Some(message) = self.frames.next()? {
            let mut response = decode(message).map_err(Violation::Message)?;
            if numbering.admit(&mut response)? == Admitted::Response {
                return Ok(Some(response));
            }
        }
        Ok(None)
    }

    /// Waits for the next thing, when all that was received was taken.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, deadline: Option<&mut Deadline>) -> Poll<Came> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            return self.poll_timers(cx, deadline);
        };
        if let Some(silence) = &mut self.silence {
            silence.heard();
        }
        Poll::Ready(match frame {
            Some(Ok(frame)) => match frame.into_data() {
                // A server that goes on after the deadline is not waited for, but it never stops being ready either.
                Ok(_) if deadline.is_some_and(|deadline| deadline.poll(cx).is_ready()) => Came::TooLate,
                Ok(chunk) => {
                    self.frames.push(chunk);
                    Came::More
                }
                Err(frame) => match frame.into_trailers() {
                    Ok(trailers) => Came::End(Box::new(trailers)),
                    // HTTP has no third kind of frame.
                    Err(_) => Came::More,
                },
            },
            Some(Err(lost)) => Came::Lost(lost),
            // Some servers send the status in headers that do not end the stream, and then end it.
            None => Came::End(self.head_status.take().unwrap_or_default()),
        })
    }

    /// Nothing is there: what it means where that has lasted too long.
    fn poll_timers(&mut self, cx: &mut Context<'_>, deadline: Option<&mut Deadline>) -> Poll<Came> {
        if deadline.is_some_and(|deadline| deadline.poll(cx).is_ready()) {
            return Poll::Ready(Came::TooLate);
        }
        let Some(silence) = &mut self.silence else { return Poll::Pending };
        silence.poll(cx).map(|()| Came::Silence(silence.limit()))
    }
}
