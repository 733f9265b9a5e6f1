//! How bytes that come in become responses: line by line, up to a delimiter, or in chunks as they come. It knows neither
//! where they come from nor where they go.

use std::{fmt, io, str::FromStr};

use bytes::BytesMut;
use memchr::memmem;
use outflow_engine::{Code, EmitError, Emitter, JobError};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Bytes read at once: as much as a pipe usually holds.
const READ_BYTES: usize = 64 * 1024;
/// A longer piece is emitted in parts, so that output without ends needs no memory. It fits the engine's smallest useful
/// response limit with its prefix.
pub(super) const PIECE_BYTES_MAX: usize = 512 * 1024;
/// A longer delimiter is a mistake.
const DELIMITER_BYTES_MAX: usize = 256;

/// How bytes become responses.
///
/// In a configuration `"lines"`, `"chunks"` or `{ delimiter = "…" }`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "SplitFile")]
pub enum Split {
    /// Each line is a response, without its line end (`\n`); the last one also where it has none.
    #[default]
    Lines,
    /// What is read at once is a response: whatever is there, at most 64 KiB.
    Chunks,
    /// Each piece is a response that these bytes end, without them; the last one also where it has no end.
    Delimiter(Delimiter),
}

/// What ends a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delimiter(Vec<u8>);

impl Delimiter {
    /// These bytes.
    ///
    /// # Errors
    /// Where there are none, or more than 256.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, SplitError> {
        let bytes = bytes.into();
        if (1..=DELIMITER_BYTES_MAX).contains(&bytes.len()) {
            Ok(Self(bytes))
        } else {
            Err(SplitError::Length(bytes.len()))
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase", expecting = "\"lines\", \"chunks\" or { delimiter = \"…\" } is wanted")]
enum SplitFile {
    Lines,
    Chunks,
    Delimiter(String),
}

impl TryFrom<SplitFile> for Split {
    type Error = SplitError;

    fn try_from(file: SplitFile) -> Result<Self, SplitError> {
        Ok(match file {
            SplitFile::Lines => Self::Lines,
            SplitFile::Chunks => Self::Chunks,
            SplitFile::Delimiter(bytes) => Self::Delimiter(Delimiter::new(bytes)?),
        })
    }
}

/// Why this is no way to split.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SplitError {
    /// It is none of the known ways.
    #[error("`{0}` is no way to split; there are lines, chunks and delimiter=TEXT")]
    Unknown(String),
    /// The delimiter is empty or too long.
    #[error("a delimiter has 1 to {DELIMITER_BYTES_MAX} bytes, not {0}")]
    Length(usize),
    /// A backslash in the delimiter stands before something that means nothing.
    #[error(r"`\{0}` means nothing in a delimiter; there are \0, \n, \r, \t, \\ and \xHH")]
    Escape(String),
}

/// As on the command line: `lines`, `chunks`, or `delimiter=TEXT`, in which `\0`, `\n`, `\r`, `\t`, `\\` and `\xHH` stand for
/// a byte each.
impl FromStr for Split {
    type Err = SplitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.strip_prefix("delimiter=")) {
            ("lines", _) => Ok(Self::Lines),
            ("chunks", _) => Ok(Self::Chunks),
            (_, Some(delimiter)) => Ok(Self::Delimiter(Delimiter::new(unescape(delimiter)?)?)),
            _ => Err(SplitError::Unknown(text.into())),
        }
    }
}

fn unescape(text: &str) -> Result<Vec<u8>, SplitError> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at + 1..];
        let escape = rest.chars().next();
        let (byte, length) = match escape {
            Some('0') => (0, 1),
            Some('n') => (b'\n', 1),
            Some('r') => (b'\r', 1),
            Some('t') => (b'\t', 1),
            Some('\\') => (b'\\', 1),
            Some('x') => {
                let digits = rest.get(1..3).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
                let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
                (byte.ok_or_else(|| SplitError::Escape(rest.chars().take(3).collect()))?, 3)
            }
            other => return Err(SplitError::Escape(other.map_or_else(String::new, String::from))),
        };
        bytes.push(byte);
        rest = &rest[length..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(bytes)
}

/// As it is written on the command line.
impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lines => f.write_str("lines"),
            Self::Chunks => f.write_str("chunks"),
            Self::Delimiter(Delimiter(bytes)) => {
                f.write_str("delimiter=")?;
                // The other way round than it is read, but the same bytes.
                bytes.iter().try_for_each(|byte| match byte {
                    b'\\' => f.write_str(r"\\"),
                    b' '..=b'~' => write!(f, "{}", char::from(*byte)),
                    _ => write!(f, r"\x{byte:02x}"),
                })
            }
        }
    }
}

/// Why not all was emitted.
#[derive(Debug)]
pub(super) enum SplitFailed {
    Read(io::Error),
    Emit(EmitError),
}

impl From<SplitFailed> for JobError {
    fn from(failed: SplitFailed) -> Self {
        match failed {
            SplitFailed::Read(error) => {
                JobError::new(Code::Internal, format_args!("cannot read the output: {error}"))
            }
            SplitFailed::Emit(error) => error.into(),
        }
    }
}

impl Split {
    /// What ends each piece; `None` for chunks.
    pub(super) fn end(&self) -> Option<&[u8]> {
        match self {
            Self::Lines => Some(b"\n"),
            Self::Chunks => None,
            Self::Delimiter(Delimiter(bytes)) => Some(bytes),
        }
    }

    /// Emits all of `input`, as fast as its reader takes it.
    pub(super) async fn emit(&self, input: impl AsyncRead + Unpin, emitter: &Emitter) -> Result<(), SplitFailed> {
        match self.end() {
            None => chunks(input, emitter).await,
            Some(end) => pieces(end, input, emitter).await,
        }
    }
}

async fn chunks(mut input: impl AsyncRead + Unpin, emitter: &Emitter) -> Result<(), SplitFailed> {
    let mut read = BytesMut::new();
    loop {
        read.reserve(READ_BYTES);
        if (&mut input).take(READ_BYTES as u64).read_buf(&mut read).await.map_err(SplitFailed::Read)? == 0 {
            return Ok(());
        }
        emitter.emit(read.split().freeze()).await.map_err(SplitFailed::Emit)?;
    }
}

/// Emits each piece that `end` ends.
async fn pieces(end: &[u8], mut input: impl AsyncRead + Unpin, emitter: &Emitter) -> Result<(), SplitFailed> {
    let mut pieces = Pieces::new(end);
    loop {
        if input.read_buf(pieces.buffer()).await.map_err(SplitFailed::Read)? == 0 {
            break;
        }
        pieces.emit(emitter).await.map_err(SplitFailed::Emit)?;
    }
    pieces.finish(emitter).await.map_err(SplitFailed::Emit)
}

/// Bytes that are split where `end` is found, as they come.
pub(super) struct Pieces<'e> {
    end: &'e [u8],
    finder: memmem::Finder<'e>,
    read: BytesMut,
    /// Bytes at the start of `read` in which no end begins.
    searched: usize,
}

impl<'e> Pieces<'e> {
    pub(super) fn new(end: &'e [u8]) -> Self {
        Self { end, finder: memmem::Finder::new(end), read: BytesMut::with_capacity(READ_BYTES), searched: 0 }
    }

    /// Where what comes is appended.
    pub(super) fn buffer(&mut self) -> &mut BytesMut {
        self.read.reserve(READ_BYTES);
        &mut self.read
    }

    /// Emits what is whole, all together that came together.
    pub(super) async fn emit(&mut self, emitter: &Emitter) -> Result<(), EmitError> {
        let Self { end, finder, read, searched } = self;
        let mut found = Vec::new();
        let mut start = 0;
        while let Some(at) = finder.find(&read[*searched..]) {
            found.push(&read[start..*searched + at]);
            start = *searched + at + end.len();
            *searched = start;
        }
        if !found.is_empty() {
            emitter.emit_all(&found).await?;
            _ = read.split_to(start);
        }
        // An end may have begun in the last bytes.
        while read.len() > PIECE_BYTES_MAX + end.len() {
            let part = read.split_to(character_start(read, PIECE_BYTES_MAX));
            emitter.emit_partial(&part[..]).await?;
        }
        *searched = (read.len() + 1).saturating_sub(end.len());
        Ok(())
    }

    /// Keeps no place for what is not there.
    pub(super) fn rest(&mut self) {
        if self.read.is_empty() {
            self.read = BytesMut::new();
        }
    }

    /// Emits what no end has followed, where there is something; what comes then is a new piece.
    pub(super) async fn finish(&mut self, emitter: &Emitter) -> Result<(), EmitError> {
        self.searched = 0;
        let last = self.read.split();
        if last.is_empty() { Ok(()) } else { emitter.emit(&last[..]).await }
    }
}

/// The last place up to `at` where a character of UTF-8 starts; `at` itself where the bytes are no text.
pub(super) fn character_start(bytes: &[u8], at: usize) -> usize {
    (at - 3..=at).rev().find(|&at| bytes[at] & 0xc0 != 0x80).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_ends_between_characters() {
        assert_eq!(character_start("aaé".as_bytes(), 3), 2);
        assert_eq!(character_start("aaaé".as_bytes(), 3), 3);
        assert_eq!(character_start(&[0x80; 8], 6), 6);
    }

    #[test]
    fn a_way_to_split_is_read_as_it_is_written() {
        for (text, bytes) in
            [(r"delimiter=\0", &b"\0"[..]), ("delimiter=--", b"--"), (r"delimiter=a\x1e\\\n", b"a\x1e\\\n")]
        {
            let split: Split = text.parse().unwrap();
            assert_eq!(split, Split::Delimiter(Delimiter::new(bytes).unwrap()));
            assert_eq!(split.to_string().parse(), Ok(split));
        }
        assert_eq!(("lines".parse(), "chunks".parse()), (Ok(Split::Lines), Ok(Split::Chunks)));
    }

    #[test]
    fn what_is_no_way_to_split_is_told() {
        let errors = ["words", "delimiter=", r"delimiter=\q", r"delimiter=\xg0", r"delimiter=\x1", r"delimiter=a\"];
        for (text, told) in errors.into_iter().zip(["`words`", "1 to 256", r"`\q`", r"`\xg0`", r"`\x1`", r"`\`"]) {
            let error = text.parse::<Split>().unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
        assert!(Delimiter::new(vec![0; 257]).is_err());
    }
}
