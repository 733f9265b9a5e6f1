// What the examples of the guide at `outflow::Source` (`src/guide.md`) are run with. They include this file into a module of
// their own, which is why it does not begin with a module's doc.

use std::{net::SocketAddr, time::Duration};

use outflow::{Builder, Server};
use outflow_client::{Client, Fetch, Outcome, Payload};

/// Longer than anything here takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `work` gives, which asks a server that `build` makes. When it is done the server has ended.
pub fn served<T>(build: impl FnOnce(Builder) -> Builder, work: impl AsyncFnOnce(Client) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = build(Server::builder().listen([any.into()])).bind().unwrap();
        let address = server.addresses()[0];
        let (done, is_done) = tokio::sync::oneshot::channel::<()>();
        let works = async move {
            let _done = done;
            let client = Client::connect(&format!("http://{address}")).await.unwrap();
            tokio::time::timeout(PATIENCE, work(client)).await.expect("it takes too long")
        };
        let (given, served) = tokio::join!(works, server.serve(async { _ = is_done.await }));
        served.unwrap();
        given
    })
}

/// What a request is answered with: what each response says, and in the last line how its stream ended.
pub async fn answers(client: &Client, fetch: Fetch) -> Vec<String> {
    let mut responses = match client.fetch(fetch).await {
        Ok(responses) => responses,
        Err(refused) => return vec![refused.to_string()],
    };
    let mut lines = Vec::new();
    loop {
        match responses.next().await {
            Some(Ok(response)) => lines.push(match response.payload {
                Payload::Text(text) => text.to_string(),
                Payload::Data(data) => format!("{} bytes", data.len()),
                Payload::Error(error) => format!("job {}: {error}", response.job),
            }),
            Some(Err(error)) => {
                lines.push(error.to_string());
                return lines;
            }
            None => {
                lines.push(match responses.outcome() {
                    Some(Outcome::Ended { end, .. }) => end.to_string(),
                    _ => "limit".into(),
                });
                return lines;
            }
        }
    }
}
