//! Our client and the real server, with a network between them that cuts, stalls, delays and splits at random; and a
//! server that leaves in the middle. The client's reader gets the whole stream once, in order, and notices nothing.

mod support;

use std::{
    collections::BTreeMap,
    env,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, stream, stream::BoxStream};
use outflow::Plan;
use outflow_client::{
    Client, Code, Durability, End, Event, Fetch, FetchError, Outcome, Payload, Response, Responses,
};
use outflow_proto::protobuf::{
    self,
    stream_service_server::{StreamService, StreamServiceServer},
};
use parking_lot::Mutex;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Status;

use support::{TestServer, network::Network, one, planned, within};

/// How many readers there are at once.
const READERS: usize = 16;
/// How many streams each of them reads, one after the other; `OUTFLOW_TEST_ROUNDS` says otherwise.
const ROUNDS: usize = 3;
const RESPONSES: u64 = 300;
const PAUSE: Duration = Duration::from_millis(4);
/// A run that nobody reads goes on for longer than any test waits.
const LINGER: Duration = Duration::from_mins(10);

fn rounds() -> usize {
    env::var("OUTFLOW_TEST_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().unwrap())
}

fn seed() -> u64 {
    let seed = env::var("OUTFLOW_TEST_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("OUTFLOW_TEST_SEED={seed}");
    seed
}

/// What a run of `id` gives as its `n`-th response: mostly short, now and then longer than a TCP segment or a DATA frame.
fn text(id: i32, n: u64) -> String {
    let length = match n % 97 {
        0 => 30_000,
        short => (short * 31 + u64::from(id.unsigned_abs()) * 7) % 300,
    };
    format!("{id} {n} {}", "x".repeat(length as usize))
}

/// How often a run of each id was started.
type Starts = Arc<Mutex<BTreeMap<i32, u32>>>;

/// A server whose runs pause after every ten responses.
fn serve(starts: &Starts, pause: Duration, build: impl FnOnce(outflow::Builder) -> outflow::Builder) -> TestServer {
    let starts = starts.clone();
    let plan = move |request: &outflow::Request| -> Plan {
        let (id, starts) = (request.id(), starts.clone());
        one(async move |emitter| {
            *starts.lock().entry(id).or_default() += 1;
            for n in 1..=RESPONSES {
                emitter.emit(text(id, n)).await?;
                if n % 10 == 0 {
                    tokio::time::sleep(pause).await;
                }
            }
            Ok(())
        })
    };
    TestServer::start(|server| build(server.default_source("test", planned(plan))))
}

/// A client that is soon impatient.
fn builder() -> outflow_client::ClientBuilder {
    let millis = Duration::from_millis;
    Client::builder()
        .resume_delays(millis(5), millis(100))
        .keepalive(millis(1_000), millis(1_000))
        .resume_heartbeat(millis(100))
}

/// Reads to the end, one by one or all that is there, and checks each response. How many came, and the error.
async fn read(responses: &mut Responses, id: i32) -> (u64, Option<FetchError>) {
    let mut count = 0;
    let mut check = |response: &Response| {
        count += 1;
        let Payload::Text(received) = &response.payload else { panic!("{response:?}") };
        assert_eq!((response.sequence, &**received), (count, &*text(id, count)));
    };
    let mut error = None;
    let mut batch = Vec::new();
    while error.is_none() {
        if id % 2 == 0 {
            match responses.next().await {
                Some(Ok(response)) => check(&response),
                Some(Err(failed)) => error = Some(failed),
                None => break,
            }
        } else {
            match responses.next_batch(&mut batch, 100).await {
                Ok(0) => break,
                Ok(_) => batch.drain(..).for_each(|response| check(&response)),
                Err(failed) => error = Some(failed),
            }
        }
    }
    (count, error)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journaled_stream_is_the_expected_one_through_any_network() {
    let starts = Starts::default();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let server = serve(&starts, PAUSE, |server| server.data(data));
    let network = Network::before(server.address(), seed()).await;
    let breaks = Arc::new(AtomicUsize::new(0));
    let mut readers = JoinSet::new();
    let mut client = None;
    for reader in 0..READERS {
        // Two share a connection.
        if reader % 2 == 0 {
            client = Some(builder().connect(&network.address().to_string()).await.unwrap());
        }
        let (client, breaks) = (client.clone().unwrap(), Arc::clone(&breaks));
        readers.spawn(async move {
            for round in 0..rounds() {
                let id = i32::try_from(reader + READERS * round).unwrap();
                let breaks = Arc::clone(&breaks);
                let mut fetch = Fetch::id(id).linger(LINGER).on_event(move |event| {
                    if matches!(event, Event::Broke { .. }) {
                        breaks.fetch_add(1, SeqCst);
                    }
                });
                // One in three has enough before the end.
                let limit = if id % 3 == 2 { Some(RESPONSES / 2) } else { None };
                fetch = fetch.limit(limit.unwrap_or(0));
                let mut responses = client.fetch(fetch).await.unwrap();
                let (count, error) = read(&mut responses, id).await;
                assert!(error.is_none(), "id {id} after {count}: {error:?}");
                assert_eq!(responses.durability(), Some(Durability::Disk));
                let expected = match limit {
                    Some(last_sequence) => Outcome::Limit { last_sequence },
                    None => Outcome::Ended { end: End::Complete, jobs_failed: 0, last_sequence: RESPONSES },
                };
                assert_eq!((count, responses.outcome()), (limit.unwrap_or(RESPONSES), Some(&expected)), "id {id}");
            }
        });
    }
    within(Duration::from_mins(2) * rounds() as u32, async {
        while let Some(read) = readers.join_next().await {
            read.unwrap();
        }
    })
    .await;
    // However often it was asked for: the key that the client made found it.
    let starts = starts.lock();
    assert_eq!((starts.len(), starts.values().max()), (READERS * rounds(), Some(&1)));
    let (breaks, connections) = (breaks.load(SeqCst), network.connections());
    println!("{breaks} breaks, {connections} connections");
    assert!(breaks > READERS, "the network was too good: {breaks} breaks");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_request_is_carried_out_once_at_most_and_what_came_is_its_beginning() {
    let starts = Starts::default();
    let server = serve(&starts, PAUSE, |server| server);
    let network = Network::before(server.address(), seed()).await;
    let mut readers = JoinSet::new();
    for id in 0..100 {
        let address = network.address().to_string();
        readers.spawn(async move {
            let client = builder().connect(&address).await.unwrap();
            let mut responses = match client.fetch(Fetch::id(id)).await {
                Ok(responses) => responses,
                Err(error) => return Err(error),
            };
            match read(&mut responses, id).await {
                (RESPONSES, None) => Ok(()),
                (count, None) => panic!("{count} responses were taken for all"),
                (_, Some(error)) => Err(error),
            }
        });
    }
    let (mut whole, mut broken) = (0, 0);
    while let Some(read) = within(Duration::from_mins(2), readers.join_next()).await {
        match read.unwrap() {
            Ok(()) => whole += 1,
            Err(FetchError::Break { .. }) => broken += 1,
            Err(error) => panic!("{error}"),
        }
    }
    println!("{whole} whole, {broken} broken");
    assert!(broken > 0, "the network was too good");
    assert_eq!(starts.lock().values().max(), Some(&1));
}

/// A server of the tutorial's contract that is no Outflow. It counts its requests.
struct Plain(Starts);

#[tonic::async_trait]
impl StreamService for Plain {
    type FetchResponseStream = BoxStream<'static, Result<protobuf::Response, Status>>;

    async fn fetch_response(
        &self,
        request: tonic::Request<protobuf::Request>,
    ) -> Result<tonic::Response<Self::FetchResponseStream>, Status> {
        let id = request.into_inner().id;
        *self.0.lock().entry(id).or_default() += 1;
        // Headers come late, as from many servers of this kind; there is time to lose the connection before.
        tokio::time::sleep(PAUSE).await;
        let responses = stream::iter(1..=RESPONSES).then(move |n| async move {
            tokio::time::sleep(PAUSE / 10).await;
            Ok(protobuf::Response { result: text(id, n), ..Default::default() })
        });
        Ok(tonic::Response::new(responses.boxed()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_server_is_asked_once_at_most_whatever_the_request_wishes() {
    let starts = Starts::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut server = JoinSet::new();
    let service = StreamServiceServer::new(Plain(starts.clone()));
    server.spawn(
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    let network = Network::before(address, seed()).await;
    let mut readers = JoinSet::new();
    for id in 0..100 {
        let address = network.address().to_string();
        readers.spawn(async move {
            // One that knows nothing yet of the server, each time.
            let client = builder().connect(&address).await.unwrap();
            let fetch = if id % 3 == 0 { Fetch::id(id) } else { Fetch::id(id).linger(LINGER) };
            let mut responses = client.fetch(fetch).await?;
            let (count, error) = read(&mut responses, id).await;
            assert!(error.is_some() || count == RESPONSES, "{count} responses were taken for all");
            error.map_or(Ok(()), Err)
        });
    }
    let (mut whole, mut broken) = (0, 0);
    while let Some(read) = within(Duration::from_mins(2), readers.join_next()).await {
        match read.unwrap() {
            Ok(()) => whole += 1,
            Err(FetchError::Break { .. }) => broken += 1,
            Err(error) => panic!("{error}"),
        }
    }
    println!("{whole} whole, {broken} broken");
    assert!(broken > 0, "the network was too good");
    assert_eq!(starts.lock().values().max(), Some(&1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_drains_and_comes_back_is_not_noticed() {
    let starts = Starts::default();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    // Long enough that it has not ended when the server is told to leave.
    let pause = 10 * PAUSE;
    let mut server = serve(&starts, pause, |server| server.data(&data));
    let address: SocketAddr = server.address();
    let client = builder().connect(&address.to_string()).await.unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let listener = Arc::clone(&told);
    let fetch = Fetch::id(4).linger(LINGER).on_event(move |event| listener.lock().push(event.clone()));
    let mut responses = client.fetch(fetch).await.unwrap();
    let mut first = responses.next().await.unwrap().unwrap();
    assert_eq!(first.sequence, 1);
    server.shut_down();
    // The rest of what was under way is read while it leaves.
    let reading = async {
        let mut sequences = Vec::new();
        while let Some(response) = responses.next().await {
            first = response.unwrap();
            sequences.push(first.sequence);
        }
        sequences
    };
    let coming_back = async {
        let ended = tokio::task::spawn_blocking(move || server.ended_within(Duration::from_secs(10))).await;
        ended.unwrap();
        serve(&starts, pause, |server| server.listen([address.into()]).data(&data))
    };
    let (sequences, _server) = within(Duration::from_secs(30), async { tokio::join!(reading, coming_back) }).await;
    assert_eq!(sequences, (2..=RESPONSES).collect::<Vec<_>>());
    assert_eq!(responses.outcome().map(|outcome| matches!(outcome, Outcome::Ended { .. })), Some(true));
    let told = told.lock();
    let Some(Event::Broke { error, .. }) = told.first() else { panic!("{told:?}") };
    assert_eq!(error.code(), Some(Code::UNAVAILABLE), "{error}");
    assert!(matches!(told.last(), Some(Event::Resumed { .. })), "{told:?}");
}
