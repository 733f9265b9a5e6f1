//! The parameters of a run, kept small: every run in hand has them, and every one in a store's index. It knows nothing of
//! their bounds, which `request.rs` keeps.

use std::{collections::BTreeMap, fmt};

/// Names and values, sorted by name, in one piece of memory: a tree of four entries takes ten times as much.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Parameters {
    /// Each name and its value, one after the other, each behind its length as four bytes.
    pieces: Box<[u8]>,
}

impl Parameters {
    /// Each name with its value, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = &*self.pieces;
        let mut next = move || {
            let (length, behind) = rest.split_first_chunk()?;
            let (piece, behind) = behind.split_at(u32::from_le_bytes(*length) as usize);
            rest = behind;
            Some(str::from_utf8(piece).expect("it was made of a text"))
        };
        std::iter::from_fn(move || next().zip(next()))
    }

    /// The same as a map.
    pub fn to_map(&self) -> BTreeMap<String, String> {
        self.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// Bytes of memory that it has beside itself.
    pub fn memory(&self) -> usize {
        self.pieces.len()
    }
}

impl From<&BTreeMap<String, String>> for Parameters {
    fn from(map: &BTreeMap<String, String>) -> Self {
        let texts = || map.iter().flat_map(|(name, value)| [name, value]);
        let mut pieces = Vec::with_capacity(texts().map(|text| size_of::<u32>() + text.len()).sum());
        for text in texts() {
            let length = u32::try_from(text.len()).expect("a request has far less than 4 GiB of parameters");
            pieces.extend_from_slice(&length.to_le_bytes());
            pieces.extend_from_slice(text.as_bytes());
        }
        Self { pieces: pieces.into() }
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Parameters {
    /// Of two values of one name, the later one.
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        (&pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect::<BTreeMap<_, _>>()).into()
    }
}

impl PartialEq<BTreeMap<String, String>> for Parameters {
    fn eq(&self, map: &BTreeMap<String, String>) -> bool {
        self.iter().eq(map.iter().map(|(name, value)| (&**name, &**value)))
    }
}

impl fmt::Debug for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_the_map_that_they_were_made_of() {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let cases = [map(&[]), map(&[("a", "")]), map(&[("a", "é"), ("b", "")]), map(&[("ab", ""), ("b", "é")])];
        for (n, case) in cases.iter().enumerate() {
            let parameters = Parameters::from(case);
            assert_eq!(parameters.to_map(), *case);
            for (m, other) in cases.iter().enumerate() {
                assert_eq!(parameters == *other, n == m);
                let other = Parameters::from(other);
                assert_eq!(parameters == other, n == m);
            }
        }
    }
}
