//! The parameters of a run, kept small: every run in hand has them, and every one in a store's index. It knows nothing of
//! their bounds, which `request.rs` keeps.

use std::{collections::BTreeMap, fmt};

/// Names and values, sorted by name, in two pieces of memory: a tree of four entries takes ten times as much.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Parameters {
    /// Each name and its value, one after the other.
    text: Box<str>,
    /// Where each of them ends.
    ends: Box<[u32]>,
}

impl Parameters {
    /// Each name with its value, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut begin = 0;
        let mut next = move |end: &u32| {
            let piece = &self.text[begin..*end as usize];
            begin = *end as usize;
            piece
        };
        self.ends.as_chunks::<2>().0.iter().map(move |[name, value]| (next(name), next(value)))
    }

    /// The same as a map.
    pub fn to_map(&self) -> BTreeMap<String, String> {
        self.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// Bytes of memory that it has beside itself.
    pub fn memory(&self) -> usize {
        self.text.len() + size_of_val(&*self.ends)
    }
}

impl From<&BTreeMap<String, String>> for Parameters {
    fn from(map: &BTreeMap<String, String>) -> Self {
        let mut text = String::with_capacity(map.iter().map(|(name, value)| name.len() + value.len()).sum());
        let mut ends = Vec::with_capacity(2 * map.len());
        for piece in map.iter().flat_map(|(name, value)| [name, value]) {
            text.push_str(piece);
            ends.push(u32::try_from(text.len()).expect("a request has far less than 4 GiB of parameters"));
        }
        Self { text: text.into(), ends: ends.into() }
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
        self.ends.len() == 2 * map.len()
            && self.iter().zip(map).all(|((name, value), theirs)| (name, value) == (theirs.0, theirs.1))
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
