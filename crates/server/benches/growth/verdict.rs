//! How a cost grows: what is made of the points of a series.

use std::fmt;

/// A cost that rises by no more than this part from its least is flat: more than noise, less than anything that grows.
const FLAT: f64 = 0.3;
/// A cost that rises by no more than this part of its least with each doubling is taken for a logarithm.
const PER_DOUBLING: f64 = 0.1;

/// How a cost grows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Verdict {
    /// How much dearer the last point is than the cheapest before it, as a part of that.
    rise: f64,
    /// How often the count doubled between the two.
    doublings: f64,
}

impl Verdict {
    /// What becomes of it from its cheapest point to its last one: before that, what is shared by more and more falls.
    pub(crate) fn of(points: &[(u64, f64)]) -> Self {
        let (Some(&last), Some(&least)) = (points.last(), points.iter().min_by(|a, b| a.1.total_cmp(&b.1))) else {
            return Self { rise: 0.0, doublings: 0.0 };
        };
        Self { rise: last.1 / least.1 - 1.0, doublings: (last.0 as f64 / least.0 as f64).log2() }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.doublings == 0.0 {
            return f.write_str("flat: cheapest where there is most");
        }
        let how = if self.rise <= FLAT {
            "flat"
        } else if self.rise <= PER_DOUBLING * self.doublings {
            "logarithmic"
        } else {
            "GROWS"
        };
        write!(f, "{how}: {:+.0} % over the last {:.1} doublings", self.rise * 100.0, self.doublings)
    }
}
