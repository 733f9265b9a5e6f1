//! `outflow data`: directories as they are left behind and while they are served.

use std::fs;

use rustix::process::Signal;

use crate::program::{Server, run, text};

/// A server whose every run is journaled in `data`.
fn start(config: &str, data: &str) -> Server {
    fs::write(config, "[[source]]\nname = 'quick'\nkind = 'simulate'\nstep = '1ms'\ndefault = true\nlinger = '1m'")
        .unwrap();
    Server::start(&["--config", config, "--data", data])
}

/// What `outflow data` says to stdout and stderr, and its exit code.
fn data(arguments: &[&str]) -> (String, String, i32) {
    let (output, _) = run(&[&["data"], arguments].concat());
    (text(&output.stdout).to_owned(), text(&output.stderr).to_owned(), output.status.code().unwrap())
}

#[test]
fn a_directory_is_backed_up_while_it_is_served_and_checked_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (config, served, backup) = (path("outflow.toml"), path("served"), path("backup"));
    let mut server = start(&config, &served);
    for id in ["1", "2", "3"] {
        assert!(server.fetch(&[id]).0.status.success());
    }
    let (stdout, stderr, code) = data(&["backup", &served, &backup]);
    assert_eq!((code, stdout), (0, format!("{backup}: a backup of {served}\n")), "{stderr}");
    server.line("made a backup");
    let (_, stderr, code) = data(&["backup", &served, &backup]);
    assert!(code == 1 && stderr.contains("is there already"), "{stderr}");
    for command in ["check", "compact"] {
        let (_, stderr, code) = data(&[command, &served]);
        assert!(code == 1 && stderr.contains("in use by another outflow (process"), "{stderr}");
        assert!(!stderr.contains("--data"), "it has no such option: {stderr}");
    }
    server.signal(Signal::TERM);
    assert!(server.wait().0.success());

    for directory in [&served, &backup] {
        let (stdout, stderr, code) = data(&["check", directory]);
        assert_eq!((code, &stderr[..]), (0, ""));
        assert!(
            stdout.starts_with(directory)
                && stdout.contains(": 3 runs, ")
                && stdout.ends_with("B: nothing is damaged\n")
                && !stdout.contains("MiB"),
            "{stdout}"
        );
        let (stdout, stderr, code) = data(&["compact", directory]);
        assert!(code == 0 && stdout.contains("iB before"), "{stdout}{stderr}");
    }
    // It is served as it is.
    let server = start(&config, &backup);
    assert!(server.fetch(&["4"]).0.status.success());
}

#[test]
fn a_directory_that_cannot_be_served_is_said_before_anything_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (config, served, others) = (path("outflow.toml"), path("served"), path("others"));
    fs::create_dir(&others).unwrap();
    fs::write(folder.path().join("others/letter.txt"), "dear").unwrap();
    let _server = start(&config, &served);
    for (data, said) in [(&served, "in use by another outflow"), (&others, "no data directory"), (&config, "--data")]
    {
        let (output, _) = run(&["serve", "--listen", "127.0.0.1:0", "--data", data]);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(said) && !stderr.contains("panicked"), "{stderr}");
        assert!(!stderr.contains("start server") && !stderr.contains("plain request"), "{stderr}");
    }
}

#[test]
fn what_is_no_data_directory_is_said_and_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().to_str().unwrap();
    for arguments in [&["check", directory][..], &["compact", directory], &["backup", directory, "/nowhere/at/all"]] {
        let (stdout, stderr, code) = data(arguments);
        assert_eq!((code, &stdout[..]), (1, ""), "{stderr}");
        assert!(stderr.contains(directory) && stderr.contains("is no data directory"), "{stderr}");
    }
    assert_eq!(fs::read_dir(directory).unwrap().count(), 0);
    let (_, stderr, code) = data(&["check"]);
    assert!(code == 1 && stderr.contains("in memory"), "{stderr}");
}

#[test]
fn a_finding_is_a_line_and_an_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (config, served, backup) = (path("outflow.toml"), path("served"), path("backup"));
    let mut server = start(&config, &served);
    assert!(server.fetch(&["7"]).0.status.success());
    server.signal(Signal::TERM);
    assert!(server.wait().0.success());
    // In a backup all is in the archive.
    assert_eq!(data(&["backup", &served, &backup]).2, 0);
    let file = folder.path().join("backup/archive.redb");
    let mut image = fs::read(&file).unwrap();
    let record = image.windows(5).enumerate().filter(|(_, window)| window == b"quick").map(|(at, _)| at);
    for at in record.collect::<Vec<_>>() {
        image[at] ^= 1;
    }
    fs::write(&file, image).unwrap();
    let (stdout, _, code) = data(&["check", &backup]);
    assert_eq!(code, 1);
    let [finding, verdict] = stdout.lines().collect::<Vec<_>>()[..] else { panic!("{stdout}") };
    assert!(finding.contains("archive.redb: run ") && finding.contains("record is damaged"), "{finding}");
    assert!(verdict.ends_with(": 1 finding"), "{verdict}");
}
