//! One connection: hyper's HTTP/2 over our wire, bounded from outside where hyper sets no bound, and each of its
//! streams run as a task under a control.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2, service::Service};
use hyper_util::rt::{TokioIo, TokioTimer};
use outflow_engine::Neighbours;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use super::{
    TransportLimits,
    wire::{Wire, WireHandle},
};
use crate::{
    grpc::{self, Body, Services, StreamControl, Streams},
    shutdown::Phases,
};

/// What a peer may send on a stream before it is read: HTTP/2's default, since requests are small.
const RECEIVE_WINDOW_BYTES: u32 = 64 * 1024;

/// How long a peer has for taking the last bytes of its connection and ending it, too.
const FAREWELL_TIME: Duration = Duration::from_secs(1);

/// Serves one connection until it ends, is drained, or its task is dropped.
pub(crate) async fn serve<S>(
    socket: S,
    services: Services,
    streams: Arc<Streams>,
    limits: &TransportLimits,
    phases: &Phases,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (wire, handle) = Wire::new(socket);
    let executor = Executor(Arc::new(Own { neighbours: streams.connection(), streams, next: Mutex::new(None) }));
    let calls = Calls { services, own: executor.0.clone() };
    let mut connection = pin!(
        http2::Builder::new(executor)
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .initial_stream_window_size(RECEIVE_WINDOW_BYTES)
            .initial_connection_window_size(RECEIVE_WINDOW_BYTES * 16)
            .max_concurrent_streams(limits.streams_per_connection)
            .max_pending_accept_reset_streams(TransportLimits::PENDING_RESETS_MAX)
            .max_send_buf_size(limits.send_buffer_bytes)
            .max_header_list_size(limits.header_bytes_max)
            .keep_alive_interval(limits.keepalive_every)
            .keep_alive_timeout(limits.keepalive_time)
            .serve_connection(TokioIo::new(wire), calls)
    );

    // Nothing in hyper or h2 times out the preface: five bytes would hold a connection for ever.
    let mut preface = pin!(tokio::time::sleep(limits.preface_time));
    let mut preface_due = true;
    let mut draining = false;
    loop {
        tokio::select! {
            ended = poll_fn(|cx| poll_and_flush(connection.as_mut(), &handle, cx)) => {
                if let Err(error) = ended {
                    tracing::debug!("a connection ended: {error}");
                }
                break;
            }
            () = &mut preface, if preface_due => {
                preface_due = false;
                if !handle.preface_seen() {
                    tracing::debug!("a connection sent no HTTP/2 preface within {:?}", limits.preface_time);
                    return;
                }
            }
            () = phases.drain.cancelled(), if !draining => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
    // A peer that takes nothing has no claim on what h2 wrote last, a GOAWAY for example.
    if tokio::time::timeout(FAREWELL_TIME, poll_fn(|cx| handle.poll_farewell(cx))).await.is_err() {
        tracing::debug!("a peer did not take the last bytes of its connection, or did not end it");
    }
}

/// One step of the connection, and then all that it wrote goes to the socket together: also what it wrote before it
/// returned Ready or an error.
fn poll_and_flush<C, S>(
    connection: Pin<&mut C>,
    handle: &WireHandle<S>,
    cx: &mut Context<'_>,
) -> Poll<hyper::Result<()>>
where
    C: Future<Output = hyper::Result<()>>,
    S: AsyncRead + AsyncWrite + Unpin,
{
    handle.begin_step();
    let step = connection.poll(cx);
    // A failure of the socket is hyper's to report, at its next write.
    let _ = handle.poll_flush(cx);
    step
}

/// What a connection's streams have in common.
struct Own {
    /// Those of its worker.
    streams: Arc<Streams>,
    /// Theirs among those.
    neighbours: Neighbours,
    /// The stream whose call was just answered. hyper calls the service and then the executor, one after the other on one
    /// task, so a cell hands it over.
    next: Mutex<Option<Next>>,
}

/// What is known of a stream that is about to begin.
struct Next {
    control: Arc<StreamControl>,
    deadline: Option<Instant>,
}

struct Calls {
    services: Services,
    own: Arc<Own>,
}

impl Service<Request<Incoming>> for Calls {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Infallibly<grpc::Answer>;

    fn call(&self, call: Request<Incoming>) -> Self::Future {
        let (deadline, refusal) = match grpc::deadline(call.headers()) {
            Ok(deadline) => (deadline, None),
            Err(status) => (None, Some(grpc::refuse(&status))),
        };
        let control = self.own.streams.control(self.own.neighbours);
        *self.own.next.lock() = Some(Next { control: control.clone(), deadline });
        Infallibly(refusal.unwrap_or_else(|| self.services.answer(call, control, deadline)))
    }
}

/// A future whose result cannot be an error.
struct Infallibly<F>(F);

impl<F: Future + Unpin> Future for Infallibly<F> {
    type Output = Result<F::Output, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(Ok)
    }
}

/// Owns the tasks of a connection's streams. hyper keeps one a stream, so it is no larger than it has to be.
#[derive(Clone)]
struct Executor(Arc<Own>);

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let next = self.0.next.lock().take().expect("hyper calls the service before the executor");
        self.0.streams.spawn(stream, &next.control, next.deadline);
    }
}
