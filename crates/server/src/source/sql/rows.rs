//! Responses that are made of rows and not yet emitted: JSON in one buffer, and where in it each response ends. It knows
//! neither columns nor databases.

use outflow_engine::{EmitError, Emitter};

/// When so much is ready, it is emitted before more is read. About what readers take at once.
pub(super) const READY_BYTES: usize = 64 * 1024;
/// An array of rows ends with the row that makes it so long, however many rows it might have.
const BATCH_BYTES_MAX: usize = 256 * 1024;
/// What a buffer may keep when it is empty; after a row that was longer it begins anew.
const KEPT_BYTES_MAX: usize = 4 * READY_BYTES;

/// Responses in their order.
pub(super) struct Rows {
    text: Vec<u8>,
    ends: Vec<usize>,
    /// How many rows are one response, as an array, where it is not the row itself.
    batch: Option<usize>,
    /// Rows of the array that is not full yet; it stands behind the last end.
    begun: usize,
}

impl Rows {
    pub(super) fn new(batch: Option<usize>) -> Self {
        Self { text: Vec::new(), ends: Vec::new(), batch, begun: 0 }
    }

    /// Adds a row that `write` writes. Where it fails, there is nothing of the row.
    #[inline]
    pub(super) fn push<E>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        let before = self.text.len();
        if self.batch.is_some() {
            self.text.push(if self.begun == 0 { b'[' } else { b',' });
        }
        if let Err(error) = write(&mut self.text) {
            self.text.truncate(before);
            return Err(error);
        }
        match self.batch {
            None => self.ends.push(self.text.len()),
            Some(rows) => {
                self.begun += 1;
                if self.begun == rows || self.text.len() - self.last_end() >= BATCH_BYTES_MAX {
                    self.finish();
                }
            }
        }
        Ok(())
    }

    /// Ends an array that is not full: there are no more rows.
    pub(super) fn finish(&mut self) {
        if self.begun > 0 {
            self.text.push(b']');
            self.ends.push(self.text.len());
            self.begun = 0;
        }
    }

    fn last_end(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// How much there is.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.text.len()
    }

    /// Whether no response is ready.
    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Whether it has to be emitted before more is read.
    pub(super) fn is_full(&self) -> bool {
        self.last_end() >= READY_BYTES
    }

    /// Moves what is ready behind what is in `other`, which is usually empty; an array that is not full stays.
    pub(super) fn move_to(&mut self, other: &mut Rows) {
        let end = self.last_end();
        if other.text.is_empty() && self.text.len() == end {
            std::mem::swap(&mut self.text, &mut other.text);
            std::mem::swap(&mut self.ends, &mut other.ends);
            return;
        }
        let from = other.text.len();
        other.text.extend_from_slice(&self.text[..end]);
        other.ends.extend(self.ends.iter().map(|end| from + end));
        self.forget(end);
    }

    /// Emits what is ready, several responses under one lock.
    pub(super) async fn emit(&mut self, emitter: &Emitter) -> Result<(), EmitError> {
        match self.ends[..] {
            [] => return Ok(()),
            [end] => emitter.emit(&self.text[..end]).await?,
            _ => {
                let mut start = 0;
                let responses: Vec<&[u8]> =
                    self.ends.iter().map(|&end| &self.text[std::mem::replace(&mut start, end)..end]).collect();
                emitter.emit_all(&responses).await?;
            }
        }
        self.forget(self.last_end());
        Ok(())
    }

    fn forget(&mut self, bytes: usize) {
        self.text.drain(..bytes);
        self.ends.clear();
        if self.text.capacity() > KEPT_BYTES_MAX && self.text.len() <= KEPT_BYTES_MAX {
            self.text.shrink_to(KEPT_BYTES_MAX);
        }
    }
}
