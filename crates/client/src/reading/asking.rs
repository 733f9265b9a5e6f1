//! What is asked, first and again, and what may come before the first response.
//!
//! Owns: the request as it is sent each time, what the headers mean, that they are of the run that was asked for. Must not
//! know: what follows the headers, whether it is asked again.

use std::{sync::Arc, time::Duration};

use http::HeaderMap;
use hyper::body::Body as _;
use outflow_proto::protobuf;

use super::{Reading, State, breaks::IsHarmless};
use crate::{
    BreakCause, CallError, Code, ConnectError, End, FetchError, Outcome, Status, Violation,
    ask::{Answered, NotAnswered, Times, Whom, ask, is_reset},
    call,
    fetch::{from_proto, to_proto},
    head::Head,
    link::Kind,
    numbering::{By, Numbering},
    status::GRPC_STATUS,
    stream::Stream,
    timers::{Deadline, silence_limit},
};

/// The least time for headers. A busy server journals the run before it sends them.
const HEADERS_SILENCE_MIN: Duration = Duration::from_secs(10);

impl Reading {
    /// Begins an attempt to have what is missing.
    pub(super) fn ask(&mut self) {
        let request = &mut self.request;
        request.limit = self.numbering.left();
        if self.numbering.is_start_known() {
            (request.after, request.last) = (self.numbering.last(), 0);
        }
        // Only a server that is known to tell its run at once can be silent before it does.
        let tells_at_once = self.resumes && self.is_repeatable() && self.link.kind() == Kind::Outflow;
        let heartbeat = self.heartbeat().filter(|_| tells_at_once);
        let times = Times {
            allowed: self.deadline.as_ref().map(Deadline::left),
            silence: heartbeat.map(|heartbeat| silence_limit(heartbeat).max(HEADERS_SILENCE_MIN)),
        };
        let whom = if self.unanswered.is_some() { Whom::WhoKnowsKeys } else { Whom::Anybody };
        self.state = State::Asked(ask(Arc::clone(&self.link), call::frame(&self.request), whom, times));
    }

    fn heartbeat(&self) -> Option<Duration> {
        self.request.heartbeat.as_ref().map(from_proto)
    }

    /// Whether asking again starts nothing a second time.
    pub(super) fn is_repeatable(&self) -> bool {
        !self.request.run_id.is_empty() || !self.request.idempotency_key.is_empty()
    }

    /// There are no headers.
    pub(super) fn not_answered(&mut self, why: NotAnswered) -> Result<(), FetchError> {
        match why {
            NotAnswered::NoConnection(source) => {
                let is_final = matches!(*source, ConnectError::Given { .. });
                let error = self.broke(BreakCause::NoConnection, Some(Box::new(source)));
                if is_final { Err(error) } else { self.again(error, IsHarmless::Yes) }
            }
            NotAnswered::Lost { source, is_harmless, connection } => {
                self.distrust(&connection, is_reset(&source));
                let error = self.broke(BreakCause::Lost, Some(source.into()));
                self.again(error, if is_harmless { IsHarmless::Yes } else { IsHarmless::Unknown })
            }
            NotAnswered::Silent { limit, connection } => {
                self.link.replace(&connection);
                let error = self.broke(BreakCause::Silent { limit }, None);
                self.again(error, IsHarmless::Unknown)
            }
            NotAnswered::Unsure(source) => {
                if matches!(source, CallError::WaitedTooLong { .. })
                    && let Some(connection) = self.link.alive()
                {
                    self.link.replace(&connection);
                }
                let error = self.broke(BreakCause::Lost, Some(Box::new(source)));
                self.again(error, IsHarmless::Yes)
            }
            // It may have been carried out, and would be a second time.
            NotAnswered::Plain => Err(self.broke(self.unanswered.unwrap_or(BreakCause::Lost), None)),
        }
    }

    /// The headers came.
    pub(super) fn answered(&mut self, answered: Answered) -> Result<(), FetchError> {
        let Answered { answer, connection } = answered;
        let is_over = answer.body().is_end_stream();
        let (parts, body) = answer.into_parts();
        let head = match Head::read(parts.status, &parts.headers) {
            Ok(head) => head,
            Err(violation) => {
                let error = self.violated(violation);
                return self.again(error, IsHarmless::Unknown);
            }
        };
        let is_plain = head.run_id.is_none();
        // Proxies may make two frames of headers that end the stream; what they say is the same.
        if is_plain && (is_over || is_refusal(&parts.headers)) {
            return self.refused(&parts.headers);
        }
        self.check_run(head.run_id.as_deref())?;
        self.link.is_of(if is_plain { Kind::Plain } else { Kind::Outflow });
        self.unanswered = None;
        let heartbeat = self.heartbeat().filter(|_| !is_plain);
        if is_plain {
            self.numbering = Numbering::new(By::Client, &self.request);
        } else {
            // From now on the run is asked for, and nothing else; with heartbeats, also where nobody knew that it would be
            // journaled.
            let unless_set = || to_proto(self.link.settings().resume.heartbeat);
            self.request = protobuf::Request {
                run_id: head.run_id.clone().unwrap_or_default(),
                heartbeat: Some(self.request.heartbeat.take().unwrap_or_else(unless_set)),
                last: self.request.last,
                ..protobuf::Request::default()
            };
        }
        self.head = Some(head);
        if is_over {
            // Trailers-only: these headers are the trailers.
            self.state = State::Over;
            self.failed = self.ended(&parts.headers, true).err();
            if matches!(self.state, State::Over) {
                self.tell_resumed();
            }
            return Ok(());
        }
        let head_status = parts.headers.contains_key(GRPC_STATUS).then(|| Box::new(parts.headers));
        let message_bytes_max = self.link.settings().message_bytes_max;
        self.state = State::Open(Stream::new(body, message_bytes_max, head_status, heartbeat, connection));
        self.tell_resumed();
        Ok(())
    }

    /// Headers that end the stream, and tell of no run.
    fn refused(&mut self, trailers: &HeaderMap) -> Result<(), FetchError> {
        match Status::received(trailers) {
            None => {
                let error = self.broke(BreakCause::NoStatus, None);
                self.again(error, IsHarmless::Unknown)
            }
            Some(Err(received)) => Err(self.violated(Violation::GrpcStatus { received })),
            Some(Ok(status)) if status.code() == Code::OK => {
                // A plain server that has nothing to say.
                self.check_run(None)?;
                self.numbering = Numbering::new(By::Client, &self.request);
                self.head = Some(Head { run_id: None, durability: None, expected_bytes: None });
                self.outcome = Some(Outcome::Ended { end: End::Complete, jobs_failed: 0, last_sequence: 0 });
                self.state = State::Over;
                Ok(())
            }
            Some(Ok(status)) => {
                let address = Arc::clone(self.link.name());
                self.again(FetchError::Refused { address, status }, IsHarmless::Yes)
            }
        }
    }

    /// Where a run was asked for, this is it, or what follows is something else.
    fn check_run(&self, received: Option<&str>) -> Result<(), FetchError> {
        let asked = self.request.run_id.as_str();
        match received {
            _ if asked.is_empty() => Ok(()),
            None => Err(self.violated(Violation::NoRuns { run_id: asked.to_owned() })),
            Some(received) if received == asked => Ok(()),
            Some(received) => {
                let (asked, received) = (asked.to_owned(), received.to_owned());
                Err(self.violated(Violation::OtherRun { asked, received }))
            }
        }
    }
}

/// Whether headers have a status that is not `OK`: nothing that matters can follow.
fn is_refusal(headers: &HeaderMap) -> bool {
    Status::received(headers).is_some_and(|status| status.is_ok_and(|status| status.code() != Code::OK))
}
