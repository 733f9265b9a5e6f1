//! The body of a streamed answer: chunks of frames as the reader gives them, heartbeats where it is silent, trailers
//! at the end. HOT, once per chunk; nothing here happens once per response.
//!
//! Rules that hyper and h2 impose: it never fails (an error would reset the stream and could lose its headers), never
//! gives an empty chunk, states no exact size, and says that it has ended only after its trailers.

use std::{
    convert::Infallible,
    io::IoSlice,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http::{HeaderValue, Response, header};
use http_body::{Frame, SizeHint};
use outflow_engine::{Chunk, Delivery, Finish, Reader};
use smallvec::SmallVec;
use tokio::time::{Instant, Sleep};
use tonic::Status;

use super::{service::ServiceBody, status, stream::StreamControl};

/// HTTP/2's usual DATA frame (RFC 9113 §4.2). Every chunk begins frames of its own, so a short rest behind the last
/// whole frame would cost a frame by itself.
const DATA_FRAME_BYTES: usize = 16 * 1024;
/// A rest up to this many bytes waits for the next chunk, where there is one already.
const REST_BYTES_MAX: usize = DATA_FRAME_BYTES / 2;

/// An empty `Response`, framed: no field set, so sequence 0.
const HEARTBEAT: &[u8] = &[0; 5];

/// The body of any answer of this server.
pub(crate) enum Body {
    /// A run's responses.
    Fetch(FetchBody),
    /// Nothing: the headers say it all.
    Empty,
    /// What a service beside the stream answers.
    Service(ServiceBody),
}

impl http_body::Body for Body {
    type Data = Rope;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.get_mut() {
            Body::Fetch(body) => body.poll_frame(cx).map(|frame| frame.map(Ok)),
            Body::Empty => Poll::Ready(None),
            Body::Service(body) => body.poll_frame(cx).map(|frame| frame.map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Fetch(body) => body.ended,
            Body::Empty => true,
            Body::Service(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// A response that is nothing but a status ("gRPC over HTTP/2", Trailers-Only).
pub(super) fn trailers_only(status: &Status) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    status::add(status, headers);
    response
}

/// A run's responses, from one reader.
pub(crate) struct FetchBody {
    reader: Reader,
    // Boxed, since most of a stream's life there is neither.
    /// A short rest that goes out with what follows.
    rest: Option<Box<Rope>>,
    finish: Option<Box<Finish>>,
    ended: bool,
    heartbeat: Option<Box<Heartbeat>>,
    control: Arc<StreamControl>,
}

impl FetchBody {
    pub(super) fn new(reader: Reader, heartbeat: Option<Duration>, control: Arc<StreamControl>) -> Self {
        let heartbeat = heartbeat.map(|every| Box::new(Heartbeat::new(every)));
        Self { reader, rest: None, finish: None, ended: false, heartbeat, control }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Rope>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let mut more = false;
        let mut ready = self.rest.take().map_or_else(Rope::default, |rest| *rest);
        if self.finish.is_none() {
            match self.reader.poll_next(cx) {
                Poll::Ready(Delivery::Chunk(chunk)) => {
                    ready.push(chunk);
                    more = true;
                }
                Poll::Ready(Delivery::Finished(finish)) => self.finish = Some(Box::new(finish)),
                Poll::Pending => {}
            }
        }
        if !ready.is_empty() {
            let rest = ready.remaining() % DATA_FRAME_BYTES;
            let whole = ready.remaining() - rest;
            if more && whole > 0 && 0 < rest && rest <= REST_BYTES_MAX {
                let send = ready.split_to(whole);
                self.rest = Some(Box::new(ready));
                return self.hand_over(send);
            }
            return self.hand_over(ready);
        }
        if let Some(finish) = &self.finish {
            // Trailers behind data that the peer does not take would end the stream's task, and with it all that
            // could still end the stream: its deadline, the sweep, a drain.
            ready!(self.control.poll_all_taken(cx));
            self.ended = true;
            return Poll::Ready(Some(Frame::trailers(status::trailers(finish))));
        }
        if let Some(heartbeat) = &mut self.heartbeat
            && heartbeat.poll(cx).is_ready()
        {
            return self.hand_over(Bytes::from_static(HEARTBEAT).into());
        }
        Poll::Pending
    }

    fn hand_over(&mut self, bytes: Rope) -> Poll<Option<Frame<Rope>>> {
        if let Some(heartbeat) = &mut self.heartbeat {
            heartbeat.handed_over();
        }
        Poll::Ready(Some(Frame::data(bytes.handed_over(&self.control))))
    }
}

/// Tells when nothing was handed to the transport for so long. While the peer's window is shut nobody polls it, and
/// none is due: what waits there is a sign of life enough.
struct Heartbeat {
    every: Duration,
    last: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl Heartbeat {
    fn new(every: Duration) -> Self {
        let now = Instant::now();
        Self { every, last: now, sleep: Box::pin(tokio::time::sleep_until(now + every)) }
    }

    /// Cheap, since it is called for every chunk: the timer is moved only when it fires.
    fn handed_over(&mut self) {
        self.last = Instant::now();
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            let due = self.last + self.every;
            if due <= self.sleep.deadline() {
                // Due now; the next one is set by `handed_over`, which follows.
                self.sleep.as_mut().reset(Instant::now() + self.every);
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(due);
        }
    }
}

/// Bytes in several pieces, sent as one.
#[derive(Default)]
pub(crate) struct Rope {
    pieces: SmallVec<[Bytes; 1]>,
    /// Pieces before this one are used up.
    at: usize,
    remaining: usize,
    /// The stream that is told whenever HTTP/2 takes some of it: a peer may take a long chunk in small bites.
    taken_by: Option<Arc<StreamControl>>,
}

impl Rope {
    fn is_empty(&self) -> bool {
        self.remaining == 0
    }

    fn push(&mut self, chunk: Chunk) {
        if self.is_empty() {
            *self = Self::default();
        }
        for piece in chunk.into_parts() {
            self.remaining += piece.len();
            self.pieces.push(piece);
        }
    }

    /// The same, on its way to the transport, which tells `stream` what it takes of it.
    pub(super) fn handed_over(mut self, stream: &Arc<StreamControl>) -> Self {
        stream.handed_over(self.remaining);
        self.taken_by = Some(stream.clone());
        self
    }

    /// The first `bytes` of it, which stay no longer in it.
    fn split_to(&mut self, bytes: usize) -> Self {
        let mut first = Self { pieces: SmallVec::new(), at: 0, remaining: bytes, taken_by: None };
        let mut missing = bytes;
        while missing > 0 {
            let piece = &mut self.pieces[self.at];
            let taken = piece.split_to(missing.min(piece.len()));
            missing -= taken.len();
            first.pieces.push(taken);
            if piece.is_empty() {
                self.at += 1;
            }
        }
        self.remaining -= bytes;
        first
    }
}

impl Drop for Rope {
    fn drop(&mut self) {
        if let Some(stream) = self.taken_by.as_ref().filter(|_| self.remaining > 0) {
            stream.took(self.remaining);
        }
    }
}

impl From<Bytes> for Rope {
    fn from(bytes: Bytes) -> Self {
        Self { remaining: bytes.len(), pieces: SmallVec::from_buf([bytes]), at: 0, taken_by: None }
    }
}

impl Buf for Rope {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.get(self.at).map_or(&[], |piece| piece)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let pieces = self.pieces.get(self.at..).unwrap_or(&[]);
        let filled = slices.iter_mut().zip(pieces).map(|(slice, piece)| *slice = IoSlice::new(piece));
        filled.count()
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.remaining, "advanced by {count} of {} bytes", self.remaining);
        self.remaining -= count;
        if let Some(stream) = &self.taken_by {
            stream.took(count);
        }
        while let Some(piece) = self.pieces.get_mut(self.at) {
            if count < piece.len() {
                piece.advance(count);
                return;
            }
            count -= piece.len();
            // Let go at once, so that its bytes leave the budget when they leave for the socket.
            *piece = Bytes::new();
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(pieces: &[&'static str]) -> Rope {
        let pieces: SmallVec<[Bytes; 1]> = pieces.iter().map(|piece| Bytes::from_static(piece.as_bytes())).collect();
        Rope { remaining: pieces.iter().map(Bytes::len).sum(), pieces, at: 0, taken_by: None }
    }

    #[test]
    fn a_rope_is_its_pieces_in_order_wherever_it_is_cut() {
        for cut in 0..=9 {
            let mut rest = rope(&["ab", "cdef", "ghi"]);
            let mut first = rest.split_to(cut);
            assert_eq!((first.remaining(), rest.remaining()), (cut, 9 - cut));
            let whole = [first.copy_to_bytes(cut), rest.copy_to_bytes(9 - cut)].concat();
            assert_eq!(whole, b"abcdefghi");
            assert!(first.is_empty() && rest.is_empty());
        }
    }

    #[test]
    fn a_rope_shows_all_its_pieces_to_a_vectored_write() {
        for used in 0..9 {
            let mut rope = rope(&["ab", "cdef", "ghi"]);
            rope.advance(used);
            let mut slices = [IoSlice::new(&[]); 8];
            let count = rope.chunks_vectored(&mut slices);
            let seen: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
            assert_eq!(seen, b"abcdefghi"[used..]);
            assert_eq!(rope.chunk()[0], b"abcdefghi"[used]);
        }
    }
}
