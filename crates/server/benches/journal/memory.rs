//! What idle journaled runs hold, each with a reader: before, and a minute after each has sent a burst.

use std::{
    thread,
    time::{Duration, Instant},
};

use outflow_proto::protobuf::Request;

use crate::{
    Bench, Outcome,
    drain::{Connection, Keep, LARGE},
    process::Process,
    replay::parameters,
};

pub(crate) fn idle(bench: &Bench) -> Outcome<()> {
    let runs = 10_000 / bench.shrink;
    println!("\n{runs} idle runs with a reader each, over 10 connections");
    let minute = if bench.shrink == 1 { 60 } else { 1 };
    for burst in [0, 100_000_u64] {
        let (process, _store) = bench.start()?;
        // Its port is known before its store is open: what is loaded by then depends on who is faster.
        let started = process.resident_kib()?;
        one_run(&process, None)?;
        let served = process.resident_kib()?;
        // The first journaled run loads code of its own, whatever follows.
        one_run(&process, Some(prost_types::Duration { seconds: 1, nanos: 0 }))?;
        let empty = process.resident_kib()?;
        // The first job emits at once, the second waits for an hour.
        let burst_of = (burst / 1_000).max(1).to_string();
        let size = if burst == 0 { "0" } else { "980" };
        let pairs = [("jobs", "2"), ("step", "1h"), ("responses", &*burst_of), ("size", size)];
        let mut connections = Vec::new();
        for index in 0..10 {
            let mut connection = Connection::open(process.address, LARGE)?;
            for n in 0..runs / 10 {
                let linger = Some(prost_types::Duration { seconds: 1, nanos: 0 });
                let id = i32::try_from(index * runs + n)?;
                let request = Request { id, linger, parameters: parameters(&pairs), ..Request::default() };
                connection.fetch(&request, Keep::Nothing)?;
            }
            let responses = runs / 10 * burst_of.parse::<u64>()?;
            connection.read_messages(responses)?;
            connections.push(connection);
        }
        let at_once = process.resident_kib()? - empty;
        // Their client is there meanwhile, and answers the server's PINGs.
        let until = Instant::now() + Duration::from_secs(minute);
        thread::scope(|scope| {
            let threads = connections.iter_mut().map(|connection| scope.spawn(move || connection.stay_until(until)));
            let threads: Vec<_> = threads.collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
        })?;
        let later = process.resident_kib()? - empty;
        let each = |kib: i32| f64::from(kib) / runs as f64;
        println!(
            "  after {burst} bytes each: {:.2} KiB a stream at once, {:.2} KiB after {minute} s; and once {} KiB for the first \
             journaled run, after {} KiB for opening the store and a plain run",
            each(at_once),
            each(later),
            empty - served,
            served - started,
        );
    }
    Ok(())
}

/// One run of one response on a connection of its own; journaled, where it is to linger.
fn one_run(process: &Process, linger: Option<prost_types::Duration>) -> Outcome<()> {
    let mut connection = Connection::open(process.address, LARGE)?;
    let pairs = [("jobs", "1"), ("step", "0s")];
    connection.fetch(&Request { linger, parameters: parameters(&pairs), ..Request::default() }, Keep::Nothing)?;
    connection.read_messages(1)
}
