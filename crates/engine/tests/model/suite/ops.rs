//! What may happen to an engine, and how often. Numbers that name a run, a reader or a place are taken modulo what there
//! is.

use proptest::prelude::*;

#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// A request that may start a run.
    Start { asked: Asked, linger: Linger, limit: u8 },
    /// The same request twice at once.
    StartTwice { asked: Asked, linger: Linger },
    /// A job is to do something more.
    Work { run: u8, job: u8, step: Step },
    /// A reader takes what there is.
    Read { reader: u8 },
    /// A reader leaves.
    Leave { reader: u8 },
    /// A run is read again.
    Resume { run: u8, from: From, linger: Linger, limit: u8 },
    /// A run is stopped.
    Stop { run: u8 },
    /// Somebody asks what a run is.
    Look { run: u8 },
    /// So many times ten seconds pass.
    Pass { tens: u8 },
    /// The wall clock shows something else.
    Clock { millis: u64 },
    /// Other threads have time to do what they can.
    Rest,
    /// The engine ends and another takes its store, perhaps more than a day later.
    Restart { how: How, is_next_day: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A run of its own.
    Lingering { kind: u8 },
    /// The run of a key.
    Keyed { key: u8 },
    /// The run of a source that shares what is under way.
    Shared { id: u8 },
    /// The run of a source that shares also what was complete within the hour.
    Reused { id: u8 },
    /// The same, and a key.
    KeyedReused { id: u8, key: u8 },
}

/// None, or one of a few that all leave a rest of five seconds, so that no time that passes ends exactly with one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Linger {
    Unset,
    Zero,
    Seconds15,
    Seconds105,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Emit { bytes: usize },
    EmitAll { count: u8, bytes: usize },
    EmitPartial { bytes: usize },
    End,
    Fail,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum From {
    After(u8),
    Last(u8),
    BeyondTail(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// With a drain.
    Ordered,
    /// In the middle of everything.
    Killed,
}

pub(crate) fn op() -> impl Strategy<Value = Op> {
    let limit = || prop_oneof![3 => Just(0_u8), 1 => 1..12_u8];
    prop_oneof![
        5 => (asked(), linger(), limit()).prop_map(|(asked, linger, limit)| Op::Start { asked, linger, limit }),
        2 => (asked(), linger()).prop_map(|(asked, linger)| Op::StartTwice { asked, linger }),
        18 => (any::<u8>(), any::<u8>(), step()).prop_map(|(run, job, step)| Op::Work { run, job, step }),
        8 => any::<u8>().prop_map(|reader| Op::Read { reader }),
        4 => any::<u8>().prop_map(|reader| Op::Leave { reader }),
        6 => (any::<u8>(), from(), linger(), limit())
            .prop_map(|(run, from, linger, limit)| Op::Resume { run, from, linger, limit }),
        1 => any::<u8>().prop_map(|run| Op::Stop { run }),
        2 => any::<u8>().prop_map(|run| Op::Look { run }),
        3 => (1..4_u8).prop_map(|tens| Op::Pass { tens }),
        1 => (0..u64::MAX >> 8).prop_map(|millis| Op::Clock { millis }),
        2 => Just(Op::Rest),
        3 => (prop_oneof![Just(How::Ordered), Just(How::Killed)], prop::bool::weighted(0.3))
            .prop_map(|(how, is_next_day)| Op::Restart { how, is_next_day }),
    ]
}

fn asked() -> impl Strategy<Value = Asked> {
    prop_oneof![
        4 => (0..64_u8).prop_map(|kind| Asked::Lingering { kind }),
        2 => (0..3_u8).prop_map(|key| Asked::Keyed { key }),
        2 => (0..2_u8).prop_map(|id| Asked::Shared { id }),
        2 => (0..2_u8).prop_map(|id| Asked::Reused { id }),
        1 => (0..2_u8, 3..5_u8).prop_map(|(id, key)| Asked::KeyedReused { id, key }),
    ]
}

fn linger() -> impl Strategy<Value = Linger> {
    prop_oneof![Just(Linger::Unset), Just(Linger::Zero), Just(Linger::Seconds15), Just(Linger::Seconds105)]
}

/// Lengths round the places where something changes: shared from 16 KiB, split from 32 KiB.
fn bytes() -> impl Strategy<Value = usize> {
    prop_oneof![8 => 0..100_usize, 1 => 16_000..17_000_usize, 1 => 32_000..70_000_usize]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => bytes().prop_map(|bytes| Step::Emit { bytes }),
        3 => (1..20_u8, 0..300_usize).prop_map(|(count, bytes)| Step::EmitAll { count, bytes }),
        1 => bytes().prop_map(|bytes| Step::EmitPartial { bytes }),
        3 => Just(Step::End),
        1 => Just(Step::Fail),
    ]
}

fn from() -> impl Strategy<Value = From> {
    prop_oneof![
        4 => any::<u8>().prop_map(From::After),
        2 => (1..40_u8).prop_map(From::Last),
        1 => any::<u8>().prop_map(From::BeyondTail),
    ]
}
