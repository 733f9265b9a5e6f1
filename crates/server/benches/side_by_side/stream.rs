//! First part: what one long stream of small responses costs a server.

use std::time::{Duration, Instant};

use outflow_proto::protobuf::Request;

use crate::{
    Outcome,
    drain::{Connection, Keep, LARGE, SMALL, Windows},
    process::{Bystanders, Contender, ORDINARY, Process, pause},
    table,
};

/// The first stream of a process pays for its memory and code pages; it is not counted.
const WARM_UP_RESPONSES: u32 = 100_000;

/// After the client has everything the server may still have to let go of the stream; that is counted.
const SETTLE: Duration = Duration::from_millis(50);

struct Sample {
    cpu_seconds: f64,
    wall_seconds: f64,
    message_bytes: u64,
}

/// Asks `simulate` for one job that emits as fast as it is taken.
pub(crate) fn request(contender: &Contender, responses: u32) -> Request {
    let responses = responses.to_string();
    let parameters = [("jobs", "1"), ("step", "0s"), ("responses", &responses), ("batch", contender.batch)];
    let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    Request { id: 1, parameters, ..Request::default() }
}

pub(crate) fn measure(contenders: &[Contender], rounds: u32, responses: u32) -> Outcome<()> {
    println!("\nOne stream of {responses} responses, {rounds} rounds in turn: median (least - greatest)");
    for windows in [SMALL, LARGE] {
        let mut servers = Vec::new();
        for contender in contenders {
            let process =
                Process::start(contender.program).map_err(|error| format!("{}: {error}", contender.name))?;
            sample(contender, &process, windows, WARM_UP_RESPONSES)?;
            servers.push((contender, process, Vec::new()));
        }
        let watch = |servers: &[(_, Process, _)]| Bystanders::watch(servers.iter().map(|(_, process, _)| process));
        let before = watch(&servers)?;
        for _ in 0..rounds {
            for (contender, process, samples) in &mut servers {
                samples.push(sample(contender, process, windows, responses)?);
            }
        }
        let others = before.cores(&watch(&servers)?);
        let samples: Vec<_> = servers.into_iter().map(|(contender, _, samples)| (contender, samples)).collect();
        print(windows, responses, &samples);
        println!("  (other processes on this machine kept {others:.2} cores busy meanwhile)");
    }
    Ok(())
}

fn sample(contender: &Contender, process: &Process, windows: Windows, responses: u32) -> Outcome<Sample> {
    let subject = |error| format!("{}, {}: {error}", contender.name, windows.name);
    let mut connection = Connection::open(process.address, windows).map_err(subject)?;
    let before = process.cpu_time()?;
    let started = Instant::now();
    connection.fetch(&request(contender, responses), Keep::Nothing).map_err(subject)?;
    let streams = connection.finish().map_err(subject)?;
    let wall_seconds = started.elapsed().as_secs_f64();
    pause(SETTLE);
    let cpu_seconds = process.cpu_time()?.since(&before).as_secs_f64();

    let messages = &streams[0].messages;
    if messages.count != u64::from(responses) {
        return Err(subject(format!("{} responses instead of {responses}", messages.count).into()).into());
    }
    Ok(Sample { cpu_seconds, wall_seconds, message_bytes: messages.bytes })
}

fn print(windows: Windows, responses: u32, samples: &[(&Contender, Vec<Sample>)]) {
    let millions = f64::from(responses) / 1e6;
    let ordinary = samples.iter().find(|(contender, _)| contender.name == ORDINARY.name);
    let rows: Vec<_> = samples
        .iter()
        .map(|(contender, samples)| {
            let cpu = |sample: &Sample| sample.cpu_seconds;
            let pairs =
                ordinary.iter().flat_map(|(_, ordinary)| ordinary.iter().map(cpu).zip(samples.iter().map(cpu)));
            // Every round has the same messages.
            let tenths =
                samples.iter().map(|sample| sample.message_bytes).max().unwrap_or(0) * 10 / u64::from(responses);
            [
                contender.name.to_owned(),
                table::spread(samples.iter().map(cpu), 3),
                table::spread(samples.iter().map(|sample| sample.cpu_seconds / millions), 4),
                table::spread(pairs.map(|(ordinary, this)| ordinary / this), 1),
                table::spread(samples.iter().map(|sample| sample.wall_seconds), 2),
                table::spread(samples.iter().map(|sample| millions / sample.wall_seconds), 2),
                format!("{}.{}", tenths / 10, tenths % 10),
            ]
        })
        .collect();
    println!("\n {}", windows.name);
    let heads = [
        "server",
        "server's CPU s",
        "CPU s per million",
        "times cheaper than tonic mpsc",
        "wall s",
        "million/s",
        "bytes a message",
    ];
    table::print(heads, &rows);
}
