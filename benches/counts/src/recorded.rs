//! The recorded counts, and what is made of a difference. It owns `counts.toml`.

use std::{collections::BTreeMap, fmt, fmt::Write as _, fs, process::Command};

use crate::{Outcome, callgrind};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/counts.toml");

/// How far a count may be from what is recorded, as a part of it. The same program gives the same count to a tenth of a
/// percent; another version of libc's allocator or of valgrind moves some by one or two.
const TOLERANCE: f64 = 0.05;

/// Instructions by the name of the work.
#[derive(Default)]
pub(crate) struct Counts(BTreeMap<String, f64>);

impl Counts {
    /// The recorded ones: lines of `"name" = count` and of comments.
    pub(crate) fn read() -> Outcome<Self> {
        let text = fs::read_to_string(FILE).map_err(|error| format!("{FILE}: {error}"))?;
        let mut counts = Self::default();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let count = line.split_once(" = ").and_then(|(name, count)| Some((name, count.parse().ok()?)));
            let (name, count) = count.ok_or_else(|| format!("{FILE}: {line:?} is no `\"name\" = count`"))?;
            counts.set(name.trim_matches('"'), count);
        }
        Ok(counts)
    }

    pub(crate) fn write(&self) -> Outcome<()> {
        let mut text = String::new();
        writeln!(
            text,
            "# Instructions, see `src/counted/`. Written by `cargo run --release -p outflow-counts -- --record`, with"
        )?;
        for program in ["rustc", "valgrind"] {
            writeln!(text, "# {}", version(program)?)?;
        }
        for (name, count) in &self.0 {
            writeln!(text, "\"{name}\" = {count:.1}")?;
        }
        Ok(fs::write(FILE, text)?)
    }

    pub(crate) fn set(&mut self, name: &str, count: f64) {
        self.0.insert(name.to_owned(), count);
    }

    pub(crate) fn of(&self, name: &str) -> Outcome<f64> {
        self.0.get(name).copied().ok_or_else(|| format!("{name} is not in {FILE}: record it").into())
    }

    /// # Errors
    /// Where there is a count of what nobody does any more.
    pub(crate) fn has_only(&self, names: &[&str]) -> Outcome<()> {
        match self.0.keys().find(|name| !names.contains(&name.as_str())) {
            Some(unknown) => Err(format!("{unknown} is in {FILE}, but nothing of that name is counted").into()),
            None => Ok(()),
        }
    }
}

/// What a count is beside the recorded one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    Same,
    Dearer,
    Cheaper,
}

impl Judgement {
    pub(crate) fn of(was: f64, is: f64) -> Self {
        if is > was * (1.0 + TOLERANCE) {
            Self::Dearer
        } else if is < was * (1.0 - TOLERANCE) {
            Self::Cheaper
        } else {
            Self::Same
        }
    }
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Same => "       ",
            Self::Dearer => "DEARER ",
            Self::Cheaper => "CHEAPER",
        })
    }
}

/// What to do about a difference.
pub(crate) fn advice() -> Outcome<String> {
    Ok(format!(
        "\nSome counts are more than {:.0} % from those in {FILE}.\n\
         `callgrind_annotate` shows the functions: its files are in {}, a part of the work done once and twice.\n\
         Where the change is meant, a gain too, `cargo run --release -p outflow-counts -- --record` records it; commit that\n\
         with the reason.",
        TOLERANCE * 100.0,
        callgrind::folder()?.display()
    ))
}

fn version(program: &str) -> Outcome<String> {
    let output = Command::new(program).arg("--version").output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
