//! What the model knows of one run: what anybody was told of it, and what may come of it.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use outflow_engine::{Chunk, End, JobErrors, RunInfo};
use outflow_proto::protobuf::Response;
use prost::Message as _;
use tokio::time::Instant;

use super::{
    ops::Step,
    work::{Script, Scripts, Traits, add, add_error},
};

/// How a run may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Complete,
    Failed,
    Stopped,
    Interrupted,
}

impl Kind {
    fn of(end: &End) -> Self {
        match end {
            End::Complete => Self::Complete,
            End::Failed(_) => Self::Failed,
            End::Stopped => Self::Stopped,
            End::Interrupted(_) => Self::Interrupted,
            other => panic!("no run here ends with {other:?}"),
        }
    }
}

/// How a run ended: its end, how many jobs had failed, and its last sequence.
type Ended = (End, u32, u64);

pub(crate) struct Known {
    pub(crate) name: String,
    pub(crate) id: i32,
    pub(crate) traits: Traits,
    pub(crate) scripts: Scripts,
    /// Every response that any reader was given, as it was.
    heard: BTreeMap<u64, Bytes>,
    /// The last sequence that anybody was told of.
    pub(crate) tail: u64,
    /// The ends there are reasons for.
    possible: Vec<Kind>,
    pub(crate) ended: Option<Ended>,
    pub(crate) readers: usize,
    linger: Duration,
    deserted_at: Option<Instant>,
    stops_not_before: Instant,
    /// It ended more than a day ago, and may be gone.
    pub(crate) is_old: bool,
    pub(crate) is_gone: bool,
}

impl Known {
    pub(crate) fn new(name: String, id: i32, linger: Duration, scripts: Scripts) -> Self {
        Self {
            name,
            id,
            traits: Traits::of(id),
            scripts,
            heard: BTreeMap::new(),
            tail: 0,
            possible: Vec::new(),
            ended: None,
            readers: 0,
            linger,
            deserted_at: None,
            stops_not_before: Instant::now(),
            is_old: false,
            is_gone: false,
        }
    }

    /// Whether it goes on for all that is known.
    pub(crate) fn is_under_way(&self) -> bool {
        self.ended.is_none() && self.possible.is_empty()
    }

    pub(crate) fn is_complete(&self) -> bool {
        matches!(self.ended, Some((End::Complete, ..)))
    }

    pub(crate) fn may_end(&mut self, kind: Kind) {
        if self.ended.is_none() {
            self.possible.push(kind);
        }
    }

    /// Tells a job to do something more, unless it is over.
    pub(crate) fn work(&mut self, job: usize, step: Step) {
        if self.ended.is_some() || self.scripts[job].is_over() {
            return;
        }
        self.scripts[job].push(step);
        let any_fails = self.scripts.iter().any(Script::fails);
        let all_over = self.scripts.iter().all(Script::is_over);
        match self.traits.errors {
            JobErrors::FailFast if any_fails => self.may_end(Kind::Failed),
            JobErrors::Fail if all_over && any_fails => self.may_end(Kind::Failed),
            _ if all_over => self.may_end(Kind::Complete),
            _ => {}
        }
    }

    /// One more reader, which asks for so much linger.
    pub(crate) fn attach(&mut self, linger: Option<Duration>) {
        self.readers += 1;
        self.deserted_at = None;
        self.linger = self.linger.max(linger.unwrap_or_default());
    }

    pub(crate) fn detach(&mut self) {
        self.readers -= 1;
        if self.readers == 0 {
            self.desert();
        }
    }

    fn desert(&mut self) {
        self.deserted_at = Some(Instant::now());
        self.stop_where_deserted(Instant::now());
    }

    /// Whether nobody came within its linger, by `now`.
    pub(crate) fn stop_where_deserted(&mut self, now: Instant) -> bool {
        let stops_at = self.deserted_at.map(|left| (left + self.linger).max(self.stops_not_before));
        let is_stopped = self.ended.is_none() && stops_at.is_some_and(|at| at <= now);
        if is_stopped {
            self.may_end(Kind::Stopped);
        }
        is_stopped
    }

    /// The engine was restarted.
    pub(crate) fn restarted(&mut self, at_least: Duration) {
        self.readers = 0;
        if self.ended.is_none() {
            self.stops_not_before = Instant::now() + at_least;
            self.desert();
            if !self.traits.is_repeatable {
                self.may_end(Kind::Interrupted);
            }
        }
    }

    /// A reader was given `chunk`, which must be what others were given there.
    pub(crate) fn hear(&mut self, chunk: &Chunk) {
        let (first, last) = (chunk.first().get(), chunk.last().get());
        let frames = frames(&chunk.parts().concat());
        assert_eq!(frames.len() as u64, last - first + 1, "{}: {chunk:?}", self.name);
        for (sequence, frame) in (first..).zip(frames) {
            assert_eq!(response(&frame).sequence, sequence, "{}: a frame has another number", self.name);
            let known = self.heard.entry(sequence).or_insert_with(|| frame.clone());
            assert_eq!(*known, frame, "{}: response {sequence} was another one", self.name);
        }
        self.told_of(last);
    }

    /// There are so many responses at least.
    fn told_of(&mut self, last: u64) {
        self.tail = self.tail.max(last);
        if let Some((.., known)) = self.ended {
            assert!(last <= known, "{}: response {last} after its end at {known}", self.name);
        }
    }

    /// Somebody was told its end.
    pub(crate) fn saw_end(&mut self, end: &End, failed: u32, last: u64) {
        let seen = (end.clone(), failed, last);
        if let Some(known) = &self.ended {
            assert_eq!(*known, seen, "{}: it had ended otherwise", self.name);
            return;
        }
        let kind = Kind::of(end);
        assert!(self.possible.contains(&kind), "{}: it is {kind:?}, not one of {:?}", self.name, self.possible);
        assert!(self.tail <= last, "{}: it ends at {last}, and there was {}", self.name, self.tail);
        self.tail = last;
        self.ended = Some(seen);
    }

    /// Somebody was told what it is; runs that ended before the store was `day` in service are old.
    pub(crate) fn saw(&mut self, info: &RunInfo, day: Duration) {
        let (record, last) = (&info.record, info.record.last.get());
        assert!(last >= self.tail, "{}: there were {} responses, and now {last}", self.name, self.tail);
        assert_eq!((record.start.id, record.first.get()), (self.id, 1));
        self.told_of(last);
        if self.is_under_way() {
            assert_eq!(record.linger, self.linger, "{}: its linger is what was asked for", self.name);
        }
        let Some(ended) = &record.ended else {
            assert!(self.ended.is_none() && info.expires_in.is_none(), "{}: it had ended", self.name);
            return;
        };
        self.saw_end(&ended.end, ended.jobs_failed, last);
        self.is_old = ended.in_service < day;
        let expires_in = info.expires_in.expect("it has ended");
        assert_eq!(self.is_old, expires_in.is_zero(), "{}: {expires_in:?}", self.name);
    }

    /// Compares all of it with what its jobs were told to do.
    pub(crate) fn check_whole(&self) {
        let (end, failed, last) = self.ended.as_ref().expect("it has ended");
        let responses: Vec<Response> = self.heard.values().map(|frame| response(frame)).collect();
        assert!((1..=*last).eq(self.heard.keys().copied()), "{}: somebody was given all of it", self.name);
        let errors: Vec<_> = responses.iter().filter_map(|response| response.error.as_ref()).collect();
        assert_eq!(errors.len(), *failed as usize, "{}: {end:?}", self.name);
        if let End::Failed(error) = end {
            assert_eq!(error.message, errors[0].message, "{}: it fails with its first failed job", self.name);
        }
        let is_whole =
            *end == End::Complete || Kind::of(end) == Kind::Failed && self.traits.errors == JobErrors::Fail;
        for (job, script) in self.scripts.iter().enumerate() {
            let mut given = Vec::new();
            for response in responses.iter().filter(|response| response.job as usize == job) {
                match &response.error {
                    Some(error) => add_error(&mut given, &error.message),
                    None => add(&mut given, &response.data, response.partial),
                }
            }
            let told = script.flat(job);
            assert!(told.starts_with(&given), "{}: job {job} did something else than it was told", self.name);
            assert!(!is_whole || told.len() == given.len(), "{}: {end:?}, and job {job} lacks something", self.name);
            assert!(self.traits.is_repeatable || script.begun() <= 1, "{}: job {job} was begun again", self.name);
        }
    }
}

/// The frames in `bytes`, each with its prefix.
fn frames(mut bytes: &[u8]) -> Vec<Bytes> {
    let mut frames = Vec::new();
    while let Some(prefix) = bytes.first_chunk::<5>() {
        let length = 5 + u32::from_be_bytes(*prefix.last_chunk().unwrap()) as usize;
        let (frame, rest) = bytes.split_at(length);
        frames.push(Bytes::copy_from_slice(frame));
        bytes = rest;
    }
    assert!(bytes.is_empty(), "a frame is cut off");
    frames
}

fn response(frame: &[u8]) -> Response {
    Response::decode(&frame[5..]).unwrap()
}
