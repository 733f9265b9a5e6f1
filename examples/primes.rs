//! A source of one's own. `cargo run --example primes`, and then `outflow fetch 100`, or any other client.

use outflow::{Job, Plan, Refusal, Request, ServeError, Server, Source};

/// The primes up to the id that is asked for, each sent the moment it is found.
struct Primes;

impl Source for Primes {
    fn plan(&self, request: &Request) -> Result<Plan, Refusal> {
        let last = i64::from(request.id());
        Ok(Plan::new().job(Job::new(async move |emitter| {
            for n in (2..=last).filter(|n| (2..*n).take_while(|d| d * d <= *n).all(|d| n % d > 0)) {
                emitter.emit(n.to_string()).await?;
            }
            Ok(())
        })))
    }
}

#[tokio::main]
async fn main() -> Result<(), ServeError> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:50005".into());
    let ctrl_c = async { _ = tokio::signal::ctrl_c().await };
    Server::builder().source("primes", Primes).serve(address, ctrl_c).await
}
