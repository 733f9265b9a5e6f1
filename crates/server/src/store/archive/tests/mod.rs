//! The archive, with its real parts.

mod contract;
mod crashes;
mod damage;
mod disk;
mod figures;
mod fixture;
mod kill;
mod model;
mod rests;
#[path = "../../../../tests/support/small_disk.rs"]
mod small_disk;
mod snapshots;

use std::{ops::RangeInclusive, path::PathBuf, sync::Arc, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use outflow_engine::{Chunk, End, Ended, Key, Record, RunId, RunRecord, Sequence, Start, Timestamp};
use outflow_proto::protobuf::Response;
use prost::Message as _;
use tempfile::TempDir;

use super::{Archive, Moved, row};

/// A folder with an archive in it.
struct Place {
    _folder: TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("archive");
        Self { _folder: folder, path }
    }

    fn open(&self) -> Archive {
        Archive::open(&self.path).unwrap()
    }
}

/// The `n`th run that started.
fn run_id(n: u64) -> RunId {
    // Some randomness, the same each time.
    let random = u128::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    RunId::journaled(Timestamp::from_millis(1_760_000_000_000 + n), random)
}

fn run(n: u64, keys: &[&str]) -> RunRecord {
    let start = Start {
        source: "simulate".into(),
        configuration: 0x1234_5678_9abc_def0,
        id: 1,
        keys: keys.iter().map(|key| Key(Bytes::copy_from_slice(key.as_bytes()))).collect(),
        at: Timestamp::from_millis(1_760_000_000_000 + n),
        jobs: 5,
        linger: Duration::from_secs(30),
        ..Start::default()
    };
    RunRecord::new(run_id(n), Arc::new(start))
}

/// The frames of these sequences, each with a payload of so many bytes, that differ from run to run.
fn chunk(salt: u64, sequences: RangeInclusive<u64>, payload_bytes: usize) -> Chunk {
    let (first, last) = (*sequences.start(), *sequences.end());
    let mut frames = BytesMut::new();
    for sequence in sequences {
        let mut data = vec![0; payload_bytes];
        let mut state = salt << 32 ^ sequence;
        for byte in &mut data {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (state >> 56) as u8;
        }
        let response = Response { sequence, job: (sequence % 5) as u32, data: data.into(), ..Response::default() };
        frames.put_u8(0);
        frames.put_u32(response.encoded_len() as u32);
        response.encode(&mut frames).unwrap();
    }
    Chunk::new(Sequence::new(first), Sequence::new(last), [frames.freeze()])
}

/// The run with these chunks behind what it had, on its way.
fn moved(record: &mut RunRecord, chunks: Vec<Chunk>) -> Moved {
    for chunk in &chunks {
        record.add(&Record::Frames(chunk.clone()));
    }
    Moved { record: record.clone(), chunks, keys: record.keys.clone() }
}

fn ended(seconds: u64) -> Record {
    Record::Ended(Ended {
        end: End::Complete,
        jobs_failed: 0,
        at: Timestamp::from_millis(1_760_000_000_000),
        in_service: Duration::from_secs(seconds),
    })
}
