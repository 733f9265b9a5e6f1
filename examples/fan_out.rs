//! One request, many jobs: each file of a folder is read by a job of its own, and what is there first comes first.
//! `cargo run --example fan_out`, and then `outflow fetch 0 --param files=README.md,nothing,Cargo.toml`.
//!
//! A job that fails says so in its place, and the others go on: `outflow fetch` prints its error between their lines, and
//! exits with 0, since the plan tolerates it.

use outflow::{Code, Job, JobError, JobErrors, Plan, Refusal, Request, ServeError, Server, Source};
use tokio::{
    fs::File,
    io::{AsyncBufReadExt as _, BufReader},
};

/// The lines of some files of the folder it is started in.
struct Lines;

impl Source for Lines {
    fn plan(&self, request: &Request) -> Result<Plan, Refusal> {
        // What is wrong with a request is said before anything is started.
        let files =
            request.parameters().get("files").ok_or_else(|| Refusal::invalid("parameters.files", "is missing"))?;
        if let Some(outside) = files.split(',').find(|file| file.contains('/') || file.starts_with('.')) {
            return Err(Refusal::invalid("parameters.files", format!("`{outside}` is not the name of a file here")));
        }
        let jobs = files.split(',').map(str::to_owned).map(|file| {
            Job::new(async move |emitter| {
                let failed = |error| JobError::new(Code::NotFound, format!("{file}: {error}"));
                let mut lines = BufReader::new(File::open(&file).await.map_err(failed)?).lines();
                while let Some(line) = lines.next_line().await.map_err(failed)? {
                    emitter.emit(format!("{file}: {line}")).await?;
                }
                Ok(())
            })
        });
        // Four files are open at once; the other jobs wait for their turn.
        Ok(Plan::new().jobs(jobs).jobs_at_once(4).job_errors(JobErrors::Tolerate))
    }
}

#[tokio::main]
async fn main() -> Result<(), ServeError> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:50005".into());
    let ctrl_c = async { _ = tokio::signal::ctrl_c().await };
    Server::builder().source("lines", Lines).serve(address, ctrl_c).await
}
