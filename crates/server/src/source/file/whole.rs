//! A file from its start to where its end was when it was asked for. It knows neither how it was found nor what follows.

use std::{fs::File, io, os::unix::fs::FileExt as _, sync::Arc};

use bytes::{Bytes, BytesMut};
use outflow_engine::{Code, EmitError, Emitted, Emitter, JobError, PayloadKind};

use super::{How, begin_at, not_read, reading::Reading};
use crate::source::split::{Pieces, character_start};

/// Bytes read at once, as far as chunks allow: what fits into a processor's cache with what else goes through it.
const READ_BYTES: usize = 64 * 1024;

/// Emits the first `bytes` of a file.
pub(super) async fn whole(file: Arc<File>, bytes: u64, how: How, emitter: Emitter) -> Result<(), JobError> {
    let at = begin_at(&file, &how.split, &emitter).await?;
    let piece_bytes = (read_bytes(&how) as u64).min(bytes.max(1)) as usize;
    let mut reading = Reading::new(file, at, piece_bytes);
    let mut output = Output::new(&how, &emitter);
    while reading.at() < bytes {
        let piece = reading.next(bytes).await.map_err(|error| not_read(&error))?;
        if piece.is_empty() {
            let at = reading.at();
            let problem =
                format_args!("the file became shorter while it was read: it had {bytes} bytes, and ends at {at}");
            return Err(JobError::new(Code::Aborted, problem));
        }
        output.emit(piece).await?;
    }
    Ok(output.finish().await?)
}

/// How much is read at once: whole chunks.
pub(super) fn read_bytes(how: &How) -> usize {
    how.chunk_bytes * (READ_BYTES / how.chunk_bytes).max(1)
}

/// How pieces of a file become responses.
pub(super) enum Output<'a> {
    Pieces(Box<Pieces<'a>>, &'a Emitter),
    /// Bytes, cut where they are read.
    Bytes {
        chunk_bytes: usize,
        emitter: &'a Emitter,
    },
    /// Text, which is not cut within a character.
    Text {
        chunk_bytes: usize,
        /// What began a character, or does not fill a chunk.
        rest: BytesMut,
        /// Whatever comes is emitted as it comes.
        at_once: bool,
        emitter: &'a Emitter,
    },
}

impl<'a> Output<'a> {
    pub(super) fn new(how: &'a How, emitter: &'a Emitter) -> Self {
        let chunk_bytes = how.chunk_bytes;
        match how.split.end() {
            Some(end) => Self::Pieces(Box::new(Pieces::new(end)), emitter),
            None if emitter.payload_kind() == PayloadKind::Bytes => Self::Bytes { chunk_bytes, emitter },
            None => Self::Text { chunk_bytes, rest: BytesMut::new(), at_once: how.follow, emitter },
        }
    }

    /// Emits what is whole with this piece.
    pub(super) async fn emit(&mut self, piece: Bytes) -> Result<(), EmitError> {
        match self {
            Self::Pieces(pieces, emitter) => {
                pieces.buffer().extend_from_slice(&piece);
                pieces.emit(emitter).await
            }
            Self::Bytes { chunk_bytes, emitter } if piece.len() <= *chunk_bytes => emitter.emit(piece).await,
            Self::Bytes { chunk_bytes, emitter } => {
                let starts = (0..piece.len()).step_by(*chunk_bytes);
                let chunks: Vec<Bytes> =
                    starts.map(|at| piece.slice(at..piece.len().min(at + *chunk_bytes))).collect();
                emitter.emit_all(&chunks).await
            }
            Self::Text { chunk_bytes, rest, at_once, emitter } => {
                rest.extend_from_slice(&piece);
                while rest.len() > *chunk_bytes {
                    let end = character_start(rest, *chunk_bytes);
                    emitter.emit(rest.split_to(end).freeze()).await?;
                }
                let end = if *at_once { whole_characters(rest) } else { 0 };
                if end > 0 { emitter.emit(rest.split_to(end).freeze()).await } else { Ok(()) }
            }
        }
    }

    /// Emits what is left at an end.
    pub(super) async fn finish(&mut self) -> Result<(), EmitError> {
        match self {
            Self::Pieces(pieces, emitter) => pieces.finish(emitter).await,
            Self::Text { rest, emitter, .. } if !rest.is_empty() => emitter.emit(rest.split().freeze()).await,
            Self::Bytes { .. } | Self::Text { .. } => Ok(()),
        }
    }

    /// Keeps no place for what is not there.
    pub(super) fn rest(&mut self) {
        if let Self::Pieces(pieces, _) = self {
            pieces.rest();
        }
    }
}

/// How much of this text is before a character at its end of which more follows.
fn whole_characters(text: &[u8]) -> usize {
    let Some(start) = (text.len().saturating_sub(3)..text.len()).rev().find(|at| text[*at] & 0xc0 != 0x80) else {
        return text.len();
    };
    let length = match text[start] {
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf7 => 4,
        _ => 1,
    };
    if start + length > text.len() { start } else { text.len() }
}

/// Where in a file follows what a job had emitted before, of pieces that `end` ends; `None` where the file does not have
/// there what the job emitted last. It may block.
pub(super) fn behind(file: &File, before: &Emitted, end: &[u8]) -> io::Result<Option<u64>> {
    let Emitted { values, bytes, tail, is_open } = before;
    let closed = bytes + values * end.len() as u64;
    let has = |at: u64, last: &[u8]| -> io::Result<bool> {
        let Some(from) = at.checked_sub(last.len() as u64) else { return Ok(false) };
        let mut found = vec![0; last.len()];
        match file.read_exact_at(&mut found, from) {
            Ok(()) => Ok(found == last),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    };
    if *is_open {
        return Ok(has(closed, tail)?.then_some(closed));
    }
    if has(closed, &[tail, end].concat())? {
        return Ok(Some(closed));
    }
    // The last piece of a file may have no end.
    let length = file.metadata()?.len();
    let is_all = !end.is_empty() && closed.checked_sub(end.len() as u64) == Some(length);
    Ok(if is_all && has(length, tail)? { Some(length) } else { None })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn text_waits_before_a_character_that_is_not_whole() {
        for text in ["", "a", "aé", "a€", "a😀", "€€"] {
            for end in 0..=text.len() {
                let known = text.floor_char_boundary(end);
                assert_eq!(whole_characters(&text.as_bytes()[..end]), known, "{text:?} up to {end}");
            }
        }
        // What is no text waits for nothing.
        for bytes in [&b"a\x80"[..], b"\x80\x80\x80\x80", b"a\xff"] {
            assert_eq!(whole_characters(bytes), bytes.len(), "{bytes:?}");
        }
    }

    #[test]
    fn a_job_goes_on_only_behind_what_it_emitted_last() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"one\ntwo\nthree").unwrap();
        let emitted = |values, bytes, tail: &[u8], is_open| Emitted { values, bytes, tail: tail.into(), is_open };
        for (before, end, at) in [
            (emitted(2, 6, b"two", false), &b"\n"[..], Some(8)),
            (emitted(2, 6, b"six", false), b"\n", None),
            // The last line has no end.
            (emitted(3, 11, b"three", false), b"\n", Some(13)),
            (emitted(3, 11, b"seven", false), b"\n", None),
            // A part of a line.
            (emitted(1, 5, b"tw", true), b"\n", Some(6)),
            (emitted(1, 5, b"TW", true), b"\n", None),
            // Chunks.
            (emitted(1, 5, b"one\nt", false), b"", Some(5)),
            (emitted(2, 13, b"three", false), b"", Some(13)),
            // More than there is.
            (emitted(4, 14, b"six", false), b"\n", None),
            (emitted(1, 14, b"one\ntwo\nthree!", false), b"", None),
            (emitted(1, 2, b"one\n", false), b"", None),
        ] {
            assert_eq!(behind(&file, &before, end).unwrap(), at, "{before:?}");
        }
    }
}
