//! `outflow.v1.RunService`: what runs there are, and how to stop one. It turns what the engine knows into messages; all
//! that it says is durable.

use std::{sync::Arc, time::Duration, time::SystemTime};

use outflow_engine::{
    Durability as Outlives, End, Engine, Filter, Principal, Refusal, RunId, RunInfo, Sequence, Timestamp,
};
use outflow_proto::outflow::v1::{
    Durability, GetRunRequest, GetRunResponse, ListRunsRequest, ListRunsResponse, Run, RunEnd, RunState,
    StopRunRequest, StopRunResponse, run_service_server::RunService,
};
use tonic::{Request, Response, Status};

use super::status;

/// The service, as health checks and reflection name it.
pub(crate) const RUN_SERVICE: &str = "outflow.v1.RunService";

/// Runs in a page where the request does not say, and at the most.
const PAGE_SIZE: u32 = 100;
const PAGE_SIZE_MAX: u32 = 1_000;

/// The run service over an engine.
pub(crate) struct Runs(Arc<Engine>);

impl Runs {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self(engine)
    }
}

#[tonic::async_trait]
impl RunService for Runs {
    async fn get_run(&self, request: Request<GetRunRequest>) -> Result<Response<GetRunResponse>, Status> {
        let GetRunRequest { run_id } = request.into_inner();
        let run =
            self.0.run(&Principal::Anonymous, &named(run_id)?).await.map_err(|error| status::refused(&error))?;
        Ok(Response::new(GetRunResponse { run: Some(message(run)) }))
    }

    async fn list_runs(&self, request: Request<ListRunsRequest>) -> Result<Response<ListRunsResponse>, Status> {
        let request = request.into_inner();
        let ended = match request.state() {
            RunState::Unspecified if request.state != 0 => {
                return Err(invalid("state", "is no state; there are running and ended"));
            }
            RunState::Unspecified => None,
            RunState::Running => Some(false),
            RunState::Ended => Some(true),
        };
        let before = match request.page_token.as_str() {
            "" => None,
            token => {
                let before: Result<RunId, _> = token.parse();
                Some(before.map_err(|_| invalid("page_token", "is none that this server gave"))?)
            }
        };
        let page_size =
            if request.page_size == 0 { PAGE_SIZE } else { request.page_size.min(PAGE_SIZE_MAX) } as usize;
        let source = Some(request.source).filter(|source| !source.is_empty());
        let filter = Filter { principal: Principal::Anonymous, ended, source };
        // One more than wanted tells whether there is another page.
        let mut runs = self.0.list(filter, before, page_size + 1).await.map_err(|error| status::refused(&error))?;
        let is_more = runs.len() > page_size;
        runs.truncate(page_size);
        let next_page_token = match runs.last() {
            Some(last) if is_more => last.record.id.to_string(),
            _ => String::new(),
        };
        Ok(Response::new(ListRunsResponse { runs: runs.into_iter().map(message).collect(), next_page_token }))
    }

    async fn stop_run(&self, request: Request<StopRunRequest>) -> Result<Response<StopRunResponse>, Status> {
        let StopRunRequest { run_id } = request.into_inner();
        let run =
            self.0.stop(&Principal::Anonymous, &named(run_id)?).await.map_err(|error| status::refused(&error))?;
        Ok(Response::new(StopRunResponse { run: Some(message(run)) }))
    }
}

fn named(run_id: String) -> Result<String, Status> {
    if run_id.is_empty() { Err(invalid("run_id", "is empty; name the run")) } else { Ok(run_id) }
}

fn invalid(field: &str, problem: &str) -> Status {
    status::refused(&Refusal::invalid(field, problem))
}

fn message(info: RunInfo) -> Run {
    let RunInfo { record, readers, durability, expires_in, .. } = info;
    let (start, ended) = (&record.start, &record.ended);
    let (end, end_message, end_code) = match ended.as_ref().map(|ended| &ended.end) {
        None => (RunEnd::Unspecified, String::new(), 0),
        Some(End::Complete) => (RunEnd::Complete, String::new(), 0),
        Some(End::Failed(error)) => (RunEnd::Failed, error.message.clone(), error.code.number()),
        Some(End::Deadline) => (RunEnd::Deadline, String::new(), 0),
        Some(End::Interrupted(reason)) => (RunEnd::Interrupted, reason.clone(), 0),
        Some(_) => (RunEnd::Stopped, String::new(), 0),
    };
    let state = if ended.is_some() { RunState::Ended } else { RunState::Running };
    Run {
        run_id: record.id.to_string(),
        source: start.source.to_string(),
        id: start.id,
        parameters: start.parameters.to_map(),
        state: state.into(),
        end: end.into(),
        end_message,
        end_code,
        first_sequence: if record.last == Sequence::NONE { 0 } else { record.first.get() },
        last_sequence: record.last.get(),
        jobs: start.jobs,
        jobs_failed: ended.as_ref().map_or(record.jobs.failed, |ended| ended.jobs_failed),
        durability: match durability {
            Outlives::None => Durability::None,
            Outlives::Memory => Durability::Memory,
            Outlives::Disk => Durability::Disk,
        }
        .into(),
        linger: prost_types::Duration::try_from(record.linger).ok(),
        readers: u32::try_from(readers).unwrap_or(u32::MAX),
        bytes: record.bytes,
        start_time: Some(time(start.at)),
        end_time: ended.as_ref().map(|ended| time(ended.at)),
        expire_time: expires_in.and_then(time_in),
    }
}

fn time(at: Timestamp) -> prost_types::Timestamp {
    let millis = at.as_millis();
    let nanos = (millis % 1000) * 1_000_000;
    prost_types::Timestamp { seconds: (millis / 1000).cast_signed(), nanos: nanos as i32 }
}

/// The time of day that it will be then. Runs age by the time that the server serves, so this is the earliest.
fn time_in(later: Duration) -> Option<prost_types::Timestamp> {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let seconds = since_1970.checked_add(later)?.as_secs();
    Some(prost_types::Timestamp { seconds: i64::try_from(seconds).ok()?, nanos: 0 })
}
