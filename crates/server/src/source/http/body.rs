//! An answer's body, read as fast as the run takes it, and split into responses. It knows nothing of how it was asked for.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use outflow_engine::{Code, Emitter, JobError};
use serde::Deserialize;
use tokio::time::timeout;

use super::events::Events;
use crate::source::split::{PIECE_BYTES_MAX, Pieces, character_start};

/// The longest chunk.
const CHUNK_BYTES_MAX: usize = 64 * 1024;

/// How a body becomes responses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Split {
    /// One response, whatever it is.
    #[default]
    Whole,
    /// Each line, without its line end.
    Lines,
    /// What comes together.
    Chunks,
    /// The data of each server-sent event.
    Events,
}

/// A body that is being read.
pub(super) struct Body {
    incoming: Incoming,
    idle_time: Duration,
    bytes_left: u64,
    bytes_max: u64,
    /// What is asked, for errors.
    what: String,
}

impl Body {
    /// # Errors
    /// Where it says itself that it is longer than allowed.
    pub(super) fn new(body: Incoming, idle_time: Duration, bytes_max: u64, what: String) -> Result<Self, JobError> {
        let body = Self { incoming: body, idle_time, bytes_left: bytes_max, bytes_max, what };
        if body.incoming.size_hint().lower() > bytes_max { Err(body.too_long()) } else { Ok(body) }
    }

    fn too_long(&self) -> JobError {
        let (what, max) = (&self.what, self.bytes_max);
        JobError::new(
            Code::ResourceExhausted,
            format_args!("{what}: the body is longer than body_limit = {max} bytes"),
        )
    }

    /// What comes next; `None` at its end. The time in which it must come begins now, and not while the run's reader
    /// was slow.
    async fn next(&mut self) -> Result<Option<Bytes>, JobError> {
        loop {
            let frame = match timeout(self.idle_time, self.incoming.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => {
                    let (what, error) = (&self.what, super::client::causes(&error));
                    return Err(JobError::new(
                        Code::Unavailable,
                        format_args!("{what}: the body broke off: {error}"),
                    ));
                }
                Err(_) => {
                    let (what, time) = (&self.what, humantime::format_duration(self.idle_time));
                    let text = format_args!("{what}: no more of the body came for idle_time = {time}");
                    return Err(JobError::new(Code::DeadlineExceeded, text));
                }
            };
            let Ok(data) = frame.into_data() else { continue };
            if data.is_empty() {
                continue;
            }
            let left = self.bytes_left.checked_sub(data.len() as u64);
            self.bytes_left = left.ok_or_else(|| self.too_long())?;
            return Ok(Some(data));
        }
    }

    /// Emits all of it.
    pub(super) async fn emit(mut self, split: Split, emitter: &Emitter) -> Result<(), JobError> {
        match split {
            Split::Whole => self.whole(emitter).await,
            Split::Lines => self.lines(emitter).await,
            Split::Chunks => self.chunks(emitter).await,
            Split::Events => self.events(emitter).await,
        }
    }

    async fn whole(&mut self, emitter: &Emitter) -> Result<(), JobError> {
        let mut read = BytesMut::new();
        while let Some(data) = self.next().await? {
            read.extend_from_slice(&data);
            while read.len() > PIECE_BYTES_MAX {
                let part = read.split_to(character_start(&read, PIECE_BYTES_MAX));
                emitter.emit_partial(&part[..]).await?;
            }
        }
        Ok(emitter.emit(&read[..]).await?)
    }

    async fn lines(&mut self, emitter: &Emitter) -> Result<(), JobError> {
        let mut pieces = Pieces::new(b"\n");
        while let Some(data) = self.next().await? {
            pieces.buffer().extend_from_slice(&data);
            pieces.emit(emitter).await?;
        }
        Ok(pieces.finish(emitter).await?)
    }

    async fn chunks(&mut self, emitter: &Emitter) -> Result<(), JobError> {
        while let Some(mut data) = self.next().await? {
            while !data.is_empty() {
                emitter.emit(data.split_to(data.len().min(CHUNK_BYTES_MAX))).await?;
            }
        }
        Ok(())
    }

    async fn events(&mut self, emitter: &Emitter) -> Result<(), JobError> {
        let mut events = Events::new();
        while let Some(data) = self.next().await? {
            let pieces = events.push(&data);
            for alike in pieces.chunk_by(|one, other| one.goes_on == other.goes_on) {
                if alike[0].goes_on {
                    for piece in alike {
                        emitter.emit_partial(&piece.data[..]).await?;
                    }
                } else {
                    let whole: Vec<&[u8]> = alike.iter().map(|piece| &piece.data[..]).collect();
                    emitter.emit_all(&whole).await?;
                }
            }
        }
        if events.may_end() {
            return Ok(());
        }
        Err(JobError::new(Code::DataLoss, format_args!("{}: the body ended within a long event", self.what)))
    }

    /// Its first bytes, as a text that can be shown, for an error.
    pub(super) async fn first(mut self, bytes_max: usize) -> String {
        let mut read = Vec::new();
        while read.len() < bytes_max {
            match self.next().await {
                Ok(Some(data)) => read.extend_from_slice(&data),
                _ => break,
            }
        }
        read.truncate(bytes_max);
        let text = String::from_utf8_lossy(&read);
        text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
    }
}
