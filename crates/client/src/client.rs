//! The client: a connection, and what is asked on it.
//!
//! Owns: the settings a caller may change, and the opening of a stream up to its response headers. Must not know:
//! sockets, what follows the headers.

use std::{
    fmt,
    future::{Future as _, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use http::uri;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    ConnectError, Fetch, FetchError, Responses,
    connection::{Connection, Settings},
    fetch::REQUEST_BYTES_MAX,
    timers::Deadline,
};

/// One connection to a server. Cheap to clone; clones share the connection, and so do the streams opened on it.
///
/// The connection is closed at once when the last clone and the last [`Responses`] are dropped. It is not made again
/// when it is lost: then each stream [breaks](FetchError::Break), and so does each later [`fetch`](Self::fetch).
#[derive(Clone)]
pub struct Client(Arc<Connection>);

impl Client {
    /// Connects with the default settings to `http://host:port`, `host:port`, `:port` (this machine) or `unix:/path`.
    /// The port is 50005 where none is given.
    ///
    /// A host's addresses are tried one after the other. Must be called within a tokio runtime, which drives the
    /// connection from then on.
    ///
    /// # Errors
    /// [`ConnectError::Unreachable`] where no server listens, [`ConnectError::Resolve`] where the name is not found,
    /// [`ConnectError::Address`] where it is no address. That the other side speaks another protocol shows only in the
    /// first stream, because HTTP/2 needs no answer to begin.
    pub async fn connect(address: &str) -> Result<Self, ConnectError> {
        Self::builder().connect(address).await
    }

    /// Connects with other settings.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// Asks, and waits for the response headers, which come before the first response exists.
    ///
    /// # Errors
    /// [`FetchError::Refused`] where the server gives a status instead of a stream, [`FetchError::Break`] where the
    /// connection is lost, [`FetchError::Protocol`] where the other side is no such server,
    /// [`FetchError::WaitedTooLong`] after the deadline.
    ///
    /// # Cancel safety
    /// Dropping the future resets the stream. Whether the request was carried out by then is not known.
    pub async fn fetch(&self, fetch: Fetch) -> Result<Responses, FetchError> {
        let bytes = fetch.message_bytes();
        if bytes > REQUEST_BYTES_MAX {
            return Err(FetchError::RequestTooLarge { bytes });
        }
        let mut deadline = fetch.time_allowed().map(Deadline::start);
        let mut sender = self.0.sender();
        let mut answer = pin!(sender.send_request(fetch.http(&self.0.authority)));
        let opening = Responses::opening(Arc::clone(&self.0), fetch);
        let answer = poll_fn(|cx| {
            // The answer first: one that is there is worth more than a deadline that has just passed.
            if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                return Poll::Ready(answer.map_err(|lost| opening.lost(lost)));
            }
            match &mut deadline {
                Some(deadline) => deadline.poll(cx).map(|()| Err(opening.waited_too_long(deadline.allowed()))),
                None => Poll::Pending,
            }
        });
        let answer = answer.await?;
        opening.open(answer, deadline)
    }

    /// Where it is connected to, as it appears in errors.
    pub fn address(&self) -> &str {
        &self.0.address
    }

    /// Whether the connection was lost or closed by the server. Then connect again.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("address", &self.0.address).finish_non_exhaustive()
    }
}

/// Settings of a [`Client`]. The defaults are made for streams of many responses.
///
/// ```no_run
/// # async fn example() -> Result<(), outflow_client::ConnectError> {
/// use std::time::Duration;
/// use outflow_client::Client;
///
/// let client = Client::builder()
///     .stream_window_bytes(1 << 20)
///     .connect_timeout(Duration::from_secs(3))
///     .connect("unix:/run/outflow.sock")
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "it connects to nothing until `connect` is called"]
pub struct ClientBuilder(Settings);

impl ClientBuilder {
    /// How much the server may send on one stream before the caller has taken it. Default 4 MiB; from 65,535 to
    /// 2^31 - 1 bytes.
    ///
    /// It bounds the memory of a stream that is not read, and the speed: one window each round trip.
    pub fn stream_window_bytes(mut self, bytes: u32) -> Self {
        self.0.stream_window_bytes = bytes;
        self
    }

    /// How much the server may send on all streams together. Default 16 stream windows (64 MiB); from 65,535 to
    /// 2^31 - 1 bytes.
    ///
    /// So many streams may lie unread before the others on this connection stand still. The HTTP/2 library also
    /// measures by it how many small DATA frames may lie unread before it gives the connection up: about 130,000 by
    /// default. Whoever leaves streams unread for long gives each a connection.
    pub fn connection_window_bytes(mut self, bytes: u32) -> Self {
        self.0.connection_window_bytes = Some(bytes);
        self
    }

    /// The largest HTTP/2 frame that the server may send. Default 1 MiB; from 65,536 to 2^24 - 1 bytes.
    ///
    /// HTTP/2's own default, 16 KiB, doubles what a large response costs the server. A frame is handed on when it is
    /// whole.
    pub fn frame_bytes_max(mut self, bytes: u32) -> Self {
        self.0.frame_bytes_max = bytes;
        self
    }

    /// The largest message that is taken. Default 4 MiB, as everywhere in gRPC; a larger one is a
    /// [`Violation::MessageTooLarge`](crate::Violation::MessageTooLarge), and nothing is allocated for it. Above the
    /// stream window it makes a message wait for several round trips, and nothing else.
    pub fn message_bytes_max(mut self, bytes: usize) -> Self {
        self.0.message_bytes_max = bytes;
        self
    }

    /// After so long without a byte, while a stream is open, an HTTP/2 PING; after so long without an answer to it the
    /// connection is given up, and its streams [break](FetchError::Break). Defaults 20 s and 10 s; at least 1 ms.
    ///
    /// Without it a connection that a network has forgotten is waited on for ever. Never without a stream: servers
    /// take PINGs on idle connections for an attack.
    pub fn keepalive(mut self, interval: Duration, timeout: Duration) -> Self {
        self.0.keepalive = Some((interval, timeout));
        self
    }

    /// No PINGs.
    pub fn without_keepalive(mut self) -> Self {
        self.0.keepalive = None;
        self
    }

    /// How long finding the host and connecting may take, all its addresses together. Default 10 s; at least 1 ms.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.0.connect_timeout = timeout;
        self
    }

    /// Connects; see [`Client::connect`].
    ///
    /// # Errors
    /// As [`Client::connect`], and [`ConnectError::Setting`] for a setting that is out of its range.
    pub async fn connect(self, address: &str) -> Result<Client, ConnectError> {
        let connection = Connection::to(address, &self.0).await?;
        Ok(Client(Arc::new(connection)))
    }

    /// Speaks over a connection that the caller made: a tunnel, a pair in memory, a socket with options of its own.
    /// `name` stands for it in errors.
    ///
    /// # Errors
    /// [`ConnectError::Setting`], [`ConnectError::Handshake`].
    pub async fn over<T>(self, io: T, name: &str) -> Result<Client, ConnectError>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let authority = uri::Authority::from_static("localhost");
        let connection = Connection::over(io, name.to_owned(), authority, &self.0).await?;
        Ok(Client(Arc::new(connection)))
    }
}
