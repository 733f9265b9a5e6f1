//! Messages of a source's own: encoded into the payloads of responses, one each.
//!
//! A message is encoded before the run's lock is taken, since its code is not ours: a small one into a buffer of the
//! thread's, from which the journal copies it as any small payload; a large one into memory that the journal shares.

use std::cell::Cell;

use prost::Message;
use smallvec::SmallVec;

use super::Emitter;
use crate::{
    EmitError, PayloadKind,
    journal::SHARE_BYTES_MIN,
    payload::NotText,
    run::{APPEND_AT_ONCE, Attempt},
};

/// Encoded messages that are appended under one lock have about so many bytes: a block of the journal.
const ENCODED_BYTES: usize = 64 * 1024;

thread_local! {
    /// Where small messages are encoded. It is taken while it is used, so that a message whose encoding emits another
    /// finds an empty one.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Gives `work` the buffer, empty.
fn with_buffer<T>(work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let mut buffer = BUFFER.take();
    buffer.clear();
    let given = work(&mut buffer);
    BUFFER.set(buffer);
    given
}

impl Emitter {
    /// Emits a message of the source's own as one response, which carries it encoded, as bytes. At the reader,
    /// `outflow_client`'s `Response::decode` gives it back. It waits as [`Emitter::emit`] does.
    ///
    /// The plan has to say [`PayloadKind::Bytes`]: text is what an old client shows, and a message is none, even where
    /// its bytes happen to be UTF-8. A message is never split, so that each response is a message: what is longer than one
    /// response may be is refused.
    ///
    /// # Errors
    /// [`EmitError::Closed`] when the run has ended, [`EmitError::NotBytes`] in a plan of text,
    /// [`EmitError::MessageTooLong`]. None is worth a retry.
    ///
    /// # Cancel safety
    /// Dropped while it waits, it has emitted nothing.
    pub async fn emit_message<M: Message>(&self, message: &M) -> Result<(), EmitError> {
        if self.message_bytes(message)? >= SHARE_BYTES_MIN {
            return self.emit(message.encode_to_vec()).await;
        }
        self.emit_messages(std::slice::from_ref(message)).await
    }

    /// Emits many messages, a response each, several under one lock: the cheapest way where they are ready together.
    ///
    /// # Errors
    /// As [`Emitter::emit_message`]; those before the one that could not be emitted were.
    ///
    /// # Cancel safety
    /// Dropped while it waits, it has emitted the first ones, in order, and not the others.
    pub async fn emit_messages<M: Message>(&self, messages: &[M]) -> Result<(), EmitError> {
        let mut rest = messages;
        while let [first, others @ ..] = rest {
            if self.message_bytes(first)? >= SHARE_BYTES_MIN {
                self.emit(first.encode_to_vec()).await?;
                rest = others;
                continue;
            }
            let (taken, attempt) = self.append_messages(rest)?;
            rest = &rest[taken..];
            match attempt {
                Attempt::Appended { sealed } => self.take_turns(sealed).await,
                // What was encoded and found no room is encoded again: once in a window.
                Attempt::Full => self.run.room().await,
                Attempt::TooLong => unreachable!("what is appended so is short"),
                Attempt::Closed => return Err(EmitError::Closed),
            }
        }
        Ok(())
    }

    /// How long `message` is, which a response of this run can carry.
    fn message_bytes<M: Message>(&self, message: &M) -> Result<usize, EmitError> {
        if self.payload_kind() != PayloadKind::Bytes {
            return Err(EmitError::NotBytes);
        }
        let (bytes, max) = (message.encoded_len(), self.run.payload_bytes_max());
        if bytes > max { Err(EmitError::MessageTooLong { bytes, max }) } else { Ok(bytes) }
    }

    /// Appends small messages from the front of `messages`, the first of which is one, and says how many and what stopped
    /// it there.
    fn append_messages<M: Message>(&self, messages: &[M]) -> Result<(usize, Attempt), NotText> {
        with_buffer(|buffer| {
            let mut ends = SmallVec::<[usize; APPEND_AT_ONCE]>::new();
            for message in messages.iter().take(APPEND_AT_ONCE) {
                let is_small = self.message_bytes(message).is_ok_and(|bytes| bytes < SHARE_BYTES_MIN);
                if !is_small || buffer.len() >= ENCODED_BYTES {
                    break;
                }
                message.encode(buffer).expect("a vector has room");
                ends.push(buffer.len());
            }
            let starts = std::iter::once(0).chain(ends.iter().copied());
            let encoded: SmallVec<[&[u8]; APPEND_AT_ONCE]> =
                starts.zip(&ends).map(|(start, &end)| &buffer[start..end]).collect();
            self.run.append_many(self.job, &encoded)
        })
    }
}
