//! An output that somebody reads, and may stop reading: a write to it waits for that, unless Ctrl-C says not to. It knows
//! bytes only.

use std::{
    error::Error,
    fmt,
    io::{self, Write},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::{super::wait::Interrupt, Output};

/// So much is taken at once by a pipe that takes anything (`PIPE_BUF` of Linux, pipe(7)): no write of it waits.
const PIECE_BYTES: usize = 4096;

/// How long the signal may go unnoticed.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// An output, and what ends the wait for its reader.
pub(super) struct Paced {
    pub(super) output: Output,
    interrupt: Option<Interrupt>,
}

/// The output took nothing when Ctrl-C came.
#[derive(Debug)]
pub(in crate::cli) struct Stuck;

impl Stuck {
    /// Whether this is why a write failed.
    pub(in crate::cli) fn is(error: &io::Error) -> bool {
        error.get_ref().and_then(|error| error.downcast_ref::<Self>()).is_some()
    }
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted while nobody read them")
    }
}

impl Error for Stuck {}

impl Paced {
    /// Where nobody listens to the signal it ends the program, whatever that is waiting for. A file takes everything.
    pub(super) fn new(output: Output, interrupt: Option<Interrupt>) -> Self {
        let interrupt = interrupt.filter(|_| !matches!(output, Output::Kept(_)));
        Self { output, interrupt }
    }

    /// Waits until the output takes something, or fails.
    fn ready(&self, interrupt: &Interrupt) -> io::Result<()> {
        loop {
            match poll(&mut [PollFd::new(&self.output, PollFlags::OUT)], Some(&LOOK_EVERY)) {
                Ok(0) | Err(Errno::INTR) if interrupt.is_raised() => return Err(io::Error::other(Stuck)),
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Write for Paced {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(interrupt) = &self.interrupt else { return self.output.write(bytes) };
        self.ready(interrupt)?;
        self.output.write(&bytes[..bytes.len().min(PIECE_BYTES)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}
