//! `outflow demo` is the tutorial, both sides of it.

use std::time::Duration;

use crate::program::{run, text};

#[test]
fn the_demo_is_the_tutorial() {
    let (output, took) = run(&["demo"]);
    assert!(output.status.success());
    assert!((Duration::from_secs(4)..Duration::from_secs(7)).contains(&took), "it took {took:?}");
    let stdout = text(&output.stdout);
    let mut lines: Vec<&str> = stdout
        .lines()
        .map(|line| {
            let (stamp, rest) = line.split_at(20);
            let shape: String = stamp.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
            assert_eq!(shape, "0000/00/00 00:00:00 ", "{line}");
            rest
        })
        .collect();
    // What the two sides say of one response may come in either order.
    assert_eq!((lines[0], lines[1], lines[12]), ("start server", "fetch response for id : 1", "finished"));
    lines[2..12].as_chunks_mut::<2>().0.iter_mut().for_each(|pair| pair.sort_unstable());
    let expected: Vec<String> = (0..5)
        .flat_map(|n| [format!("Resp received: Request #{n} For Id:1"), format!("finishing request number : {n}")])
        .collect();
    assert_eq!(lines[2..12], expected);
    assert_eq!(text(&output.stderr), "");
}
