//! Counts gRPC messages by their 5-byte prefixes, wherever frame boundaries fall. It knows nothing of HTTP/2 and, so
//! that the client stays cheap, nothing of what is inside a message.

use crate::Outcome;

const PREFIX_BYTES: usize = 5;

/// No message of this benchmark is near it; a larger one means that the prefixes were lost.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// The messages of one stream so far.
#[derive(Default)]
pub(crate) struct Messages {
    /// Whole ones.
    pub(crate) count: u64,
    /// Their encoded bytes, without prefixes.
    pub(crate) bytes: u64,
    prefix: [u8; PREFIX_BYTES],
    prefix_filled: usize,
    left: usize,
}

impl Messages {
    /// Takes the stream's next bytes.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> Outcome<()> {
        while !bytes.is_empty() {
            if self.prefix_filled < PREFIX_BYTES {
                let taken = bytes.len().min(PREFIX_BYTES - self.prefix_filled);
                self.prefix[self.prefix_filled..self.prefix_filled + taken].copy_from_slice(&bytes[..taken]);
                self.prefix_filled += taken;
                bytes = &bytes[taken..];
                if self.prefix_filled < PREFIX_BYTES {
                    break;
                }
                let [flag, length @ ..] = self.prefix;
                self.left = u32::from_be_bytes(length) as usize;
                if flag != 0 || self.left > MESSAGE_BYTES_MAX {
                    return Err(format!("not the prefix of a gRPC message: {:02x?}", self.prefix).into());
                }
                self.bytes += u64::from(u32::from_be_bytes(length));
            }
            let taken = bytes.len().min(self.left);
            self.left -= taken;
            bytes = &bytes[taken..];
            if self.left == 0 {
                self.count += 1;
                self.prefix_filled = 0;
            }
        }
        Ok(())
    }

    /// Whether the bytes so far end with a whole message.
    pub(crate) fn whole(&self) -> bool {
        self.prefix_filled == 0
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
