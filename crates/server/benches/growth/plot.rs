//! The figures as a drawing: a panel for each axis, the count growing to the right by factors, the cost from nothing
//! upwards. It is SVG, written by hand, since that takes less than a library for it.

use std::fmt::{self, Write as _};

use crate::{Series, axis::Axis};

const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 260.0;
/// Around the lines of a panel: for its title, its counts, its costs.
const TOP: f64 = 44.0;
const BOTTOM: f64 = 34.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 20.0;
const COLOURS: [&str; 2] = ["#1f6fb2", "#c2571a"];

/// All panels, two beside each other.
///
/// # Errors
/// None: a string takes all that is written to it.
pub(crate) fn draw(all: &[Series]) -> Result<String, fmt::Error> {
    let axes: Vec<Axis> =
        Axis::ALL.into_iter().filter(|axis| all.iter().any(|series| series.axis == *axis)).collect();
    let (width, height) = (2.0 * WIDTH, axes.len().div_ceil(2) as f64 * HEIGHT);
    let mut svg = String::new();
    writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"11\">"
    )?;
    writeln!(svg, "<rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>")?;
    for (place, axis) in axes.into_iter().enumerate() {
        let series: Vec<&Series> = all.iter().filter(|series| series.axis == axis).collect();
        writeln!(svg, "<g transform=\"translate({} {})\">", (place % 2) as f64 * WIDTH, (place / 2) as f64 * HEIGHT)?;
        panel(&mut svg, axis, &series)?;
        writeln!(svg, "</g>")?;
    }
    writeln!(svg, "</svg>")?;
    Ok(svg)
}

fn panel(svg: &mut String, axis: Axis, all: &[&Series]) -> fmt::Result {
    let points = || all.iter().flat_map(|series| &series.points);
    let least = points().map(|point| point.0).min().unwrap_or(1).max(1) as f64;
    let greatest = points().map(|point| point.0).max().unwrap_or(1) as f64;
    let dearest = points().map(|point| point.1).fold(1.0, f64::max);
    let step = step(dearest);
    let top = (dearest / step).ceil() * step;
    let x =
        |count: u64| LEFT + (WIDTH - LEFT - RIGHT) * (count as f64 / least).ln() / (greatest / least).ln().max(1e-9);
    let y = |cost: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * cost / top;

    writeln!(svg, "<text x=\"{LEFT}\" y=\"18\" font-size=\"13\">{}: CPU ns per response</text>", axis.title())?;
    for line in 0..=(top / step).round() as u32 {
        let cost = f64::from(line) * step;
        let (right, at) = (WIDTH - RIGHT, y(cost));
        writeln!(svg, "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>")?;
        writeln!(svg, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{cost}</text>", LEFT - 6.0, at + 4.0)?;
    }
    for &count in axis.counts() {
        let (at, below) = (x(count), HEIGHT - BOTTOM + 16.0);
        writeln!(svg, "<text x=\"{at:.1}\" y=\"{below}\" text-anchor=\"middle\">{count}</text>")?;
    }
    for (series, colour) in all.iter().zip(COLOURS) {
        let line: Vec<_> =
            series.points.iter().map(|&(count, cost)| format!("{:.1},{:.1}", x(count), y(cost))).collect();
        writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            line.join(" ")
        )?;
        for &(count, cost) in &series.points {
            writeln!(svg, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>", x(count), y(cost))?;
        }
    }
    for (place, (series, colour)) in all.iter().zip(COLOURS).enumerate() {
        let at = LEFT + 90.0 * place as f64;
        writeln!(svg, "<text x=\"{at}\" y=\"34\" fill=\"{colour}\">{}</text>", series.name)?;
    }
    Ok(())
}

/// How far lines lie apart, so that there are about five, of a round number.
fn step(dearest: f64) -> f64 {
    let power = 10_f64.powf((dearest / 5.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| dearest / step <= 5.0).unwrap_or(power)
}
