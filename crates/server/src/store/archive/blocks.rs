//! How frames lie in rows: cut into blocks at frames, and blocks into pieces where that wastes less of the file. It
//! knows redb's pages, and neither tables nor records.
//!
//! redb gives a value that is longer than a page a page of its own, of 4 KiB times a power of two. A block is therefore
//! as long as such a page has place for, or as a run's last one a little shorter. Frames that do not fill a page in
//! whole numbers lie across two: a block of several pieces.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use outflow_engine::{Chunk, RunId, Sequence, StoreError};

use super::row::{CHECKSUM_BYTES, seal, unseal};

/// A piece's key: the run, the last sequence of the block, the piece's number from 0; all big-endian, so that where a
/// sequence lies is the first piece at or behind (run, sequence, 0).
pub(super) const KEY_BYTES: usize = RunId::BYTES + 8 + 2;
/// Such a key.
pub(super) type PieceKey = [u8; KEY_BYTES];
/// A piece's head: checksum, the first sequence of the block, how many pieces the block has.
const HEAD_BYTES: usize = CHECKSUM_BYTES + 8 + 2;
const PAGE_BYTES: usize = 4096;
/// What a leaf page has beside the frames of its only piece: its own head, where the value ends, key, the piece's head.
const PAGE_OVERHEAD_BYTES: usize = 4 + 4 + KEY_BYTES + HEAD_BYTES;
/// Bytes of frames in the largest piece: a page of 64 KiB, as much as a reader takes at once.
const PIECE_BYTES_MAX: usize = place_in(16 * PAGE_BYTES);
/// Less than this at a run's end stays in the run's row, so that a small run is one row and no block is tiny.
pub(super) const TAIL_BYTES_MAX: usize = 2048;
/// A block that is shorter than this is taken up again where what follows makes a longer one of it.
const MERGE_BYTES_MAX: usize = 2 * PAGE_BYTES;
/// A cut between pieces comes at least so far behind the beginning of a frame, since no part of a chunk may end in a
/// frame's head.
const FRAME_HEAD_BYTES_MAX: usize = 32;
/// gRPC's prefix: flag and length.
const PREFIX_BYTES: usize = 5;

/// Bytes of frames for which a page has place.
const fn place_in(page_bytes: usize) -> usize {
    page_bytes - PAGE_OVERHEAD_BYTES
}

/// How much of `rest` is best put into one page: all of it where it nearly fills one or is less than the smallest,
/// otherwise what fills the next smaller one.
fn page_share(rest: usize) -> usize {
    if rest >= PIECE_BYTES_MAX {
        return PIECE_BYTES_MAX;
    }
    let mut page = PAGE_BYTES;
    while place_in(page) < rest {
        page *= 2;
    }
    if page == PAGE_BYTES || rest >= place_in(page) / 8 * 7 { rest } else { place_in(page / 2) }
}

/// Whether a last block of so many bytes is better taken up again by the so many that follow: a run that trickles is
/// then read in whole pages, for which every byte is written to blocks twice.
pub(super) fn is_worth_merging(block_bytes: usize, bytes: usize) -> bool {
    // What `cut` takes for a full page is full here.
    (1..MERGE_BYTES_MAX).contains(&block_bytes) && page_share(block_bytes + bytes) / 8 * 7 > block_bytes
}

/// Bytes that a piece takes in the file.
fn file_bytes(piece_bytes: usize) -> u64 {
    let page_bytes = (piece_bytes + PAGE_OVERHEAD_BYTES).div_ceil(PAGE_BYTES).next_power_of_two() * PAGE_BYTES;
    // And a branch page above names it: key, page, checksum.
    (page_bytes + KEY_BYTES + 24) as u64
}

/// Frames that follow one another.
#[derive(Default)]
pub(super) struct Frames {
    /// The first sequence; without meaning where there are none.
    first: u64,
    /// How many there are.
    count: u64,
    parts: VecDeque<Bytes>,
    bytes: usize,
}

/// A block of frames, and the lengths of its pieces.
pub(super) struct Block {
    last: u64,
    pieces: Vec<usize>,
}

impl Block {
    /// Bytes of frames in it.
    pub(super) fn bytes(&self) -> usize {
        self.pieces.iter().sum()
    }
}

/// What a cut does with a short end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It is left over, for the run's row.
    Tail,
    /// It is a block.
    Block,
}

impl Frames {
    /// Adds the frames that come next.
    pub(super) fn push(&mut self, chunk: Chunk) {
        let (first, last) = (chunk.first().get(), chunk.last().get());
        if self.is_empty() {
            self.first = first;
        }
        assert_eq!(self.first + self.count, first, "frames follow one another");
        self.count += last + 1 - first;
        self.bytes += chunk.len();
        self.parts.extend(chunk.into_parts().filter(|part| !part.is_empty()));
    }

    /// Adds the frames that come before.
    pub(super) fn push_front(&mut self, chunk: Chunk) {
        let (first, last) = (chunk.first().get(), chunk.last().get());
        assert_eq!(last + 1, self.first, "frames follow one another");
        self.first = first;
        self.count += last + 1 - first;
        self.bytes += chunk.len();
        for part in chunk.into_parts().collect::<Vec<_>>().into_iter().rev().filter(|part| !part.is_empty()) {
            self.parts.push_front(part);
        }
    }

    pub(super) fn first(&self) -> u64 {
        self.first
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the last of them is this sequence, or there are none.
    pub(super) fn reach(&self, last: u64) -> bool {
        self.is_empty() || self.first + self.count - 1 == last
    }

    /// Whether they begin behind this sequence.
    pub(super) fn follow(&self, last: u64) -> bool {
        !self.is_empty() && self.first == last + 1
    }

    /// Where to cut them into blocks, in order. Less than [`TAIL_BYTES_MAX`] is left over at the end, or nothing.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] where the bytes are not the frames of these sequences.
    pub(super) fn cut(&self, end: End) -> Result<Vec<Block>, StoreError> {
        let mut walk = Walk { parts: &self.parts, part: 0, part_start: 0, at: 0 };
        let mut next = self.first;
        let mut blocks = Vec::new();
        while walk.at < self.bytes {
            let (start, mut last_frame) = (walk.at, walk.at);
            let rest = self.bytes - start;
            let is_tail = rest < TAIL_BYTES_MAX && end == End::Tail;
            let wanted = if is_tail { rest } else { page_share(rest) };
            while walk.at < self.bytes && walk.at - start <= wanted {
                let length = walk.frame_bytes().ok_or_else(|| self.no_frames(next))?;
                // A page that is nearly full is done; in one that is not the next frame begins, to end in another.
                if walk.at - start + length > wanted && walk.at - start >= wanted / 8 * 7 {
                    break;
                }
                last_frame = walk.at;
                walk.at += length;
                next += 1;
            }
            if !is_tail {
                blocks.push(Block { last: next - 1, pieces: pieces(walk.at - start, last_frame - start) });
            }
        }
        if walk.at == self.bytes && next == self.first + self.count { Ok(blocks) } else { Err(self.no_frames(next)) }
    }

    fn no_frames(&self, at: u64) -> StoreError {
        let last = self.first + self.count - 1;
        StoreError::Damaged(format!("the bytes given as frames {} to {last} are none from {at} on", self.first))
    }

    /// Takes the next block out: each piece is written to `row` and given to `put` with its key, and with the bytes that
    /// it takes in the file.
    pub(super) fn take_block<E>(
        &mut self,
        run: RunId,
        block: &Block,
        row: &mut Vec<u8>,
        mut put: impl FnMut(&PieceKey, &[u8], u64) -> Result<(), E>,
    ) -> Result<(), E> {
        for (index, &bytes) in block.pieces.iter().enumerate() {
            let key = piece_key(run, block.last, index as u16);
            row.clear();
            row.extend_from_slice(&[0; CHECKSUM_BYTES]);
            row.extend_from_slice(&self.first.to_be_bytes());
            row.extend_from_slice(&(block.pieces.len() as u16).to_be_bytes());
            self.take_bytes(bytes, row);
            seal(&key, row);
            put(&key, row, file_bytes(bytes))?;
        }
        self.count -= block.last + 1 - self.first;
        self.first = block.last + 1;
        Ok(())
    }

    /// Takes all that is left out, as one part.
    pub(super) fn take_tail(&mut self) -> Bytes {
        let mut tail = Vec::with_capacity(self.bytes);
        self.take_bytes(self.bytes, &mut tail);
        self.count = 0;
        tail.into()
    }

    fn take_bytes(&mut self, bytes: usize, place: &mut Vec<u8>) {
        self.bytes -= bytes;
        let mut rest = bytes;
        while rest > 0 {
            let part = self.parts.front_mut().expect("as many bytes as the parts have");
            let taken = rest.min(part.len());
            place.extend_from_slice(&part[..taken]);
            part.advance(taken);
            rest -= taken;
            if part.is_empty() {
                self.parts.pop_front();
            }
        }
    }
}

/// The lengths of a block's pieces; its last frame, in which alone a cut may lie, begins at `last_frame`.
fn pieces(bytes: usize, last_frame: usize) -> Vec<usize> {
    let mut pieces = Vec::with_capacity(1);
    let mut at = 0;
    while at < bytes {
        let mut piece = page_share(bytes - at);
        let cut = at + piece;
        if cut < bytes && cut > last_frame && cut < last_frame + FRAME_HEAD_BYTES_MAX {
            piece = last_frame - at;
        }
        debug_assert!(cut >= last_frame, "a cut at {cut} comes before the last frame at {last_frame}");
        pieces.push(piece);
        at += piece;
    }
    pieces
}

/// From frame to frame, by their prefixes.
struct Walk<'a> {
    parts: &'a VecDeque<Bytes>,
    part: usize,
    part_start: usize,
    at: usize,
}

impl Walk<'_> {
    /// The length of the frame that begins here; `None` where none does, or not a whole one's head.
    fn frame_bytes(&mut self) -> Option<usize> {
        while self.at >= self.part_start + self.parts.get(self.part)?.len() {
            self.part_start += self.parts[self.part].len();
            self.part += 1;
        }
        let head = self.parts[self.part][self.at - self.part_start..].first_chunk::<PREFIX_BYTES>()?;
        Some(PREFIX_BYTES + u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize)
    }
}

/// The key of a piece.
pub(super) fn piece_key(run: RunId, last: u64, index: u16) -> PieceKey {
    let mut key = [0; KEY_BYTES];
    key[..RunId::BYTES].copy_from_slice(&run.to_bytes());
    key[RunId::BYTES..][..8].copy_from_slice(&last.to_be_bytes());
    key[KEY_BYTES - 2..].copy_from_slice(&index.to_be_bytes());
    key
}

/// The run and the last sequence that a piece's key names.
pub(super) fn piece_place(key: &PieceKey) -> (RunId, u64) {
    let (run, rest) = key.split_first_chunk().expect("a key begins with a run's id");
    let (last, _) = rest.split_first_chunk().expect("and goes on with a sequence");
    (RunId::from_bytes(*run), u64::from_be_bytes(*last))
}

/// A piece as it is read.
pub(super) struct Piece<'a> {
    first: u64,
    last: u64,
    index: u16,
    count: u16,
    bytes: &'a [u8],
}

impl<'a> Piece<'a> {
    /// The piece that lies there; `None` where it is not what was written.
    pub(super) fn read(key: &PieceKey, value: &'a [u8]) -> Option<Self> {
        let (first, rest) = unseal(key, value)?.split_first_chunk::<8>()?;
        let (count, bytes) = rest.split_first_chunk::<2>()?;
        let (_, index) = key.split_last_chunk::<2>()?;
        Some(Self {
            first: u64::from_be_bytes(*first),
            last: piece_place(key).1,
            index: u16::from_be_bytes(*index),
            count: u16::from_be_bytes(*count),
            bytes,
        })
    }

    /// Bytes that it takes in the file.
    pub(super) fn file_bytes(value_bytes: usize) -> u64 {
        file_bytes(value_bytes.saturating_sub(HEAD_BYTES))
    }
}

/// A piece is not the one that comes next.
pub(super) struct OutOfOrder;

/// Pieces, put together to blocks.
#[derive(Default)]
pub(super) struct Assembly {
    parts: Vec<Bytes>,
}

impl Assembly {
    /// Adds the piece that comes next, and gives the block where it is whole with it.
    pub(super) fn add(&mut self, piece: &Piece<'_>) -> Result<Option<Chunk>, OutOfOrder> {
        let Piece { first, last, index, count, bytes } = *piece;
        if usize::from(index) != self.parts.len() || index >= count || first > last || first == 0 {
            return Err(OutOfOrder);
        }
        // Copied, since redb's page must go back: what a slow reader holds would keep freed space from being used.
        self.parts.push(Bytes::copy_from_slice(bytes));
        let whole = index + 1 == count;
        Ok(whole.then(|| Chunk::new(Sequence::new(first), Sequence::new(last), self.parts.drain(..))))
    }
}
