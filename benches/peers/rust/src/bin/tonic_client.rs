//! tonic's client as its documentation has it: the generated stub, a loop of `message`.

use outflow_peers::{
    client::{Measurement, Options},
    tonic_stubs::{Request, stream_service_client::StreamServiceClient},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::of_arguments()?;
    let mut client = StreamServiceClient::connect(format!("http://{}", options.server)).await?;
    let mut measurement = Measurement::start();
    for _ in 0..options.calls {
        let Options { id, source, parameters, .. } = options.clone();
        let request = Request { id, source, parameters: parameters.into_iter().collect(), ..Request::default() };
        let mut responses = client.fetch_response(request).await?.into_inner();
        while let Some(response) = responses.message().await? {
            measurement.received(response.sequence);
        }
        measurement.ended();
    }
    Ok(measurement.print(&options)?)
}
