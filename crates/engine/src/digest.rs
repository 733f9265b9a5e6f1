//! A digest that is the same in every process and version, for telling one configuration or request from another. It is
//! no defence against anybody: whatever is found by it is compared in full.

/// FNV-1a, 64 bits ("The FNV Non-Cryptographic Hash Algorithm", §2 and §5), over parts that cannot run into each other.
pub(crate) struct Digest(u64);

impl Digest {
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Adds one part, with its length.
    #[must_use]
    pub(crate) fn with(mut self, part: impl AsRef<[u8]>) -> Self {
        let part = part.as_ref();
        for byte in (part.len() as u64).to_le_bytes().iter().chain(part) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self
    }

    pub(crate) fn value(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_changes_and_parts_do_not_run_into_each_other() {
        assert_eq!(Digest::new().with("a").with("bc").value(), 0xba1e_1f0e_0704_d8ea);
        assert_ne!(Digest::new().with("a").with("bc").value(), Digest::new().with("ab").with("c").value());
    }
}
