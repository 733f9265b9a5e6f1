//! The link to one server: its connection, and the next one when that is dead.
//!
//! Owns: where to connect, the connection that all streams of a client share, and that only one is made at a time,
//! however many streams want it. Must not know: what is asked or answered, when to try again.

use std::{
    fmt, io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
};

use http::uri;
use tokio::{
    io::{AsyncRead, AsyncWrite},
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

/// A client's link to its server.
pub(crate) struct Link {
    name: Arc<str>,
    authority: uri::Authority,
    settings: Settings,
    route: Route,
    /// The newest connection, dead or alive.
    current: Mutex<Option<Arc<Connection>>>,
    /// Held by who connects; the others wait for it, and share what came of it.
    connecting: tokio::sync::Mutex<Option<Arc<ConnectError>>>,
    /// How many attempts to connect have ended.
    attempts: AtomicU64,
    /// A [`Kind`].
    kind: AtomicU8,
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
            name: name.into(),
            authority,
            settings,
            route,
            current: Mutex::new(None),
            connecting: tokio::sync::Mutex::new(None),
            attempts: AtomicU64::new(0),
            kind: AtomicU8::new(Kind::Unknown as u8),
        })
    }

    /// Connects for the first time, when nobody else has the link.
    pub(crate) async fn open(&self) -> Result<(), ConnectError> {
        let connection = self.connect().await?;
        *self.current() = Some(Arc::new(connection));
        Ok(())
    }

    /// Speaks over a connection that exists. With [`Route::Given`] it is the only one.
    pub(crate) async fn begin(&self, io: impl Io + 'static) -> Result<(), ConnectError> {
        let connection = Connection::over(io, &self.name, &self.settings).await?;
        *self.current() = Some(Arc::new(connection));
        Ok(())
    }

    /// How the server is called in errors.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn authority(&self) -> &uri::Authority {
        &self.authority
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
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
        self.current().as_ref().filter(|connection| !connection.is_closed()).cloned()
    }

    /// The connection; a new one where it is dead. Whoever asks while one is being made waits for that one, and gets the
    /// same error where there is none.
    pub(crate) async fn connection(&self) -> Result<Arc<Connection>, Arc<ConnectError>> {
        if let Some(alive) = self.alive() {
            return Ok(alive);
        }
        let attempts = self.attempts.load(Ordering::Acquire);
        let mut failed = self.connecting.lock().await;
        if let Some(alive) = self.alive() {
            return Ok(alive);
        }
        if attempts != self.attempts.load(Ordering::Acquire)
            && let Some(error) = &*failed
        {
            return Err(Arc::clone(error));
        }
        let connected = self.connect().await;
        self.attempts.fetch_add(1, Ordering::Release);
        match connected {
            Ok(connection) => {
                let connection = Arc::new(connection);
                *self.current() = Some(Arc::clone(&connection));
                *failed = None;
                Ok(connection)
            }
            Err(error) => {
                let error = Arc::new(error);
                *failed = Some(Arc::clone(&error));
                Err(error)
            }
        }
    }

    /// Uses `connection` for nothing new: it says nothing, or its server leaves. What is open on it stays. A connection
    /// that the caller made has no other in its place, and is kept.
    pub(crate) fn replace(&self, connection: &Arc<Connection>) {
        let mut current = self.current();
        if !matches!(self.route, Route::Given)
            && current.as_ref().is_some_and(|current| Arc::ptr_eq(current, connection))
        {
            *current = None;
        }
    }

    /// Nothing can panic with the lock held.
    fn current(&self) -> MutexGuard<'_, Option<Arc<Connection>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

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
        f.debug_struct("Link").field("name", &self.name).finish_non_exhaustive()
    }
}
