//! gRPC messages by their 5-byte prefixes, wherever frame boundaries fall. It knows nothing of HTTP/2 and, so that the
//! client stays cheap, of what is inside a message only what it was told to look for: the sequence, and a time stamp.
//! HOT, once per response.

use std::mem;

const PREFIX_BYTES: usize = 5;

/// No response is near it; a larger one means that the prefixes were lost.
const MESSAGE_BYTES_MAX: usize = 1 << 26;

/// Digits of nanoseconds since the Unix epoch.
const STAMP_DIGITS: usize = 19;

/// What is looked for inside messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Look {
    /// Nothing: they are counted.
    #[default]
    Nothing,
    /// Field 2, which has to follow the one before.
    Sequences,
    /// The same, and the time with which field 1 begins.
    SequencesAndStamps,
    /// Only that time.
    Stamps,
}

/// Bytes that are no messages.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("not the prefix of a message: {0:02x?}")]
    Prefix([u8; PREFIX_BYTES]),
    #[error("a message that is compressed, which was not asked for")]
    Compressed,
    #[error("a message that is no response")]
    Message,
}

/// The messages of one stream so far.
#[derive(Default)]
pub(crate) struct Messages {
    /// Whole ones.
    pub(crate) count: u64,
    /// Their encoded bytes, without prefixes.
    pub(crate) bytes: u64,
    /// Where sequences are looked for: the last one, and how many did not follow the one before.
    pub(crate) sequence: u64,
    pub(crate) sequence_errors: u64,
    /// Where stamps are looked for: those that came since they were taken away.
    pub(crate) stamps: Vec<u64>,
    look: Look,
    /// What is known of the message under way.
    prefix: [u8; PREFIX_BYTES],
    prefix_filled: usize,
    left: usize,
    walk: Walk,
}

impl Messages {
    /// Looks for this in what comes. The first sequence is the one behind `after`.
    pub(crate) fn look_for(&mut self, look: Look, after: u64) {
        (self.look, self.sequence) = (look, after);
    }

    /// Takes the stream's next bytes.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let mut bytes = if self.whole() { bytes } else { self.go_on(bytes)? };
        // Nearly all messages lie whole in what was read at once.
        while let Some((prefix, rest)) = bytes.split_first_chunk::<PREFIX_BYTES>() {
            let length = length(*prefix)?;
            let Some((message, rest)) = rest.split_at_checked(length) else { break };
            self.count += 1;
            self.bytes += length as u64;
            match self.look {
                Look::Nothing => {}
                Look::Sequences if let Some(sequence) = first_field(message) => self.follow(sequence),
                _ => {
                    self.walk(message)?;
                    self.end()?
                }
            }
            bytes = rest;
        }
        // Less than a message is left.
        self.go_on(bytes).map(|_| ())
    }

    /// Whether the bytes so far end with a whole message.
    pub(crate) fn whole(&self) -> bool {
        self.prefix_filled == 0
    }

    /// Goes on with the message under way, and says what is behind it.
    fn go_on<'a>(&mut self, mut bytes: &'a [u8]) -> Result<&'a [u8], Malformed> {
        if bytes.is_empty() {
            return Ok(bytes);
        }
        if self.prefix_filled < PREFIX_BYTES {
            let taken = bytes.len().min(PREFIX_BYTES - self.prefix_filled);
            self.prefix[self.prefix_filled..self.prefix_filled + taken].copy_from_slice(&bytes[..taken]);
            self.prefix_filled += taken;
            bytes = &bytes[taken..];
            if self.prefix_filled < PREFIX_BYTES {
                return Ok(bytes);
            }
            self.left = length(self.prefix)?;
        }
        let (part, rest) = bytes.split_at(bytes.len().min(self.left));
        if self.look != Look::Nothing {
            self.walk(part)?
        }
        self.left -= part.len();
        if self.left == 0 {
            self.prefix_filled = 0;
            self.count += 1;
            self.bytes += length(self.prefix)? as u64;
            if self.look != Look::Nothing {
                self.end()?
            }
        }
        Ok(rest)
    }

    fn walk(&mut self, part: &[u8]) -> Result<(), Malformed> {
        let wants_stamp = self.look != Look::Sequences;
        self.walk.feed(part, wants_stamp).ok_or(Malformed::Message)
    }

    /// The message is whole.
    fn end(&mut self) -> Result<(), Malformed> {
        let walk = mem::take(&mut self.walk);
        if !walk.is_at_end() {
            return Err(Malformed::Message);
        }
        if self.look != Look::Sequences {
            // A response without a stamp, an error for example, has no latency.
            self.stamps.extend(walk.stamp());
        }
        if self.look != Look::Stamps {
            self.follow(walk.sequence);
        }
        Ok(())
    }

    fn follow(&mut self, sequence: u64) {
        self.sequence_errors += u64::from(sequence != self.sequence.wrapping_add(1));
        self.sequence = sequence;
    }
}

fn length(prefix: [u8; PREFIX_BYTES]) -> Result<usize, Malformed> {
    let [flag, length @ ..] = prefix;
    let length = u32::from_be_bytes(length) as usize;
    match flag {
        0 if length <= MESSAGE_BYTES_MAX => Ok(length),
        1 if length <= MESSAGE_BYTES_MAX => Err(Malformed::Compressed),
        _ => Err(Malformed::Prefix(prefix)),
    }
}

/// The sequence, where it is the first field, as our own server writes it.
fn first_field(message: &[u8]) -> Option<u64> {
    let (0x10, number) = message.split_first().map(|(&tag, rest)| (tag, rest))? else { return None };
    let mut sequence = 0;
    // Below 2^53.
    for (&byte, shift) in number.iter().zip([0, 7, 14, 21, 28, 35, 42, 49]) {
        sequence |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(sequence);
        }
    }
    None
}

/// A walk through an encoded `protobuf.Response`, which may be cut anywhere.
#[derive(Default)]
struct Walk {
    at: At,
    /// Of the number under way.
    number: u64,
    shift: u32,
    sequence: u64,
    stamp: [u8; STAMP_DIGITS],
    stamp_filled: usize,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum At {
    #[default]
    Tag,
    Sequence,
    OtherNumber,
    TextLength,
    OtherLength,
    /// In the text, so many bytes before its end.
    Text(u64),
    /// In something else.
    Other(u64),
    /// All is known that was wanted.
    Found,
}

impl Walk {
    /// Takes the message's next bytes. `None`: this is no response.
    fn feed(&mut self, mut bytes: &[u8], wants_stamp: bool) -> Option<()> {
        while !bytes.is_empty() {
            match self.at {
                At::Found => return Some(()),
                At::Text(left) | At::Other(left) => {
                    let (part, rest) = bytes.split_at(left.min(bytes.len() as u64) as usize);
                    if self.at == At::Text(left) {
                        let taken = part.len().min(STAMP_DIGITS - self.stamp_filled);
                        self.stamp[self.stamp_filled..self.stamp_filled + taken].copy_from_slice(&part[..taken]);
                        self.stamp_filled += taken;
                    }
                    bytes = rest;
                    let left = left - part.len() as u64;
                    self.at = match self.at {
                        _ if left == 0 => At::Tag,
                        At::Text(_) => At::Text(left),
                        _ => At::Other(left),
                    };
                }
                _ => {
                    let (&byte, rest) = bytes.split_first()?;
                    bytes = rest;
                    self.number |= u64::from(byte & 0x7f).checked_shl(self.shift)?;
                    self.shift += 7;
                    if byte & 0x80 == 0 {
                        self.shift = 0;
                        let number = mem::take(&mut self.number);
                        self.at = self.behind(number, wants_stamp)?;
                    }
                }
            }
        }
        Some(())
    }

    /// What follows a whole number.
    fn behind(&mut self, number: u64, wants_stamp: bool) -> Option<At> {
        Some(match self.at {
            At::Tag => match (number >> 3, number & 7) {
                (2, 0) => At::Sequence,
                (_, 0) => At::OtherNumber,
                (1, 2) if wants_stamp => At::TextLength,
                (_, 2) => At::OtherLength,
                (_, 1) => At::Other(8),
                (_, 5) => At::Other(4),
                _ => return None,
            },
            At::Sequence => {
                self.sequence = number;
                if wants_stamp { At::Tag } else { At::Found }
            }
            At::TextLength if number > 0 => At::Text(number),
            At::OtherLength if number > 0 => At::Other(number),
            _ => At::Tag,
        })
    }

    fn is_at_end(&self) -> bool {
        self.at == At::Found || self.at == At::Tag && self.shift == 0
    }

    fn stamp(&self) -> Option<u64> {
        str::from_utf8(&self.stamp[..self.stamp_filled])
            .ok()
            .filter(|digits| digits.len() == STAMP_DIGITS)?
            .parse()
            .ok()
    }
}

/// A message with its prefix.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a request is small");
    let mut framed = vec![0];
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    framed
}

#[cfg(test)]
mod tests {
    use outflow_proto::protobuf::Response;
    use prost::Message as _;

    use super::*;

    /// The bytes of responses with these sequences, as prost writes them: the text first.
    fn body(sequences: &[u64], result: &str) -> Vec<u8> {
        let response = |sequence| Response { result: result.into(), sequence, job: 300, ..Response::default() };
        sequences.iter().flat_map(|sequence| framed(&response(*sequence).encode_to_vec())).collect()
    }

    /// The same as our server writes them: the sequence first.
    fn own_body(sequences: &[u64]) -> Vec<u8> {
        let message = |sequence: u64| {
            let mut message = vec![0x10];
            prost::encoding::encode_varint(sequence, &mut message);
            message.extend_from_slice(b"\x0a\x03abc");
            message
        };
        sequences.iter().flat_map(|sequence| framed(&message(*sequence))).collect()
    }

    fn fed(body: &[u8], look: Look, piece: usize) -> Messages {
        let mut messages = Messages::default();
        messages.look_for(look, 0);
        body.chunks(piece).for_each(|piece| messages.feed(piece).unwrap());
        assert!(messages.whole());
        messages
    }

    #[test]
    fn messages_are_counted_and_their_sequences_followed_wherever_they_are_cut() {
        let sequences: Vec<u64> = (1..=300).collect();
        for body in [body(&sequences, "Request #0 For Id:1"), body(&sequences, ""), own_body(&sequences)] {
            for piece in [1, 2, 3, 5, 7, 31, 64, 4_096, body.len()] {
                for look in [Look::Nothing, Look::Sequences, Look::SequencesAndStamps] {
                    let messages = fed(&body, look, piece);
                    assert_eq!((messages.count, messages.bytes), (300, body.len() as u64 - 300 * 5));
                    assert_eq!(messages.sequence_errors, 0, "{look:?} in pieces of {piece}");
                    assert_eq!(messages.sequence, if look == Look::Nothing { 0 } else { 300 });
                    assert!(messages.stamps.is_empty());
                }
            }
        }
    }

    #[test]
    fn a_gap_a_repeat_and_a_missing_number_are_errors() {
        for (sequences, errors) in [
            (&[1, 2, 4, 5][..], 1),
            (&[1, 2, 2, 3], 1),
            (&[2, 3], 1),
            (&[0, 1, 2], 1),
            (&[1, 2, 0, 3], 2),
            (&[130, 129], 2),
            (&[1, 2, 3], 0),
        ] {
            for body in [body(sequences, "text"), own_body(sequences)] {
                for piece in [1, body.len()] {
                    assert_eq!(fed(&body, Look::Sequences, piece).sequence_errors, errors, "{sequences:?}");
                }
            }
        }
    }

    #[test]
    fn stamps_are_read_from_the_text_whatever_is_behind_them() {
        for result in ["1764081512123456789", "1764081512123456789...."] {
            let body = body(&[1, 2], result);
            for piece in [1, 9, body.len()] {
                assert_eq!(fed(&body, Look::Stamps, piece).stamps, [1_764_081_512_123_456_789; 2]);
            }
        }
        for result in ["", "Request #0 For Id:1", "176408151212345678"] {
            assert_eq!(fed(&body(&[1], result), Look::Stamps, 4).stamps, [0; 0]);
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let feed = |bytes: &[u8]| {
            let mut messages = Messages::default();
            messages.look_for(Look::Sequences, 0);
            messages.feed(bytes)
        };
        assert_eq!(feed(b"\x01\0\0\0\x01a"), Err(Malformed::Compressed));
        assert_eq!(feed(b"HTTP/1.1 400 Bad Request"), Err(Malformed::Prefix(*b"HTTP/")));
        assert_eq!(feed(b"\0\xff\0\0\0"), Err(Malformed::Prefix(*b"\0\xff\0\0\0")));
        // A group, a text that is cut, and a number without an end.
        for message in
            [&b"\x0b"[..], b"\x0a\x05abc", b"\x10\xff", b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"]
        {
            assert_eq!(feed(&framed(message)), Err(Malformed::Message), "{message:x?}");
        }
    }
}
