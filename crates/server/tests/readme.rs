//! The programs that the README shows are those that are run: in `interop/`, and by `examples.rs` beside this file.

use std::{fs, path::Path};

#[test]
fn the_loops_in_the_readme_are_those_that_survive_kills_and_bad_networks() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    for program in ["go/resume/main.go", "python/resume.py", "node/resume.js"] {
        let text = fs::read_to_string(root.join("interop").join(program)).unwrap();
        let (_, rest) = text.split_once("[resume]\n").expect("the loop is marked");
        let (marked, _) = rest.split_once("[/resume]").expect("the loop is marked");
        // Without the comment sign of the closing mark.
        let (lines, _) = marked.rsplit_once('\n').expect("it has lines");
        assert!(readme.contains(lines.trim_end()), "{program} is not what the README shows");
        assert!(lines.trim_end().lines().count() <= 30, "{program} is longer than thirty lines");
    }
}

#[test]
fn the_source_in_the_readme_is_the_example_that_is_run_and_has_thirty_lines_at_most() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let example = fs::read_to_string(root.join("examples/primes.rs")).unwrap();
    assert!(readme.contains(&format!("```rust\n{example}```\n")), "examples/primes.rs is not what the README shows");
    assert!(example.lines().count() <= 30);
}
