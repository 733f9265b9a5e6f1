//! Short forms of what these tests ask, and sources whose progress they hold in their hands.

use std::{collections::BTreeMap, sync::Arc, time::Duration, time::Instant};

use outflow::Plan;
use outflow_proto::{
    outflow::v1::{
        GetRunRequest, ListRunsRequest, Run, RunState, StopRunRequest, run_service_client::RunServiceClient,
    },
    protobuf::{Request, Response},
};
use tokio::sync::Semaphore;
use tonic::{Code, Status, transport::Channel};

use crate::support::{
    Gauge, PATIENCE, TestServer, one,
    wire::{Answer, Answering},
};

/// As fields want it.
#[expect(clippy::unnecessary_wraps, reason = "every field of a time is optional")]
pub(crate) fn time(millis: u64) -> Option<prost_types::Duration> {
    Some(Duration::from_millis(millis).try_into().unwrap())
}

/// Asks for `id`, journaled, with a linger that no test waits for.
pub(crate) fn journaled(id: i32) -> Request {
    Request { id, linger: time(60_000), ..Request::default() }
}

pub(crate) fn keyed(id: i32, key: &str) -> Request {
    Request { id, idempotency_key: key.to_owned(), ..Request::default() }
}

pub(crate) fn again(run: &str, after: u64) -> Request {
    Request { run_id: run.to_owned(), after, ..Request::default() }
}

pub(crate) trait Names {
    /// The run that the headers name.
    fn run(&self) -> String;
}

impl Names for Answer {
    fn run(&self) -> String {
        self.headers["outflow-run-id"].to_str().unwrap().to_owned()
    }
}

impl Names for Answering {
    fn run(&self) -> String {
        self.headers["outflow-run-id"].to_str().unwrap().to_owned()
    }
}

pub(crate) fn sequences(answer: &Answer) -> Vec<u64> {
    answer.responses().iter().map(|response| response.sequence).collect()
}

/// Whole values: parts put together, and the job each is from.
pub(crate) fn values(responses: &[Response]) -> Vec<(u32, Vec<u8>)> {
    let mut open: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    let mut values = Vec::new();
    for response in responses {
        let value = open.entry(response.job).or_default();
        value.extend(if response.data.is_empty() { response.result.as_bytes() } else { &response.data });
        if !response.partial {
            values.push((response.job, open.remove(&response.job).unwrap()));
        }
    }
    values
}

/// What the trailers say of the run's end: its name and how many jobs failed.
pub(crate) fn end(answer: &Answer) -> Option<(&str, &str)> {
    let (end, failed) = (answer.said("outflow-end"), answer.said("outflow-jobs-failed"));
    assert_eq!(end.is_some(), failed.is_some(), "both or none: {answer:?}");
    end.zip(failed)
}

/// The reason and the metadata of the `ErrorInfo` in a status's details.
pub(crate) fn info(answer: &Answer) -> (String, BTreeMap<String, String>) {
    let details = answer.details();
    let info = details.error_info().expect("there is an ErrorInfo");
    (info.reason.clone(), info.metadata.clone().into_iter().collect())
}

/// The run service of a server.
pub(crate) struct Runs(RunServiceClient<Channel>);

impl Runs {
    pub(crate) async fn of(server: &TestServer) -> Self {
        let channel = Channel::from_shared(format!("http://{}", server.address())).unwrap();
        Self(RunServiceClient::new(channel.connect().await.unwrap()))
    }

    pub(crate) async fn get(&self, run: &str) -> Result<Run, Status> {
        let answer = self.0.clone().get_run(GetRunRequest { run_id: run.to_owned() }).await?;
        Ok(answer.into_inner().run.unwrap())
    }

    pub(crate) async fn stop(&self, run: &str) -> Result<Run, Status> {
        let answer = self.0.clone().stop_run(StopRunRequest { run_id: run.to_owned() }).await?;
        Ok(answer.into_inner().run.unwrap())
    }

    pub(crate) async fn list(&self, request: ListRunsRequest) -> Result<(Vec<Run>, String), Status> {
        let answer = self.0.clone().list_runs(request).await?.into_inner();
        Ok((answer.runs, answer.next_page_token))
    }

    /// How many runs there are.
    pub(crate) async fn count(&self) -> usize {
        self.list(ListRunsRequest::default()).await.unwrap().0.len()
    }

    /// The run, as soon as it is as `wanted`.
    pub(crate) async fn until(&self, run: &str, wanted: impl Fn(&Run) -> bool) -> Run {
        let began = Instant::now();
        loop {
            let run = self.get(run).await.unwrap();
            if wanted(&run) {
                return run;
            }
            assert!(began.elapsed() < PATIENCE, "{run:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The run, as soon as it has ended.
    pub(crate) async fn ended(&self, run: &str) -> Run {
        self.until(run, |run| run.state() == RunState::Ended).await
    }

    /// Waits until there is no such run any more.
    pub(crate) async fn gone(&self, run: &str) {
        let began = Instant::now();
        loop {
            match self.get(run).await {
                Ok(run) => assert!(began.elapsed() < PATIENCE, "{run:?}"),
                Err(status) => {
                    assert_eq!(status.code(), Code::NotFound, "{status:?}");
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Lets responses out, one by one, of all jobs that hang on it.
#[derive(Clone)]
pub(crate) struct Tap(Arc<Semaphore>);

impl Tap {
    pub(crate) fn shut() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    pub(crate) fn let_out(&self, responses: usize) {
        self.0.add_permits(responses);
    }

    pub(crate) async fn next(&self) {
        self.0.acquire().await.unwrap().forget();
    }

    /// A plan of one job, which emits the numbers up to `last` as they are let out.
    pub(crate) fn plan(&self, last: u64) -> Plan {
        let tap = self.clone();
        one(async move |emitter| {
            for n in 1..=last {
                tap.next().await;
                emitter.emit(n.to_string()).await?;
            }
            Ok(())
        })
    }
}

/// A plan of one job, which emits the numbers up to `last`.
pub(crate) fn counting(last: u64) -> Plan {
    one(async move |emitter| {
        for n in 1..=last {
            emitter.emit(n.to_string()).await?;
        }
        Ok(())
    })
}

/// The same, and counts how often that was begun.
pub(crate) fn counted(begun: &Gauge, last: u64) -> Plan {
    let begun = begun.clone();
    one(async move |emitter| {
        // For good.
        std::mem::forget(begun.enter());
        for n in 1..=last {
            emitter.emit(n.to_string()).await?;
        }
        Ok(())
    })
}
