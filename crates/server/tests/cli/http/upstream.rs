//! Services that are asked: one by hand, which can do to its connections whatever others may, and one by hyper with TLS.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody, combinators::BoxBody};
use hyper::{Request, Response, Version, body::Frame, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::sync::mpsc;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer},
};

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Came {
    /// `GET /path?query`
    pub(crate) line: String,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Came {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    fn read(stream: &TcpStream) -> Option<Self> {
        let mut reader = BufReader::new(stream);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let headers = lines[1..].iter().map(|line| line.split_once(": ").unwrap());
        let headers: Vec<_> = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
        let line = lines[0].strip_suffix(" HTTP/1.1").unwrap().to_owned();
        let mut came = Self { line, headers, body: String::new() };
        let length = came.header("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        came.body = String::from_utf8(body).unwrap();
        Some(came)
    }
}

/// A service that does as it is told with each connection, which then ends.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    came: Arc<Mutex<Vec<Came>>>,
    gone: Arc<AtomicUsize>,
}

impl Upstream {
    /// `answer` gets what came, and the connection.
    pub(crate) fn start(answer: impl Fn(&Came, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (came, gone) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let (all, left, answer) = (came.clone(), gone.clone(), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let (all, left, answer) = (all.clone(), left.clone(), answer.clone());
                thread::spawn(move || {
                    let Some(came) = Came::read(&stream) else { return };
                    all.lock().unwrap().push(came.clone());
                    answer(&came, &mut stream);
                    left.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, came, gone }
    }

    /// What came so far.
    pub(crate) fn came(&self) -> Vec<Came> {
        self.came.lock().unwrap().clone()
    }

    /// How many connections are done with.
    pub(crate) fn gone(&self) -> usize {
        self.gone.load(Ordering::SeqCst)
    }
}

/// Says all there is to say.
pub(crate) fn say(stream: &mut TcpStream, status: &str, headers: &str, body: &str) {
    let length = body.len();
    // Who asked may have had enough.
    _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}");
}

/// Begins a body without a known length.
pub(crate) fn begin(stream: &mut TcpStream, kind: &str) {
    _ = write!(stream, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-type: {kind}\r\n\r\n");
}

/// Goes on with it; whether the other side is still there.
pub(crate) fn go_on(stream: &mut TcpStream, data: &str) -> bool {
    write!(stream, "{:x}\r\n{data}\r\n", data.len()).is_ok()
}

/// Waits until the other side has closed.
pub(crate) fn until_closed(stream: &mut TcpStream) {
    while matches!(stream.read(&mut [0; 64]), Ok(1..)) {}
}

/// A service with TLS, whose certificate is its own authority: it says by which version it was asked, and then a line
/// now and then until the request is gone, which it counts. Asked for `/plain`, it sends on to where there is no TLS.
pub(crate) struct Secure {
    pub(crate) address: SocketAddr,
    pub(crate) gone: Arc<AtomicUsize>,
    _runtime: tokio::runtime::Runtime,
}

impl Secure {
    /// Its certificate goes to the file `authority`; it speaks these protocols.
    pub(crate) fn start(authority: &Path, protocols: &[&str]) -> Self {
        let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(authority, key.cert.pem()).unwrap();
        let secret = PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![key.cert.der().clone()], secret)
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let gone = Arc::new(AtomicUsize::new(0));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let left = gone.clone();
        runtime.spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, left) = (acceptor.clone(), left.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(|request| answer(request, left.clone()));
                    let server = auto::Builder::new(TokioExecutor::new());
                    _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, gone, _runtime: runtime }
    }
}

type Answer = Response<BoxBody<Bytes, std::convert::Infallible>>;

#[expect(clippy::unused_async, reason = "a service is")]
async fn answer(
    request: Request<hyper::body::Incoming>,
    gone: Arc<AtomicUsize>,
) -> Result<Answer, std::convert::Infallible> {
    let version = if request.version() == Version::HTTP_2 { "2" } else { "1" };
    if request.uri().path() == "/plain" {
        let away = Response::builder().status(302).header("location", "http://127.0.0.1:1/");
        return Ok(away.body(http_body_util::Empty::new().boxed()).unwrap());
    }
    let endless = request.uri().path() == "/endless";
    let (lines, body) = mpsc::channel(1);
    #[expect(clippy::disallowed_methods, reason = "the test's runtime ends it")]
    tokio::spawn(async move {
        let mut line = format!("by HTTP/{version}\n");
        while lines.send(Ok(Frame::data(Bytes::from(std::mem::replace(&mut line, "more\n".into()))))).await.is_ok() {
            if !endless {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        gone.fetch_add(1, Ordering::SeqCst);
    });
    Ok(Response::new(StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(body)).boxed()))
}
