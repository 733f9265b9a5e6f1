//! connectrpc, the Rust implementation of Connect that speaks gRPC too, on the server that comes with it.

use std::sync::Arc;

use connectrpc::{
    ConnectError, Encodable, RequestContext, Router, Server, ServiceRequest, ServiceResult, ServiceStream,
};
use futures_util::StreamExt as _;
use outflow_peers::{
    Schedule, Workload, announce,
    connect_stubs::protobuf::{Request, Response, StreamService},
    listen_address,
};

/// Its own default, hyper's 200, would make the workload of 10,000 idle streams queue in the client.
const STREAMS_MAX: u32 = 100_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    // It sets TCP_NODELAY itself, and has no setting for what it sends: its windows are those of what it receives.
    let server = Server::bind(listen_address()?).await?.with_max_concurrent_streams(STREAMS_MAX);
    announce(server.local_addr()?);
    server.serve(Router::new().add_service(Arc::new(Ready))).await
}

struct Ready;

impl StreamService for Ready {
    async fn fetch_response(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, Request>,
    ) -> ServiceResult<ServiceStream<impl Encodable<Response> + Send + use<>>> {
        let parameters = request.parameters.iter().map(|(name, value)| (*name, *value));
        let workload = Workload::parse(request.id, parameters).map_err(ConnectError::invalid_argument)?;
        let responses = Schedule::new(workload)
            .map(|(sequence, result)| Ok(Response { result, sequence, ..Response::default() }));
        connectrpc::Response::stream_ok(responses)
    }
}
