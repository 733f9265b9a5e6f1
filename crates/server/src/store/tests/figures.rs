//! What the index of a live journal takes in memory, and how long opening it takes.
//! `cargo test --release -p outflow --lib store::tests::figures -- --ignored --nocapture --test-threads=1`

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use outflow_engine::{Batch, Record, Room, RunId, Store as _, StoreError};

use super::{
    super::{
        archive::Archive,
        embedded::{Embedded, Workers},
        files::Directory,
    },
    Settings, ended, frames, id, start,
};

/// The wanted bound.
const INDEX_BYTES_MAX: usize = 100_000_000;

/// A store whose mover does nothing unless it is told to.
fn open(path: &Path, settings: Settings) -> Embedded {
    let files = Arc::new(Directory::open(path).unwrap());
    Embedded::open(files, |name| Archive::open(&path.join(name)), settings, Workers::Caller).unwrap()
}

fn resident_bytes() -> usize {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Commits batches until the store is full; says how many there were.
fn fill(store: &Embedded, mut records: impl FnMut(u64) -> Vec<(RunId, Record)>) -> u64 {
    let mut batches = (0..).map(|n| {
        let batch = Batch { in_service: Duration::from_secs(1), records: records(n) };
        match store.commit(&batch, Room::Ordinary) {
            Ok(()) => true,
            Err(StoreError::Full(_)) => false,
            Err(error) => panic!("{error}"),
        }
    });
    batches.by_ref().take_while(|is_there| *is_there).count() as u64
}

fn open_and_print(path: &Path) {
    for _ in 0..3 {
        let (resident, began) = (resident_bytes(), Instant::now());
        let store = open(path, Settings::default());
        let took = began.elapsed();
        let index = store.shared().index.lock().memory();
        let (index_mb, grown_mb) = (index / 1_000_000, resident_bytes().saturating_sub(resident) / 1_000_000);
        println!("opened in {took:?}; index {index_mb} MB by its own count, resident {grown_mb} MB more");
        assert!(index <= INDEX_BYTES_MAX, "{index} bytes");
    }
}

#[test]
#[ignore = "prints figures"]
fn a_full_journal_of_single_responses() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), Settings::default());
    let batches = fill(&store, |n| {
        let run = |run: u64| (id(run + 1), if n == 0 { start(&[]) } else { Record::Frames(frames(n, 1, 24)) });
        (0..1_000).map(run).collect()
    });
    println!("{} single responses of 1,000 runs fill the journal", (batches - 1) * 1_000);
    drop(store);
    open_and_print(folder.path());
}

#[test]
#[ignore = "prints figures"]
fn a_journal_of_tiny_ended_runs() {
    let folder = tempfile::tempdir().unwrap();
    let resident = resident_bytes();
    let store = open(folder.path(), Settings::default());
    let batches = fill(&store, |n| {
        let run = |run: u64| [(id(n * 1_000 + run + 1), start(&[])), (id(n * 1_000 + run + 1), ended(1))];
        (0..1_000).flat_map(run).collect()
    });
    let grown_mb = resident_bytes().saturating_sub(resident) / 1_000_000;
    println!("{} runs without a response fill the index; resident {grown_mb} MB more", batches * 1_000);
    drop(store);
    open_and_print(folder.path());
}
