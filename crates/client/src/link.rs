//! The link to one server: its connection, and the next one when that is dead.
//!
//! Owns: where to connect, the connection that all streams of a client share, and that only one is made at a time,
//! however many streams want it, and whoever of them stops waiting for it. Must not know: what is asked or answered, when
//! to try again.

use std::{
    fmt, io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
};

use http::uri;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout_at},
};

use crate::{
    Attempt, ConnectError,
    address::Address,
    connection::{self, Connection, Settings},
};

/// What a connection may be spoken over.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection that is being made.
pub(crate) type Connecting = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>>;

/// The way to a server.
pub(crate) enum Route {
    /// An address.
    Address(Address),
    /// Whatever the caller makes, each time anew.
    Made(Box<dyn Fn() -> Connecting + Send + Sync>),
    /// A connection that the caller made once.
    Given,
}

/// What kind of server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// It has told nothing yet.
    Unknown,
    /// It told of a run when it was asked last.
    Outflow,
    /// It told of none.
    Plain,
}

/// Where to connect, and with what.
struct Way {
    name: Arc<str>,
    settings: Settings,
    route: Route,
}

/// A client's link to its server.
pub(crate) struct Link {
    way: Arc<Way>,
    authority: uri::Authority,
    newest: Mutex<Newest>,
    /// A [`Kind`].
    kind: AtomicU8,
}

/// What came of connecting; `None` while that goes on.
type Made = Option<Result<Arc<Connection>, Arc<ConnectError>>>;

/// The newest connection, dead or alive, and the one that is being made in its place.
#[derive(Default)]
struct Newest {
    connection: Option<Arc<Connection>>,
    next: Option<watch::Receiver<Made>>,
    /// Connecting is a task, so that it goes on when a reader that waits for it has something else to do: others wait
    /// for it too.
    connecting: JoinSet<()>,
}

impl Newest {
    fn alive(&self) -> Option<&Arc<Connection>> {
        self.connection.as_ref().filter(|connection| !connection.is_closed())
    }

    /// Waits for the connection that is being made; begins to make one where none is.
    fn next(&mut self, way: &Arc<Way>) -> watch::Receiver<Made> {
        // One that nobody waited for to its end is as good as none, if it failed.
        let is_over = |next: &watch::Receiver<Made>| match &*next.borrow() {
            Some(made) => made.as_ref().map_or(true, |connection| connection.is_closed()),
            None => false,
        };
        if let Some(next) = self.next.as_ref().filter(|next| !is_over(next)) {
            return next.clone();
        }
        let (made, next) = watch::channel(None);
        let way = Arc::clone(way);
        while self.connecting.try_join_next().is_some() {}
        self.connecting.spawn(async move {
            // Nobody waits any more where this fails.
            _ = made.send(Some(way.connect().await.map(Arc::new).map_err(Arc::new)));
        });
        self.next = Some(next.clone());
        next
    }
}

impl Link {
    /// A link that has no connection yet.
    pub(crate) fn new(name: &str, route: Route, settings: Settings) -> Result<Self, ConnectError> {
        settings.check()?;
        let authority = match &route {
            Route::Address(address) => address.authority(),
            Route::Made(_) | Route::Given => uri::Authority::from_static("localhost"),
        };
        Ok(Self {
            way: Arc::new(Way { name: name.into(), settings, route }),
            authority,
            newest: Mutex::default(),
            kind: AtomicU8::new(Kind::Unknown as u8),
        })
    }

    /// Connects for the first time, when nobody else has the link.
    pub(crate) async fn open(&self) -> Result<(), ConnectError> {
        let connection = self.way.connect().await?;
        self.newest().connection = Some(Arc::new(connection));
        Ok(())
    }

    /// Speaks over a connection that exists. With [`Route::Given`] it is the only one.
    pub(crate) async fn begin(&self, io: impl Io + 'static) -> Result<(), ConnectError> {
        let connection = Connection::over(io, &self.way.name, &self.way.settings).await?;
        self.newest().connection = Some(Arc::new(connection));
        Ok(())
    }

    /// How the server is called in errors.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.way.name
    }

    pub(crate) fn authority(&self) -> &uri::Authority {
        &self.authority
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.way.settings
    }

    /// What kind of server answered last.
    pub(crate) fn kind(&self) -> Kind {
        let kind = self.kind.load(Ordering::Relaxed);
        [Kind::Outflow, Kind::Plain].into_iter().find(|known| *known as u8 == kind).unwrap_or(Kind::Unknown)
    }

    /// A server of this kind answered.
    pub(crate) fn is_of(&self, kind: Kind) {
        self.kind.store(kind as u8, Ordering::Relaxed);
    }

    /// The connection, if it is not known to be dead.
    pub(crate) fn alive(&self) -> Option<Arc<Connection>> {
        self.newest().alive().cloned()
    }

    /// The connection; a new one where it is dead. Whoever asks while one is being made waits for that one, and gets the
    /// same error where there is none.
    ///
    /// # Cancel safety
    /// Connecting goes on when the future is dropped or not polled, for as long as there is a link.
    pub(crate) async fn connection(&self) -> Result<Arc<Connection>, Arc<ConnectError>> {
        loop {
            let mut next = {
                let mut newest = self.newest();
                if let Some(alive) = newest.alive() {
                    return Ok(Arc::clone(alive));
                }
                newest.next(&self.way)
            };
            let made = next.wait_for(Option::is_some).await.map_or(None, |made| made.clone());
            let mut newest = self.newest();
            if newest.next.as_ref().is_some_and(|newest| newest.same_channel(&next)) {
                newest.next = None;
                if let Some(Ok(connection)) = &made {
                    newest.connection = Some(Arc::clone(connection));
                }
            }
            // Else the runtime is gone on which it was to be made, and this is another.
            if let Some(made) = made {
                return made;
            }
        }
    }

    /// Uses `connection` for nothing new: it says nothing, or its server leaves. What is open on it stays. A connection
    /// that the caller made has no other in its place, and is kept.
    pub(crate) fn replace(&self, connection: &Arc<Connection>) {
        let mut newest = self.newest();
        if !matches!(self.way.route, Route::Given)
            && newest.connection.as_ref().is_some_and(|newest| Arc::ptr_eq(newest, connection))
        {
            newest.connection = None;
        }
    }

    /// Nothing can panic with the lock held and leave it half changed.
    fn newest(&self) -> MutexGuard<'_, Newest> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Way {
    async fn connect(&self) -> Result<Connection, ConnectError> {
        let until = Instant::now() + self.settings.connect_timeout;
        let name = &self.name;
        match &self.route {
            Route::Address(Address::Tcp { host, port }) => {
                let socket = connection::tcp(name, host, *port, until).await?;
                Connection::over(socket, name, &self.settings).await
            }
            Route::Address(Address::Unix(path)) => {
                let socket = connection::unix(name, path, until).await?;
                Connection::over(socket, name, &self.settings).await
            }
            Route::Made(make) => {
                let made = timeout_at(until, make()).await;
                let made = made.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")));
                let io = made.map_err(|error| {
                    let attempts = vec![Attempt { to: name.to_string(), error }];
                    ConnectError::Unreachable { address: name.to_string(), attempts }
                })?;
                Connection::over(io, name, &self.settings).await
            }
            Route::Given => Err(ConnectError::Given { address: name.to_string() }),
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("name", &self.way.name).finish_non_exhaustive()
    }
}
