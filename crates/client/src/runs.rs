//! What runs there are, how each is getting on, and how to stop one: `outflow.v1.RunService`.
//!
//! Owns: a run as the caller sees it, and paging. Must not know: how a call is made, streams.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use outflow_proto::outflow::v1::{
    self as proto, GetRunRequest, GetRunResponse, ListRunsRequest, ListRunsResponse, RunState, StopRunRequest,
    StopRunResponse,
};

use crate::{CallError, Code, Durability, End, Violation, call::unary, link::Link};

const GET: &str = "/outflow.v1.RunService/GetRun";
const LIST: &str = "/outflow.v1.RunService/ListRuns";
const STOP: &str = "/outflow.v1.RunService/StopRun";

/// One execution of a request, as the server knew it when it answered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Run {
    /// Its name; [`Fetch::run`](crate::Fetch::run) reads it.
    pub run_id: String,
    /// Who answers.
    pub source: String,
    /// What was asked for.
    pub id: i32,
    /// For the source, as they were asked for.
    pub parameters: BTreeMap<String, String>,
    /// How it ended; `None` while it is running.
    pub end: Option<RunEnd>,
    /// The first response that is kept, greater than 1 where the head was dropped; 0 where there is none.
    pub first_sequence: u64,
    /// The last response; 0 where there is none.
    pub last_sequence: u64,
    /// How many jobs its plan has.
    pub jobs: u32,
    /// How many of them failed so far.
    pub jobs_failed: u32,
    /// How long it lives, where the server said so.
    pub durability: Option<Durability>,
    /// How long the jobs go on after the last reader left; `None`: not at all.
    pub linger: Option<Duration>,
    /// How many readers are attached.
    pub readers: u32,
    /// How many bytes of responses are kept.
    pub bytes: u64,
    /// When it began.
    pub started: Option<SystemTime>,
    /// When it ended; `None` while it is running.
    pub ended: Option<SystemTime>,
    /// When it will be deleted for its age, if not sooner for want of space; `None` while that is not known.
    pub expires: Option<SystemTime>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunEnd {
    /// The kind of end.
    pub end: End,
    /// Of a failed run: its status's code. Else what stands for the kind.
    pub code: Code,
    /// Of a failed run: its status's message. Of an interrupted one: why it could not go on. Else empty.
    pub message: String,
}

impl Run {
    /// Whether it has not ended.
    pub fn is_running(&self) -> bool {
        self.end.is_none()
    }
}

/// Displayed as `failed: NOT_FOUND: no such city`.
impl fmt::Display for RunEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.end)?;
        if self.end == End::Failed {
            write!(f, ": {}", self.code)?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        Ok(())
    }
}

impl From<proto::Run> for Run {
    fn from(run: proto::Run) -> Self {
        let end = match run.end() {
            proto::RunEnd::Unspecified if run.end != 0 || run.state() == RunState::Ended => Some(End::Other),
            proto::RunEnd::Unspecified => None,
            proto::RunEnd::Complete => Some(End::Complete),
            proto::RunEnd::Failed => Some(End::Failed),
            proto::RunEnd::Stopped => Some(End::Stopped),
            proto::RunEnd::Deadline => Some(End::Deadline),
            proto::RunEnd::Interrupted => Some(End::Interrupted),
        };
        let durability = match run.durability() {
            proto::Durability::Unspecified if run.durability != 0 => Some(Durability::Other),
            proto::Durability::Unspecified => None,
            proto::Durability::None => Some(Durability::None),
            proto::Durability::Memory => Some(Durability::Memory),
            proto::Durability::Disk => Some(Durability::Disk),
        };
        let code = match end {
            Some(End::Complete) | None => Code::OK,
            Some(End::Failed) => Code::from(run.end_code),
            Some(End::Stopped) => Code::CANCELLED,
            Some(End::Deadline) => Code::DEADLINE_EXCEEDED,
            Some(End::Interrupted) => Code::ABORTED,
            Some(End::Other) => Code::UNKNOWN,
        };
        Self {
            run_id: run.run_id,
            source: run.source,
            id: run.id,
            parameters: run.parameters,
            end: end.map(|end| RunEnd { end, code, message: run.end_message }),
            first_sequence: run.first_sequence,
            last_sequence: run.last_sequence,
            jobs: run.jobs,
            jobs_failed: run.jobs_failed,
            durability,
            linger: run.linger.and_then(duration),
            readers: run.readers,
            bytes: run.bytes,
            started: run.start_time.and_then(time),
            ended: run.end_time.and_then(time),
            expires: run.expire_time.and_then(time),
        }
    }
}

/// Not through prost's own conversions, which overflow at the edges.
fn duration(duration: prost_types::Duration) -> Option<Duration> {
    Some(Duration::new(u64::try_from(duration.seconds).ok()?, u32::try_from(duration.nanos).ok()?))
}

fn time(time: prost_types::Timestamp) -> Option<SystemTime> {
    let nanos = u32::try_from(time.nanos).ok()?;
    let since_1970 = Duration::new(time.seconds.unsigned_abs(), 0);
    let second = match time.seconds {
        0.. => SystemTime::UNIX_EPOCH.checked_add(since_1970),
        _ => SystemTime::UNIX_EPOCH.checked_sub(since_1970),
    };
    second?.checked_add(Duration::new(0, nanos))
}

/// Which runs are listed. Default: all of them.
///
/// ```
/// use outflow_client::RunFilter;
///
/// let filter = RunFilter::all().running().source("exec");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "it lists nothing until it is given to `Client::runs`"]
pub struct RunFilter {
    state: RunState,
    source: String,
    page_size: u32,
}

impl RunFilter {
    /// All runs.
    pub fn all() -> Self {
        Self::default()
    }

    /// Only runs that have not ended.
    pub fn running(mut self) -> Self {
        self.state = RunState::Running;
        self
    }

    /// Only runs that have ended.
    pub fn ended(mut self) -> Self {
        self.state = RunState::Ended;
        self
    }

    /// Only this source's runs.
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.source = source.into();
        self
    }

    /// At most so many runs in one answer. Default 0: as many as the server likes to send.
    pub fn page_size(mut self, runs: u32) -> Self {
        self.page_size = runs;
        self
    }
}

/// The runs that a filter lets through, newest first, asked for a page at a time.
#[derive(Debug)]
pub struct Runs {
    link: Arc<Link>,
    /// What follows; `None`: nothing does.
    next: Option<ListRunsRequest>,
    page: VecDeque<Run>,
}

impl Runs {
    pub(crate) fn new(link: Arc<Link>, filter: RunFilter) -> Self {
        let RunFilter { state, source, page_size } = filter;
        let first = ListRunsRequest { page_size, page_token: String::new(), state: state.into(), source };
        Self { link, next: Some(first), page: VecDeque::new() }
    }

    /// The next run; `None` after the last one. After an error it may be asked again.
    ///
    /// # Errors
    /// See [`CallError`].
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Option<Run>, CallError> {
        loop {
            if let Some(run) = self.page.pop_front() {
                return Ok(Some(run));
            }
            match self.ask().await? {
                Some(page) => self.page = page.into_iter().map(Run::from).collect(),
                None => return Ok(None),
            }
        }
    }

    /// The runs of the next answer, which may be none; `None` after the last one.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    ///
    /// # Cancel safety
    /// As [`next`](Self::next).
    pub async fn next_page(&mut self) -> Result<Option<Vec<Run>>, CallError> {
        if !self.page.is_empty() {
            return Ok(Some(self.page.drain(..).collect()));
        }
        let page = self.ask().await?;
        Ok(page.map(|page| page.into_iter().map(Run::from).collect()))
    }

    async fn ask(&mut self) -> Result<Option<Vec<proto::Run>>, CallError> {
        let Some(request) = &mut self.next else { return Ok(None) };
        let answer: ListRunsResponse = unary(&self.link, LIST, request).await?;
        if answer.next_page_token.is_empty() {
            self.next = None;
        } else if answer.next_page_token == request.page_token {
            // It would be asked for ever.
            return Err(violated(&self.link, Violation::SamePage));
        } else {
            request.page_token = answer.next_page_token;
        }
        Ok(Some(answer.runs))
    }
}

pub(crate) async fn get(link: &Link, run_id: String) -> Result<Run, CallError> {
    let GetRunResponse { run } = unary(link, GET, &GetRunRequest { run_id }).await?;
    run.map(Run::from).ok_or_else(|| violated(link, Violation::NoRun))
}

/// Whether this server knows runs at all, which a plain one does not. Only what the server itself says is an answer.
pub(crate) async fn are_known(link: &Link) -> Result<bool, CallError> {
    let Err(error) = get(link, String::new()).await else { return Ok(true) };
    match &error {
        CallError::Refused { status, .. } if matches!(status.code(), Code::NOT_FOUND | Code::INVALID_ARGUMENT) => {
            Ok(true)
        }
        CallError::Refused { status, .. } => {
            let is_no_answer = status.code() == Code::UNAVAILABLE || status.retry_delay().is_some();
            if is_no_answer { Err(error) } else { Ok(false) }
        }
        CallError::Protocol { violation, .. } => match **violation {
            Violation::HttpStatus { status } if Code::of_http(status) == Code::UNAVAILABLE => Err(error),
            _ => Ok(false),
        },
        _ => Err(error),
    }
}

pub(crate) async fn stop(link: &Link, run_id: String) -> Result<Run, CallError> {
    let StopRunResponse { run } = unary(link, STOP, &StopRunRequest { run_id }).await?;
    run.map(Run::from).ok_or_else(|| violated(link, Violation::NoRun))
}

fn violated(link: &Link, violation: Violation) -> CallError {
    CallError::Protocol { address: Arc::clone(link.name()), violation: Box::new(violation) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_read_as_it_was_told() {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 500_000_000 });
        let told = proto::Run {
            run_id: "r1".into(),
            source: "exec".into(),
            id: -7,
            parameters: [("k".into(), "v".into())].into(),
            state: RunState::Ended.into(),
            end: proto::RunEnd::Failed.into(),
            end_message: "no such city".into(),
            end_code: 5,
            first_sequence: 3,
            last_sequence: 9,
            jobs: 2,
            jobs_failed: 1,
            durability: proto::Durability::Disk.into(),
            linger: Some(prost_types::Duration { seconds: 30, nanos: 1 }),
            readers: 4,
            bytes: 5,
            start_time: at(10),
            end_time: at(-1),
            expire_time: None,
        };
        let run = Run::from(told);
        let end = RunEnd { end: End::Failed, code: Code::NOT_FOUND, message: "no such city".into() };
        assert_eq!(end.to_string(), "failed: NOT_FOUND: no such city");
        let expected = Run {
            run_id: "r1".into(),
            source: "exec".into(),
            id: -7,
            parameters: [("k".into(), "v".into())].into(),
            end: Some(end),
            first_sequence: 3,
            last_sequence: 9,
            jobs: 2,
            jobs_failed: 1,
            durability: Some(Durability::Disk),
            linger: Some(Duration::new(30, 1)),
            readers: 4,
            bytes: 5,
            started: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(10_500)),
            ended: Some(SystemTime::UNIX_EPOCH - Duration::from_millis(500)),
            expires: None,
        };
        assert_eq!(run, expected);
        assert!(!run.is_running());
        assert!(Run::from(proto::Run::default()).is_running());
    }

    #[test]
    fn words_of_a_later_version_and_times_out_of_range_lose_nothing_else() {
        let told = proto::Run {
            end: 99,
            durability: 99,
            linger: Some(prost_types::Duration { seconds: i64::MIN, nanos: i32::MIN }),
            start_time: Some(prost_types::Timestamp { seconds: i64::MIN, nanos: i32::MIN }),
            expire_time: Some(prost_types::Timestamp { seconds: i64::MAX, nanos: i32::MAX }),
            ..proto::Run::default()
        };
        let run = Run::from(told);
        assert_eq!(run.end.unwrap().end, End::Other);
        assert_eq!((run.durability, run.linger), (Some(Durability::Other), None));
        assert_eq!((run.started, run.expires), (None, None));
        let ended = Run::from(proto::Run { state: RunState::Ended.into(), ..proto::Run::default() });
        assert_eq!(ended.end.unwrap().end, End::Other);
    }
}
