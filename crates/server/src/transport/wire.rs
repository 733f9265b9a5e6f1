//! A connection's bytes on their way in and out. It gathers what HTTP/2 writes frame by frame into one write per step
//! of the connection, and watches frame headers on their way in for floods that h2 lets pass. HOT, once per frame.
//!
//! It knows the layout of frame headers (RFC 9113 §4.1) and of nothing behind them.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are gathered before they are written out in the middle of a step.
const GATHER_BYTES: usize = 80 * 1024;
/// A step that begins with a write of this size is likely to fill the buffer.
const BULKY_BYTES_MIN: usize = 8 * 1024;
/// A write from here on is not copied but goes out behind what is gathered, in one vectored write.
const PASS_BYTES_MIN: usize = 32 * 1024;
/// Reads of 4 KiB that a peer gets for what it had sent before it learnt that the connection ends.
const FAREWELL_READS_MAX: usize = 64;
/// Bytes after which reading goes on in the next step. h2 takes in all it can read before it hands on a stream, and the
/// tables of its connection never shrink: a thousand calls in one read cost each of them 800 bytes for good.
const READ_AT_ONCE: usize = 8 * 1024;
/// Slices of one vectored write.
const SLICES_MAX: usize = 64;

/// The connection's end of the wire: hyper owns it.
pub(super) struct Wire<S>(Arc<Mutex<State<S>>>);

/// The other end: it flushes once per step, and answers what was seen.
pub(super) struct WireHandle<S>(Arc<Mutex<State<S>>>);

// One lock for both, never contended: the handle is used by the task that polls the connection, between its polls.
struct State<S> {
    socket: S,
    gathered: Vec<u8>,
    /// Bytes of `gathered` that are written.
    written: usize,
    /// Bytes that this step may still read.
    read_left: usize,
    watch: Watch,
}

impl<S> Wire<S> {
    pub(super) fn new(socket: S) -> (Self, WireHandle<S>) {
        let state = State { socket, gathered: Vec::new(), written: 0, read_left: READ_AT_ONCE, watch: Watch::new() };
        let state = Arc::new(Mutex::new(state));
        (Self(state.clone()), WireHandle(state))
    }
}

impl<S: AsyncWrite + Unpin> WireHandle<S> {
    /// Lets a step read its share.
    pub(super) fn begin_step(&self) {
        self.0.lock().read_left = READ_AT_ONCE;
    }

    /// Whether what was gathered may well wait for a little more.
    pub(super) fn gathered_little(&self) -> bool {
        self.0.lock().gathered.len() < BULKY_BYTES_MIN
    }

    /// Writes out what was gathered.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        ready!(state.write_gathered(cx))?;
        // Idle connections keep no buffer.
        state.gathered = Vec::new();
        Pin::new(&mut state.socket).poll_flush(cx)
    }

    /// Writes out the rest, ends our side, and reads what the peer still sends until it ends its own: a socket closed
    /// with unread bytes is reset, and takes the last bytes written with it.
    pub(super) fn poll_farewell(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        S: AsyncRead,
    {
        let mut state = self.0.lock();
        ready!(state.write_gathered(cx))?;
        ready!(Pin::new(&mut state.socket).poll_shutdown(cx))?;
        let mut unread = [0; 4096];
        for _ in 0..FAREWELL_READS_MAX {
            let mut unread = ReadBuf::new(&mut unread);
            ready!(Pin::new(&mut state.socket).poll_read(cx, &mut unread))?;
            if unread.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the peer has sent HTTP/2's preface and the header of its first frame.
    pub(super) fn preface_seen(&self) -> bool {
        self.0.lock().watch.preface_seen()
    }
}

impl<S: AsyncWrite + Unpin> State<S> {
    fn write_gathered(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.gathered.len() {
            let bytes = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.gathered[self.written..]))?;
            if bytes == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += bytes;
        }
        self.gathered.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Takes all of `slices`, or writes what is gathered and as much of them as the socket takes.
    fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        self.watch.wrote(slices);
        if total >= PASS_BYTES_MIN {
            return self.pass(cx, slices);
        }
        if self.gathered.len() + total > GATHER_BYTES {
            ready!(self.write_gathered(cx))?;
        }
        if self.gathered.capacity() == 0 {
            // A bulky step fills it; a trickle needs no more than it says.
            self.gathered.reserve_exact(if total >= BULKY_BYTES_MIN { GATHER_BYTES } else { total });
        }
        for slice in slices {
            self.gathered.extend_from_slice(slice);
        }
        Poll::Ready(Ok(total))
    }

    fn pass(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            let gathered = &self.gathered[self.written..];
            let mut together = [IoSlice::new(&[]); SLICES_MAX];
            together[0] = IoSlice::new(gathered);
            let count = slices.len().min(SLICES_MAX - 1);
            for (place, slice) in together[1..].iter_mut().zip(slices) {
                *place = IoSlice::new(slice);
            }
            let gathered_bytes = gathered.len();
            let together = &together[usize::from(gathered_bytes == 0)..=count];
            let bytes = ready!(Pin::new(&mut self.socket).poll_write_vectored(cx, together))?;
            if bytes == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            if bytes < gathered_bytes {
                self.written += bytes;
                continue;
            }
            self.gathered.clear();
            self.written = 0;
            if bytes > gathered_bytes {
                return Poll::Ready(Ok(bytes - gathered_bytes));
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        if state.read_left == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut state.socket).poll_read(cx, buf))?;
        let read = &buf.filled()[before..];
        state.read_left = state.read_left.saturating_sub(read.len());
        let seen = state.watch.read(read);
        if let Err(Flood(kind)) = seen {
            tracing::warn!("a peer sends {kind} frames faster than any client needs; its connection is closed");
            return Poll::Ready(Err(io::Error::other(format!("flood of {kind} frames"))));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().poll_write(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().poll_write(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// h2 flushes after every DATA frame. What is gathered goes out when the whole step is done.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        ready!(state.write_gathered(cx))?;
        Pin::new(&mut state.socket).poll_shutdown(cx)
    }
}

/// The client's connection preface (RFC 9113 §3.4).
const PREFACE_BYTES: usize = 24;
const FRAME_HEADER_BYTES: usize = 9;

/// Frames of calls, and those that make work and carry no call (RFC 9113 §6).
mod frame_type {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const PRIORITY: u8 = 2;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
}

/// Too many frames of this kind.
#[derive(Debug, PartialEq, Eq)]
struct Flood(&'static str);

/// Reads frame headers as they pass and counts those that a peer could flood a server with. h2 limits none of them:
/// 300,000 PINGs, and 5,000 streams opened and reset one by one, went through.
struct Watch {
    preface: usize,
    header: [u8; FRAME_HEADER_BYTES],
    header_bytes: usize,
    payload_bytes: usize,
    frames: u64,
    control: Allowance,
    resets: Allowance,
}

impl Watch {
    fn new() -> Self {
        Self {
            preface: 0,
            header: [0; FRAME_HEADER_BYTES],
            header_bytes: 0,
            payload_bytes: 0,
            frames: 0,
            // Clients that estimate bandwidth (grpc-go) send a PING per round trip while they receive; each write of
            // ours allows one more, see `wrote`.
            control: Allowance::new(10_000, 1_000),
            resets: Allowance::new(2_000, 1_000),
        }
    }

    fn preface_seen(&self) -> bool {
        self.frames > 0
    }

    fn wrote(&mut self, slices: &[IoSlice<'_>]) {
        // Not the answers to the very frames that are counted. h2 writes frames from 256 bytes on as slices of their own,
        // and smaller ones together.
        if slices.len() > 1 || slices.first().is_some_and(|slice| slice.len() >= 256 || carries_call(slice)) {
            self.control.add_one();
        }
    }

    fn read(&mut self, mut bytes: &[u8]) -> Result<(), Flood> {
        let preface = bytes.len().min(PREFACE_BYTES - self.preface);
        self.preface += preface;
        bytes = &bytes[preface..];
        while !bytes.is_empty() {
            let payload = bytes.len().min(self.payload_bytes);
            self.payload_bytes -= payload;
            bytes = &bytes[payload..];
            let header = bytes.len().min(FRAME_HEADER_BYTES - self.header_bytes);
            self.header[self.header_bytes..][..header].copy_from_slice(&bytes[..header]);
            self.header_bytes += header;
            bytes = &bytes[header..];
            if self.header_bytes == FRAME_HEADER_BYTES {
                self.header_bytes = 0;
                self.payload_bytes = u32::from_be_bytes([0, self.header[0], self.header[1], self.header[2]]) as usize;
                self.frames += 1;
                self.count(self.header[3])?;
            }
        }
        Ok(())
    }

    fn count(&mut self, frame_type: u8) -> Result<(), Flood> {
        match frame_type {
            frame_type::PING => self.control.spend("PING"),
            frame_type::SETTINGS => self.control.spend("SETTINGS"),
            frame_type::PRIORITY => self.control.spend("PRIORITY"),
            frame_type::RST_STREAM => self.resets.spend("RST_STREAM"),
            _ => Ok(()),
        }
    }
}

/// Whether there is a frame of a call in a short write. One that goes on in the middle of a frame is misread, once.
fn carries_call(mut bytes: &[u8]) -> bool {
    while let Some((&[high, middle, low, kind, ..], rest)) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>() {
        if matches!(kind, frame_type::DATA | frame_type::HEADERS) {
            return true;
        }
        bytes = rest.get(u32::from_be_bytes([0, high, middle, low]) as usize..).unwrap_or_default();
    }
    false
}

/// So many at once, and then so many a second.
struct Allowance {
    left: u32,
    at_once: u32,
    per_second: u32,
    counted_from: Instant,
}

impl Allowance {
    fn new(at_once: u32, per_second: u32) -> Self {
        Self { left: at_once, at_once, per_second, counted_from: Instant::now() }
    }

    fn add_one(&mut self) {
        self.left = self.at_once.min(self.left + 1);
    }

    fn spend(&mut self, kind: &'static str) -> Result<(), Flood> {
        if self.left == 0 {
            // The clock is read only here, once for many frames.
            let elapsed = self.counted_from.elapsed().min(Duration::from_secs(3600));
            let earned = elapsed.as_secs_f64() * f64::from(self.per_second);
            if earned < 1.0 {
                return Err(Flood(kind));
            }
            self.left = self.at_once.min(earned as u32);
            self.counted_from = Instant::now();
        }
        self.left -= 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn frame(frame_type: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], frame_type, 0, 0, 0, 0, 0];
        frame.extend(payload);
        frame
    }

    #[test]
    fn frames_are_counted_however_the_bytes_are_cut() {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(frame_type::SETTINGS, &[0; 6]));
        bytes.extend(frame(0, &[frame_type::PING; 40]));
        bytes.extend(frame(frame_type::PING, &[0; 8]));
        for step in 1..bytes.len() {
            let mut watch = Watch::new();
            for part in bytes.chunks(step) {
                watch.read(part).unwrap();
            }
            assert_eq!((watch.frames, watch.control.left), (3, 10_000 - 2), "in steps of {step}");
        }
    }

    #[test]
    fn five_bytes_are_no_preface() {
        let mut watch = Watch::new();
        watch.read(b"PRI *").unwrap();
        assert!(!watch.preface_seen());
    }

    #[test]
    fn a_flood_is_told_from_a_busy_client() {
        let ping = frame(frame_type::PING, &[0; 8]);
        let answer = ping.repeat(3);
        // grpc-go sends a PING for each response that comes alone, be it large, small, or behind the answer to the last.
        for written in [
            frame(0, &[0; 16_384]),
            frame(0, &[0; 30]),
            frame(1, &[0; 6]),
            [&answer[..], &frame(0, &[0; 7])].concat(),
        ] {
            let mut watch = Watch::new();
            watch.preface = PREFACE_BYTES;
            for _ in 0..100_000 {
                watch.wrote(&[IoSlice::new(&written)]);
                watch.read(&ping).unwrap();
            }
            let flood = (0..300_000).find_map(|_| {
                watch.wrote(&[IoSlice::new(&answer)]);
                watch.read(&ping).err()
            });
            assert_eq!(flood, Some(Flood("PING")));
        }
    }

    #[test]
    fn a_write_that_begins_anywhere_is_looked_at_and_not_trusted() {
        for byte in 0..=255 {
            for length in 0..300 {
                carries_call(&vec![byte; length]);
            }
        }
    }

    #[tokio::test]
    async fn what_is_written_in_any_sizes_arrives_as_written() {
        let (near, mut far) = tokio::io::duplex(1_000);
        let (mut wire, handle) = Wire::new(near);
        let sizes = [1, 10, 16_393, 31_999, 32_000, 100_000, 5, 200_000, 0, 7];
        let expected: Vec<u8> = (0..sizes.iter().sum::<usize>()).map(|n| (n % 251) as u8).collect();
        let received = async {
            let mut received = Vec::new();
            far.read_to_end(&mut received).await.unwrap();
            received
        };
        let sent = async {
            let mut rest = &expected[..];
            for size in sizes {
                wire.write_all(&rest[..size]).await.unwrap();
                rest = &rest[size..];
            }
            std::future::poll_fn(|cx| handle.poll_flush(cx)).await.unwrap();
            assert!(handle.0.lock().gathered.is_empty());
            wire.shutdown().await.unwrap();
        };
        let (received, ()) = tokio::join!(received, sent);
        assert_eq!(received, expected);
    }

    #[tokio::test]
    async fn small_writes_wait_for_the_flush_and_go_out_as_one() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let (mut wire, handle) = Wire::new(near);
        wire.write_all(b"one ").await.unwrap();
        wire.flush().await.unwrap();
        wire.write_all(b"two").await.unwrap();
        let mut buf = [0; 16];
        assert!(futures_util::FutureExt::now_or_never(far.read(&mut buf)).is_none());
        std::future::poll_fn(|cx| handle.poll_flush(cx)).await.unwrap();
        let read = far.read(&mut buf).await.unwrap();
        assert_eq!(&buf[..read], b"one two");
    }
}
