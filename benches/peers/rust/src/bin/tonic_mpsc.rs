//! tonic, as its examples and most of its users write a stream: a task sends into a channel, and the response is the
//! channel's other end.

use outflow_peers::{
    Workload, announce, listen_address,
    tonic_stubs::{
        Request, Response,
        stream_service_server::{StreamService, StreamServiceServer},
    },
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, async_trait,
    transport::{Server, server::TcpIncoming},
};

/// What tonic's examples have.
const CHANNEL_MESSAGES: usize = 128;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let incoming = TcpIncoming::bind(listen_address()?)?.with_nodelay(Some(true));
    announce(incoming.local_addr()?);
    let server = StreamServiceServer::new(Mpsc);
    Ok(Server::builder().add_service(server).serve_with_incoming(incoming).await?)
}

struct Mpsc;

#[async_trait]
impl StreamService for Mpsc {
    type FetchResponseStream = ReceiverStream<Result<Response, Status>>;

    async fn fetch_response(
        &self,
        request: tonic::Request<Request>,
    ) -> Result<tonic::Response<Self::FetchResponseStream>, Status> {
        let request = request.get_ref();
        let parameters = request.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let workload = Workload::parse(request.id, parameters).map_err(Status::invalid_argument)?;
        let (sender, receiver) = mpsc::channel(CHANNEL_MESSAGES);
        #[expect(clippy::disallowed_methods, reason = "so do tonic's examples; it ends when its client has gone")]
        tokio::spawn(send(workload, sender));
        Ok(tonic::Response::new(ReceiverStream::new(receiver)))
    }
}

async fn send(workload: Workload, sender: mpsc::Sender<Result<Response, Status>>) {
    let begin = Instant::now();
    for sequence in 1..=workload.responses() {
        if let Some(due) = workload.due(sequence) {
            sleep_until(begin + due).await;
        }
        let response = Response { result: workload.text(), sequence, ..Response::default() };
        if sender.send(Ok(response)).await.is_err() {
            break;
        }
    }
}
