//! Second part: what a reader costs that stops reading its socket in the middle of a long stream.

use std::time::{Duration, Instant};

use crate::{
    Outcome,
    drain::{Connection, Keep, LARGE, SMALL, Windows},
    process::{Contender, Process, pause},
    stream, table,
};

/// More than any window and buffer holds, or the server would have ended the stream.
const RESPONSES: u32 = 5_000_000;

/// What each reader reads before it stops.
const READ_BYTES: u64 = 1 << 20;

const STALL: Duration = Duration::from_secs(3);
const SAMPLE: Duration = Duration::from_millis(100);

/// After the first reader as many more, each on its own connection: their share tells a reader's cost from what the
/// first stream of a process costs once.
const MORE_READERS: i32 = 15;

/// The stream that warms the process up; small enough to leave no memory behind.
const WARM_UP_RESPONSES: u32 = 1_000;

pub(crate) fn measure(contenders: &[Contender]) -> Outcome<()> {
    println!(
        "\nA reader that stops: it reads {} MiB of {RESPONSES} responses, then nothing for {STALL:?}; \
         then {MORE_READERS} more do the same",
        READ_BYTES >> 20
    );
    for windows in [SMALL, LARGE] {
        let rows = contenders
            .iter()
            .map(|contender| {
                row(contender, windows)
                    .map_err(|error| format!("{}, {}: {error}", contender.name, windows.name).into())
            })
            .collect::<Outcome<Vec<_>>>()?;
        println!("\n {}", windows.name);
        let heads = [
            "server",
            "resident KiB before",
            "with one stalled, most",
            "one reader costs",
            "each of the others costs",
            "kernel's send queue, each",
        ];
        table::print(heads, &rows);
    }
    Ok(())
}

fn row(contender: &Contender, windows: Windows) -> Outcome<[String; 6]> {
    let process = Process::start(contender.program)?;
    let mut warm_up = Connection::open(process.address, windows)?;
    warm_up.fetch(&stream::request(contender, WARM_UP_RESPONSES), Keep::Nothing)?;
    warm_up.finish()?;

    let before = process.resident_kib()?;
    let mut readers = vec![stalled(contender, &process, windows)?];
    let with_one = most_resident_kib(&process)?;
    for _ in 0..MORE_READERS {
        readers.push(stalled(contender, &process, windows)?);
    }
    let with_all = most_resident_kib(&process)?;
    let mut unsent = Vec::new();
    for reader in &readers {
        unsent.push(process.unsent_kib(reader.local_port()?)?.into());
    }
    Ok([
        contender.name.to_owned(),
        before.to_string(),
        with_one.to_string(),
        (with_one - before).to_string(),
        ((with_all - with_one) / MORE_READERS).to_string(),
        table::spread(unsent, 0),
    ])
}

fn stalled(contender: &Contender, process: &Process, windows: Windows) -> Outcome<Connection> {
    let mut reader = Connection::open(process.address, windows)?;
    reader.fetch(&stream::request(contender, RESPONSES), Keep::Nothing)?;
    reader.read_bytes(READ_BYTES)?;
    Ok(reader)
}

fn most_resident_kib(process: &Process) -> Outcome<i32> {
    let started = Instant::now();
    let mut most = process.resident_kib()?;
    while started.elapsed() < STALL {
        pause(SAMPLE);
        most = most.max(process.resident_kib()?);
    }
    Ok(most)
}
