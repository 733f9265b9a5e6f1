//! Figures in columns: medians with their least and greatest.

use std::fmt::Write as _;

/// Median, least and greatest of some rounds, as one cell.
pub(crate) fn spread(figures: impl IntoIterator<Item = f64>, decimals: usize) -> String {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    let (Some(least), Some(greatest)) = (figures.first(), figures.last()) else {
        return "-".into();
    };
    let middle = figures.len() / 2;
    let median =
        if figures.len() % 2 == 1 { figures[middle] } else { f64::midpoint(figures[middle - 1], figures[middle]) };
    format!("{median:.decimals$} ({least:.decimals$} - {greatest:.decimals$})")
}

/// Prints rows under their heads, each column as wide as its widest cell; the first is left-aligned.
pub(crate) fn print<const COLUMNS: usize>(heads: [&str; COLUMNS], rows: &[[String; COLUMNS]]) {
    let width = |column: usize| {
        rows.iter().map(|row| row[column].len()).chain([heads[column].len()]).max().expect("the head is there")
    };
    let line = |cells: [&str; COLUMNS]| {
        let mut line = format!("  {:<width$}", cells[0], width = width(0));
        for (column, cell) in cells.iter().enumerate().skip(1) {
            let _ = write!(line, "  {cell:>width$}", width = width(column));
        }
        println!("{line}");
    };
    line(heads);
    for row in rows {
        line(row.each_ref().map(String::as_str));
    }
}
