//! How a response goes on the wire: gRPC's 5-byte prefix (compressed flag 0, length as a big-endian u32; gRPC over
//! HTTP/2, "Length-Prefixed-Message") and the encoded `protobuf.Response`. Sequence and job are encoded before the
//! payload, so that a frame is one pass, and a large payload can stay where it is. HOT, once per response.
//!
//! It knows the contract's field numbers, and nothing of blocks and readers.

use std::fmt;

use crate::Limits;

/// The place of a response in its run: 1, 2, 3 … without gaps. Zero is the place before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub(crate) u64);

impl Sequence {
    /// The place before the first response.
    pub const NONE: Self = Self(0);
    /// The first response.
    pub const FIRST: Self = Self(1);

    /// The place of this number.
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number, as it stands on the wire.
    pub fn get(self) -> u64 {
        self.0
    }
}

/// Which job of the plan, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobIndex(pub(crate) u32);

impl JobIndex {
    /// The job of this number.
    pub fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number, as it stands on the wire.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for JobIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// gRPC's prefix: flag and length.
pub(crate) const PREFIX_BYTES: usize = 5;
/// A frame without its payload is never longer: prefix, sequence (1 + 10), job (1 + 5), partial (2), payload tag and
/// length (1 + 5).
const HEAD_BYTES_MAX: usize = PREFIX_BYTES + 25;
/// Place for a head while it is written: a power of two.
pub(crate) const HEAD_BUFFER_BYTES: usize = 32;
const _: () = assert!(HEAD_BYTES_MAX <= HEAD_BUFFER_BYTES && HEAD_BUFFER_BYTES.is_power_of_two());

/// Field tags of `protobuf.Response`: number << 3 | wire type.
mod tag {
    pub(super) const SEQUENCE: u8 = 2 << 3;
    pub(super) const JOB: u8 = 3 << 3;
    pub(super) const PARTIAL: u8 = 5 << 3;
    pub(super) const ERROR: u8 = 6 << 3 | 2;
    pub(super) const RESULT: u8 = 1 << 3 | 2;
    pub(super) const DATA: u8 = 4 << 3 | 2;
}

/// What a response carries, beside its sequence and job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    /// `result`: text.
    Result,
    /// `data`: bytes.
    Data,
    /// `error`: an encoded `JobError`.
    Error,
}

/// Whether a value is whole with this part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// It is.
    Last,
    /// It goes on in the job's next response.
    GoesOn,
}

/// Writes a frame up to its payload to `place`, and says how many bytes that took.
///
/// Byte by byte to where it stays: put together elsewhere and copied, it cost twice as much, since a processor cannot
/// forward many small stores to a large load.
#[inline]
pub(crate) fn write_head(
    place: &mut [u8; HEAD_BUFFER_BYTES],
    sequence: Sequence,
    job: JobIndex,
    field: Field,
    length: usize,
    part: Part,
) -> usize {
    let mut head = Head { place, at: PREFIX_BYTES };
    head.put(tag::SEQUENCE);
    head.put_varint(sequence.0);
    if job.0 != 0 {
        head.put(tag::JOB);
        head.put_varint(u64::from(job.0));
    }
    if part == Part::GoesOn {
        head.put(tag::PARTIAL);
        head.put(1);
    }
    if length > 0 {
        head.put(match field {
            Field::Result => tag::RESULT,
            Field::Data => tag::DATA,
            Field::Error => tag::ERROR,
        });
        head.put_varint(length as u64);
    }
    let message_bytes = (head.at - PREFIX_BYTES + length) as u32;
    // The compressed flag.
    head.place[0] = 0;
    head.place[1..PREFIX_BYTES].copy_from_slice(&message_bytes.to_be_bytes());
    head.at
}

struct Head<'a> {
    place: &'a mut [u8; HEAD_BUFFER_BYTES],
    at: usize,
}

impl Head<'_> {
    #[expect(clippy::inline_always, reason = "a call for each byte is dearer than the byte; measured")]
    #[inline(always)]
    fn put(&mut self, byte: u8) {
        // The mask changes nothing, since no head is that long, and spares a check for each byte.
        self.place[self.at & (HEAD_BUFFER_BYTES - 1)] = byte;
        self.at += 1;
    }

    /// Base-128, least significant group first (protobuf's encoding guide, "Base 128 Varints").
    #[expect(clippy::inline_always, reason = "as `put`")]
    #[inline(always)]
    fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.put(value as u8 | 0x80);
            value >>= 7;
        }
        self.put(value as u8);
    }
}

/// One frame, read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReadFrame<'a> {
    pub(crate) job: JobIndex,
    pub(crate) part: Part,
    /// The payload is the error with which the job ended.
    pub(crate) is_error: bool,
    pub(crate) payload: &'a [u8],
}

/// The first frame of `bytes`, which `write_head` began, and what follows it; `None` where it is none.
pub(crate) fn read_frame(bytes: &[u8]) -> Option<(ReadFrame<'_>, &[u8])> {
    let (prefix, rest) = bytes.split_first_chunk::<PREFIX_BYTES>()?;
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    let (mut message, rest) = rest.split_at_checked(length as usize)?;
    let mut frame = ReadFrame { job: JobIndex(0), part: Part::Last, is_error: false, payload: &[] };
    while let [field, after @ ..] = message {
        let (value, after) = read_varint(after)?;
        message = after;
        match *field {
            tag::SEQUENCE => {}
            tag::JOB => frame.job = JobIndex(u32::try_from(value).ok()?),
            tag::PARTIAL => frame.part = Part::GoesOn,
            tag::RESULT | tag::DATA | tag::ERROR => {
                frame.is_error = *field == tag::ERROR;
                (frame.payload, message) = after.split_at_checked(usize::try_from(value).ok()?)?;
            }
            _ => return None,
        }
    }
    Some((frame, rest))
}

fn read_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (place, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[place + 1..]));
        }
    }
    None
}

/// Longest payload of one response under `limits`, in bytes.
pub(crate) fn payload_bytes_max(limits: &Limits) -> usize {
    limits.response_bytes_max.min(Limits::RESPONSE_BYTES_CEILING).saturating_sub(HEAD_BYTES_MAX).max(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        let cases = [
            (1, 0, Field::Result, Part::Last, &b"text"[..]),
            (u64::MAX, u32::MAX, Field::Data, Part::GoesOn, &[0; 300]),
            (300, 7, Field::Error, Part::Last, b"x"),
            (5, 1, Field::Data, Part::Last, b""),
        ];
        for (sequence, job, field, part, payload) in cases {
            let mut place = [0; HEAD_BUFFER_BYTES];
            let head = write_head(&mut place, Sequence(sequence), JobIndex(job), field, payload.len(), part);
            let bytes = [&place[..head], payload, b"rest"].concat();
            let frame = ReadFrame { job: JobIndex(job), part, is_error: field == Field::Error, payload };
            assert_eq!(read_frame(&bytes), Some((frame, &b"rest"[..])));
            for cut in 0..head + payload.len() {
                assert_eq!(read_frame(&bytes[..cut]), None, "{cut} bytes");
            }
        }
    }

    #[test]
    fn the_longest_head_fits_its_buffer() {
        let mut place = [0; HEAD_BUFFER_BYTES];
        let bytes = write_head(
            &mut place,
            Sequence(u64::MAX),
            JobIndex(u32::MAX),
            Field::Data,
            u32::MAX as usize,
            Part::GoesOn,
        );
        assert!(bytes <= HEAD_BYTES_MAX, "{bytes}");
    }
}
