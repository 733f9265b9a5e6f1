//! A file as it is when it is asked for.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::symlink},
    time::Duration,
};

use outflow_client::{Code, End, Fetch, FetchError, Outcome, Payload, Responses};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::*;
use crate::program::{outflow, run, text};

const CHUNK: usize = 64 * 1024;

fn is_complete(stream: &Responses) -> bool {
    matches!(stream.outcome(), Some(Outcome::Ended { end: End::Complete, .. }))
}

fn code(refused: Result<Responses, FetchError>) -> (Option<Code>, String) {
    let Err(error) = refused else { panic!("it is answered") };
    (error.code(), error.to_string())
}

#[test]
fn a_file_comes_in_chunks_of_bytes_and_its_size_is_told_before() {
    let place = Place::new("");
    let content = noise(3 * CHUNK + 1000);
    place.write("report.csv", &content);
    within_time(async {
        for linger in [None, Some(LONG)] {
            let fetch = file("report.csv");
            let mut stream = place.fetch(linger.map_or(fetch.clone(), |linger| fetch.linger(linger))).await.unwrap();
            assert_eq!(stream.expected_bytes(), Some(content.len() as u64));
            let (chunks, error) = rest(&mut stream).await;
            assert!(error.is_none() && is_complete(&stream), "{error:?}");
            assert_eq!(chunks.iter().map(Vec::len).collect::<Vec<_>>(), [CHUNK, CHUNK, CHUNK, 1000]);
            assert_eq!(chunks.concat(), content);
            if linger.is_some() {
                let mut again = place.fetch(Fetch::run(stream.run_id().unwrap()).after(3)).await.unwrap();
                assert_eq!(again.expected_bytes(), Some(content.len() as u64), "of all of it");
                assert_eq!(rest(&mut again).await.0.concat(), content[3 * CHUNK..]);
            }
        }
        place.closed("report.csv").await;
    });
}

#[test]
fn chunks_are_as_long_as_the_configuration_says() {
    for chunk_bytes in [1024, 20_000, 100_000, 1024 * 1024] {
        let place = Place::new(&format!("chunk_bytes = {chunk_bytes}"));
        let content = noise(2_500_001);
        place.write("a", &content);
        within_time(async {
            let mut stream = place.fetch(file("a")).await.unwrap();
            let mut all = Vec::new();
            let mut values = vec![0];
            while let Some(response) = stream.next().await {
                let response = response.unwrap();
                all.extend_from_slice(payload(&response));
                *values.last_mut().unwrap() += payload(&response).len();
                if !response.partial {
                    values.push(0);
                }
            }
            // The last chunk; behind it nothing.
            assert_eq!(values[values.len() - 2..], [content.len() % chunk_bytes, 0]);
            assert!(values[..values.len() - 2].iter().all(|bytes| *bytes == chunk_bytes), "{values:?}");
            assert!(all == content);
        });
    }
}

#[test]
fn lines_and_pieces_are_texts_and_the_last_needs_no_end() {
    for (split, content, pieces) in [
        ("'lines'", "one\n\ntwo, é\nlast", vec!["one", "", "two, é", "last"]),
        ("'lines'", "one\n", vec!["one"]),
        ("{ delimiter = '--' }", "a--b-c----d--", vec!["a", "b-c", "", "d"]),
        ("'lines'", "", vec![]),
    ] {
        let place = Place::new(&format!("split = {split}"));
        place.write("a", content);
        within_time(async {
            let mut stream = place.fetch(file("a")).await.unwrap();
            assert_eq!(texts(&mut stream, pieces.len()).await, pieces);
            assert!(stream.next().await.is_none() && is_complete(&stream));
        });
    }
}

#[test]
fn an_empty_file_is_a_run_without_responses() {
    let place = Place::new("");
    place.write("a", "");
    within_time(async {
        let mut stream = place.fetch(file("a")).await.unwrap();
        assert_eq!(stream.expected_bytes(), Some(0));
        assert!(stream.next().await.is_none() && is_complete(&stream));
    });
}

#[test]
fn chunks_of_text_end_between_characters() {
    let place = Place::new("payload = 'text'\nchunk_bytes = 1024");
    let content = "aé€😀".repeat(20_000);
    place.write("a", &content);
    place.write("bad", b"good\xffbad");
    within_time(async {
        let mut stream = place.fetch(file("a")).await.unwrap();
        let (chunks, error) = rest(&mut stream).await;
        assert!(error.is_none(), "{error:?}");
        assert!(chunks.iter().all(|chunk| chunk.len() <= 1024 && str::from_utf8(chunk).is_ok()));
        assert!(chunks[..chunks.len() - 1].iter().all(|chunk| chunk.len() > 1020));
        assert!(chunks.concat() == content.as_bytes());

        let mut stream = place.fetch(file("bad")).await.unwrap();
        let (_, error) = rest(&mut stream).await;
        let error = error.unwrap();
        assert!(error.to_string().contains("not UTF-8 at byte 4"), "{error}");
    });
}

#[test]
fn what_is_no_text_can_be_replaced() {
    let place = Place::new("payload = 'lossy'\nsplit = 'lines'");
    place.write("a", b"good\nb\xffd\n");
    within_time(async {
        let mut stream = place.fetch(file("a")).await.unwrap();
        assert_eq!(texts(&mut stream, 2).await, ["good", "b\u{fffd}d"]);
    });
}

#[test]
fn what_cannot_be_had_is_refused_and_nothing_outside_is_told() {
    let place = Place::new("");
    let outside = place.folder.path().join("outside");
    fs::write(&outside, "secret").unwrap();
    symlink(&outside, place.path("absolute")).unwrap();
    symlink("../outside", place.path("relative")).unwrap();
    symlink("../none", place.path("dangling")).unwrap();
    fs::create_dir(place.path("sub")).unwrap();
    fs::write(place.path("").join(OsStr::from_bytes(b"\xff")), "not UTF-8").unwrap();
    mknodat(CWD, place.path("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    within_time(async {
        let missing =
            ["none", "sub", "sub/none", "absolute", "relative", "dangling", "pipe", "%2e%2e/outside", "\u{fffd}"];
        let mut said = Vec::new();
        for name in missing {
            let (code, message) = code(place.fetch(file(name)).await);
            assert_eq!(code, Some(Code::NOT_FOUND), "{name}: {message}");
            said.push(message);
        }
        // What is outside and is there is answered as what is nowhere.
        assert!(said.iter().all(|message| *message == said[0]), "{said:#?}");
        let no_path =
            ["", "..", "../outside", "/etc/passwd", "sub/../../outside", "./sub", "a//b", "a/", &"x".repeat(300)];
        for name in no_path {
            let (code, message) = code(place.fetch(file(name)).await);
            assert_eq!(code, Some(Code::INVALID_ARGUMENT), "{name}: {message}");
            assert!(message.contains("parameters.name"), "{message}");
        }
        let (code, message) = code(place.fetch(file("a\0b")).await);
        assert_eq!(code, Some(Code::INVALID_ARGUMENT), "{message}");
        // And whoever asks well is answered.
        place.write("a", "good");
        let mut stream = place.fetch(file("a")).await.unwrap();
        assert_eq!(texts(&mut stream, 1).await, ["good"]);
    });
}

#[test]
fn a_file_that_becomes_shorter_while_it_is_read_fails_its_job_and_no_other() {
    let place = Place::new("");
    sparse(&place.path("shrinks"), 64 << 20);
    place.write("good", noise(100_000));
    within_time(async {
        let client = place.client().await;
        let mut stream = client.fetch(file("shrinks")).await.unwrap();
        some(&mut stream, 1).await;
        sparse(&place.path("shrinks"), 0);
        let mut good = client.fetch(file("good")).await.unwrap();
        assert_eq!(rest(&mut good).await.0.concat(), noise(100_000));
        let mut failed = None;
        let error = loop {
            match stream.next().await.expect("it fails") {
                Ok(response) => {
                    if let Payload::Error(error) = response.payload {
                        failed = Some(error);
                    }
                }
                Err(error) => break error,
            }
        };
        assert!(failed.is_some(), "its place in the sequence");
        assert_eq!(error.code(), Some(Code::ABORTED));
        assert!(error.to_string().contains("became shorter while it was read: it had 67108864 bytes"), "{error}");
        assert!(matches!(stream.outcome(), Some(Outcome::Ended { end: End::Failed, jobs_failed: 1, .. })));
    });
}

#[test]
fn a_file_that_grows_meanwhile_is_read_to_where_it_ended() {
    let place = Place::new("");
    sparse(&place.path("a"), 32 << 20);
    within_time(async {
        let mut stream = place.fetch(file("a")).await.unwrap();
        some(&mut stream, 1).await;
        place.append("a", "more");
        let (chunks, error) = rest(&mut stream).await;
        assert!(error.is_none());
        assert_eq!(chunks.iter().map(Vec::len).sum::<usize>() + CHUNK, 32 << 20);
    });
}

#[test]
fn a_reader_that_waits_has_the_file_wait_and_one_that_leaves_has_it_closed() {
    let place = Place::new("");
    sparse(&place.path("huge"), 256 << 20);
    within_time(async {
        let client = outflow_client::Client::builder().stream_window_bytes(256 * 1024);
        let client = client.connect(&place.server.address).await.unwrap();
        let mut streams = Vec::new();
        let before = (place.server.bytes_read(), place.server.memory_kib("VmRSS"));
        for _ in 0..8 {
            let mut stream = client.fetch(file("huge")).await.unwrap();
            some(&mut stream, 1).await;
            streams.push(stream);
        }
        // As long as it takes to read all of it many times.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (read, memory) =
            (place.server.bytes_read() - before.0, place.server.memory_kib("VmRSS").saturating_sub(before.1));
        assert!(read < 16 << 20, "{read} bytes were read for readers that wait");
        assert!(memory < 16 << 10, "{memory} KiB more for 8 readers that wait");
        assert!(place.is_open("huge"));
        drop(streams);
        place.closed("huge").await;
    });
}

#[test]
fn a_run_that_is_stopped_closes_its_file() {
    let place = Place::new("follow = true");
    place.write("log", "line\n");
    within_time(async {
        let client = place.client().await;
        let mut stream = client.fetch(file("log").linger(LONG)).await.unwrap();
        some(&mut stream, 1).await;
        assert!(place.is_open("log"));
        let run = client.stop(stream.run_id().unwrap()).await.unwrap();
        assert!(!run.is_running());
        let (_, error) = rest(&mut stream).await;
        assert_eq!(error.unwrap().code(), Some(Code::CANCELLED));
        place.closed("log").await;
    });
}

#[test]
fn who_left_in_the_middle_goes_on_behind_what_it_had() {
    let place = Place::new("linger = '5m'");
    let content = noise(4 << 20);
    place.write("a", &content);
    within_time(async {
        let mut stream = place.fetch(file("a")).await.unwrap();
        let first = some(&mut stream, 5).await.concat();
        let run = stream.run_id().unwrap().to_owned();
        drop(stream);
        let mut stream = place.fetch(Fetch::run(run).after(5)).await.unwrap();
        let (chunks, error) = rest(&mut stream).await;
        assert!(error.is_none() && is_complete(&stream));
        assert!([first, chunks.concat()].concat() == content);
    });
}

#[test]
fn limits_that_are_reached_are_told() {
    let place = Place::with("[limits]\nrun_bytes_max = 1_000_000", "");
    place.write("a", noise(2 << 20));
    within_time(async {
        let mut stream = place.fetch(file("a").linger(LONG)).await.unwrap();
        let (chunks, error) = rest(&mut stream).await;
        assert_eq!(error.unwrap().code(), Some(Code::RESOURCE_EXHAUSTED));
        // What is gathered at once is the last of it: a window, which its last chunk may pass.
        let (bytes, once) = (chunks.concat().len(), outflow::Limits::default().window_bytes + CHUNK);
        assert!(bytes <= 1_000_000 + once, "{bytes} bytes");
        let mut stream = place.fetch(file("a").limit(2)).await.unwrap();
        let (chunks, error) = rest(&mut stream).await;
        assert!(error.is_none() && chunks.len() == 2);
        assert!(matches!(stream.outcome(), Some(Outcome::Limit { .. })));
    });
}

#[test]
fn a_downloaded_file_is_the_file() {
    let place = Place::new("linger = '1m'");
    let content = noise(3_333_333);
    place.write("a", &content);
    let copy = place.folder.path().join("copy");
    let (output, _) = place.server.fetch(&["1", "--param", "name=a", "--output", copy.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(fs::read(copy).unwrap() == content);
}

#[test]
fn what_a_configuration_gets_wrong_is_told_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("outflow.toml");
    fs::write(folder.path().join("a-file"), "").unwrap();
    for (settings, told) in [
        ("root = 'none'\npath = 'a'", "outflow.toml:4:"),
        ("root = 'none'\npath = 'a'", "it is the folder that files are read from"),
        ("root = 'a-file'\npath = 'a'", "is no folder"),
        ("root = '{id}'\npath = 'a'", "it is the same for every request"),
        ("root = '.'\npath = '/etc/{id}'", "begins with `/`"),
        ("root = '.'\npath = '../a'", "are no names of files"),
        ("root = '.'\npath = '{parameters.x}'", "no parameter `x` is declared"),
        ("root = '.'\npath = 'a'\nchunk_bytes = 10", "1024 to 1048576 bytes are wanted"),
        ("root = '.'\npath = 'a'\nsplit = 'lines'\nchunk_bytes = 65536", "it is about split"),
        ("root = '.'\npath = 'a'\nfolow = true", "did you mean `follow`?"),
        ("path = 'a'", "missing field `root`"),
    ] {
        fs::write(&config, format!("[[source]]\nname = 'files'\nkind = 'file'\n{settings}\n")).unwrap();
        let (output, _) = run(&["config", "check", config.to_str().unwrap()]);
        assert!(!output.status.success());
        let said = [text(&output.stdout), text(&output.stderr)].concat();
        assert!(said.contains(told), "{settings}: {said}");
    }
}

#[test]
fn the_example_serves_its_own_reports() {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/file.toml");
    let server = crate::program::Server::start(&["--config", config]);
    let (output, _) = server.fetch(&["0", "--source", "reports", "--param", "name=rivers"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/reports/rivers.csv");
    assert!(output.stdout == fs::read(report).unwrap());
    let (output, _) = server.fetch(&["0", "--source", "rows", "--param", "name=rivers", "--limit", "2"]);
    assert_eq!(text(&output.stdout).lines().count(), 2);
    let mut following = outflow(&["fetch", "7", "--server", &server.address, "--limit", "1"]);
    let (followed, told) = (following.output().unwrap(), "the service began");
    assert!(text(&followed.stdout).contains(told), "{followed:?}");
}
