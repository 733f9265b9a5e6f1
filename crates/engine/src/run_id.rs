//! The name of a run: how it is made, written and read. It knows neither runs nor randomness.

use std::{fmt, str::FromStr};

use crate::Timestamp;

/// Names one run: opaque to whoever is not this crate, 26 or 36 characters of `[0-9a-v]`, 128 of their bits random.
///
/// The id of a journaled run begins with the time of its start, so that a store keeps runs in the order in which they
/// started; the id of a plain run does not, and so it can be told that it cannot be read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId {
    /// Milliseconds since 1970; 0 for a plain run.
    started: u64,
    /// In two halves, the high one first: stores and engines keep many ids, and no place between them for alignment.
    random: [u64; 2],
}

/// A text that is no run id, and so names no run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no run id")]
pub struct NotARunId;

/// RFC 4648 §7, "Base 32 Encoding with Extended Hex Alphabet", in lower case and without padding.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
const RANDOM_LETTERS: usize = 26;
const TIME_LETTERS: usize = 10;
/// 48 bits of milliseconds last until the year 10,889.
const STARTED_MAX: u64 = (1 << 48) - 1;

impl RunId {
    /// How many bytes [`RunId::to_bytes`] gives.
    pub const BYTES: usize = 22;

    /// A plain run's id from 128 random bits. Who can guess one can read the run, so they must not be predictable.
    pub fn plain(random: u128) -> Self {
        Self::new(0, random)
    }

    /// A journaled run's id from the time of its start and 128 random bits.
    pub fn journaled(started: Timestamp, random: u128) -> Self {
        Self::new(started.as_millis().clamp(1, STARTED_MAX), random)
    }

    fn new(started: u64, random: u128) -> Self {
        Self { started, random: [(random >> 64) as u64, random as u64] }
    }

    fn random(self) -> u128 {
        u128::from(self.random[0]) << 64 | u128::from(self.random[1])
    }

    /// Whether a run of this name was journaled.
    pub fn is_journaled(self) -> bool {
        self.started != 0
    }

    /// This id as stores keep it; the order of the bytes is the order of the ids.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..6].copy_from_slice(&self.started.to_be_bytes()[2..]);
        bytes[6..].copy_from_slice(&self.random().to_be_bytes());
        bytes
    }

    /// The id that [`RunId::to_bytes`] gave.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let (started, random) = bytes.split_first_chunk::<6>().expect("22 is more than 6");
        let mut millis = [0; 8];
        millis[2..].copy_from_slice(started);
        let random = random.try_into().expect("16 of 22 are left");
        Self::new(u64::from_be_bytes(millis), u128::from_be_bytes(random))
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; TIME_LETTERS + RANDOM_LETTERS];
        let (time, random) = text.split_at_mut(TIME_LETTERS);
        for (place, letter) in time.iter_mut().rev().enumerate() {
            *letter = ALPHABET[(self.started >> (5 * place)) as usize & 31];
        }
        let number = self.random();
        for (place, letter) in random.iter_mut().rev().enumerate() {
            *letter = ALPHABET[(number >> (5 * place)) as usize & 31];
        }
        let shown = if self.is_journaled() { &text[..] } else { &text[TIME_LETTERS..] };
        f.write_str(std::str::from_utf8(shown).expect("the alphabet is ASCII"))
    }
}

impl FromStr for RunId {
    type Err = NotARunId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let split = text.len().checked_sub(RANDOM_LETTERS).filter(|time| [0, TIME_LETTERS].contains(time));
        let (time, random) = text.split_at_checked(split.ok_or(NotARunId)?).ok_or(NotARunId)?;
        let (time, random) = (number(time)?, number(random)?);
        let id = Self::new(u64::try_from(time).map_err(|_| NotARunId)?, random);
        // One run, one name: no leading zeros that mean nothing, no number that is cut.
        if id.started <= STARTED_MAX && id.to_string() == text { Ok(id) } else { Err(NotARunId) }
    }
}

fn number(letters: &str) -> Result<u128, NotARunId> {
    letters.bytes().try_fold(0_u128, |number, letter| {
        let digit = ALPHABET.iter().position(|known| *known == letter).ok_or(NotARunId)?;
        Ok(number << 5 | digit as u128)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journaled(millis: u64, random: u128) -> RunId {
        RunId::journaled(Timestamp::from_millis(millis), random)
    }

    #[test]
    fn a_run_id_is_short_and_plain_and_read_as_it_was_written() {
        assert_eq!(RunId::plain(0).to_string(), "0".repeat(26));
        assert_eq!(RunId::plain(u128::MAX).to_string(), format!("7{}", "v".repeat(25)));
        assert_eq!(journaled(1, 0).to_string(), format!("0000000001{}", "0".repeat(26)));
        for id in [RunId::plain(7), RunId::plain(u128::MAX), journaled(0, 3), journaled(u64::MAX, u128::MAX)] {
            assert_eq!(id.to_string().parse(), Ok(id));
            assert_eq!(RunId::from_bytes(id.to_bytes()), id);
        }
    }

    #[test]
    fn the_order_of_ids_is_the_order_of_their_starts_in_every_form() {
        let ids = [journaled(1, u128::MAX), journaled(2, 0), journaled(1 << 40, 5), journaled(u64::MAX, 0)];
        assert!(ids.is_sorted());
        assert!(ids.map(RunId::to_bytes).is_sorted());
        assert!(ids.map(|id| id.to_string()).is_sorted());
    }

    #[test]
    fn what_is_no_run_id_is_told() {
        let zero = "0".repeat(36);
        let cut = format!("8{}", "0".repeat(25));
        let late = format!("v{}", "0".repeat(35));
        for text in ["", "x", "é", &"é".repeat(13), &"w".repeat(26), &"A".repeat(26), &zero, &cut, &late] {
            assert_eq!(text.parse::<RunId>(), Err(NotARunId), "{text}");
        }
    }
}
