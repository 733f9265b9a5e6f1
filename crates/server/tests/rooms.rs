//! The rooms of the house: who may depend on whom, and who must not know what. The arrows are the design; this reads
//! the manifests and the sources, so that they stay as they are drawn in `ARCHITECTURE.md`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// What `name` depends on, apart from its tests.
fn dependencies(name: &str) -> BTreeSet<String> {
    let manifest = fs::read_to_string(crates().join(name).join("Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    manifest["dependencies"].as_table().unwrap().keys().cloned().collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// Every source file below `folder`, with its text.
fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push((path.clone(), fs::read_to_string(path).unwrap()));
        }
    }
    assert!(!found.is_empty(), "no sources in {}", folder.display());
    found
}

#[test]
fn arrows_between_the_rooms_are_as_drawn() {
    let arrows = [
        ("proto", set(&[])),
        ("engine", set(&["outflow-proto"])),
        ("client", set(&["outflow-proto"])),
        ("server", set(&["outflow-client", "outflow-engine", "outflow-proto"])),
    ];
    let rooms: BTreeSet<String> =
        fs::read_dir(crates()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(rooms, arrows.iter().map(|(room, _)| (*room).to_owned()).collect(), "every room is drawn");
    for (room, allowed) in arrows {
        let ours = dependencies(room).into_iter().filter(|name| name.starts_with("outflow"));
        assert_eq!(ours.collect::<BTreeSet<_>>(), allowed, "{room}");
    }
}

#[test]
fn what_a_room_must_not_know_it_does_not_depend_on() {
    let transports = ["tonic", "tonic-prost", "http", "http-body", "hyper", "hyper-util", "h2", "tower", "socket2"];
    let engine = dependencies("engine");
    for absent in transports.iter().chain(&["redb", "rustix", "toml", "serde", "jiff", "rand", "clap"]) {
        assert!(!engine.contains(*absent), "the engine depends on {absent}");
    }
    let client = dependencies("client");
    for absent in ["tonic", "redb", "clap", "outflow-engine", "outflow"] {
        assert!(!client.contains(absent), "the client depends on {absent}");
    }
}

#[test]
fn the_engine_sees_no_files_no_environment_and_no_wall_clock() {
    for (path, text) in sources(&crates().join("engine/src")) {
        for absent in ["std::fs", "std::env", "std::net", "tokio::net", "tokio::fs", "SystemTime", "std::process"] {
            assert!(!text.contains(absent), "{} names {absent}", path.display());
        }
    }
}

#[test]
fn only_grpc_names_statuses_and_only_the_command_line_uses_the_client() {
    let src = crates().join("server/src");
    for (path, text) in sources(&src) {
        let place = path.strip_prefix(&src).unwrap();
        if !place.starts_with("grpc") {
            assert!(!text.contains("tonic::Status") && !text.contains("tonic::{Status"), "{}", place.display());
        }
        if !place.starts_with("cli") {
            assert!(!text.contains("outflow_client"), "{} uses the client", place.display());
        }
    }
}

#[test]
fn every_file_says_first_what_it_owns() {
    for room in ["proto", "engine", "client", "server"] {
        for (path, text) in sources(&crates().join(room).join("src")) {
            assert!(text.starts_with("//! "), "{}", path.display());
        }
    }
}
