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
    let executor = Executor(Arc::new(Own {
        neighbours: streams.connection(),
        streams: streams.clone(),
        next: Mutex::new(None),
    }));
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
    let mut waited = false;
    loop {
        tokio::select! {
            ended = poll_fn(|cx| poll_and_flush(connection.as_mut(), &handle, &streams, &mut waited, cx)) => {
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
/// returned Ready or an error. Where trailers follow, two steps: `waited` says whether the first is done.
fn poll_and_flush<C, S>(
    connection: Pin<&mut C>,
    handle: &WireHandle<S>,
    streams: &Streams,
    waited: &mut bool,
    cx: &mut Context<'_>,
) -> Poll<hyper::Result<()>>
where
    C: Future<Output = hyper::Result<()>>,
    S: AsyncRead + AsyncWrite + Unpin,
{
    handle.begin_step();
    // Not those of another connection, or of a stream that was dropped.
    _ = streams.trailers_follow();
    let step = connection.poll(cx);
    // The stream was woken first, and has its turn before this: a short answer is one write, not one and its trailers.
    *waited = !*waited && step.is_pending() && streams.trailers_follow() && handle.gathered_little();
    if *waited {
        cx.waker().wake_by_ref();
        return Poll::Pending;
    }
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

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
        task::ready,
    };

    use bytes::Bytes;
    use outflow_engine::{Engine, Limits};
    use outflow_proto::protobuf;
    use prost::Message as _;
    use tokio::io::{DuplexStream, ReadBuf};

    use super::*;
    use crate::source::Simulate;

    /// A socket that counts how often it is written to.
    struct Counted {
        socket: DuplexStream,
        writes: Arc<AtomicUsize>,
    }

    impl AsyncRead for Counted {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.socket).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Counted {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let bytes = ready!(Pin::new(&mut self.socket).poll_write(cx, buf))?;
            self.writes.fetch_add(1, Relaxed);
            Poll::Ready(Ok(bytes))
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.socket).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.socket).poll_shutdown(cx)
        }
    }

    fn simulated() -> Services {
        let engine =
            Engine::builder(Limits::default()).default_source("simulate", Simulate::default()).build().unwrap();
        Services::new(Arc::new(engine), tonic::service::Routes::default(), &[], None)
    }

    /// Makes a call with these parameters, and reads its answer to the end.
    async fn call(client: &mut h2::client::SendRequest<Bytes>, parameters: &[(&str, &str)]) -> usize {
        let parameters = parameters.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let message = protobuf::Request { id: 1, parameters, ..Default::default() }.encode_to_vec();
        let framed = [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat();
        let head = Request::post("http://test/protobuf.StreamService/FetchResponse")
            .header("content-type", "application/grpc")
            .body(())
            .unwrap();
        let (response, mut body) = client.send_request(head, false).unwrap();
        body.send_data(framed.into(), true).unwrap();
        let mut answer = response.await.unwrap().into_body();
        let mut bytes = 0;
        while let Some(data) = answer.data().await {
            bytes += data.unwrap().len();
        }
        assert_eq!(answer.trailers().await.unwrap().unwrap()["grpc-status"], "0");
        bytes
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_answer_is_one_write_and_what_comes_later_another() {
        let (near, far) = tokio::io::duplex(1 << 20);
        let writes = Arc::new(AtomicUsize::new(0));
        let socket = Counted { socket: near, writes: writes.clone() };
        // A task of its own, as on a worker: what is woken first has the first turn.
        let mut server = tokio::task::JoinSet::new();
        server.spawn(async move {
            let (limits, phases) = (TransportLimits::default(), Phases::default());
            let streams = Streams::new(limits.stall_time);
            serve(socket, simulated(), streams, &limits, &phases).await;
        });
        let client = async {
            let (mut client, connection) = h2::client::handshake(far).await.unwrap();
            let calls = async {
                let short = [("jobs", "3"), ("step", "0s")];
                // The first has the SETTINGS beside it.
                call(&mut client, &short).await;
                for _ in 0..5 {
                    let before = writes.load(Relaxed);
                    assert!(call(&mut client, &short).await > 0);
                    assert_eq!(writes.load(Relaxed) - before, 1);
                }
                let before = writes.load(Relaxed);
                call(&mut client, &[("jobs", "2"), ("step", "1s")]).await;
                assert_eq!(writes.load(Relaxed) - before, 2, "head and response, response and trailers");
            };
            tokio::select! {
                _ = connection => unreachable!("the client has calls to make"),
                () = calls => {}
            }
        };
        tokio::select! {
            _ = server.join_next() => unreachable!("the client is there"),
            () = client => {}
        }
    }
}
