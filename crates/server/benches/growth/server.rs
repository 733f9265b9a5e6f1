//! The server that is measured, and its one source: small responses, after a while in which nothing happens.

use std::{io::Write as _, net::SocketAddr, path::Path, time::Duration};

use outflow::{Emitter, Job, JobError, Placement, Plan, Refusal, Request, Server, Source, SourceOptions};

use crate::Outcome;

/// The bytes of every response.
const TEXT: &str = "a response of 24 bytes..";
/// Responses that are emitted at once.
const AT_ONCE: u64 = 64;

/// Prints its port and serves until killed, with its journals in `data`.
pub(crate) fn serve(data: &Path) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut server = Server::builder().listen([any.into()]).default_source("plain", Steady).source_with(
        "journaled",
        Steady,
        SourceOptions::new().shared(Duration::from_secs(60)),
    );
    if data != Path::new("memory") {
        server = server.data(data);
    }
    let server = server.bind()?;
    runtime.block_on(async {
        println!("{}", server.addresses()[0].port());
        std::io::stdout().flush()?;
        Ok(server.serve(std::future::pending()).await?)
    })
}

/// Waits for `wait_ms`, then emits `responses` small ones as fast as it can.
struct Steady;

impl Source for Steady {
    fn plan(&self, request: &Request) -> Result<Plan, Refusal> {
        let number = |name: &str| request.parameters().get(name).and_then(|value| value.parse().ok()).unwrap_or(0);
        let (responses, wait) = (number("responses"), Duration::from_millis(number("wait_ms")));
        Ok(Plan::new().job(Job::new(move |emitter| steady(emitter, responses, wait))).placement(Placement::Reader))
    }
}

async fn steady(emitter: Emitter, responses: u64, wait: Duration) -> Result<(), JobError> {
    tokio::time::sleep(wait).await;
    let texts = [TEXT; AT_ONCE as usize];
    let mut left = responses;
    while left > 0 {
        let now = left.min(AT_ONCE);
        emitter.emit_all(&texts[..now as usize]).await?;
        left -= now;
    }
    Ok(())
}
