//! A service of one's own beside the streams, on the same port. `cargo run -p own-services`, and then
//! `outflow fetch 100` for the primes, and `grpcurl -plaintext -d '{"up_to": 100}' 127.0.0.1:50005 example.Counter/Count`
//! for how many there are: reflection knows both.

use outflow::{Job, Plan, Refusal, Server, Source};
use tonic::{Response, Status, service::Routes};

use counter::{
    CountRequest, CountResponse,
    counter_server::{Counter, CounterServer},
};

/// What `build.rs` makes of `proto/counter.proto`.
#[allow(missing_docs, clippy::pedantic, unreachable_pub)]
mod counter {
    include!(concat!(env!("OUT_DIR"), "/example.rs"));
}
const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

struct Primes;

impl Primes {
    fn up_to(last: i32) -> impl Iterator<Item = i64> + Send {
        (2..=i64::from(last)).filter(|n| (2..*n).take_while(|d| d * d <= *n).all(|d| n % d > 0))
    }
}

/// Each prime, the moment it is found.
impl Source for Primes {
    fn plan(&self, request: &outflow::Request) -> Result<Plan, Refusal> {
        let last = request.id();
        Ok(Plan::new().job(Job::new(async move |emitter| {
            for prime in Self::up_to(last) {
                emitter.emit(prime.to_string()).await?;
            }
            Ok(())
        })))
    }
}

/// How many there are.
#[tonic::async_trait]
impl Counter for Primes {
    async fn count(&self, request: tonic::Request<CountRequest>) -> Result<Response<CountResponse>, Status> {
        let last = request.into_inner().up_to;
        if last > 10_000_000 {
            return Err(Status::invalid_argument("up_to: at most 10000000; for more there is the stream"));
        }
        // Services run where connections are served, and this computes.
        let counted = tokio::task::spawn_blocking(move || Self::up_to(last).count());
        let primes = counted.await.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(CountResponse { primes: u32::try_from(primes).expect("fewer than 10 million") }))
    }
}

#[tokio::main]
async fn main() -> Result<(), outflow::ServeError> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:50005".into());
    let ctrl_c = async { _ = tokio::signal::ctrl_c().await };
    Server::builder()
        .source("primes", Primes)
        .routes(Routes::new(CounterServer::new(Primes)))
        .file_descriptor_set(DESCRIPTORS)
        .serve(address, ctrl_c)
        .await
}
