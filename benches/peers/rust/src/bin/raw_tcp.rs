//! The floor: what a server has to do at the very least. It writes the frames (gRPC's 5-byte prefix and the encoded
//! response) of one request to a plain TCP connection, in chunks of 64 KiB, and closes. No HTTP/2, no runtime: a thread
//! a connection, which blocks in `write`. Large texts are not copied on their way to the socket.

use std::{
    io::{self, IoSlice, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    ops::Range,
    thread,
    time::{Duration, Instant},
};

use outflow_peers::{Workload, announce, listen_address, tonic_stubs::Request};
use prost::Message as _;

const PREFIX_BYTES: usize = 5;
const CHUNK_BYTES: usize = 64 * 1024;
/// Above this, one more slice is cheaper than the copy.
const COPY_BYTES_MAX: usize = 4 * 1024;
const REQUEST_BYTES_MAX: usize = 64 * 1024;
const STACK_BYTES: usize = 128 * 1024;
/// Field tags of `protobuf.Response`: number << 3 | wire type.
const SEQUENCE_TAG: u8 = 2 << 3;
const RESULT_TAG: u8 = 1 << 3 | 2;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind(listen_address()?)?;
    announce(listener.local_addr()?);
    for connection in listener.incoming() {
        let connection = connection?;
        thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
            if let Err(problem) = answer(connection) {
                eprintln!("{problem}");
            }
        })?;
    }
    Ok(())
}

fn answer(mut connection: TcpStream) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let request = read_request(&mut connection)?;
    let parameters = request.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let workload = Workload::parse(request.id, parameters).map_err(io::Error::other)?;
    let shared = workload.shared_text().unwrap_or_default();
    let mut chunk = Chunk::new(if shared.len() > COPY_BYTES_MAX { shared.as_bytes() } else { &[] });
    let begin = Instant::now();
    for sequence in 1..=workload.responses() {
        if let Some(due) = workload.due(sequence) {
            let wait = due.saturating_sub(begin.elapsed());
            if !wait.is_zero() {
                chunk.send(&mut connection)?;
                pause(wait);
            }
        }
        match workload.shared_text() {
            Some(text) => chunk.put(sequence, text.as_bytes()),
            None => chunk.put(sequence, workload.text().as_bytes()),
        }
        if chunk.bytes >= CHUNK_BYTES {
            chunk.send(&mut connection)?;
        }
    }
    chunk.send(&mut connection)
}

#[expect(clippy::disallowed_methods, reason = "the thread has nothing else to do")]
fn pause(time: Duration) {
    thread::sleep(time);
}

fn read_request(connection: &mut TcpStream) -> io::Result<Request> {
    let mut prefix = [0; PREFIX_BYTES];
    connection.read_exact(&mut prefix)?;
    let [_, length @ ..] = prefix;
    let length = u32::from_be_bytes(length) as usize;
    if length > REQUEST_BYTES_MAX {
        return Err(io::Error::other(format!("a request of {length} bytes; at most {REQUEST_BYTES_MAX} are taken")));
    }
    let mut message = vec![0; length];
    connection.read_exact(&mut message)?;
    Request::decode(&message[..]).map_err(io::Error::other)
}

/// Frames that go out together: written one behind the other or, where all say the same large text, heads only.
struct Chunk<'a> {
    written: Vec<u8>,
    /// The text that stands behind each of `heads`; empty: `written` has everything.
    large: &'a [u8],
    heads: Vec<Range<usize>>,
    bytes: usize,
}

impl<'a> Chunk<'a> {
    fn new(large: &'a [u8]) -> Self {
        Self { written: Vec::with_capacity(2 * CHUNK_BYTES), large, heads: Vec::new(), bytes: 0 }
    }

    fn put(&mut self, sequence: u64, text: &[u8]) {
        let begin = self.written.len();
        self.written.extend_from_slice(&[0; PREFIX_BYTES]);
        self.written.push(SEQUENCE_TAG);
        self.put_varint(sequence);
        if !text.is_empty() {
            self.written.push(RESULT_TAG);
            self.put_varint(text.len() as u64);
        }
        let head_bytes = self.written.len() - begin;
        let message_bytes = u32::try_from(head_bytes - PREFIX_BYTES + text.len()).expect("a text is small");
        self.written[begin + 1..begin + PREFIX_BYTES].copy_from_slice(&message_bytes.to_be_bytes());
        if self.large.is_empty() {
            self.written.extend_from_slice(text);
        } else {
            self.heads.push(begin..begin + head_bytes);
        }
        self.bytes += head_bytes + text.len();
    }

    fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.written.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.written.push(value as u8);
    }

    fn send(&mut self, connection: &mut TcpStream) -> io::Result<()> {
        if self.large.is_empty() {
            connection.write_all(&self.written)?;
        } else {
            let head = |range: &Range<usize>| IoSlice::new(&self.written[range.clone()]);
            let mut slices: Vec<_> =
                self.heads.iter().flat_map(|range| [head(range), IoSlice::new(self.large)]).collect();
            write_all_vectored(connection, &mut slices)?;
        }
        self.written.clear();
        self.heads.clear();
        self.bytes = 0;
        Ok(())
    }
}

fn write_all_vectored(connection: &mut TcpStream, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    while !slices.is_empty() {
        match connection.write_vectored(slices)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => IoSlice::advance_slices(&mut slices, written),
        }
    }
    Ok(())
}
