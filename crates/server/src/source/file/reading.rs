//! The bytes of a file in order, each read once into a buffer that goes all the way to the socket. What the kernel has in
//! memory is copied on the spot; what it has not is waited for on a thread that may block. It knows nothing of responses.

use std::{collections::VecDeque, fs::File, io, os::unix::fs::FileExt as _, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;

/// Buffers of so many bytes stay for what is read next, at least one: a buffer that is new costs page faults, which are as
/// dear as the copy itself.
const FREE_BYTES: usize = 256 * 1024;
/// What a thread that blocks has the kernel read ahead of it.
#[cfg(target_os = "linux")]
const AHEAD_BYTES: u64 = 1024 * 1024;
/// How many buffers a thread fills at once where the file system says nothing of what it has in memory.
const FILLED_AT_ONCE: usize = 4;

/// A place in a file.
pub(super) struct Reading {
    file: Arc<File>,
    at: u64,
    /// How much is read at once: pieces end where it divides the file.
    piece_bytes: usize,
    buffers: Arc<Buffers>,
    /// Read, and not given yet.
    ahead: VecDeque<Bytes>,
    /// The file system cannot say what it has in memory.
    is_untold: bool,
    /// Where the kernel says that nothing follows, that is believed: whoever reads will look again.
    grows: bool,
}

impl Reading {
    /// A file from here on, in pieces of at most so many bytes.
    pub(super) fn new(file: Arc<File>, at: u64, piece_bytes: usize) -> Self {
        let buffers = Arc::new(Buffers { free: Mutex::default(), bytes: piece_bytes });
        Self { file, at, piece_bytes, buffers, ahead: VecDeque::new(), is_untold: false, grows: false }
    }

    /// The same, of a file that grows.
    pub(super) fn growing(self) -> Self {
        Self { grows: true, ..self }
    }

    /// Where the next piece begins.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// The next piece of what is before `end`: nothing where there is no more. A piece is shorter than the others only at
    /// the end, and where one of a growing file was.
    pub(super) async fn next(&mut self, end: u64) -> io::Result<Bytes> {
        if self.ahead.is_empty() {
            self.read(end).await?;
        }
        let piece = self.ahead.pop_front().unwrap_or_default();
        self.at += piece.len() as u64;
        Ok(piece)
    }

    /// Keeps no buffer for what comes next.
    pub(super) fn rest(&self) {
        self.buffers.free.lock().clear();
    }

    async fn read(&mut self, end: u64) -> io::Result<()> {
        let wanted = self.wanted(self.at, end);
        if wanted == 0 {
            return Ok(());
        }
        let mut buffer = self.buffers.take();
        if !self.is_untold {
            match from_memory(&self.file, buffer.place(wanted), self.at) {
                Ok(read) => {
                    buffer.filled = read;
                    if read == wanted || self.grows {
                        self.ahead.push_back(buffer.into_bytes());
                        return Ok(());
                    }
                }
                Err(InMemory::Nothing) => {}
                Err(InMemory::Untold) => self.is_untold = true,
                Err(InMemory::Failed(error)) => return Err(error),
            }
        }
        let (file, at, buffers) = (self.file.clone(), self.at, self.buffers.clone());
        let mut places = vec![(buffer, wanted)];
        if self.is_untold {
            let mut behind = at + wanted as u64;
            while places.len() < FILLED_AT_ONCE && self.wanted(behind, end) > 0 {
                let wanted = self.wanted(behind, end);
                places.push((buffers.take(), wanted));
                behind += wanted as u64;
            }
        }
        let filled = tokio::task::spawn_blocking(move || fill(&file, at, places)).await;
        self.ahead.extend(filled.map_err(io::Error::other)??);
        Ok(())
    }

    /// How long the piece at `at` is.
    fn wanted(&self, at: u64, end: u64) -> usize {
        let to_the_next = self.piece_bytes as u64 - at % self.piece_bytes as u64;
        to_the_next.min(end.saturating_sub(at)) as usize
    }
}

/// Fills buffers from `at` on, as far as the file goes. It may block.
fn fill(file: &File, mut at: u64, places: Vec<(Buffer, usize)>) -> io::Result<Vec<Bytes>> {
    #[cfg(target_os = "linux")]
    if let Some(ahead) = std::num::NonZeroU64::new(AHEAD_BYTES) {
        // The kernel begins to read that, so that what follows is in memory. It is advice, and may fail.
        _ = rustix::fs::fadvise(file, at, Some(ahead), rustix::fs::Advice::WillNeed);
    }
    let mut filled = Vec::with_capacity(places.len());
    for (mut buffer, wanted) in places {
        while buffer.filled < wanted {
            let from = at + buffer.filled as u64;
            let place = &mut buffer.place(wanted)[..];
            match file.read_at(place, from) {
                Ok(0) => break,
                Ok(read) => buffer.filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let is_short = buffer.filled < wanted;
        at += buffer.filled as u64;
        if buffer.filled > 0 {
            filled.push(buffer.into_bytes());
        }
        if is_short {
            break;
        }
    }
    Ok(filled)
}

/// Why nothing was read from memory.
enum InMemory {
    /// It is not there, or not known to be.
    Nothing,
    /// This file system never says.
    Untold,
    Failed(io::Error),
}

/// Reads what the kernel has in memory, without waiting.
#[cfg(target_os = "linux")]
fn from_memory(file: &File, place: &mut [u8], at: u64) -> Result<usize, InMemory> {
    use rustix::io::{Errno, ReadWriteFlags, preadv2};

    match preadv2(file, &mut [io::IoSliceMut::new(place)], at, ReadWriteFlags::NOWAIT) {
        Ok(read) => Ok(read),
        Err(Errno::AGAIN | Errno::INTR) => Err(InMemory::Nothing),
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::PERM) => Err(InMemory::Untold),
        Err(error) => Err(InMemory::Failed(error.into())),
    }
}

#[cfg(not(target_os = "linux"))]
fn from_memory(_: &File, _: &mut [u8], _: u64) -> Result<usize, InMemory> {
    Err(InMemory::Untold)
}

/// Buffers of one length, used again and again.
struct Buffers {
    free: Mutex<Vec<Box<[u8]>>>,
    bytes: usize,
}

impl Buffers {
    fn take(self: &Arc<Self>) -> Buffer {
        let free = self.free.lock().pop();
        let bytes = free.unwrap_or_else(|| vec![0; self.bytes].into());
        Buffer { bytes, filled: 0, home: self.clone() }
    }
}

/// One of them, which goes back when the last part of it was sent.
struct Buffer {
    bytes: Box<[u8]>,
    filled: usize,
    home: Arc<Buffers>,
}

impl Buffer {
    /// Where what is missing is to come, of so many bytes in all.
    fn place(&mut self, wanted: usize) -> &mut [u8] {
        &mut self.bytes[self.filled..wanted]
    }

    fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut free = self.home.free.lock();
        if free.is_empty() || (free.len() + 1) * bytes.len() <= FREE_BYTES {
            free.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn file(bytes: usize) -> (Arc<File>, Vec<u8>) {
        let content: Vec<u8> = (0..bytes).map(|n| (n * 7 + n / 256) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        (Arc::new(file), content)
    }

    async fn all(reading: &mut Reading, end: u64) -> Vec<Bytes> {
        let mut pieces = Vec::new();
        loop {
            let piece = reading.next(end).await.unwrap();
            if piece.is_empty() {
                return pieces;
            }
            pieces.push(piece);
        }
    }

    #[tokio::test]
    async fn pieces_are_the_file_however_it_is_read() {
        let (file, content) = file(10_500);
        for is_untold in [false, true] {
            for (at, end) in [(0, 10_500), (0, 9_000), (1_500, 10_500), (10_500, 10_500), (0, 99_999)] {
                let mut reading = Reading { is_untold, ..Reading::new(file.clone(), at, 1_000) };
                let pieces = all(&mut reading, end).await;
                let end = end.min(10_500);
                assert_eq!(pieces.concat(), content[at as usize..end as usize]);
                assert_eq!(reading.at(), end);
                // Each ends where the length of one divides the file.
                let mut place = at as usize;
                for piece in &pieces[..pieces.len().saturating_sub(1)] {
                    place += piece.len();
                    assert_eq!(place % 1_000, 0);
                }
            }
        }
    }

    #[tokio::test]
    async fn a_buffer_is_used_again_when_what_was_in_it_is_gone() {
        let (file, content) = file(100_000);
        let mut reading = Reading::new(file, 0, 1_000);
        for n in 0..100 {
            let piece = reading.next(100_000).await.unwrap();
            assert_eq!(piece, content[n * 1_000..(n + 1) * 1_000]);
        }
        assert_eq!(reading.buffers.free.lock().len(), 1);
        let held: Vec<Bytes> = {
            let mut again = Reading { at: 0, ..reading };
            let pieces = all(&mut again, 100_000).await;
            again.rest();
            pieces
        };
        assert_eq!(held.concat(), content, "what is held keeps what it has");
    }

    #[tokio::test]
    async fn a_file_that_grows_is_read_on() {
        let (file, _) = file(0);
        let mut reading = Reading::new(file.clone(), 0, 1_000).growing();
        assert!(all(&mut reading, u64::MAX).await.is_empty());
        for text in ["a", "bcd", "e"] {
            (&*file).write_all(text.as_bytes()).unwrap();
            assert_eq!(all(&mut reading, u64::MAX).await.concat(), text.as_bytes());
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_an_error() {
        let folder = Arc::new(File::open(".").unwrap());
        for is_untold in [false, true] {
            let mut reading = Reading { is_untold, ..Reading::new(folder.clone(), 0, 1_000) };
            assert!(reading.next(5).await.is_err());
        }
    }
}
