//! The ids that sources claim: single ones and ranges with both ends, as configurations write them, and what two sources
//! claim both.

use std::{fmt, ops::RangeInclusive};

use serde::{Deserialize, Deserializer, de};

/// `7`, `"7"`, `"100..199"`, `"100.."` or `"..-1"`: both ends are claimed too, and an end that is left out is the last id
/// there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ids(pub(super) RangeInclusive<i32>);

impl Ids {
    /// Whether both claim an id.
    pub(super) fn overlap(&self, other: &Self) -> bool {
        self.0.start() <= other.0.end() && other.0.start() <= self.0.end()
    }
}

impl fmt::Display for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, end) = self.0.clone().into_inner();
        if start == end { write!(f, "{start}") } else { write!(f, "{start}..{end}") }
    }
}

impl std::str::FromStr for Ids {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let end = |text: &str, open: i32| match text {
            "" => Ok(open),
            _ => text.parse().map_err(|_| format!("`{text}` is no id: it has 32 bits, {} to {}", i32::MIN, i32::MAX)),
        };
        let Some((first, last)) = text.split_once("..") else {
            let id = text
                .parse()
                .map_err(|_| format!("`{text}`: an id such as 7 or a range such as \"100..199\" is wanted"))?;
            return Ok(Self(id..=id));
        };
        // Whoever writes Rust may write what it means.
        let last = last.strip_prefix('=').unwrap_or(last);
        let (first, last) = (end(first, i32::MIN)?, end(last, i32::MAX)?);
        if last < first {
            return Err(format!("`{text}` has no ids; did you mean \"{last}..{first}\"?"));
        }
        Ok(Self(first..=last))
    }
}

impl<'de> Deserialize<'de> for Ids {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Ids;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an id such as 7 or a range such as \"100..199\"")
            }

            fn visit_i64<E: de::Error>(self, id: i64) -> Result<Ids, E> {
                id.to_string().parse().map_err(E::custom)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Ids, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_with_both_ends() {
        let cases = [
            ("7", 7..=7),
            ("-3", -3..=-3),
            ("100..199", 100..=199),
            ("100..=199", 100..=199),
            ("-5..-5", -5..=-5),
            ("100..", 100..=i32::MAX),
            ("..-1", i32::MIN..=-1),
        ];
        for (text, ids) in cases {
            assert_eq!(text.parse(), Ok(Ids(ids)), "{text}");
        }
        for (text, told) in
            [("", "``"), ("a", "`a`"), ("1..b", "`b`"), ("2..1", "\"1..2\""), ("2147483648", "2147483648")]
        {
            let problem = text.parse::<Ids>().unwrap_err();
            assert!(problem.contains(told), "{text}: {problem}");
        }
    }

    #[test]
    fn ranges_overlap_where_they_have_an_id_in_common() {
        let overlap = |a: &str, b: &str| a.parse::<Ids>().unwrap().overlap(&b.parse().unwrap());
        assert!(overlap("1..5", "5..9") && overlap("5..9", "1..5") && overlap("1..9", "3") && overlap("..", "-7"));
        assert!(!overlap("1..4", "5..9") && !overlap("5..9", "4"));
    }
}
