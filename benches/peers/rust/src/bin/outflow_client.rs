//! Outflow's client library, read as its front page reads it, to be measured beside tonic's.

use outflow_client::{Client, Fetch};
use outflow_peers::client::{Measurement, Options};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::of_arguments()?;
    let client = Client::connect(&format!("http://{}", options.server)).await?;
    let mut measurement = Measurement::start();
    for _ in 0..options.calls {
        let mut fetch = Fetch::id(options.id).source(&options.source);
        for (name, value) in &options.parameters {
            fetch = fetch.parameter(name, value);
        }
        let mut responses = client.fetch(fetch).await?;
        while let Some(response) = responses.next().await {
            measurement.received(response?.sequence);
        }
        measurement.ended();
    }
    Ok(measurement.print(&options)?)
}
