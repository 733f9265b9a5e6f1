//! tonic, with a stream that is ready whenever it is asked, the cheapest form that its users write.

use std::pin::Pin;

use futures_util::StreamExt as _;
use outflow_peers::{
    Schedule, Workload, announce, listen_address,
    tonic_stubs::{
        Request, Response,
        stream_service_server::{StreamService, StreamServiceServer},
    },
};
use tonic::{
    Status, async_trait,
    transport::{Server, server::TcpIncoming},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let incoming = TcpIncoming::bind(listen_address()?)?.with_nodelay(Some(true));
    announce(incoming.local_addr()?);
    let server = StreamServiceServer::new(Ready);
    Ok(Server::builder().add_service(server).serve_with_incoming(incoming).await?)
}

struct Ready;

#[async_trait]
impl StreamService for Ready {
    type FetchResponseStream = Pin<Box<dyn futures_core::Stream<Item = Result<Response, Status>> + Send>>;

    async fn fetch_response(
        &self,
        request: tonic::Request<Request>,
    ) -> Result<tonic::Response<Self::FetchResponseStream>, Status> {
        let request = request.get_ref();
        let parameters = request.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let workload = Workload::parse(request.id, parameters).map_err(Status::invalid_argument)?;
        let responses = Schedule::new(workload)
            .map(|(sequence, result)| Ok(Response { result, sequence, ..Response::default() }));
        Ok(tonic::Response::new(Box::pin(responses)))
    }
}
