//! One call: its request on the way out, its messages on the way in, what its headers and trailers said, and the status
//! with which it ended. It knows gRPC over HTTP/2, and nothing of sockets and frames.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use outflow_client::{Code, Status};

use super::{
    hpack,
    messages::{Look, Malformed, Messages},
};

/// A call under way.
pub(crate) struct Stream {
    pub(crate) messages: Messages,
    /// When it was asked for.
    pub(crate) asked: Instant,
    pub(crate) reads: Reads,
    /// What came as it came, prefixes included, where it is kept.
    pub(crate) body: Option<Vec<u8>>,
    call: Call,
    /// Where the server does not say who answers, nothing is known of its sequences.
    pub(crate) is_run: bool,
    http_status: Option<StatusCode>,
    /// The request, and how much of it has gone out.
    pub(super) request: Arc<[u8]>,
    pub(super) sent: usize,
    pub(super) send_window: i64,
    pub(super) unacknowledged_bytes: u32,
    /// Bytes of it came in the read that is being handled.
    pub(super) is_touched: bool,
}

/// What a caller wants of a call.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Call {
    /// Whether the time stamps of `simulate` are read.
    pub(crate) stamps: bool,
    /// The sequence behind which the responses begin.
    pub(crate) after: u64,
    /// Whether all bytes are kept.
    pub(crate) keep: bool,
}

/// What a read brought of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Came {
    /// No whole response.
    Nothing,
    /// The first.
    First,
    /// More, so long after the last read that brought some.
    More(Duration),
}

/// When responses came last, and how many there were then.
#[derive(Default)]
pub(crate) struct Reads(Option<(Instant, u64)>);

impl Reads {
    /// What the read at this time brought, after which there are `count` responses. HOT, once per read.
    pub(crate) fn came(&mut self, count: u64, now: Instant) -> Came {
        if count == self.0.map_or(0, |(_, before)| before) {
            return Came::Nothing;
        }
        let last = self.0.replace((now, count));
        last.map_or(Came::First, |(then, _)| Came::More(now.saturating_duration_since(then)))
    }
}

/// How a call ended.
pub(crate) struct Ended {
    pub(crate) stream: Stream,
    pub(crate) code: Code,
    pub(crate) message: String,
}

/// The fields that matter of a header block.
#[derive(Default)]
pub(super) struct Fields {
    http_status: Option<StatusCode>,
    status: HeaderMap,
    is_run: bool,
    last_sequence: Option<u64>,
}

impl Fields {
    pub(super) fn read(block: &[u8]) -> Result<Self, hpack::Malformed> {
        let mut fields = Self::default();
        hpack::read(block, |name, value| match name {
            b":status" => fields.http_status = StatusCode::from_bytes(value).ok(),
            b"grpc-status" => fields.keep("grpc-status", value),
            b"grpc-message" => fields.keep("grpc-message", value),
            b"outflow-run-id" => fields.is_run = true,
            b"outflow-last-sequence" => {
                fields.last_sequence = str::from_utf8(value).ok().and_then(|number| number.parse().ok());
            }
            _ => {}
        })?;
        Ok(fields)
    }

    fn keep(&mut self, name: &'static str, value: &[u8]) {
        // What is no value of HTTP/1.1 is none here.
        self.status.extend(HeaderValue::from_bytes(value).ok().map(|value| (HeaderName::from_static(name), value)));
    }

    /// RFC 9110 §15.2: more headers follow.
    pub(super) fn is_interim(&self) -> bool {
        self.http_status.is_some_and(|status| status.is_informational())
    }
}

impl Stream {
    pub(super) fn new(request: Arc<[u8]>, call: Call, asked: Instant, send_window: i64) -> Self {
        let mut messages = Messages::default();
        let look = if call.stamps { Look::Stamps } else { Look::Nothing };
        messages.look_for(look, call.after);
        Self {
            messages,
            asked,
            reads: Reads::default(),
            body: call.keep.then(Vec::new),
            call,
            is_run: false,
            http_status: None,
            request,
            sent: 0,
            send_window,
            unacknowledged_bytes: 0,
            is_touched: false,
        }
    }

    /// What the read at this time brought.
    pub(crate) fn came(&mut self, now: Instant) -> Came {
        self.reads.came(self.messages.count, now)
    }

    pub(super) fn take(&mut self, part: &[u8]) -> Result<(), Malformed> {
        if let Some(body) = &mut self.body {
            body.extend_from_slice(part);
        }
        self.messages.feed(part)
    }

    /// Its headers, before any message.
    pub(super) fn begin(&mut self, fields: &Fields) {
        if self.http_status.is_some() {
            return;
        }
        self.http_status = fields.http_status;
        self.is_run = fields.is_run;
        if self.is_run {
            let look = if self.call.stamps { Look::SequencesAndStamps } else { Look::Sequences };
            self.messages.look_for(look, self.call.after);
        }
    }

    /// It ends with this, its trailers or its headers.
    pub(super) fn end(mut self, fields: Option<&Fields>) -> Ended {
        let sequence = fields.and_then(|fields| fields.last_sequence);
        if self.is_run && sequence.is_some_and(|sequence| sequence != self.messages.sequence) {
            self.messages.sequence_errors += 1;
        }
        match fields.and_then(|fields| Status::received(&fields.status)) {
            Some(Ok(status)) if status.code() == Code::OK && !self.messages.whole() => {
                self.ended(Code::INTERNAL, "it ended with OK inside a message")
            }
            Some(Ok(status)) => self.ended(status.code(), status.message()),
            Some(Err(text)) => self.ended(Code::UNKNOWN, format!("its grpc-status is no number, but {text:?}")),
            None => match self.http_status {
                Some(StatusCode::OK) | None => self.ended(Code::UNKNOWN, "it ended without a grpc-status"),
                Some(status) => self.ended(Code::of_http(status), format!("HTTP status {status}")),
            },
        }
    }

    pub(super) fn ended(self, code: Code, message: impl Into<String>) -> Ended {
        Ended { stream: self, code, message: message.into() }
    }
}

/// What a reset means (gRPC over HTTP/2, "Errors").
pub(super) fn code_of_reset(reason: u32) -> Code {
    match reason {
        7 => Code::UNAVAILABLE,
        8 => Code::CANCELLED,
        11 => Code::RESOURCE_EXHAUSTED,
        12 => Code::PERMISSION_DENIED,
        _ => Code::INTERNAL,
    }
}
