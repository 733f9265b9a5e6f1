//! Files as the source, below a root on a real disk, served by the real program.

mod follow;
mod restarts;
mod whole;

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use outflow_client::{Client, Fetch, FetchError, Payload, Response, Responses};
use rustix::process::Signal;
use tempfile::TempDir;

use super::program::Server;

/// Nothing here takes so long.
const HANGS_AFTER: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(300);

/// A root with files, and a server of a source that reads there, on a disk.
struct Place {
    server: Server,
    folder: TempDir,
}

impl Place {
    /// With more of a source's settings; the path is `{parameters.name}`.
    fn new(settings: &str) -> Self {
        Self::with("", settings)
    }

    /// With these limits, too.
    fn with(limits: &str, settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("root")).unwrap();
        let source = "kind = 'file'\nroot = 'root'\npath = '{parameters.name}'\nparameters.name = { type = 'text' }";
        let text = format!("{limits}\n[[source]]\nname = 'files'\ndefault = true\n{source}\n{settings}\n");
        fs::write(folder.path().join("outflow.toml"), text).unwrap();
        let server = Self::server("127.0.0.1:0", &folder);
        Self { server, folder }
    }

    fn server(address: &str, folder: &TempDir) -> Server {
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        Server::start_at(address, &["--config", &path("outflow.toml"), "--data", &path("data")])
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("root").join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    fn append(&self, name: &str, content: &str) {
        fs::File::options().append(true).open(self.path(name)).unwrap().write_all(content.as_bytes()).unwrap();
    }

    fn kill(&mut self) {
        self.server.signal(Signal::KILL);
        self.server.wait();
    }

    fn start_again(&mut self) {
        self.server = Self::server(&self.server.address.clone(), &self.folder);
    }

    /// Whether the server has a file of this name open.
    fn is_open(&self, name: &str) -> bool {
        let path = self.path(name);
        self.server.open_files().iter().any(|open| open.starts_with(path.to_str().unwrap()))
    }

    /// Waits until it has it open no more.
    async fn closed(&self, name: &str) {
        // The client's tasks go on meanwhile.
        while self.is_open(name) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn client(&self) -> Client {
        Client::connect(&self.server.address).await.unwrap()
    }

    async fn fetch(&self, fetch: Fetch) -> Result<Responses, FetchError> {
        self.client().await.fetch(fetch.no_resume()).await
    }
}

/// A request for this file.
fn file(name: &str) -> Fetch {
    Fetch::id(1).parameter("name", name)
}

/// Runs a test's asynchronous part, which does not hang.
fn within_time<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(HANGS_AFTER, test).await.expect("it hangs") })
}

/// The payload of a response that is a text or bytes.
fn payload(response: &Response) -> &[u8] {
    match &response.payload {
        Payload::Text(text) => text.as_bytes(),
        Payload::Data(data) => data,
        Payload::Error(error) => panic!("job failed: {error}"),
    }
}

/// The next so many payloads.
async fn some(stream: &mut Responses, count: usize) -> Vec<Vec<u8>> {
    let mut some = Vec::new();
    while some.len() < count {
        some.push(payload(&stream.next().await.expect("there is more").unwrap()).to_vec());
    }
    some
}

/// The next payloads as texts.
async fn texts(stream: &mut Responses, count: usize) -> Vec<String> {
    some(stream, count).await.into_iter().map(|text| String::from_utf8(text).unwrap()).collect()
}

/// All payloads there are, and why there are no more where it was not well.
async fn rest(stream: &mut Responses) -> (Vec<Vec<u8>>, Option<FetchError>) {
    let mut all = Vec::new();
    while let Some(response) = stream.next().await {
        match response {
            Ok(response) if matches!(response.payload, Payload::Error(_)) => {}
            Ok(response) => all.push(payload(&response).to_vec()),
            Err(error) => return (all, Some(error)),
        }
    }
    (all, None)
}

/// Bytes that repeat nowhere near, the same every time.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(bytes).collect()
}

/// A file of so many bytes, all zeros, which takes no room.
fn sparse(path: &Path, bytes: u64) {
    fs::File::create(path).unwrap().set_len(bytes).unwrap();
}
