//! The peers: tonic servers of the same contract, on tonic's own transport and tokio's default runtime, as its users
//! have them. They answer as the tutorial does, with `result` only, which spares them what outflow encodes besides;
//! and where responses are many, each is a clone of one made before, the least that prost's messages allow.

use std::{
    iter::{self, RepeatN},
    net::Ipv4Addr,
    sync::Mutex,
    time::Duration,
};

use futures_util::stream;
use outflow_proto::protobuf::{
    Request, Response,
    stream_service_server::{StreamService, StreamServiceServer},
};
use tokio::{runtime::Runtime, sync::mpsc, task::JoinSet, time};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, async_trait,
    transport::{Server, server::TcpIncoming},
};

use crate::{Outcome, process::Way};

/// What the examples have.
const CHANNEL_MESSAGES: usize = 128;

/// The tutorial's: as many jobs, each sleeping as many seconds as its number says.
const TUTORIAL_JOBS: u32 = 5;

/// Serves on a free port of the loopback address, which it prints, until the process is killed.
pub(crate) fn serve(way: Way) -> Outcome<()> {
    Runtime::new()?.block_on(async {
        let incoming = TcpIncoming::bind((Ipv4Addr::LOCALHOST, 0).into())?.with_nodelay(Some(true));
        println!("{}", incoming.local_addr()?.port());
        let mut server = Server::builder();
        let router = match way {
            Way::Mpsc => server.add_service(StreamServiceServer::new(Mpsc::default())),
            Way::Ready => server.add_service(StreamServiceServer::new(Ready)),
        };
        Ok(router.serve_with_incoming(incoming).await?)
    })
}

#[derive(Default)]
struct Mpsc {
    /// One task a stream; it ends when its client has gone or has had everything.
    tasks: Mutex<JoinSet<()>>,
}

#[async_trait]
impl StreamService for Mpsc {
    type FetchResponseStream = ReceiverStream<Result<Response, Status>>;

    async fn fetch_response(
        &self,
        request: tonic::Request<Request>,
    ) -> Result<tonic::Response<Self::FetchResponseStream>, Status> {
        let request = request.into_inner();
        let (sender, receiver) = mpsc::channel(CHANNEL_MESSAGES);
        let responses = responses(&request)?;
        let mut tasks = self.tasks.lock().expect("nothing panics under it");
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let Some(responses) = responses else {
                return tutorial(request.id, &sender).await;
            };
            for response in iter::repeat_n(response(0, request.id), responses) {
                if sender.send(Ok(response)).await.is_err() {
                    break;
                }
            }
        });
        Ok(tonic::Response::new(ReceiverStream::new(receiver)))
    }
}

struct Ready;

#[async_trait]
impl StreamService for Ready {
    type FetchResponseStream = stream::Iter<RepeatN<Result<Response, Status>>>;

    async fn fetch_response(
        &self,
        request: tonic::Request<Request>,
    ) -> Result<tonic::Response<Self::FetchResponseStream>, Status> {
        let request = request.into_inner();
        let responses =
            responses(&request)?.ok_or_else(|| Status::unimplemented("this peer has no jobs that wait"))?;
        let ready = iter::repeat_n(Ok(response(0, request.id)), responses);
        Ok(tonic::Response::new(stream::iter(ready)))
    }
}

async fn tutorial(id: i32, sender: &mpsc::Sender<Result<Response, Status>>) {
    let mut jobs = JoinSet::new();
    for job in 0..TUTORIAL_JOBS {
        let sender = sender.clone();
        jobs.spawn(async move {
            time::sleep(Duration::from_secs(job.into())).await;
            // It fails when the client has gone, and then nobody is left to be told.
            let _ = sender.send(Ok(response(job, id))).await;
        });
    }
    jobs.join_all().await;
}

/// How many are asked for; none: the tutorial's jobs.
fn responses(request: &Request) -> Result<Option<usize>, Status> {
    let Some(responses) = request.parameters.get("responses") else { return Ok(None) };
    responses.parse().map(Some).map_err(|_| Status::invalid_argument("responses"))
}

fn response(job: u32, id: i32) -> Response {
    Response { result: format!("Request #{job} For Id:{id}"), ..Response::default() }
}
