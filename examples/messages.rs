//! Messages of one's own: a source emits them, a reader decodes them. `cargo run --example messages`, and in another
//! terminal `cargo run --example messages read`.

use std::{error::Error, time::Duration};

use outflow::{Job, PayloadKind, Plan, Refusal, Request, Server, Source};
use outflow_client::{Client, Fetch};

/// What a sensor measured; in a program of yours `prost-build` makes it of a `.proto` file, which both sides have.
#[derive(Clone, PartialEq, prost::Message)]
struct Reading {
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(double, tag = "2")]
    celsius: f64,
}

/// Readings of the sensor whose id is asked for, as long as somebody reads them.
struct Sensors;

impl Source for Sensors {
    fn plan(&self, request: &Request) -> Result<Plan, Refusal> {
        let base = f64::from(request.id());
        // A message is bytes, and that is said of all responses of a plan.
        Ok(Plan::new().payload(PayloadKind::Bytes).job(Job::new(async move |emitter| {
            for number in 1.. {
                let celsius = base + (number % 10) as f64 / 10.0;
                emitter.emit_message(&Reading { number, celsius }).await?;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Ok(())
        })))
    }
}

async fn read(address: &str) -> Result<(), Box<dyn Error>> {
    let client = Client::connect(address).await?;
    let mut responses = client.fetch(Fetch::id(20).limit(3)).await?;
    while let Some(response) = responses.next().await {
        let Reading { number, celsius } = response?.decode()?;
        println!("reading {number}: {celsius:.1} °C");
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).peekable();
    let reads = arguments.next_if(|argument| argument == "read").is_some();
    let address = arguments.next().unwrap_or("127.0.0.1:50005".into());
    if reads {
        return read(&address).await;
    }
    let ctrl_c = async { _ = tokio::signal::ctrl_c().await };
    Ok(Server::builder().source("sensors", Sensors).serve(address, ctrl_c).await?)
}
