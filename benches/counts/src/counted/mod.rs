//! What is counted: fixed pieces of work, each of units that are alike. None depends on time, on chance, or on which of two
//! threads is faster.

use crate::Outcome;

mod body;
mod client;
mod engine;

/// A piece of work.
pub(crate) struct Work {
    pub(crate) name: &'static str,
    /// What one of them is.
    pub(crate) unit: &'static str,
    /// Does so many of them.
    pub(crate) run: fn(u64),
    /// How many, so that a wave of a few (a chunk of responses, say) counts for little.
    pub(crate) times: u64,
    pub(crate) threads: Threads,
}

/// How many threads take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Threads {
    One,
    /// The committer, too.
    Two,
}

const fn one(name: &'static str, run: fn(u64), times: u64, unit: &'static str) -> Work {
    Work { name, unit, run, times, threads: Threads::One }
}

const fn two(name: &'static str, run: fn(u64), times: u64, unit: &'static str) -> Work {
    Work { name, unit, run, times, threads: Threads::Two }
}

/// All of it, from the job to the client.
pub(crate) const WORK: &[Work] = &[
    one("frame", engine::frames, 50_000, "head of a small frame, written"),
    one("emit", engine::emit, 50_000, "small response, emitted alone and taken in a chunk"),
    one("emit_all", engine::emit_all, 51_200, "small response, emitted with 63 others and taken in a chunk"),
    one("emit-large", engine::emit_large, 5_000, "response of 64 KiB, emitted and taken"),
    one("quiet", engine::quiet, 5_000, "small response that its reader waits for"),
    two("commit", engine::commit, 2_000, "64 small responses that their reader waits for, durable in memory"),
    two("fan-out", engine::fan_out, 32_000, "one of 64 readers of such a commit"),
    one("body", body::small, 51_200, "small response, from emit_all to DATA frames"),
    one("body-large", body::large, 5_000, "response of 64 KiB, from emit to DATA frames"),
    one("split", client::split, 50_000, "small message, split from what was received"),
    one("decode", client::decode, 50_000, "small response, split and decoded"),
];

/// The work of this name.
pub(crate) fn find(name: &str) -> Outcome<&'static Work> {
    let names: Vec<_> = WORK.iter().map(|work| work.name).collect();
    let found = WORK.iter().find(|work| work.name == name);
    found.ok_or_else(|| format!("nothing is called {name:?}; there are {names:?}").into())
}
