//! The percentile plot, as SVG by hand: how large a share of the times was not above how much. Both axes are
//! logarithmic, the one of percentiles from its end, so that the slowest are seen as well as the most. It knows
//! histograms, and nothing of how they came.

use std::fmt::Write as _;

use super::{report::time, tally::Times};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 86.0;
const RIGHT: f64 = 160.0;
const TOP: f64 = 52.0;
const BOTTOM: f64 = 64.0;

/// Percentiles that are drawn at the least, as nines: two are 99 %.
const NINES_MIN: f64 = 2.0;
/// And at the most: more would not leave their names room.
const NINES_MAX: f64 = 6.0;
/// Points of a curve to a nine.
const POINTS_PER_NINE: u32 = 40;

/// Readable on light and on dark ground, also where colours are not told apart: curves differ in their dashes too.
const STYLE: &str = "
  svg { color-scheme: light dark; --ink: #1f2328; --grid: #d0d7de; --paper: #ffffff; }
  @media (prefers-color-scheme: dark) { svg { --ink: #e6edf3; --grid: #3d444d; --paper: #0d1117; } }
  .paper { fill: var(--paper); }
  text { fill: var(--ink); font: 13px system-ui, sans-serif; }
  .title { font-size: 15px; font-weight: 600; }
  .grid { stroke: var(--grid); stroke-width: 1; }
  .curve { fill: none; stroke-width: 2; }
  .c0 { stroke: #2f81f7; }
  .c1 { stroke: #d4691a; stroke-dasharray: 7 3; }
  .c2 { stroke: #2da44e; stroke-dasharray: 2 3; }
  .c3 { stroke: #bf5fd6; stroke-dasharray: 9 3 2 3; }
";

/// Draws the curves that have something, each by its name.
pub(super) fn svg(title: &str, curves: &[(&str, &Times)]) -> String {
    let curves: Vec<_> = curves.iter().filter(|(_, times)| !times.is_empty()).collect();
    let longest = curves.iter().map(|(_, times)| times.len()).max().unwrap_or(1);
    let nines = (longest as f64).log10().ceil().clamp(NINES_MIN, NINES_MAX);
    let least = curves.iter().map(|(_, times)| times.min()).min().unwrap_or(1).max(1);
    let greatest = curves.iter().map(|(_, times)| times.max()).max().unwrap_or(1).max(1);
    let axes = Axes::new(nines, least as f64, greatest as f64);

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n<rect class=\"paper\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>\n\
         <text class=\"title\" x=\"{LEFT}\" y=\"28\">{title}</text>\n",
        title = escaped(title)
    );
    axes.draw(&mut svg);
    for (number, (name, times)) in curves.iter().enumerate() {
        axes.curve(&mut svg, number, times);
        let (x, y) = (WIDTH - RIGHT + 14.0, TOP + 12.0 + 24.0 * number as f64);
        _ = writeln!(svg, "<path class=\"curve c{number}\" d=\"M{x} {y}h28\"/>");
        _ = writeln!(svg, "<text x=\"{}\" y=\"{}\">{}</text>", x + 36.0, y + 4.0, escaped(name));
    }
    svg.push_str("</svg>\n");
    svg
}

struct Axes {
    nines: f64,
    /// Powers of ten, in nanoseconds.
    least: i32,
    greatest: i32,
}

impl Axes {
    fn new(nines: f64, least: f64, greatest: f64) -> Self {
        let least = least.log10().floor() as i32;
        Self { nines, least, greatest: (greatest.log10().ceil() as i32).max(least + 1) }
    }

    fn x(&self, nines: f64) -> f64 {
        LEFT + nines / self.nines * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, nanos: f64) -> f64 {
        let share = (nanos.max(1.0).log10() - f64::from(self.least)) / f64::from(self.greatest - self.least);
        HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
    }

    fn draw(&self, svg: &mut String) {
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        let median = std::f64::consts::LOG10_2;
        for nines in [0.0, median].into_iter().chain((1..=self.nines as u32).map(f64::from)) {
            let (x, label) = (self.x(nines), percent(nines));
            _ = writeln!(svg, "<path class=\"grid\" d=\"M{x:.1} {TOP}V{bottom}\"/>");
            _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>", bottom + 20.0);
        }
        for power in self.least..=self.greatest {
            let nanos = 10_f64.powi(power);
            let (y, label) = (self.y(nanos), time(nanos));
            _ = writeln!(svg, "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{right}\"/>");
            _ = writeln!(svg, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>", LEFT - 8.0, y + 4.0);
        }
        let (middle, end) = (f64::midpoint(LEFT, right), HEIGHT - 16.0);
        _ = writeln!(svg, "<text x=\"{middle}\" y=\"{end}\" text-anchor=\"middle\">percentile (%)</text>");
        let middle = f64::midpoint(TOP, bottom);
        _ = writeln!(
            svg,
            "<text transform=\"translate(20 {middle}) rotate(-90)\" text-anchor=\"middle\">time (logarithmic)</text>"
        );
    }

    /// A curve ends where it has no more times: at its greatest.
    fn curve(&self, svg: &mut String, number: usize, times: &Times) {
        let own_nines = (times.len() as f64).log10().min(self.nines);
        let steps = (own_nines * f64::from(POINTS_PER_NINE)).ceil() as u32;
        let nines = (0..=steps).map(|step| (f64::from(step) / f64::from(POINTS_PER_NINE)).min(own_nines));
        let points = nines.map(|nines| (nines, times.value_at_quantile(1.0 - 10_f64.powf(-nines))));
        let mut path = String::new();
        for (nines, nanos) in points.chain([(own_nines.max(0.02 * self.nines), times.max())]) {
            let command = if path.is_empty() { 'M' } else { 'L' };
            _ = write!(path, "{command}{:.1} {:.1}", self.x(nines), self.y(nanos as f64));
        }
        _ = writeln!(svg, "<path class=\"curve c{number}\" d=\"{path}\"/>");
    }
}

/// The percentile of so many nines, without a rounding error.
fn percent(nines: f64) -> String {
    match nines as u32 {
        0 if nines == 0.0 => "0".into(),
        0 => "50".into(),
        1 => "90".into(),
        2 => "99".into(),
        more => format!("99.{}", "9".repeat(more as usize - 2)),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(values: impl IntoIterator<Item = u64>) -> Times {
        let mut times = Times::new(3).unwrap();
        values.into_iter().for_each(|value| times.record(value).unwrap());
        times
    }

    #[test]
    fn axes_have_units_and_reach_from_the_least_to_the_greatest() {
        let (gaps, totals) = (times((1..=100_000).map(|n| n * 1_000)), times([7_000_000_000]));
        let svg = svg("a < b & c", &[("gap", &gaps), ("total", &totals), ("latency", &times([]))]);
        for part in [
            "99.999</text>",
            ">50</text>",
            "1 µs</text>",
            "10 s</text>",
            "percentile (%)",
            "a &lt; b &amp; c",
            ">gap<",
            ">total<",
        ] {
            assert!(svg.contains(part), "no {part} in {svg}");
        }
        assert!(!svg.contains("latency") && !svg.contains("100 s<") && !svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn curves_stay_inside_and_only_rise() {
        let axes = Axes::new(3.0, 1_000.0, 1e9);
        let mut svg = String::new();
        axes.curve(&mut svg, 0, &times((1..=1_000).map(|n| n * 1_000_000)));
        let (_, path) = svg.split_once("d=\"M").unwrap();
        let points: Vec<Vec<f64>> = path
            .split_once('"')
            .unwrap()
            .0
            .split('L')
            .map(|point| point.split(' ').map(|number| number.parse().unwrap()).collect())
            .collect();
        assert!(points.len() > 100);
        assert!(
            points.iter().all(
                |point| (LEFT..=WIDTH - RIGHT).contains(&point[0]) && (TOP..=HEIGHT - BOTTOM).contains(&point[1])
            )
        );
        assert!(points.is_sorted_by(|a, b| a[0] <= b[0] && a[1] >= b[1]));
    }

    #[test]
    fn a_curve_of_very_many_ends_at_the_edge() {
        let mut many = times([1_000]);
        many.record_n(2_000, 1_000_000_000).unwrap();
        many.record(5_000_000).unwrap();
        let svg = svg("many", &[("gap", &many)]);
        assert!(svg.contains("99.9999</text>") && !svg.contains("99.99999"), "{svg}");
        let axes = Axes::new(NINES_MAX, 1_000.0, 5_000_000.0);
        let last = format!("L{:.1} {:.1}\"", axes.x(NINES_MAX), axes.y(many.max() as f64));
        assert!(svg.contains(&last), "no {last} in {svg}");
    }

    #[test]
    fn a_plot_of_nothing_is_one_too() {
        let svg = svg("nothing", &[("gap", &times([]))]);
        assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"));
    }
}
