//! What a caller may want to know of a stream that goes on by itself: that it broke, and that it was resumed.
//!
//! Owns: the events and their texts. Must not know: how a break is noticed, or what is done about it.

use std::{fmt, sync::Arc, time::Duration};

use crate::{FetchError, Position};

/// Something that happened to a stream, and that its reader does not notice otherwise; see
/// [`Fetch::on_event`](crate::Fetch::on_event).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// It broke, was cut or refused, and will be asked for again.
    Broke {
        /// What happened, and where.
        error: Arc<FetchError>,
        /// Which attempt comes next, from 1; it counts on until something is received.
        attempt: u32,
        /// When it comes.
        retry_in: Duration,
    },
    /// The server answers again, and the stream goes on where it was.
    Resumed {
        /// Where it goes on.
        position: Position,
        /// How many attempts it took.
        attempts: u32,
        /// How long that was from the first break.
        away: Duration,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broke { error, attempt, retry_in } => {
                match error.position() {
                    Some(position) => write!(f, "{position}, broke: {}", error.what_happened())?,
                    None => write!(f, "{error}")?,
                }
                write!(f, "; attempt {attempt} to go on follows in {retry_in:.1?}")
            }
            Self::Resumed { position, attempts, away } => {
                write!(f, "{position}, goes on after {away:.1?} and {attempts} ")?;
                f.write_str(if *attempts == 1 { "attempt" } else { "attempts" })
            }
        }
    }
}

/// Who is told.
#[derive(Clone)]
pub(crate) struct Listener(pub(crate) Arc<dyn Fn(&Event) + Send + Sync>);

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener")
    }
}
