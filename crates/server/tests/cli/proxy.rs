//! A bad proxy: it knows HTTP/2 frames, and treats streams badly one by one while their connection lives on; where that is
//! impossible it loses the connection at the worst moment of a stream.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use h2::Reason;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Mutex,
    task::JoinSet,
};

/// What becomes of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Nothing.
    None,
    /// Its connection is lost with its response headers.
    BeforeHeaders,
    /// It is reset in the middle, on both sides.
    Reset,
    /// Nothing of it passes any more; PINGs and all other streams do.
    Silent,
    /// Its connection is lost between its last response and its trailers.
    BeforeTrailers,
}

impl Trouble {
    const COUNT: usize = 5;
    /// One stream after the other; no request has bad luck for ever.
    const CYCLE: [Self; 8] = [
        Self::BeforeHeaders,
        Self::Reset,
        Self::None,
        Self::BeforeTrailers,
        Self::Silent,
        Self::Reset,
        Self::BeforeTrailers,
        Self::None,
    ];
}

/// Dropping it loses every connection.
pub(crate) struct Proxy {
    address: SocketAddr,
    troubles: Arc<Troubles>,
    _carriers: JoinSet<()>,
}

/// What there was so far.
#[derive(Default)]
struct Troubles {
    streams: AtomicUsize,
    made: [AtomicUsize; Trouble::COUNT],
}

impl Proxy {
    /// A proxy between whoever connects to it and `server`.
    pub(crate) async fn before(server: SocketAddr, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let troubles = Arc::new(Troubles::default());
        let count = Arc::clone(&troubles);
        let mut carriers = JoinSet::new();
        carriers.spawn(async move {
            let mut chance = StdRng::seed_from_u64(seed);
            let mut carriers = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let (troubles, chance) = (Arc::clone(&count), StdRng::seed_from_u64(chance.random()));
                carriers.spawn(async move {
                    // Whatever goes wrong with a socket is one more way to lose a connection.
                    _ = carry(client, server, troubles, chance).await;
                });
                while carriers.try_join_next().is_some() {}
            }
        });
        Self { address, troubles, _carriers: carriers }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often it made this trouble.
    pub(crate) fn made(&self, trouble: Trouble) -> usize {
        self.troubles.made[trouble as usize].load(SeqCst)
    }
}

/// A frame (RFC 9113 §4.1), head and payload.
struct Frame(Vec<u8>);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const HEAD_BYTES: usize = 9;

/// What a stream is reset with.
const REASONS: [Reason; 5] =
    [Reason::CANCEL, Reason::NO_ERROR, Reason::INTERNAL_ERROR, Reason::REFUSED_STREAM, Reason::ENHANCE_YOUR_CALM];

impl Frame {
    fn of(kind: u8, stream: u32, number: u32) -> Self {
        let mut bytes = vec![0, 0, 4, kind, 0];
        bytes.extend(stream.to_be_bytes());
        bytes.extend(number.to_be_bytes());
        Self(bytes)
    }

    async fn read(from: &mut OwnedReadHalf) -> io::Result<Self> {
        let mut bytes = vec![0; HEAD_BYTES];
        from.read_exact(&mut bytes).await?;
        let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        bytes.resize(HEAD_BYTES + length, 0);
        from.read_exact(&mut bytes[HEAD_BYTES..]).await?;
        Ok(Self(bytes))
    }

    fn kind(&self) -> u8 {
        self.0[3]
    }

    fn ends_stream(&self) -> bool {
        self.0[4] & END_STREAM != 0
    }

    fn stream(&self) -> u32 {
        u32::from_be_bytes(self.0[5..9].try_into().unwrap())
    }

    fn payload_bytes(&self) -> u32 {
        (self.0.len() - HEAD_BYTES) as u32
    }
}

async fn carry(client: TcpStream, server: SocketAddr, troubles: Arc<Troubles>, mut chance: StdRng) -> io::Result<()> {
    // While it is away nobody is let in.
    let server = TcpStream::connect(server).await?;
    for socket in [&client, &server] {
        socket.set_nodelay(true)?;
        if chance.random_bool(0.5) {
            // It is lost by a reset.
            SockRef::from(socket).set_linger(Some(Duration::ZERO))?;
        }
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let to_server = Arc::new(Mutex::new(to_server));
    let answers = Answers {
        to_client,
        to_server: Arc::clone(&to_server),
        streams: HashMap::new(),
        has_silent: false,
        troubles,
        chance,
    };
    tokio::select! {
        ended = requests(from_client, &to_server) => ended,
        ended = answers.carry(from_server) => ended,
    }
}

/// Hands on what the client sends, frame by frame, since others are put between them.
async fn requests(mut from: OwnedReadHalf, to: &Mutex<OwnedWriteHalf>) -> io::Result<()> {
    let mut preface = [0; 24];
    from.read_exact(&mut preface).await?;
    to.lock().await.write_all(&preface).await?;
    loop {
        let frame = Frame::read(&mut from).await?;
        to.lock().await.write_all(&frame.0).await?;
    }
}

/// The way back.
struct Answers {
    to_client: OwnedWriteHalf,
    to_server: Arc<Mutex<OwnedWriteHalf>>,
    streams: HashMap<u32, Stream>,
    /// A stream is silent, and its reader has to be the one to notice: the connection is not lost for another one's sake.
    has_silent: bool,
    troubles: Arc<Troubles>,
    chance: StdRng,
}

struct Stream {
    trouble: Trouble,
    /// How many DATA frames pass before it is in trouble.
    passing: u32,
    /// Nothing passes any more.
    is_cut: bool,
}

/// What becomes of a frame.
enum Fate {
    Passes,
    IsSwallowed,
    /// The connection is lost instead.
    Loses,
    /// Its stream is reset instead.
    Resets,
    /// Nothing passes any more at all.
    Stalls,
}

impl Answers {
    async fn carry(mut self, mut from: OwnedReadHalf) -> io::Result<()> {
        loop {
            let frame = Frame::read(&mut from).await?;
            match self.fate(&frame) {
                Fate::Passes => self.to_client.write_all(&frame.0).await?,
                Fate::IsSwallowed => self.give_back(&frame).await?,
                Fate::Loses => return Ok(()),
                // Until the client has had enough of it.
                Fate::Stalls => loop {
                    Frame::read(&mut from).await?;
                },
                Fate::Resets => {
                    let (stream, reason) = (frame.stream(), REASONS[self.chance.random_range(0..REASONS.len())]);
                    self.to_client.write_all(&Frame::of(RST_STREAM, stream, reason.into()).0).await?;
                    self.to_server
                        .lock()
                        .await
                        .write_all(&Frame::of(RST_STREAM, stream, Reason::CANCEL.into()).0)
                        .await?;
                    self.give_back(&frame).await?;
                }
            }
        }
    }

    fn fate(&mut self, frame: &Frame) -> Fate {
        let (kind, id) = (frame.kind(), frame.stream());
        if id == 0 {
            return Fate::Passes;
        }
        let is_first = !self.streams.contains_key(&id);
        let Self { streams, troubles, chance, has_silent, .. } = self;
        let stream = streams.entry(id).or_insert_with(|| {
            let number = troubles.streams.fetch_add(1, SeqCst);
            let trouble = Trouble::CYCLE[number % Trouble::CYCLE.len()];
            Stream { trouble, passing: chance.random_range(0..12), is_cut: false }
        });
        let is_headers = matches!(kind, HEADERS | CONTINUATION);
        if stream.is_cut {
            // Header blocks change what later ones mean, and cannot be left out.
            return match stream.trouble {
                Trouble::Silent if is_headers => Fate::Stalls,
                _ if is_headers => Fate::Loses,
                _ => Fate::IsSwallowed,
            };
        }
        let made = |trouble: Trouble| troubles.made[trouble as usize].fetch_add(1, SeqCst);
        match stream.trouble {
            Trouble::BeforeHeaders if is_first && !*has_silent => {
                made(Trouble::BeforeHeaders);
                Fate::Loses
            }
            Trouble::BeforeTrailers if !is_first && !*has_silent && kind == HEADERS && frame.ends_stream() => {
                made(Trouble::BeforeTrailers);
                Fate::Loses
            }
            Trouble::Reset | Trouble::Silent if kind == DATA && stream.passing > 0 => {
                stream.passing -= 1;
                Fate::Passes
            }
            trouble @ (Trouble::Reset | Trouble::Silent) if kind == DATA => {
                made(trouble);
                stream.is_cut = true;
                *has_silent |= trouble == Trouble::Silent;
                if trouble == Trouble::Reset { Fate::Resets } else { Fate::IsSwallowed }
            }
            _ => Fate::Passes,
        }
    }

    /// What the client does not get it cannot give back to the connection's window.
    async fn give_back(&self, frame: &Frame) -> io::Result<()> {
        if frame.kind() == DATA && frame.payload_bytes() > 0 {
            let update = Frame::of(WINDOW_UPDATE, 0, frame.payload_bytes());
            self.to_server.lock().await.write_all(&update.0).await?;
        }
        Ok(())
    }
}
