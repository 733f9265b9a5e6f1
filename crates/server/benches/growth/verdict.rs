//! How a cost grows: what is made of the points of a series.

use std::fmt;

/// A fitted cost that rises by no more than this part of the mean, from the first point to the last, is flat: more than
/// noise, less than anything that grows.
const FLAT: f64 = 0.3;
/// A last point no further above the fitted logarithm than this part of it is on the logarithm.
const ABOVE: f64 = 0.1;

/// How a cost grows: the logarithm that fits best, and how well it fits where there is most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Verdict {
    /// By how much the cost rises with each doubling, as a part of the mean.
    per_doubling: f64,
    /// The same from the first point to the last.
    rise: f64,
    /// By how much the last point lies above the logarithm, as a part of that.
    above: f64,
}

impl Verdict {
    /// Least squares over at least two points.
    pub(crate) fn of(points: &[(u64, f64)]) -> Self {
        let doublings = |count: u64| (count as f64).log2();
        let number = points.len() as f64;
        let mean_x = points.iter().map(|point| doublings(point.0)).sum::<f64>() / number;
        let mean = points.iter().map(|point| point.1).sum::<f64>() / number;
        let both: f64 = points.iter().map(|point| (doublings(point.0) - mean_x) * (point.1 - mean)).sum();
        let square: f64 = points.iter().map(|point| (doublings(point.0) - mean_x).powi(2)).sum();
        let slope = both / square;
        let (first, last) = (points[0], points[points.len() - 1]);
        let fitted = mean + slope * (doublings(last.0) - mean_x);
        Self {
            per_doubling: slope / mean,
            rise: slope * (doublings(last.0) - doublings(first.0)) / mean,
            above: last.1 / fitted - 1.0,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (per_doubling, above) = (self.per_doubling * 100.0, self.above * 100.0);
        // A falling cost lies above its fit at the end, where it becomes flat.
        if self.rise > FLAT && self.above > ABOVE {
            write!(f, "GROWS: {above:.0} % above a logarithm at the end")
        } else if self.rise > FLAT {
            write!(f, "logarithmic: {per_doubling:+.1} % with each doubling")
        } else if self.rise < -FLAT {
            write!(f, "falls: {per_doubling:+.1} % with each doubling")
        } else {
            write!(f, "flat: {per_doubling:+.1} % with each doubling")
        }
    }
}
