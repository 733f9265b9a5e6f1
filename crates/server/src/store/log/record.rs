//! How the live journal looks on disk, byte for byte as `docs/format.md` says: the header of a segment, the head of a
//! record, the body of a batch record. It knows no files.

use outflow_engine::RunId;

/// The format that this program writes, and the newest it reads.
pub(super) const VERSION: u32 = 1;
/// A segment's header takes one sector, so that it is on disk whole or not at all; batches begin behind it.
pub(super) const HEADER_BYTES: u32 = 512;
/// Bytes of a record's head.
pub(super) const HEAD_BYTES: usize = 48;
/// Bytes of a batch record: its head and its body.
pub(super) const BATCH_BYTES: usize = HEAD_BYTES + BATCH_BODY_BYTES;
const BATCH_BODY_BYTES: usize = 48;
const MAGIC: &[u8; 8] = b"outflowJ";

/// Names one data directory for ever; part of every checksum, so that a file of another one is never taken for ours.
pub(in super::super) type DirectoryId = [u8; 16];

/// What stands at the beginning of a segment since before it was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) directory: DirectoryId,
    /// Bytes of the file; 0 where the program that prepared it did not say.
    pub(super) bytes: u32,
    pub(super) number: u64,
    /// The oldest segment that still counted when this one was prepared.
    pub(super) oldest: u64,
}

/// What the first sector of a segment turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderFound {
    Valid(Header),
    /// All zeros: it was never prepared.
    Blank,
    /// Written by a newer program, of this format version.
    Newer(u32),
    /// Neither.
    Invalid,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES as usize] {
        let mut sector = [0; HEADER_BYTES as usize];
        sector[..8].copy_from_slice(MAGIC);
        sector[8..12].copy_from_slice(&VERSION.to_le_bytes());
        sector[12..16].copy_from_slice(&self.bytes.to_le_bytes());
        sector[16..32].copy_from_slice(&self.directory);
        sector[32..40].copy_from_slice(&self.number.to_le_bytes());
        sector[40..48].copy_from_slice(&self.oldest.to_le_bytes());
        let crc = crc32c::crc32c(&sector[..48]);
        sector[48..52].copy_from_slice(&crc.to_le_bytes());
        sector
    }

    pub(super) fn decode(sector: &[u8; HEADER_BYTES as usize]) -> HeaderFound {
        if sector.iter().all(|byte| *byte == 0) {
            return HeaderFound::Blank;
        }
        if sector[..8] != *MAGIC || u32_at(sector, 48) != crc32c::crc32c(&sector[..48]) {
            return HeaderFound::Invalid;
        }
        match u32_at(sector, 8) {
            VERSION => HeaderFound::Valid(Self {
                bytes: u32_at(sector, 12),
                directory: sector[16..32].try_into().expect("16 bytes"),
                number: u64_at(sector, 32),
                oldest: u64_at(sector, 40),
            }),
            version => HeaderFound::Newer(version),
        }
    }
}

/// What every checksum of one segment begins with: no stale byte of another directory, segment or place can pass for
/// a record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Salt(u32);

impl Salt {
    pub(super) fn new(directory: &DirectoryId, number: u64) -> Self {
        Self(crc32c::crc32c_append(crc32c::crc32c(directory), &number.to_le_bytes()))
    }

    /// The salt of the record at `offset` of the segment.
    fn at(self, offset: u32) -> u32 {
        crc32c::crc32c_append(self.0, &offset.to_le_bytes())
    }

    /// The checksum of the body of the record at `offset`.
    pub(super) fn body(self, offset: u32, body: &[u8]) -> u32 {
        crc32c::crc32c_append(self.at(offset), body)
    }
}

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Batch = 1,
    Started = 2,
    JobStarted = 3,
    Frames = 4,
    JobEnded = 5,
    LingerRaised = 6,
    HeadDropped = 7,
    Ended = 8,
    Deleted = 9,
    KeyBound = 10,
}

impl Kind {
    fn from_number(number: u8) -> Option<Self> {
        use Kind::{
            Batch, Deleted, Ended, Frames, HeadDropped, JobEnded, JobStarted, KeyBound, LingerRaised, Started,
        };
        let known =
            [Batch, Started, JobStarted, Frames, JobEnded, LingerRaised, HeadDropped, Ended, Deleted, KeyBound];
        known.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// What stands before the body of every record. It has a checksum of its own, so that of a damaged body it is known
/// whose it was and where the next record begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    /// Bytes of the body.
    pub(super) length: u32,
    pub(super) body_crc: u32,
    /// Zeros where the record is a batch's.
    pub(super) run: [u8; RunId::BYTES],
    /// The first sequence, where the body is frames; the run's last one, where it is an end; otherwise 0.
    pub(super) first: u64,
    /// How many frames the body is; otherwise 0.
    pub(super) count: u32,
}

impl Head {
    /// As it stands at `offset` of a segment with this salt.
    #[inline]
    pub(super) fn encode(&self, salt: Salt, offset: u32) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        head[4..8].copy_from_slice(&self.length.to_le_bytes());
        head[8..12].copy_from_slice(&self.body_crc.to_le_bytes());
        head[12] = self.kind as u8;
        head[13..35].copy_from_slice(&self.run);
        head[36..44].copy_from_slice(&self.first.to_le_bytes());
        head[44..48].copy_from_slice(&self.count.to_le_bytes());
        let crc = crc32c::crc32c_append(salt.at(offset), &head[4..]);
        head[..4].copy_from_slice(&crc.to_le_bytes());
        head
    }

    /// The head that stands at the beginning of `bytes`, which lie at `offset`; `None` where there is none.
    #[inline]
    pub(super) fn decode(bytes: &[u8], salt: Salt, offset: u32) -> Option<Self> {
        let head = bytes.first_chunk::<HEAD_BYTES>()?;
        // Cheap, and already wrong for nearly everything that is no head: what is searched byte by byte is searched fast.
        let kind = Kind::from_number(head[12])?;
        if head[35] != 0 || u32_at(head, 0) != crc32c::crc32c_append(salt.at(offset), &head[4..]) {
            return None;
        }
        Some(Self::parse(kind, head))
    }

    /// The head that stands at the beginning of `bytes`, whose checksum is known to be right.
    #[inline]
    pub(super) fn checked(bytes: &[u8]) -> Option<Self> {
        let head = bytes.first_chunk::<HEAD_BYTES>()?;
        Some(Self::parse(Kind::from_number(head[12])?, head))
    }

    #[inline]
    fn parse(kind: Kind, head: &[u8; HEAD_BYTES]) -> Self {
        Self {
            kind,
            length: u32_at(head, 4),
            body_crc: u32_at(head, 8),
            run: head[13..35].try_into().expect("22 bytes"),
            first: u64_at(head, 36),
            count: u32_at(head, 44),
        }
    }

    pub(super) fn run(&self) -> RunId {
        RunId::from_bytes(self.run)
    }

    /// Bytes of the whole record.
    pub(super) fn record_bytes(&self) -> usize {
        HEAD_BYTES + self.length as usize
    }
}

/// Where the next valid head in `bytes` begins, from `from` on; `bytes` lie at `offset`.
pub(super) fn find_head(bytes: &[u8], from: usize, salt: Salt, offset: u32) -> Option<usize> {
    (from..bytes.len().saturating_sub(HEAD_BYTES - 1)).find(|at| {
        Head::decode(&bytes[*at..], salt, offset + *at as u32)
            .is_some_and(|head| at + head.record_bytes() <= bytes.len())
    })
}

/// Where the next valid batch in `bytes` begins, from `from` on; `bytes` lie at `offset`.
pub(super) fn find_batch(bytes: &[u8], from: usize, salt: Salt, offset: u32) -> Option<usize> {
    (from..bytes.len().saturating_sub(BATCH_BYTES - 1))
        .filter(|at| bytes[at + 12] == Kind::Batch as u8)
        .find(|at| BatchHead::decode(&bytes[*at..], salt, offset + *at as u32).is_some())
}

/// The body of the record with which each part of a batch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchHead {
    /// Bytes of the records that follow this one and belong to this part.
    pub(super) bytes: u64,
    /// Nanoseconds for which the store has been in service.
    pub(super) in_service: u64,
    /// The oldest segment that still counts.
    pub(super) oldest: u64,
    /// The segment before this one; 0 where there is none.
    pub(super) previous: u64,
    /// Where that one was sealed: what lies behind it there never happened.
    pub(super) sealed: u32,
    /// Which part of its batch this is, from 0.
    pub(super) part: u32,
    /// Parts of the batch.
    pub(super) parts: u32,
}

impl BatchHead {
    /// The whole record, as it stands at `offset`.
    pub(super) fn encode(&self, salt: Salt, offset: u32) -> [u8; BATCH_BYTES] {
        let mut body = [0; BATCH_BODY_BYTES];
        body[..8].copy_from_slice(&self.bytes.to_le_bytes());
        body[8..16].copy_from_slice(&self.in_service.to_le_bytes());
        body[16..24].copy_from_slice(&self.oldest.to_le_bytes());
        body[24..32].copy_from_slice(&self.previous.to_le_bytes());
        body[32..36].copy_from_slice(&self.sealed.to_le_bytes());
        body[36..40].copy_from_slice(&self.part.to_le_bytes());
        body[40..44].copy_from_slice(&self.parts.to_le_bytes());
        let head = Head {
            kind: Kind::Batch,
            length: BATCH_BODY_BYTES as u32,
            body_crc: salt.body(offset, &body),
            run: [0; RunId::BYTES],
            first: 0,
            count: 0,
        };
        let mut record = [0; BATCH_BYTES];
        record[..HEAD_BYTES].copy_from_slice(&head.encode(salt, offset));
        record[HEAD_BYTES..].copy_from_slice(&body);
        record
    }

    /// The batch that begins with `bytes`, which lie at `offset`; `None` where none does.
    pub(super) fn decode(bytes: &[u8], salt: Salt, offset: u32) -> Option<Self> {
        let head = Head::decode(bytes, salt, offset).filter(|head| head.kind == Kind::Batch)?;
        let body = bytes.get(HEAD_BYTES..head.record_bytes()).filter(|body| body.len() >= BATCH_BODY_BYTES)?;
        if head.body_crc != salt.body(offset, body) {
            return None;
        }
        Some(Self {
            bytes: u64_at(body, 0),
            in_service: u64_at(body, 8),
            oldest: u64_at(body, 16),
            previous: u64_at(body, 24),
            sealed: u32_at(body, 32),
            part: u32_at(body, 36),
            parts: u32_at(body, 40),
        })
    }
}

/// The number of the segment in which a batch was written at `offset`, found from what stands there: a checksum can be
/// reckoned back to what it went on from, and of that only the number is not known. `None` where no batch is there.
pub(super) fn number_of(record: &[u8], directory: &DirectoryId, offset: u32) -> Option<u64> {
    let head = record.first_chunk::<HEAD_BYTES>()?;
    let is_batch = u32_at(head, 4) == BATCH_BODY_BYTES as u32 && head[12] == Kind::Batch as u8;
    if !is_batch || head[13..].iter().any(|byte| *byte != 0) {
        return None;
    }
    let salt = reckon_back(reckon_back(u32_at(head, 0), &head[4..]), &offset.to_le_bytes());
    // Over zeros instead of the number, what is left is the number, mixed with where it began.
    let number = u64::from(reckon_back(salt, &[0; 8]) ^ crc32c::crc32c(directory));
    let batch = BatchHead::decode(record, Salt::new(directory, number), offset)?;
    // In another directory, or at another place, it is the number of some other segment, and hardly one of these.
    let before = batch.oldest.max(batch.previous.saturating_add(1));
    (before..before.saturating_add(NUMBERS_BETWEEN)).contains(&number).then_some(number)
}

/// A segment's number is less than this above that of the one before it: each attempt to prepare one takes a number.
const NUMBERS_BETWEEN: u64 = 1 << 20;

/// The checksum that went on over `bytes` to be `crc`.
fn reckon_back(crc: u32, bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut register = !crc;
    for byte in bytes.iter().rev() {
        for _ in 0..8 {
            // A bit that was shifted out as a one left the polynomial behind, whose highest bit is set.
            let was_one = register >> 31;
            register = ((register ^ (was_one * POLYNOMIAL)) << 1) | was_one;
        }
        register ^= u32::from(*byte);
    }
    !register
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: DirectoryId = [7; 16];

    fn batch() -> BatchHead {
        BatchHead { bytes: 5, in_service: 6, oldest: 7, previous: 8, sealed: 9, part: 1, parts: 3 }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let header = Header { directory: ID, bytes: 1 << 20, number: 3, oldest: 2 };
        assert_eq!(Header::decode(&header.encode()), HeaderFound::Valid(header));
        assert_eq!(Header::decode(&[0; 512]), HeaderFound::Blank);
        let salt = Salt::new(&ID, 3);
        assert_eq!(BatchHead::decode(&batch().encode(salt, 512), salt, 512), Some(batch()));
        let head = Head { kind: Kind::Frames, length: 4, body_crc: 5, run: [1; 22], first: 6, count: 7 };
        assert_eq!(Head::decode(&head.encode(salt, 600), salt, 600), Some(head));
    }

    #[test]
    fn a_record_is_valid_nowhere_else() {
        let salt = Salt::new(&ID, 3);
        let record = batch().encode(salt, 512);
        assert_eq!(BatchHead::decode(&record, salt, 513), None, "at another place");
        assert_eq!(BatchHead::decode(&record, Salt::new(&ID, 4), 512), None, "in another segment");
        assert_eq!(BatchHead::decode(&record, Salt::new(&[8; 16], 3), 512), None, "in another directory");
    }

    #[test]
    fn a_batch_tells_the_number_of_its_segment() {
        for number in [1, 3, 0x1234_5678, u64::from(u32::MAX)] {
            for offset in [512, 513, 1 << 24] {
                let batch = BatchHead { oldest: number, previous: number - 1, ..batch() };
                let mut record = batch.encode(Salt::new(&ID, number), offset);
                assert_eq!(number_of(&record, &ID, offset), Some(number));
                assert_eq!(number_of(&record, &ID, offset + 1), None, "at another place");
                assert_eq!(number_of(&record, &[8; 16], offset), None, "of another directory");
                record[70] ^= 1;
                assert_eq!(number_of(&record, &ID, offset), None, "damaged");
            }
        }
        assert_eq!(number_of(&[0; BATCH_BYTES], &ID, 512), None);
    }

    #[test]
    fn every_flipped_bit_shows() {
        let salt = Salt::new(&ID, 3);
        let record = batch().encode(salt, 512);
        for bit in 0..record.len() * 8 {
            let mut flipped = record;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(BatchHead::decode(&flipped, salt, 512), None, "bit {bit}");
        }
        let header = Header { directory: ID, bytes: 1 << 20, number: 3, oldest: 2 }.encode();
        for bit in 0..52 * 8 {
            let mut flipped = header;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&flipped), HeaderFound::Invalid, "bit {bit}");
        }
    }
}
