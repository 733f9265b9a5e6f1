//! The client: a connection, and what is asked on it.
//!
//! Owns: the settings a caller may change, and the opening of a stream up to its response headers. Must not know:
//! sockets, what follows the headers.

use std::{
    future::{Future, poll_fn},
    io,
    sync::Arc,
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    CallError, ConnectError, Fetch, FetchError, Responses, Run, RunFilter, Runs,
    address::Address,
    connection::Settings,
    link::{Connecting, Io, Link, Route},
    reading::Reading,
    runs,
};

/// A connection to a server, and the next one when that is dead. Cheap to clone; clones share the connection, and so do
/// all streams and calls.
///
/// The connection is closed at once when the last clone and the last [`Responses`] are dropped. When it is lost, what is
/// open on it [breaks](FetchError::Break), and whoever asks next makes a new one, once for all who wait for it.
#[derive(Debug, Clone)]
pub struct Client(Arc<Link>);

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

    /// Asks, and waits for the response headers, which come before the first response exists. What breaks before them is
    /// asked for again where that starts nothing twice: a request with a key, which one with a
    /// [linger](Fetch::linger) has, or for a run; and any request that the server certainly did not act on.
    ///
    /// # Errors
    /// [`FetchError::Refused`] where the server gives a status instead of a stream, [`FetchError::Break`] where the
    /// connection is lost, [`FetchError::Protocol`] where the other side is no such server,
    /// [`FetchError::WaitedTooLong`] after the deadline, [`FetchError::GaveUp`] after attempts that were in vain.
    ///
    /// # Cancel safety
    /// Dropping the future resets the stream. Whether the request was carried out by then is not known.
    pub async fn fetch(&self, fetch: Fetch) -> Result<Responses, FetchError> {
        let mut reading = Reading::begin(Arc::clone(&self.0), fetch)?;
        poll_fn(|cx| reading.poll_opened(cx)).await?;
        Ok(Responses(reading))
    }

    /// One run, as it is now.
    ///
    /// # Errors
    /// See [`CallError`]: [`Refused`](CallError::Refused) with `NOT_FOUND` where there is no such run, or not any more.
    pub async fn run(&self, run_id: impl Into<String>) -> Result<Run, CallError> {
        runs::get(&self.0, run_id.into()).await
    }

    /// The runs that `filter` lets through, newest first. Nothing is asked before [`Runs::next`].
    ///
    /// ```no_run
    /// # async fn example(client: outflow_client::Client) -> Result<(), outflow_client::CallError> {
    /// let mut runs = client.runs(outflow_client::RunFilter::all().running());
    /// while let Some(run) = runs.next().await? {
    ///     println!("{}: {} responses so far", run.run_id, run.last_sequence);
    /// }
    /// # Ok(()) }
    /// ```
    pub fn runs(&self, filter: RunFilter) -> Runs {
        Runs::new(Arc::clone(&self.0), filter)
    }

    /// Stops a run's jobs, for all its readers, and gives the run when its end is recorded. One that has ended is given
    /// as it is, so that it may be stopped again.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn stop(&self, run_id: impl Into<String>) -> Result<Run, CallError> {
        runs::stop(&self.0, run_id.into()).await
    }

    /// Where it is connected to, as it appears in errors.
    pub fn address(&self) -> &str {
        self.0.name()
    }

    /// Whether the connection is not known to be dead. The next request makes a new one where it is.
    pub fn is_connected(&self) -> bool {
        self.0.alive().is_some()
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

    /// The largest HTTP/2 frame that the server may send. Default 128 KiB; from 65,536 to 2^24 - 1 bytes.
    ///
    /// HTTP/2's own default, 16 KiB, doubles what a large response costs the server. A frame is handed on when it is
    /// whole: a way so slow that one takes longer than three heartbeats or a PING may, 30 s unless set otherwise, is
    /// taken for a silent one.
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

    /// Does not resume: see [`Fetch::no_resume`], here for all that is fetched.
    pub fn no_resume(mut self) -> Self {
        self.0.resume.is_on = false;
        self
    }

    /// How long to wait before a broken stream is asked for again: `first` before the first attempt, then twice as long
    /// each time, up to `most`. Half of each wait is chance, so that those who broke together do not come back together.
    /// What the server says of it goes before. Defaults 100 ms and 5 s; at least 1 ms.
    pub fn resume_delays(mut self, first: Duration, most: Duration) -> Self {
        (self.0.resume.delay_first, self.0.resume.delay_max) = (first, most);
        self
    }

    /// For how long a broken stream is asked for again: no attempt begins later than this after the break, and the
    /// caller gets [`FetchError::GaveUp`]. It counts anew whenever something was received. Default 5 minutes.
    pub fn give_up_after(mut self, time: Duration) -> Self {
        self.0.resume.give_up_after = time;
        self
    }

    /// The [heartbeat](Fetch::heartbeat) of a stream that resumes, where its run is journaled and the caller asks for
    /// none. A peer that says nothing for three of them is given up. Default 10 s; at least 100 ms.
    pub fn resume_heartbeat(mut self, interval: Duration) -> Self {
        self.0.resume.heartbeat = interval;
        self
    }

    /// How long a call with one answer may take: [`Client::run`], [`Client::stop`], a page of [`Client::runs`]. Default
    /// 10 s; at least 1 ms.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.0.call_timeout = timeout;
        self
    }

    /// Connects; see [`Client::connect`].
    ///
    /// # Errors
    /// As [`Client::connect`], and [`ConnectError::Setting`] for a setting that is out of its range.
    pub async fn connect(self, address: &str) -> Result<Client, ConnectError> {
        let address = Address::parse(address)
            .map_err(|reason| ConnectError::Address { address: address.to_owned(), reason })?;
        let name = address.to_string();
        self.begin(&name, Route::Address(address)).await
    }

    /// Connects by `connect`, now and whenever the connection is lost: through a tunnel, in memory, with sockets of one's
    /// own. `name` stands for it in errors.
    ///
    /// # Errors
    /// [`ConnectError::Setting`], [`ConnectError::Handshake`], [`ConnectError::Unreachable`] with what `connect` said.
    pub async fn connect_by<C, F, T>(self, name: &str, connect: C) -> Result<Client, ConnectError>
    where
        C: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = io::Result<T>> + Send + 'static,
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let made = move || {
            let connecting = connect();
            Box::pin(async move { Ok(Box::new(connecting.await?) as Box<dyn Io>) }) as Connecting
        };
        self.begin(name, Route::Made(Box::new(made))).await
    }

    async fn begin(self, name: &str, route: Route) -> Result<Client, ConnectError> {
        let link = Link::new(name, route, self.0)?;
        link.open().await?;
        Ok(Client(Arc::new(link)))
    }

    /// Speaks over a connection that the caller made, and cannot be made again: when it is dead, so is the client. See
    /// [`connect_by`](Self::connect_by). `name` stands for it in errors.
    ///
    /// # Errors
    /// [`ConnectError::Setting`], [`ConnectError::Handshake`].
    pub async fn over<T>(self, io: T, name: &str) -> Result<Client, ConnectError>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let link = Link::new(name, Route::Given, self.0)?;
        link.begin(io).await?;
        Ok(Client(Arc::new(link)))
    }
}
