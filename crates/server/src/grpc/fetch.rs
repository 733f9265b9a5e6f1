//! `protobuf.StreamService/FetchResponse`: a call becomes a request, the request a run, and the run's reader the body
//! of the answer. Headers go out at once, with what there is at once: they wait for no response.

use std::{future::poll_fn, sync::Arc, task::Poll};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use outflow_engine::{Durability, Engine, Principal};
use outflow_proto::protobuf;
use prost::Message as _;
use tokio::time::Instant;
use tonic::Status;

use super::{
    body::{self, Body, FetchBody},
    message, status,
    stream::StreamControl,
};

/// By when a peer that has sent headers has to have sent its whole request, if its own deadline is not sooner.
const REQUEST_TIME_MAX: std::time::Duration = std::time::Duration::from_secs(10);

/// Answers one call, which ends by its deadline.
pub(super) fn fetch<B>(
    engine: Arc<Engine>,
    call: Request<B>,
    control: Arc<StreamControl>,
    deadline: Option<Instant>,
) -> impl Future<Output = Response<Body>>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    // In a box of its own: many calls may wait for their runs to be durable, and need nothing of this any more.
    let asked = Box::pin(read(engine.clone(), call, deadline));
    async move {
        let answer = match asked.await {
            Ok(request) => start(&engine, request, control).await,
            Err(refused) => Err(refused),
        };
        answer.unwrap_or_else(|status| {
            tracing::warn!("request refused: {:?}: {}", status.code(), status.message());
            body::trailers_only(&status)
        })
    }
}

/// Reads what a call asks for.
async fn read<B>(
    engine: Arc<Engine>,
    call: Request<B>,
    deadline: Option<Instant>,
) -> Result<outflow_engine::Request, Status>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let (head, body) = call.into_parts();
    let request_by = Instant::now() + REQUEST_TIME_MAX;
    let read_by = deadline.map_or(request_by, |deadline| deadline.min(request_by));
    let message = tokio::time::timeout_at(read_by, message::read(&head.headers, body))
        .await
        .map_err(|_| Status::deadline_exceeded("the request message did not arrive in time"))??;
    let message = protobuf::Request::decode(message)
        .map_err(|error| Status::internal(format!("the request is not a protobuf.Request: {error}")))?;
    outflow_engine::Request::parse(message, Principal::Anonymous, engine.limits())
        .map_err(|refusal| status::refused(&refusal))
}

/// Has the request answered: the head of the answer, and the run's responses as its body.
async fn start(
    engine: &Engine,
    request: outflow_engine::Request,
    control: Arc<StreamControl>,
) -> Result<Response<Body>, Status> {
    let mut reader = engine.fetch(&request, rand::random()).await.map_err(|refusal| status::refused(&refusal))?;
    control.attach(&mut reader);
    if reader.durability() == Durability::None {
        // What its jobs have at once goes out with the head, as one write and not as three.
        turn().await;
    }

    let expected_bytes = reader.expected_bytes();
    let (run_id, durability) = (reader.run_id().to_string(), status::durability(reader.durability()));
    let mut response = Response::new(Body::Fetch(FetchBody::new(reader, request.heartbeat(), control)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(status::RUN_ID, HeaderValue::try_from(run_id).expect("a run id is plain ASCII"));
    headers.insert(status::DURABILITY, HeaderValue::from_static(durability));
    if let Some(bytes) = expected_bytes {
        headers.insert(status::EXPECTED_BYTES, bytes.into());
    }
    Ok(response)
}

/// Lets everything else that is ready on this thread have a turn. Unlike tokio's `yield_now` it does not look at sockets
/// and timers before it goes on, which is a system call.
async fn turn() {
    let mut is_over = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut is_over, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
