//! Throughput: many runs at once, one alone, one with many readers.

use std::{
    thread,
    time::{Duration, Instant},
};

use outflow_proto::protobuf::Request;

use crate::{
    Bench, Outcome,
    drain::{Connection, Keep, LARGE, SMALL, Windows},
    process::{Process, pause},
    replay::{journaled, parameters},
};

/// Connections over which many streams are spread.
const CONNECTIONS: usize = 10;
/// The last responses may be taken before the server has let go of them.
const SETTLE: Duration = Duration::from_millis(50);

/// What a crowd of streams took.
pub(crate) struct Taken {
    pub(crate) responses: u64,
    pub(crate) wall: f64,
    pub(crate) cpu: f64,
}

impl Taken {
    pub(crate) fn print(&self, what: &str) {
        let millions = self.responses as f64 / 1e6;
        println!(
            "  {what}: {:.2} million/s, {:.4} server CPU s per million ({} responses in {:.2} s)",
            millions / self.wall,
            self.cpu / millions,
            self.responses,
            self.wall
        );
    }
}

/// Asks for all of `requests`, spread over connections, and drains them.
pub(crate) fn drain(process: &Process, requests: &[Request], windows: Windows) -> Outcome<Taken> {
    let connections = CONNECTIONS.min(requests.len());
    let before = process.cpu_time()?;
    let began = Instant::now();
    let counts = thread::scope(|scope| {
        let threads: Vec<_> = (0..connections)
            .map(|index| {
                scope.spawn(move || -> Outcome<u64> {
                    let mut connection = Connection::open(process.address, windows)?;
                    for request in requests.iter().skip(index).step_by(connections) {
                        connection.fetch(request, Keep::Nothing)?;
                    }
                    Ok(connection.finish()?.iter().map(|stream| stream.messages.count).sum())
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect::<Outcome<Vec<u64>>>()
    })?;
    let wall = began.elapsed().as_secs_f64();
    pause(SETTLE);
    let cpu = process.cpu_time()?.since(&before).as_secs_f64();
    Ok(Taken { responses: counts.iter().sum(), wall, cpu })
}

pub(crate) fn many(bench: &Bench) -> Outcome<()> {
    println!("\n1,000 runs at once, a reader each, durable before delivered");
    let responses = 10_000 / bench.shrink;
    for (windows, batch) in [(LARGE, "64"), (LARGE, "1"), (SMALL, "64")] {
        let (process, _store) = bench.start()?;
        for round in 0..bench.rounds {
            let request = |n| journaled(n, &[("responses", &responses.to_string()), ("batch", batch)]);
            let requests: Vec<_> = (0..1_000).map(|n| request(n + 1_000 * round)).collect();
            drain(&process, &requests, windows)?.print(&format!("{}, {batch} at once", windows.name));
        }
    }
    Ok(())
}

pub(crate) fn one(bench: &Bench) -> Outcome<()> {
    println!("\nOne run alone");
    let responses = 20_000_000 / bench.shrink;
    for batch in ["64", "1"] {
        let (process, _store) = bench.start()?;
        for round in 0..bench.rounds {
            let request = journaled(round, &[("responses", &responses.to_string()), ("batch", batch)]);
            drain(&process, &[request], LARGE)?.print(&format!("{batch} at once"));
        }
    }
    Ok(())
}

pub(crate) fn fan_out(bench: &Bench) -> Outcome<()> {
    println!("\nOne run, 1,000 live readers");
    let responses = 100_000 / bench.shrink;
    let (process, _store) = bench.start()?;
    let requests = |id: u32, pairs: &[(&str, &str)]| {
        let request = Request {
            id: id.cast_signed(),
            source: "shared".into(),
            parameters: parameters(pairs),
            ..Request::default()
        };
        vec![request; 1_000]
    };
    for round in 0..bench.rounds {
        // They are all there when it begins: its first response comes after a step.
        let pairs = [("jobs", "2"), ("step", "2s"), ("responses", &responses.to_string()), ("batch", "64")];
        let taken = drain(&process, &requests(round, &pairs), LARGE)?;
        taken.print("saturated (two jobs, the second after 2 s)");
    }
    // Long enough that the opening of the streams does not count.
    let seconds = 20;
    let pairs = [("responses", &*(100 * seconds).to_string()), ("every_us", "10000")];
    let mut slow = requests(77, &pairs);
    for request in &mut slow {
        request.source = "shared stamp".into();
    }
    let taken = drain(&process, &slow, LARGE)?;
    println!(
        "  100 responses a second: {:.2} µs of server CPU per delivery",
        taken.cpu * 1e6 / taken.responses as f64
    );
    Ok(())
}
