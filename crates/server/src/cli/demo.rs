//! `outflow demo`: the tutorial's server and client in one process, both sides' lines on stdout.

use std::io;

use clap::Args;
use outflow_client::{Client, Fetch, Payload};
use tokio::sync::oneshot;

use super::{Exit, log};
use crate::{Server, server::ServeError};

/// Server and client in one process, with both sides' lines, as in the tutorial: five jobs for id 1, the nth takes n
/// seconds, each result sent the moment it is ready.
#[derive(Args)]
pub(super) struct Demo {}

/// Why there was no demonstration.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("{0}")]
    Serve(#[from] ServeError),
    #[error("can not connect with server {0}")]
    Connect(#[from] outflow_client::ConnectError),
    #[error("open stream error {0}")]
    Open(#[source] outflow_client::FetchError),
    #[error("cannot receive {0}")]
    Receive(#[source] outflow_client::FetchError),
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

impl Demo {
    pub(super) fn run(filter: &log::Filter) -> Exit {
        let _log = log::start(filter, io::stdout());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime.map_err(Failed::from).and_then(|runtime| runtime.block_on(demonstrate())) {
            Ok(()) => Exit::Done,
            Err(failed) => {
                tracing::error!("{failed}");
                Exit::Failed
            }
        }
    }
}

async fn demonstrate() -> Result<(), Failed> {
    let free_port = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Server::builder().listen([free_port.into()]).bind()?;
    let address = server.addresses()[0].to_string();
    let (done, shutdown) = oneshot::channel::<()>();
    let served = server.serve(async { _ = shutdown.await });
    let fetched = async {
        // Moved in, so that the server is told also when the client fails.
        let _done = done;
        fetch(&address).await
    };
    let (served, fetched) = tokio::join!(served, fetched);
    fetched?;
    Ok(served?)
}

async fn fetch(address: &str) -> Result<(), Failed> {
    let client = Client::connect(address).await?;
    let mut responses = client.fetch(Fetch::id(1)).await.map_err(Failed::Open)?;
    while let Some(response) = responses.next().await {
        if let Payload::Text(text) = response.map_err(Failed::Receive)?.payload {
            tracing::info!("Resp received: {text}");
        }
    }
    tracing::info!("finished");
    Ok(())
}
