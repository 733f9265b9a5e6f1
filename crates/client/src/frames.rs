//! Splits the bytes of a gRPC stream into messages: five bytes of prefix, then the message. HOT.
//!
//! Owns: the cursor in the chunk that was received last, and the one frame that may lie across chunks. A message
//! that lies inside one chunk is lent out where it is; only one that lies across chunks is gathered, once.
//!
//! Must not know: what a message means, where chunks come from, statuses.

use bytes::{Buf as _, Bytes, BytesMut};

/// gRPC's prefix: one byte of flags, four of length (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX: usize = 5;

/// The frames of one stream. After an error it must not be asked again.
#[derive(Debug)]
pub(crate) struct Frames {
    chunk: Bytes,
    /// How much of `chunk` was already given out.
    at: usize,
    /// The frame that began in an earlier chunk, prefix included; empty when there is none.
    gathering: BytesMut,
    /// The frame that was gathered last: what its message is lent from.
    gathered: Bytes,
    message_bytes_max: usize,
}

/// A message, lent from the buffer that it lies in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    owner: &'a Bytes,
    bytes: &'a [u8],
}

impl<'a> Message<'a> {
    /// A message that is the whole of `owner`.
    #[cfg(test)]
    pub(crate) fn whole(owner: &'a Bytes) -> Self {
        Self { owner, bytes: owner }
    }

    /// The encoded message, without its prefix.
    pub(crate) fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// Shares a part of [`bytes`](Self::bytes) without copying it: one reference count for what a response keeps,
    /// and none for the message round it.
    #[inline]
    pub(crate) fn share(self, part: &[u8]) -> Bytes {
        self.owner.slice_ref(part)
    }
}

/// Why a prefix is no prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameError {
    /// The flag says compressed, though no encoding was ever offered.
    Compressed,
    /// The flag is neither 0 nor 1.
    Flag(u8),
    /// The length is over the limit. Nothing was allocated for it.
    TooLarge { bytes: u32, limit: usize },
}

impl Frames {
    /// Frames whose messages have at most `message_bytes_max` bytes.
    pub(crate) fn new(message_bytes_max: usize) -> Self {
        Self { chunk: Bytes::new(), at: 0, gathering: BytesMut::new(), gathered: Bytes::new(), message_bytes_max }
    }

    /// Takes the next chunk, after [`next`](Self::next) has said `None`.
    pub(crate) fn push(&mut self, chunk: Bytes) {
        assert!(self.chunk.is_empty(), "the chunk before was not read to its end");
        self.chunk = chunk;
    }

    /// The next whole message, or `None` where another chunk is needed.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<Message<'_>>, FrameError> {
        if self.gathering.is_empty() {
            let rest = &self.chunk[self.at..];
            if let Some((prefix, rest)) = rest.split_first_chunk::<PREFIX>() {
                let length = self.message_length(*prefix)?;
                if length <= rest.len() {
                    let start = self.at + PREFIX;
                    self.at = start + length;
                    let bytes = &self.chunk[start..self.at];
                    return Ok(Some(Message { owner: &self.chunk, bytes }));
                }
            }
        }
        self.gather()
    }

    /// Whether everything pushed was given out: a stream may end here.
    pub(crate) fn is_between_messages(&self) -> bool {
        self.gathering.is_empty() && self.at == self.chunk.len()
    }

    /// Moves what the chunk has of a frame that lies across chunks. Without a whole frame the chunk is used up, and
    /// let go, so that an idle stream pins no buffer.
    fn gather(&mut self) -> Result<Option<Message<'_>>, FrameError> {
        let mut rest = self.chunk.split_off(self.at);
        self.at = 0;
        self.chunk = Bytes::new();
        self.gathered = Bytes::new();

        self.take(&mut rest, PREFIX);
        let Some(prefix) = self.gathering.first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let length = self.message_length(*prefix)?;
        self.gathering.reserve(PREFIX + length - self.gathering.len());
        self.take(&mut rest, PREFIX + length);
        if self.gathering.len() < PREFIX + length {
            return Ok(None);
        }
        self.chunk = rest;
        self.gathered = std::mem::take(&mut self.gathering).freeze();
        Ok(Some(Message { owner: &self.gathered, bytes: &self.gathered[PREFIX..] }))
    }

    /// Moves bytes from `rest` until `gathering` has `wanted` of them.
    fn take(&mut self, rest: &mut Bytes, wanted: usize) {
        let missing = wanted.saturating_sub(self.gathering.len()).min(rest.len());
        self.gathering.extend_from_slice(&rest[..missing]);
        rest.advance(missing);
    }

    fn message_length(&self, prefix: [u8; PREFIX]) -> Result<usize, FrameError> {
        let [flag, length @ ..] = prefix;
        match flag {
            0 => {}
            1 => return Err(FrameError::Compressed),
            flag => return Err(FrameError::Flag(flag)),
        }
        let bytes = u32::from_be_bytes(length);
        let limit = self.message_bytes_max;
        if bytes as usize > limit {
            return Err(FrameError::TooLarge { bytes, limit });
        }
        Ok(bytes as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(message: &[u8]) -> Vec<u8> {
        let mut frame = vec![0];
        frame.extend((message.len() as u32).to_be_bytes());
        frame.extend(message);
        frame
    }

    /// Pushes the chunks, and returns the messages with whether each is shared with its chunk.
    fn split(chunks: &[&[u8]]) -> Result<Vec<Vec<u8>>, FrameError> {
        let mut frames = Frames::new(1000);
        let mut messages = Vec::new();
        for chunk in chunks {
            frames.push(Bytes::copy_from_slice(chunk));
            while let Some(message) = frames.next()? {
                messages.push(message.bytes().to_vec());
            }
        }
        assert!(frames.is_between_messages());
        Ok(messages)
    }

    #[test]
    fn messages_come_out_whole_wherever_the_stream_is_cut() {
        let messages: Vec<Vec<u8>> = vec![b"one".to_vec(), vec![], vec![7; 40], b"x".to_vec()];
        let bytes: Vec<u8> = messages.iter().flat_map(|message| frame(message)).collect();
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let chunks = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                assert_eq!(split(&chunks).unwrap(), messages, "cut at {first} and {second}");
            }
        }
        for size in 1..=bytes.len() {
            let chunks: Vec<&[u8]> = bytes.chunks(size).collect();
            assert_eq!(split(&chunks).unwrap(), messages, "chunks of {size}");
        }
    }

    #[test]
    fn a_message_inside_one_chunk_is_not_copied() {
        let chunk = Bytes::from([frame(b"first"), frame(b"second")].concat());
        let range = chunk.as_ptr_range();
        let mut frames = Frames::new(1000);
        frames.push(chunk.clone());
        for expected in [&b"first"[..], b"second"] {
            let message = frames.next().unwrap().unwrap();
            let shared = message.share(&message.bytes()[1..]);
            assert_eq!(shared, expected[1..]);
            assert!(range.contains(&shared.as_ptr()));
        }
        assert!(frames.next().unwrap().is_none());
    }

    #[test]
    fn a_chunk_that_was_read_is_let_go() {
        let chunk = Bytes::from(frame(b"only"));
        let mut frames = Frames::new(1000);
        frames.push(chunk.clone());
        assert!(frames.next().unwrap().is_some());
        assert!(!chunk.is_unique());
        assert!(frames.next().unwrap().is_none());
        assert!(chunk.is_unique());
    }

    #[test]
    fn a_half_message_is_no_place_to_end() {
        for cut in 1..8 {
            let mut frames = Frames::new(1000);
            frames.push(Bytes::copy_from_slice(&frame(b"abc")[..cut]));
            assert!(frames.next().unwrap().is_none());
            assert!(!frames.is_between_messages(), "cut at {cut}");
        }
    }

    #[test]
    fn a_bad_prefix_is_told_before_its_message_arrives() {
        let across = |prefix: &[u8]| {
            let mut frames = Frames::new(1000);
            frames.push(Bytes::copy_from_slice(&prefix[..2]));
            assert!(frames.next().unwrap().is_none());
            frames.push(Bytes::copy_from_slice(&prefix[2..]));
            frames.next().map(|_| ()).unwrap_err()
        };
        for (prefix, expected) in [
            ([1, 0, 0, 0, 1], FrameError::Compressed),
            ([2, 0, 0, 0, 1], FrameError::Flag(2)),
            ([0, 0, 0, 0x03, 0xe9], FrameError::TooLarge { bytes: 1001, limit: 1000 }),
            ([0, 0xff, 0xff, 0xff, 0xff], FrameError::TooLarge { bytes: u32::MAX, limit: 1000 }),
        ] {
            assert_eq!(split(&[&prefix]).unwrap_err(), expected);
            assert_eq!(across(&prefix), expected);
        }
        assert_eq!(split(&[&frame(&[9; 1000])]).unwrap().len(), 1);
    }
}
