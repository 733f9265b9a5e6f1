//! What the body does with each chunk, up to the bytes that HTTP/2 puts into DATA frames.

use std::{future::poll_fn, pin::Pin, time::Duration};

use bytes::Buf as _;
use http_body::Body as _;
use outflow_engine::Source;

use crate::support::{Work, block_on, large as emit_large, many_at_once, plain, reader};

// As they know each other.
#[allow(
    dead_code,
    unused_imports,
    clippy::module_inception,
    reason = "not all is needed, tests run there, its name there"
)]
#[path = "../../../../crates/server/src/grpc/body.rs"]
mod body;
#[allow(dead_code, unused_imports, reason = "as above")]
#[path = "../../../../crates/server/src/grpc/service.rs"]
mod service;
#[allow(dead_code, unused_imports, reason = "as above")]
#[path = "../../../../crates/server/src/grpc/status.rs"]
mod status;
#[allow(dead_code, unused_imports, reason = "as above")]
#[path = "../../../../crates/server/src/grpc/stream.rs"]
mod stream;

/// HTTP/2's usual DATA frame (RFC 9113 §4.2).
const DATA_FRAME_BYTES: usize = 16 * 1024;

pub(super) fn small(times: u64) {
    send_all(Work::text(move |emitter| many_at_once(emitter, times)));
}

pub(super) fn large(times: u64) {
    send_all(Work::bytes(move |emitter| emit_large(emitter, times)));
}

fn send_all(source: impl Source) {
    block_on(async {
        let engine = plain(source);
        let streams = stream::Streams::new(Duration::from_secs(60));
        let control = streams.control(streams.connection());
        let mut reader = reader(&engine, 1).await;
        control.attach(&mut reader);
        let mut body = body::Body::Fetch(body::FetchBody::new(reader, None, control));
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            let Ok(frame) = frame;
            let Ok(mut data) = frame.into_data() else { return };
            while data.has_remaining() {
                data.advance(data.remaining().min(DATA_FRAME_BYTES));
            }
        }
        panic!("a stream ends with trailers");
    });
}
