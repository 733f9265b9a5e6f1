//! The journal of one run: it numbers each response, has its frame written once, and hands whole blocks of frames to
//! readers. HOT: every response of every stream passes through `append`.
//!
//! It knows nothing of jobs, wakers, locks or time; `run/` does.

use std::collections::VecDeque;

use bytes::Bytes;
use prost::Message as _;
use smallvec::SmallVec;

use crate::{
    Budget, Chunk, JobError, JobIndex, Limits, Sequence,
    budget::Share,
    frame::{Field, HEAD_BUFFER_BYTES, Part, write_head},
};

/// Bytes of frames that travel together: as much as a reader takes at once, four HTTP/2 DATA frames of the usual
/// size.
const BLOCK_BYTES: usize = 64 * 1024;
/// From here on a payload is shared and not copied: two reference counts and a slice of its own cost about as much
/// as copying this much.
pub(crate) const SHARE_BYTES_MIN: usize = 16 * 1024;
/// The first buffer of a tail; it grows to a block where jobs are faster than readers.
const TAIL_BYTES_MIN: usize = 128;

/// Bytes that are copied into the journal, or shared with it.
pub(crate) enum Content<'a> {
    Borrowed(&'a [u8]),
    Shared(Bytes),
}

impl Content<'_> {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Content::Borrowed(bytes) => bytes,
            Content::Shared(bytes) => bytes,
        }
    }
}

/// The block that is being written.
#[derive(Default)]
struct Tail {
    /// The end of the block: frames, or the head of the next shared payload. It is as long as there is place, so that a
    /// frame is written by stores and nothing else.
    buffer: Vec<u8>,
    /// Bytes of `buffer` that are written.
    used: usize,
    /// What `buffer` counts in the budget.
    share: Option<Share>,
    /// What comes before `buffer` in this block: nothing, where all payloads are small.
    parts: Vec<Bytes>,
    /// Bytes in `parts`.
    parts_bytes: usize,
}

impl Tail {
    fn len(&self) -> usize {
        self.parts_bytes + self.used
    }

    /// Makes `buffer` so long, and counts it.
    fn grow_to(&mut self, length: usize, budget: &Budget) {
        if self.buffer.is_empty() && length > TAIL_BYTES_MIN {
            // Zeroed by the allocator, which often has nothing to do for it.
            self.buffer = vec![0; length];
        } else {
            // A trickle's is not: glibc has it at hand, but not zeroed.
            self.buffer.reserve_exact(length - self.buffer.len());
            self.buffer.resize(length, 0);
        }
        self.share.get_or_insert_with(|| budget.share()).grow_to(self.buffer.capacity());
    }

    /// Ends `buffer` where it is written, and gives it as a part.
    fn end_part(&mut self) -> Bytes {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.truncate(std::mem::take(&mut self.used));
        let share = self.share.take().expect("a buffer is counted since it grew");
        share.pays_for(buffer)
    }
}

/// Numbered frames in order: sealed blocks, and the tail.
pub(crate) struct Journal {
    blocks: VecDeque<Chunk>,
    tail: Tail,
    /// Capacity for the next tail, learnt from the last one: a stream that trickles keeps no large buffer.
    tail_capacity: usize,
    /// The last sequence in a sealed block.
    sealed: Sequence,
    /// The last sequence given.
    appended: Sequence,
    /// Bytes in `blocks` and `tail`.
    held: usize,
    budget: Budget,
}

impl Journal {
    pub(crate) fn new(budget: Budget) -> Self {
        Self {
            blocks: VecDeque::new(),
            tail: Tail::default(),
            tail_capacity: TAIL_BYTES_MIN,
            sealed: Sequence(0),
            appended: Sequence(0),
            held: 0,
            budget,
        }
    }

    /// Whether jobs may append. A run may pass its window by one response, or it could never send a large one.
    #[inline]
    pub(crate) fn has_room(&self, limits: &Limits) -> bool {
        self.held < limits.window_bytes_min || (self.held < limits.window_bytes && self.budget.has_room())
    }

    /// Whether so little is held that jobs which waited should be woken: half a window, so that they write half a
    /// window at a time and not a response.
    pub(crate) fn has_half_room(&self, limits: &Limits) -> bool {
        self.held * 2 <= limits.window_bytes_min || (self.held * 2 <= limits.window_bytes && self.budget.has_room())
    }

    pub(crate) fn last(&self) -> Sequence {
        self.appended
    }

    /// Gives the response its number and writes its frame; what is shared with the journal is taken from `content`.
    /// Says whether that sealed a block.
    #[inline]
    pub(crate) fn append(&mut self, job: JobIndex, field: Field, content: &mut Content<'_>, part: Part) -> bool {
        self.appended.0 += 1;
        let length = content.as_slice().len();
        if self.tail.buffer.len() - self.tail.used < HEAD_BUFFER_BYTES + length {
            let is_shared = length >= SHARE_BYTES_MIN && matches!(content, Content::Shared(_));
            self.make_place(if is_shared { 0 } else { length });
        }
        let tail = &mut self.tail;
        let place = tail.buffer[tail.used..].first_chunk_mut().expect("there is place for a head");
        let head_bytes = write_head(place, self.appended, job, field, length, part);
        tail.used += head_bytes;
        match content {
            Content::Shared(_) if length >= SHARE_BYTES_MIN => self.share(content),
            content => {
                tail.buffer[tail.used..][..length].copy_from_slice(content.as_slice());
                tail.used += length;
            }
        }
        self.held += head_bytes + length;
        let full = self.tail.len() >= BLOCK_BYTES;
        if full {
            self.seal(self.appended);
        }
        full
    }

    /// Place in the tail for a head and `copied` bytes behind it: in a new block, where this one would become too long.
    #[cold]
    fn make_place(&mut self, copied: usize) {
        let wanted = HEAD_BUFFER_BYTES + copied;
        if self.tail.len() > 0 && self.tail.len() + wanted > BLOCK_BYTES {
            self.seal(Sequence(self.appended.0 - 1));
        }
        let Tail { buffer, used, .. } = &self.tail;
        let length = self.tail_capacity.max(buffer.len() * 2).min(BLOCK_BYTES).max(*used + wanted);
        self.tail.grow_to(length, &self.budget);
    }

    /// Ends the tail's buffer with a frame's head, and puts the payload behind it as it is.
    #[cold]
    fn share(&mut self, content: &mut Content<'_>) {
        let Content::Shared(payload) = std::mem::replace(content, Content::Borrowed(&[])) else {
            unreachable!("only shared content is shared")
        };
        let head = self.tail.end_part();
        self.tail.parts_bytes += head.len() + payload.len();
        self.tail.parts.push(head);
        let mut share = self.budget.share();
        share.grow_to(payload.len());
        self.tail.parts.push(share.pays_for(payload));
    }

    /// Appends the error with which `job` ended, room or not: it is short, and there is one a job.
    pub(crate) fn append_error(&mut self, job: JobIndex, error: &JobError) {
        let message = outflow_proto::protobuf::JobError { code: error.code.number(), message: error.message.clone() };
        self.append(job, Field::Error, &mut Content::Borrowed(&message.encode_to_vec()), Part::Last);
    }

    /// Goes on behind `last`, which is kept elsewhere.
    pub(crate) fn go_on_behind(&mut self, last: Sequence) {
        debug_assert_eq!(self.appended, Sequence(0), "nothing was appended yet");
        self.sealed = last;
        self.appended = last;
    }

    /// All that is held, to be made durable. It is released: what is on its way to a disk no longer counts against the
    /// window, or jobs would stand still during every sync.
    pub(crate) fn gather(&mut self) -> impl Iterator<Item = Chunk> + use<> {
        if self.appended > self.sealed {
            self.seal(self.appended);
        }
        self.held = 0;
        std::mem::take(&mut self.blocks).into_iter()
    }

    /// What its bytes are counted in.
    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Whether nothing is held.
    pub(crate) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// The next chunk from `next` on, at most to `last_wanted`; `None` where there is nothing yet. What it gives is
    /// released: a run that is not journaled has one reader, which never goes back.
    pub(crate) fn take(&mut self, next: Sequence, last_wanted: Sequence) -> Option<Chunk> {
        if next > self.appended || next > last_wanted {
            return None;
        }
        // The tail passes by the list, which most runs never need.
        let block = self.blocks.pop_front().unwrap_or_else(|| self.end_tail(self.appended));
        self.held -= block.len();
        let last = block.last.min(last_wanted);
        Some(block.between(next, last))
    }

    /// Drops all that is held: nobody will read it.
    pub(crate) fn discard(&mut self) {
        self.blocks = VecDeque::new();
        self.tail = Tail::default();
        self.held = 0;
    }

    /// Makes a block of the tail.
    fn seal(&mut self, last: Sequence) {
        let block = self.end_tail(last);
        self.blocks.push_back(block);
    }

    /// Ends the tail after `last`; the next response begins a new block.
    fn end_tail(&mut self, last: Sequence) -> Chunk {
        self.tail_capacity = (self.tail.used * 2).clamp(TAIL_BYTES_MIN, BLOCK_BYTES);
        let last_part = (self.tail.used > 0).then(|| self.tail.end_part());
        let mut parts = SmallVec::from_vec(std::mem::take(&mut self.tail).parts);
        parts.extend(last_part);
        let first = Sequence(self.sealed.0 + 1);
        self.sealed = last;
        Chunk { first, last, parts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;
    use outflow_proto::protobuf::Response;

    const ALL: Sequence = Sequence(u64::MAX);

    fn journal() -> Journal {
        Journal::new(Budget::new(1 << 30))
    }

    fn text(journal: &mut Journal, job: u32, text: &str) {
        journal.append(JobIndex(job), Field::Result, &mut Content::Borrowed(text.as_bytes()), Part::Last);
    }

    /// What a client makes of the bytes.
    fn decode(chunks: impl IntoIterator<Item = Chunk>) -> Vec<Response> {
        let bytes: Vec<u8> = chunks.into_iter().flat_map(Chunk::into_parts).flatten().collect();
        let mut rest = &bytes[..];
        let mut responses = Vec::new();
        while let [flag, a, b, c, d, message @ ..] = rest {
            assert_eq!(*flag, 0);
            let (message, after) = message.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
            responses.push(Response::decode(message).unwrap());
            rest = after;
        }
        assert!(rest.is_empty());
        responses
    }

    fn drain(journal: &mut Journal) -> Vec<Chunk> {
        let mut next = 1;
        std::iter::from_fn(|| {
            let chunk = journal.take(Sequence(next), ALL)?;
            assert_eq!(chunk.first(), Sequence(next));
            next = chunk.last().get() + 1;
            Some(chunk)
        })
        .collect()
    }

    #[test]
    fn a_frame_says_what_the_contract_says() {
        let mut journal = journal();
        text(&mut journal, 0, "one");
        text(&mut journal, 300, "");
        journal.append(JobIndex(2), Field::Data, &mut Content::Borrowed(&[0xff]), Part::GoesOn);
        journal.append_error(JobIndex(1), &JobError::new(Code::NotFound, "gone"));
        let response = Response::default;
        let error = outflow_proto::protobuf::JobError { code: 5, message: "gone".into() };
        assert_eq!(
            decode(drain(&mut journal)),
            [
                Response { result: "one".into(), sequence: 1, ..response() },
                Response { sequence: 2, job: 300, ..response() },
                Response { sequence: 3, job: 2, data: Bytes::from_static(&[0xff]), partial: true, ..response() },
                Response { sequence: 4, job: 1, error: Some(error), ..response() },
            ]
        );
    }

    #[test]
    fn everything_ready_is_one_chunk_up_to_a_block() {
        let mut journal = journal();
        for n in 0..10_000 {
            text(&mut journal, 0, &format!("response {n}"));
        }
        let chunks = drain(&mut journal);
        assert!(chunks.iter().all(|chunk| chunk.len() <= BLOCK_BYTES));
        assert!(chunks[..chunks.len() - 1].iter().all(|chunk| chunk.len() > BLOCK_BYTES - 128));
        let responses = decode(chunks);
        assert_eq!(responses.len(), 10_000);
        for (n, response) in responses.iter().enumerate() {
            assert_eq!((response.sequence, &response.result), (n as u64 + 1, &format!("response {n}")));
        }
        assert_eq!(journal.held, 0);
    }

    #[test]
    fn a_large_payload_is_shared_and_a_small_one_copied() {
        let mut journal = journal();
        let large = Bytes::from(vec![7; SHARE_BYTES_MIN]);
        let small = Bytes::from(vec![7; SHARE_BYTES_MIN - 1]);
        for payload in [&large, &small] {
            journal.append(JobIndex(0), Field::Data, &mut Content::Shared(payload.clone()), Part::Last);
        }
        let chunks = drain(&mut journal);
        let parts: Vec<Bytes> = chunks.iter().flat_map(|chunk| chunk.parts.iter().cloned()).collect();
        assert!(parts.iter().any(|part| part.as_ptr() == large.as_ptr()));
        assert!(!parts.iter().any(|part| part.as_ptr() == small.as_ptr()));
        let responses = decode(chunks);
        assert_eq!((&responses[0].data, &responses[1].data), (&large, &small));
    }

    #[test]
    fn a_borrowed_payload_of_any_length_is_copied_whole() {
        let mut journal = journal();
        let lengths = [1, SHARE_BYTES_MIN - 1, SHARE_BYTES_MIN, 40_000, 65_536, 1, 500_000, 3];
        for length in lengths {
            let payload = vec![b'a' + (length % 26) as u8; length];
            journal.append(JobIndex(0), Field::Result, &mut Content::Borrowed(&payload), Part::Last);
        }
        let responses = decode(drain(&mut journal));
        assert_eq!(responses.iter().map(|response| response.result.len()).collect::<Vec<_>>(), lengths);
        assert!(responses.iter().all(|response| {
            let length = response.result.len();
            response.result.bytes().all(|byte| byte == b'a' + (length % 26) as u8)
        }));
        assert_eq!(journal.held, 0);
    }

    #[test]
    fn a_chunk_is_cut_at_any_response() {
        let mut journal = journal();
        let large = Bytes::from(vec![1; SHARE_BYTES_MIN]);
        for _ in 0..2 {
            text(&mut journal, 0, "small");
            journal.append(JobIndex(0), Field::Data, &mut Content::Shared(large.clone()), Part::Last);
        }
        let whole = journal.take(Sequence(1), ALL).unwrap();
        for first in 1..=4 {
            for last in first..=4 {
                let cut = whole.between(Sequence(first), Sequence(last));
                let sequences: Vec<u64> = decode([cut]).iter().map(|response| response.sequence).collect();
                assert_eq!(sequences, (first..=last).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn bytes_count_in_the_budget_from_the_first_to_the_last_that_holds_them() {
        let mut journal = journal();
        text(&mut journal, 0, &"x".repeat(10_000));
        assert!(journal.budget.used() >= 10_000, "also before anybody reads");
        journal.discard();
        assert_eq!(journal.budget.used(), 0);

        text(&mut journal, 0, "x");
        let chunk = journal.take(Sequence(1), ALL).unwrap();
        assert!(journal.budget.used() >= chunk.len());
        drop(chunk);
        assert_eq!(journal.budget.used(), 0);
    }

    #[test]
    fn without_budget_a_window_shrinks_but_never_to_nothing() {
        let limits = Limits::default();
        let mut journal = Journal::new(Budget::new(0));
        assert!(journal.has_room(&limits));
        while journal.has_room(&limits) {
            text(&mut journal, 0, "x");
        }
        assert!((limits.window_bytes_min..limits.window_bytes_min + 64).contains(&journal.held));
    }
}
