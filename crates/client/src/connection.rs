//! One HTTP/2 connection: how it is made, and who owns the tasks behind it.
//!
//! Owns: the settings, the sockets, hyper's connection and its tasks. Must not know: what is asked or answered, or that
//! there may be another connection after this one.

use std::{
    io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream, lookup_host},
    task::JoinSet,
    time::{Instant, timeout_at},
};

use crate::{Attempt, ConnectError, resume::Policy};

/// How many streams' windows the connection's window holds, unless set otherwise. With fewer, a few readers that do
/// not read starve the others; and the HTTP/2 library ends a connection on which too many small DATA frames wait
/// unread, by a budget of half the connection's window.
const STREAM_WINDOWS: u32 = 16;

/// HTTP/2 (RFC 9113 §6.9.1).
const WINDOW_BYTES_MAX: u32 = (1 << 31) - 1;
const WINDOW_BYTES_MIN: u32 = 65_535;
/// HTTP/2 (RFC 9113 §4.2) allows 16,384 and more; this client asks for no less than what a server likes to send.
const FRAME_BYTES_MIN: u32 = 1 << 16;
const FRAME_BYTES_MAX: u32 = (1 << 24) - 1;
const DURATION_MIN: Duration = Duration::from_millis(1);
/// The contract's.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);

/// How many frames may come, in a connection's life, on streams that were reset and forgotten: each counts as an error.
/// hyper's default, 1,024, defends servers; a client whose readers often have enough would use it up by itself.
const RESET_ERRORS_MAX: usize = 1 << 20;

/// What a connection is made with.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) stream_window_bytes: u32,
    /// `None`: as many as [`STREAM_WINDOWS`].
    pub(crate) connection_window_bytes: Option<u32>,
    pub(crate) frame_bytes_max: u32,
    pub(crate) message_bytes_max: usize,
    /// Interval and timeout.
    pub(crate) keepalive: Option<(Duration, Duration)>,
    pub(crate) connect_timeout: Duration,
    /// Of a call with one answer.
    pub(crate) call_timeout: Duration,
    pub(crate) resume: Policy,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            stream_window_bytes: 4 << 20,
            connection_window_bytes: None,
            // Twice what our server hands over at once. A frame is heard when it is whole: with 1 MiB a link of 20 KB/s, or
            // the part of a faster one that each of many streams has, was silent for longer than three heartbeats.
            frame_bytes_max: 1 << 17,
            message_bytes_max: 4 << 20,
            keepalive: Some((Duration::from_secs(20), Duration::from_secs(10))),
            connect_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(10),
            resume: Policy::default(),
        }
    }
}

impl Settings {
    fn connection_window_bytes(&self) -> u32 {
        let default = || self.stream_window_bytes.saturating_mul(STREAM_WINDOWS).min(WINDOW_BYTES_MAX);
        self.connection_window_bytes.unwrap_or_else(default)
    }

    /// hyper and h2 panic on what is out of range; here it is an error.
    pub(crate) fn check(&self) -> Result<(), ConnectError> {
        let windows = WINDOW_BYTES_MIN..=WINDOW_BYTES_MAX;
        for (setting, value, allowed) in [
            ("stream_window_bytes", self.stream_window_bytes, &windows),
            ("connection_window_bytes", self.connection_window_bytes(), &windows),
            ("frame_bytes_max", self.frame_bytes_max, &(FRAME_BYTES_MIN..=FRAME_BYTES_MAX)),
        ] {
            if !allowed.contains(&value) {
                let (least, most) = (allowed.start(), allowed.end());
                let allowed = format!("from {least} to {most} bytes");
                return Err(ConnectError::Setting { setting, value: value.to_string(), allowed });
            }
        }
        let keepalive = self.keepalive.into_iter();
        let durations = keepalive.flat_map(|(interval, timeout)| [("keepalive", interval), ("keepalive", timeout)]);
        let others = [
            ("connect_timeout", self.connect_timeout),
            ("call_timeout", self.call_timeout),
            ("resume_delays", self.resume.delay_first),
            ("resume_delays", self.resume.delay_max),
            ("resume_heartbeat", self.resume.heartbeat),
        ];
        for (setting, value) in durations.chain(others) {
            let least = if setting == "resume_heartbeat" { HEARTBEAT_MIN } else { DURATION_MIN };
            if value < least {
                let allowed = format!("{least:?} or more");
                return Err(ConnectError::Setting { setting, value: format!("{value:?}"), allowed });
            }
        }
        Ok(())
    }
}

/// A connection. When the last owner drops it, its tasks are cancelled and its socket is closed at once, which ends
/// every stream that is still open on it.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// Never read: it owns the tasks.
    _tasks: Arc<Mutex<JoinSet<()>>>,
}

impl Connection {
    /// Begins HTTP/2 on a connection that exists. The preface and the windows are written; nothing is waited for.
    pub(crate) async fn over<T>(io: T, name: &str, settings: &Settings) -> Result<Self, ConnectError>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let tasks = Arc::new(Mutex::new(JoinSet::new()));
        let spawner = Spawner(Arc::downgrade(&tasks));
        let mut builder = http2::Builder::new(spawner.clone());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(settings.stream_window_bytes)
            .initial_connection_window_size(settings.connection_window_bytes())
            .max_frame_size(settings.frame_bytes_max)
            .max_local_error_reset_streams(RESET_ERRORS_MAX);
        if let Some((interval, timeout)) = settings.keepalive {
            builder.keep_alive_interval(interval).keep_alive_timeout(timeout);
        }
        let handshake = builder.handshake(TokioIo::new(io)).await;
        let (sender, connection) = handshake
            .map_err(|source| ConnectError::Handshake { address: name.to_owned(), source: source.into() })?;
        // What ends the connection is told by each of its streams; here it would only be told again.
        hyper::rt::Executor::execute(&spawner, async { drop(connection.await) });
        Ok(Self { sender, _tasks: tasks })
    }

    pub(crate) fn sender(&self) -> SendRequest<Full<Bytes>> {
        self.sender.clone()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

/// Runs what hyper wants run, owned by the connection. It holds the tasks weakly, because they hold it: else nothing
/// would ever be dropped.
#[derive(Clone)]
struct Spawner(Weak<Mutex<JoinSet<()>>>);

impl<F> hyper::rt::Executor<F> for Spawner
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        // Without an owner the connection is being dropped, and the task with it.
        if let Some(tasks) = self.0.upgrade() {
            // Nothing can panic with the lock held and leave the set half changed.
            let mut tasks = tasks.lock().unwrap_or_else(PoisonError::into_inner);
            // hyper has one task per request; those that ended are let go here.
            while tasks.try_join_next().is_some() {}
            tasks.spawn(task);
        }
    }
}

/// Connects to a host, within `until`.
pub(crate) async fn tcp(name: &str, host: &str, port: u16, until: Instant) -> Result<TcpStream, ConnectError> {
    let resolve = |source| ConnectError::Resolve { address: name.to_owned(), source };
    let addresses = match timeout_at(until, lookup_host((host, port))).await {
        Ok(addresses) => addresses.map_err(resolve)?.collect::<Vec<_>>(),
        Err(_) => return Err(resolve(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))),
    };
    if addresses.is_empty() {
        return Err(resolve(io::Error::new(io::ErrorKind::NotFound, "it has no address")));
    }
    let socket = one_after_the_other(&addresses, until, TcpStream::connect).await;
    let socket = socket.map_err(|attempts| ConnectError::Unreachable { address: name.to_owned(), attempts })?;
    // A request must not wait for the acknowledgement of the one before. On a socket that just connected this can
    // only fail where it was lost already, which the first stream will tell.
    let _ = socket.set_nodelay(true);
    Ok(socket)
}

/// Tries the addresses in their order. The time that is left is shared among those that are left, so that one that
/// swallows everything does not cost the others their turn.
async fn one_after_the_other<S>(
    addresses: &[SocketAddr],
    until: Instant,
    connect: impl AsyncFn(SocketAddr) -> io::Result<S>,
) -> Result<S, Vec<Attempt>> {
    let mut attempts = Vec::new();
    for (tried, address) in addresses.iter().enumerate() {
        let left = (addresses.len() - tried) as u32;
        let now = Instant::now();
        let share = now + until.saturating_duration_since(now) / left;
        match attempt(address.to_string(), share, connect(*address)).await {
            Ok(socket) => return Ok(socket),
            Err(attempt) => attempts.push(attempt),
        }
    }
    Err(attempts)
}

/// Connects to a Unix socket, within `until`.
pub(crate) async fn unix(name: &str, path: &Path, until: Instant) -> Result<UnixStream, ConnectError> {
    let socket = attempt(path.display().to_string(), until, UnixStream::connect(path)).await;
    socket.map_err(|attempt| ConnectError::Unreachable { address: name.to_owned(), attempts: vec![attempt] })
}

async fn attempt<S>(to: String, until: Instant, connect: impl Future<Output = io::Result<S>>) -> Result<S, Attempt> {
    match timeout_at(until, connect).await {
        Ok(connected) => connected.map_err(|error| Attempt { to, error }),
        Err(_) => Err(Attempt { to, error: io::Error::new(io::ErrorKind::TimedOut, "no answer in time") }),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn the_connection_has_sixteen_streams_windows_unless_set() {
        let mut settings = Settings::default();
        assert_eq!(settings.connection_window_bytes(), 64 << 20);
        settings.stream_window_bytes = 1 << 20;
        assert_eq!(settings.connection_window_bytes(), 16 << 20);
        settings.stream_window_bytes = WINDOW_BYTES_MAX;
        assert_eq!(settings.connection_window_bytes(), WINDOW_BYTES_MAX);
        settings.connection_window_bytes = Some(70_000);
        assert_eq!(settings.connection_window_bytes(), 70_000);
        settings.check().unwrap();
    }

    #[tokio::test]
    async fn an_address_that_refuses_is_passed_over() {
        let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let alive = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        let addresses = [dead, alive.local_addr().unwrap()];
        let socket = one_after_the_other(&addresses, until, TcpStream::connect).await.unwrap();
        assert_eq!(socket.peer_addr().unwrap(), alive.local_addr().unwrap());

        let attempts = one_after_the_other(&[dead, dead], until, TcpStream::connect).await.unwrap_err();
        assert_eq!(attempts.len(), 2);
        assert_eq!(attempts[0].to, dead.to_string());
        assert_eq!(attempts[0].error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_that_say_nothing_share_the_time() {
        let addresses = [1, 2, 3].map(|port| SocketAddr::from(([192, 0, 2, 1], port)));
        let begin = Instant::now();
        let until = begin + Duration::from_secs(9);
        let third = async |address: SocketAddr| match address.port() {
            3 => Ok(begin.elapsed().as_secs()),
            _ => std::future::pending().await,
        };
        assert_eq!(one_after_the_other(&addresses, until, third).await.unwrap(), 6);

        let begin = Instant::now();
        let until = begin + Duration::from_secs(9);
        let none = async |_| std::future::pending::<io::Result<()>>().await;
        let attempts = one_after_the_other(&addresses, until, none).await.unwrap_err();
        assert_eq!((attempts.len(), begin.elapsed().as_secs()), (3, 9));
        assert!(attempts.iter().all(|attempt| attempt.error.kind() == io::ErrorKind::TimedOut));
    }
}
