//! Third part: a thousand of the tutorial's requests at once, five jobs of zero to four seconds each.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use outflow_proto::protobuf::{Request, Response};
use prost::Message as _;

use crate::{
    Outcome,
    drain::{Connection, Keep, SMALL, Stream},
    process::{Contender, Process, Program, Way, pause},
    table,
};

const CONNECTIONS: i32 = 10;
const FETCHES_PER_CONNECTION: i32 = 100;
const JOBS: u32 = 5;
const SETTLE: Duration = Duration::from_millis(50);
const PREFIX_BYTES: usize = 5;

pub(crate) fn measure(contenders: &[Contender]) -> Outcome<()> {
    println!(
        "\n{} fetches at once over {CONNECTIONS} connections, the tutorial's {JOBS} jobs each, {}",
        CONNECTIONS * FETCHES_PER_CONNECTION,
        SMALL.name
    );
    let mut rows = Vec::new();
    let mut measured: Vec<Program> = Vec::new();
    for contender in contenders {
        // The batch plays no part in this request, and the ready stream has no jobs that wait.
        if contender.program == Program::Peer(Way::Ready) || measured.contains(&contender.program) {
            continue;
        }
        measured.push(contender.program);
        rows.push(row(contender).map_err(|error| format!("{}: {error}", contender.name))?);
    }
    table::print(["server", "complete and in order", "wall s", "server's CPU s"], &rows);
    Ok(())
}

fn row(contender: &Contender) -> Outcome<[String; 4]> {
    let process = Process::start(contender.program)?;
    let address = process.address;
    let before = process.cpu_time()?;
    let started = Instant::now();
    let complete = thread::scope(|scope| {
        let clients: Vec<_> = (0..CONNECTIONS)
            .map(|number| scope.spawn(move || fetch_all(address, number, contender.program)))
            .collect();
        clients.into_iter().map(|client| client.join().expect("a client returns its failures")).sum::<Outcome<i32>>()
    })?;
    let wall_seconds = started.elapsed().as_secs_f64();
    pause(SETTLE);
    let cpu_seconds = process.cpu_time()?.since(&before).as_secs_f64();
    let name = match contender.program {
        Program::Outflow => "outflow",
        Program::Peer(_) => contender.name,
    };
    Ok([name.to_owned(), complete.to_string(), format!("{wall_seconds:.2}"), format!("{cpu_seconds:.3}")])
}

/// One connection's share. Returns how many fetches were complete and in order, which is all of them.
fn fetch_all(address: SocketAddr, connection_number: i32, program: Program) -> Outcome<i32> {
    let first = connection_number * FETCHES_PER_CONNECTION + 1;
    let ids = first..first + FETCHES_PER_CONNECTION;
    let mut connection = Connection::open(address, SMALL)?;
    for id in ids.clone() {
        connection.fetch(&Request { id, ..Request::default() }, Keep::Body)?;
    }
    let streams = connection.finish()?;
    for (id, stream) in ids.zip(&streams) {
        check(id, stream, program).map_err(|error| format!("id {id}: {error}"))?;
    }
    Ok(FETCHES_PER_CONNECTION)
}

/// One response a job, in the order in which their sleeps end. Only outflow's are numbered.
fn check(id: i32, stream: &Stream, program: Program) -> Outcome<()> {
    let mut body = stream.body.as_deref().unwrap_or_default();
    let mut job = 0;
    while let Some((prefix, rest)) = body.split_first_chunk::<PREFIX_BYTES>() {
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        let (message, rest) = rest.split_at(length);
        let response = Response::decode(message)?;
        let mut expected = Response { result: format!("Request #{job} For Id:{id}"), ..Response::default() };
        if program == Program::Outflow {
            (expected.sequence, expected.job) = (u64::from(job) + 1, job);
        }
        if response != expected {
            return Err(format!("{response:?} instead of {expected:?}").into());
        }
        job += 1;
        body = rest;
    }
    if job != JOBS {
        return Err(format!("{job} responses instead of {JOBS}").into());
    }
    Ok(())
}
