//! Compiles the contract with `protox`, so that nobody needs a `protoc`: once for tonic, once for connectrpc.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const CONTRACT: &str = "protobuf/stream_service.proto";

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let descriptors = protox::compile([CONTRACT], [&root])?;
    let descriptor_set = PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(&descriptor_set, descriptors.encode_to_vec())?;

    tonic_prost_build::configure().compile_fds(descriptors)?;
    connectrpc_build::Config::new()
        .descriptor_set(descriptor_set)
        .files(&[CONTRACT])
        .generate_json(false)
        // There is no such feature here: only the server's half is wanted.
        .gate_client_feature(true)
        .include_file("_connectrpc.rs")
        .compile()?;
    Ok(())
}
