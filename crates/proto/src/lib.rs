//! The contract of Outflow, generated from `proto/`: messages by default, stubs behind the features `server` and
//! `client`, and the descriptor set for reflection. It holds generated code and nothing else.
//!
//! ```
//! use outflow_proto::protobuf::Request;
//!
//! let request = Request { id: 1, limit: 2, ..Request::default() };
//! assert_eq!(prost::Message::encode_to_vec(&request), [0x08, 1, 0x30, 2]);
//! ```

/// The encoded `FileDescriptorSet` of everything in `proto/`, with its imports.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Package `protobuf`: the tutorial's service and the fields beside it.
#[allow(missing_docs, clippy::pedantic, unreachable_pub)]
pub mod protobuf {
    include!(concat!(env!("OUT_DIR"), "/protobuf.rs"));
}

/// Package `outflow`: what Outflow offers beside the streams.
pub mod outflow {
    /// Package `outflow.v1`: what runs there are, and how to stop one.
    #[allow(missing_docs, clippy::pedantic, unreachable_pub)]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/outflow.v1.rs"));
    }
}
