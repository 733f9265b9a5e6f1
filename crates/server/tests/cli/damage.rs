//! A damaged block, in the live journal and in the archive: who reads that place is told `DATA_LOSS`, and all the rest,
//! of this run and of others, stays readable.

use std::{fs, path::Path};

use outflow_client::{Client, Code, Fetch, FetchError, Payload};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::program::{Server, run};

const LINES: u64 = 6_000;

/// Serves lines that are of one run and one place only. Every run is journaled.
fn start(folder: &TempDir, data: &Path) -> Server {
    let config = folder.path().join("outflow.toml");
    let command = format!("['seq', '-f', 'run {{id}} line %05g', '{LINES}']");
    let source = "[[source]]\nname = 'lines'\nkind = 'exec'\ndefault = true\nlinger = '1m'";
    fs::write(&config, format!("{source}\ncommand = {command}")).unwrap();
    Server::start(&["--config", config.to_str().unwrap(), "--data", data.to_str().unwrap()])
}

/// What a reader is given, and the status where it is not `OK`.
async fn read(server: &Server, fetch: Fetch) -> (Option<String>, Vec<(u64, String)>, Option<Code>) {
    let client = Client::connect(&server.address).await.unwrap();
    let mut given = Vec::new();
    let mut stream = match client.fetch(fetch).await {
        Ok(stream) => stream,
        Err(FetchError::Refused { status, .. }) => return (None, given, Some(status.code())),
        Err(error) => panic!("{error}"),
    };
    let run = stream.run_id().map(str::to_owned);
    while let Some(response) = stream.next().await {
        match response {
            Ok(response) => {
                let Payload::Text(text) = &response.payload else { panic!("{response:?}") };
                given.push((response.sequence, text.to_string()));
            }
            Err(FetchError::Status { status, .. }) => return (run, given, Some(status.code())),
            Err(error) => panic!("{error}"),
        }
    }
    assert!(stream.outcome().is_some(), "it is told the end, or had enough");
    (run, given, None)
}

/// Damages a line in the middle of run 2, in the one file of those named so that has it; says which line it is.
fn damage(data: &Path, extension: &str) -> u64 {
    let files = fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path());
    for path in files.filter(|path| path.extension().is_some_and(|of| of == extension)) {
        let mut bytes = fs::read(&path).unwrap();
        for line in LINES / 2..LINES / 2 + 10 {
            let text = format!("run 2 line {line:05}");
            let places: Vec<_> =
                bytes.windows(text.len()).enumerate().filter(|(_, window)| *window == text.as_bytes()).collect();
            // A line may lie across two pieces of a block.
            if let [(at, _)] = places[..] {
                bytes[at] ^= 0x20;
                fs::write(&path, bytes).unwrap();
                return line;
            }
        }
    }
    panic!("no file of {} has it", data.display());
}

/// Reads everything, and compares it with what there was.
async fn only_one_place_is_lost(server: &Server, runs: &[(String, Vec<(u64, String)>)], lost: u64) {
    for (index, (run, whole)) in runs.iter().enumerate() {
        let (_, given, status) = read(server, Fetch::run(run)).await;
        if index != 1 {
            assert_eq!((&given, status), (whole, None), "run {index} is another one");
            continue;
        }
        assert_eq!(status, Some(Code::DATA_LOSS));
        let first = given.len() as u64 + 1;
        assert!(0 < first - 1 && first <= lost && whole.starts_with(&given), "{first} is the first that is lost");
        // The last that is lost lies between the damaged line, and the last of all, behind which there is nothing.
        let (mut last, mut is_there) = (lost, LINES);
        let mut rest = Vec::new();
        while last < is_there {
            let middle = u64::midpoint(last, is_there);
            let (_, given, status) = read(server, Fetch::run(run).after(middle)).await;
            match status {
                None => (is_there, rest) = (middle, given),
                Some(status) => {
                    assert_eq!((status, given), (Code::DATA_LOSS, Vec::new()), "behind {middle}");
                    last = middle + 1;
                }
            }
        }
        assert_eq!(rest, whole[last as usize..], "what follows is there");
        // As much as one block holds.
        assert!(last < LINES && last - first < 4_000, "{first} to {last} are lost");
        for after in [first - 1, lost - 1] {
            let (_, given, status) = read(server, Fetch::run(run).after(after)).await;
            assert_eq!((given, status), (Vec::new(), Some(Code::DATA_LOSS)), "behind {after}");
        }
        let (_, before, status) = read(server, Fetch::run(run).after(5).limit(first - 6)).await;
        assert_eq!((&before[..], status), (&whole[5..first as usize - 1], None), "what is before is there");
    }
}

#[test]
fn a_damaged_block_is_data_loss_for_its_readers_and_nobody_else() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (served, backup) = (folder.path().join("served"), folder.path().join("backup"));
    let mut server = start(&folder, &served);
    let mut runs = Vec::new();
    for id in 1..=3 {
        let (run, whole, status) = runtime.block_on(read(&server, Fetch::id(id)));
        assert_eq!((whole.len() as u64, status), (LINES, None));
        runs.push((run.unwrap(), whole));
    }
    // In a backup all is in the archive.
    let (output, _) = run(&["data", "backup", served.to_str().unwrap(), backup.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    server.signal(Signal::KILL);
    server.wait();

    for (data, extension) in [(served, "journal"), (backup, "redb")] {
        let lost = damage(&data, extension);
        let server = start(&folder, &data);
        runtime.block_on(only_one_place_is_lost(&server, &runs, lost));
        // And new ones go on.
        let (_, whole, status) = runtime.block_on(read(&server, Fetch::id(4)));
        assert_eq!((whole.len() as u64, status), (LINES, None));
        drop(server);
        let (output, _) = run(&["data", "check", data.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1), "it is found: {output:?}");
    }
}
