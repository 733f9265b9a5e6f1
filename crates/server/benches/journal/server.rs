//! The server that is measured: simulated work, and a source that says when it emitted.

use std::{io::Write as _, net::SocketAddr, path::Path, time::Duration};

use outflow::{
    Emitter, Job, JobError, Limits, Placement, Plan, Refusal, Request, Server, Source, SourceOptions,
    source::Simulate,
};
use rustix::time::{ClockId, clock_gettime};

use crate::Outcome;

/// Prints its port and serves until killed, with its journals in `data`.
pub(crate) fn serve(data: &Path) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let shared = SourceOptions::new().shared(Duration::from_secs(3600));
    let mut server = Server::builder()
        .listen([any.into()])
        .limits(Limits::default())
        .default_source("simulate", Simulate::default())
        .source("stamp", Stamp)
        .source_with("shared", Simulate::default(), shared.clone())
        .source_with("shared stamp", Stamp, shared);
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

/// Nanoseconds of the clock that all processes of this machine share.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// Emits the time, `responses` times, once `every`.
struct Stamp;

impl Source for Stamp {
    fn plan(&self, request: &Request) -> Result<Plan, Refusal> {
        let number = |name: &str| request.parameters().get(name).and_then(|value| value.parse().ok()).unwrap_or(0);
        let (responses, every) = (number("responses"), Duration::from_micros(number("every_us")));
        // Spread over the time between two, as independent runs are.
        let offset = every * (request.id().unsigned_abs() % 1_000) / 1_000;
        Ok(Plan::new()
            .job(Job::new(move |emitter| stamp(emitter, responses, every, offset)))
            .placement(Placement::Reader))
    }
}

async fn stamp(emitter: Emitter, responses: u64, every: Duration, offset: Duration) -> Result<(), JobError> {
    let begin = tokio::time::Instant::now() + offset;
    for n in 0..responses {
        tokio::time::sleep_until(begin + every * n as u32).await;
        emitter.emit(now().to_string()).await?;
    }
    Ok(())
}
