//! A bad network: a proxy on loopback that carries bytes in both directions, and cuts, stalls, delays and splits them as a
//! seed has it.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Dropping it loses every connection.
pub struct Network {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    _carriers: JoinSet<()>,
}

/// What becomes of a connection when it has carried so many bytes.
#[derive(Clone, Copy, Debug)]
struct Fate {
    after: u64,
    how: How,
}

#[derive(Clone, Copy, Debug)]
enum How {
    /// It is closed, whatever is under way.
    Closed,
    /// It is reset.
    Reset,
    /// Nothing passes any more, and nobody is told.
    Forgotten,
}

impl Fate {
    fn of(chance: &mut StdRng) -> Self {
        let after = match chance.random_range(0..10) {
            // In the preface, the request or the headers.
            0..2 => chance.random_range(0..500),
            2..8 => chance.random_range(0..60_000),
            _ => chance.random_range(0..400_000),
        };
        let how = match chance.random_range(0..10) {
            0 => How::Forgotten,
            1..5 => How::Reset,
            _ => How::Closed,
        };
        Self { after, how }
    }
}

impl Network {
    /// A network between whoever connects to it and `server`.
    pub async fn before(server: SocketAddr, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let mut carriers = JoinSet::new();
        carriers.spawn(async move {
            let mut chance = StdRng::seed_from_u64(seed);
            let mut carriers = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                count.fetch_add(1, SeqCst);
                let (fate, seed) = (Fate::of(&mut chance), chance.random());
                carriers.spawn(async move {
                    // Whatever goes wrong with a socket is one more way to lose a connection; so is a server that is away.
                    if let Ok(server) = TcpStream::connect(server).await {
                        _ = carry(client, server, fate, seed).await;
                    }
                });
                while carriers.try_join_next().is_some_and(|carried| carried.is_ok()) {}
            }
        });
        Self { address, connections, _carriers: carriers }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it has carried.
    pub fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
}

async fn carry(mut client: TcpStream, mut server: TcpStream, fate: Fate, seed: u64) -> io::Result<()> {
    for socket in [&client, &server] {
        socket.set_nodelay(true)?;
    }
    let left = AtomicU64::new(fate.after);
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::select! {
        ended = pump(from_client, to_server, &left, StdRng::seed_from_u64(seed)) => ended?,
        ended = pump(from_server, to_client, &left, StdRng::seed_from_u64(!seed)) => ended?,
    }
    match fate.how {
        How::Closed => {}
        How::Reset => {
            for socket in [&client, &server] {
                SockRef::from(socket).set_linger(Some(Duration::ZERO))?;
            }
        }
        // Until the client has had enough of it.
        How::Forgotten => {
            tokio::io::copy(&mut client, &mut tokio::io::sink()).await?;
        }
    }
    Ok(())
}

/// Carries bytes until there are no more, or none may pass.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    left: &AtomicU64,
    mut chance: StdRng,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let most = chance.random_range(1..=buffer.len());
        let count = from.read(&mut buffer[..most]).await?;
        if count == 0 {
            return Ok(());
        }
        let before = left.fetch_update(SeqCst, SeqCst, |left| Some(left.saturating_sub(count as u64))).unwrap();
        let passing = usize::try_from(before).unwrap_or(usize::MAX).min(count);
        let mut rest = &buffer[..passing];
        while !rest.is_empty() {
            match chance.random_range(0..400) {
                0 => tokio::time::sleep(Duration::from_millis(chance.random_range(100..500))).await,
                1..50 => tokio::time::sleep(Duration::from_millis(chance.random_range(1..10))).await,
                _ => {}
            }
            // Mostly in the middle of a frame.
            let pieces = chance.random_range(1..=3);
            let (piece, after) = rest.split_at(rest.len().div_ceil(pieces));
            to.write_all(piece).await?;
            rest = after;
        }
        if passing < count {
            return Ok(());
        }
    }
}
