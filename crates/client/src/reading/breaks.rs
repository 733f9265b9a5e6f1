//! What is made of a stream that is not open any more: its end, or a break that is waited out and asked about again.
//!
//! Owns: which of the two it is, and who is told. Must not know: the table behind it, how long to wait, how it is asked.

use std::sync::Arc;

use http::HeaderMap;
use tokio::time::{Instant, sleep_until};

use super::{Reading, State};
use crate::{
    BreakCause, Event, FetchError, Outcome,
    ask::is_reset,
    connection::Connection,
    head::resumable,
    link::Kind,
    outcome::Ending,
    resume::{Next, Outage, Standing, Verdict, judge},
    stream::Came,
    timers::Deadline,
};

/// How often a stream may be reset, one time after the other, before it is the connection that is not trusted.
const RESETS_MAX: u32 = 2;

impl Reading {
    /// An open stream is not open any more.
    pub(super) fn closed(&mut self, came: Came) -> Result<(), FetchError> {
        let State::Open(stream) = std::mem::replace(&mut self.state, State::Over) else {
            unreachable!("it came on an open stream")
        };
        if self.outage.as_ref().is_some_and(|outage| outage.is_over(&self.numbering)) {
            self.outage = None;
        }
        match came {
            Came::More => unreachable!("it is open"),
            Came::End(trailers) => self.ended(&trailers, stream.is_whole()),
            Came::TooLate => Err(self.waited_too_long()),
            Came::Lost(source) => {
                self.distrust(stream.connection(), is_reset(&source));
                let error = self.broke(BreakCause::Lost, Some(source.into()));
                self.again(error, IsHarmless::Unknown)
            }
            Came::Silence(limit) => {
                self.link.replace(stream.connection());
                let error = self.broke(BreakCause::Silent { limit }, None);
                self.again(error, IsHarmless::Unknown)
            }
        }
    }

    /// The stream was ended by the server, with what may be trailers.
    pub(super) fn ended(&mut self, trailers: &HeaderMap, is_whole: bool) -> Result<(), FetchError> {
        match Ending::read(trailers, &self.numbering, is_whole) {
            Ending::Good(outcome) => {
                self.outcome = Some(outcome);
                Ok(())
            }
            Ending::NoStatus => {
                let error = self.broke(BreakCause::NoStatus, None);
                self.again(error, IsHarmless::Unknown)
            }
            Ending::Wrong(violation) => Err(self.violated(violation)),
            Ending::Status(status, None) if self.is_plain() && self.numbering.given() == 0 => {
                Err(FetchError::Refused { address: Arc::clone(self.link.name()), status })
            }
            Ending::Status(status, outcome) => {
                let error = FetchError::Status { position: Box::new(self.position()), status };
                self.outcome = outcome;
                if outcome.is_some() { Err(error) } else { self.again(error, IsHarmless::Unknown) }
            }
        }
    }

    /// What to do about something that is no end: to wait and ask again, or to give it to the caller.
    pub(super) fn again(&mut self, error: FetchError, is_harmless: IsHarmless) -> Result<(), FetchError> {
        self.state = State::Over;
        let verdict = if self.resumes { judge(&error, self.standing(is_harmless)) } else { Verdict::Final };
        let Verdict::Again(told) = verdict else { return Err(self.last_word(error)) };
        if self.numbering.is_full() {
            // All that was wanted has come; only the word for it was lost.
            self.outcome = Some(Outcome::Limit { last_sequence: self.numbering.last() });
            return Ok(());
        }
        if self.head.is_none() && self.request.run_id.is_empty() && matches!(is_harmless, IsHarmless::Unknown) {
            self.unanswered = Some(match &error {
                FetchError::Break { cause, .. } => *cause,
                _ => BreakCause::NoStatus,
            });
        }
        let outage = self.outage.get_or_insert_with(|| Outage::begin(&self.numbering));
        match outage.next(&self.link.settings().resume, told, rand::random()) {
            Next::Wait(retry_in) => {
                let attempt = outage.attempts();
                let at = Instant::now() + retry_in;
                let deadline = self.deadline.as_ref().and_then(Deadline::at);
                self.state = State::Waiting(Box::pin(sleep_until(deadline.map_or(at, |deadline| deadline.min(at)))));
                self.tell(|_| Event::Broke { error: Arc::new(error), attempt, retry_in });
                Ok(())
            }
            Next::GiveUp if outage.attempts() == 0 => Err(self.last_word(error)),
            Next::GiveUp => {
                let (attempts, waited) = (outage.attempts(), outage.lasted());
                let key = Some(self.request.idempotency_key.clone()).filter(|key| !key.is_empty());
                let position = Box::new(self.position());
                Err(FetchError::GaveUp { position, attempts, waited, key, last: Box::new(error) })
            }
        }
    }

    fn standing(&self, is_harmless: IsHarmless) -> Standing {
        match &self.head {
            Some(head) if head.run_id.is_some() && resumable(head.durability) => Standing::Resumable,
            Some(_) => Standing::Lost,
            None if matches!(is_harmless, IsHarmless::Yes) => Standing::Repeatable,
            // To a plain server a key means nothing.
            None if self.is_repeatable() && self.link.kind() != Kind::Plain => Standing::Repeatable,
            None => Standing::Once,
        }
    }

    /// The error as the caller gets it: where responses were given, the answer to a later attempt is a status of theirs.
    fn last_word(&self, error: FetchError) -> FetchError {
        match error {
            FetchError::Refused { status, .. } if self.head.is_some() => {
                FetchError::Status { position: Box::new(self.position()), status }
            }
            error => error,
        }
    }

    /// A stream was lost: what else is asked for should use another connection, unless only the stream was reset.
    pub(super) fn distrust(&self, connection: &Arc<Connection>, is_reset: bool) {
        let attempts = self.outage.as_ref().map_or(0, Outage::attempts);
        if !is_reset || attempts >= RESETS_MAX {
            self.link.replace(connection);
        }
    }

    pub(super) fn tell_resumed(&self) {
        if let Some(outage) = &self.outage {
            let (attempts, away) = (outage.attempts(), outage.lasted());
            self.tell(|reading| Event::Resumed { position: reading.position(), attempts, away });
        }
    }
}

/// Whether it is certain that the server did not act on a request that was not answered.
#[derive(Debug, Clone, Copy)]
pub(super) enum IsHarmless {
    Yes,
    Unknown,
}
