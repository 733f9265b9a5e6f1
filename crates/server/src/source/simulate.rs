//! `simulate`: the tutorial's simulated work, and the load generator. Each job waits, then emits; how many, how long
//! and how large is set by the configuration and, within its bounds, by each request.

use std::{
    fmt,
    pin::Pin,
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use outflow_engine::{Code, EmitError, Emitter, Job, JobError, Placement, Plan, Refusal, Request, Source, Text};
use serde::Deserialize;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::{Entry, Problem};

/// What a request gets that says nothing else, and the most that any request may ask for.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SimulateSettings {
    /// Jobs of a run. Default 5.
    pub jobs: u64,
    /// Most jobs a request may ask for. Default 1,000.
    pub jobs_max: u64,
    /// Responses of each job. Default 1.
    pub responses: u64,
    /// Most responses of a job a request may ask for. Default 1,000,000,000.
    pub responses_max: u64,
    /// Job *n* waits *n* times this long before its first response. Default 1 s.
    #[serde(with = "duration")]
    pub step: Duration,
    /// Longest step a request may ask for. Default 1 h.
    #[serde(with = "duration")]
    pub step_max: Duration,
    /// How long after the one before each further response of a job is due, or, with `batch`, each further batch: the
    /// *n*th comes *n* times so long after the first. What is due while one is held up follows it, but for a job that was
    /// held up for more than 100 ms, which goes on from there.
    /// Default 0: as fast as they are taken.
    #[serde(with = "duration")]
    pub every: Duration,
    /// Longest such time a request may ask for. Default 1 h.
    #[serde(with = "duration")]
    pub every_max: Duration,
    /// Bytes of padding behind the text of each response. Default 0.
    pub size: u64,
    /// Most padding a request may ask for, in bytes. Default 1 MiB.
    pub size_max: u64,
    /// How many responses a job hands over at once: 1 emits each by itself. Default 1.
    pub batch: u64,
    /// Largest batch a request may ask for. Default 1,024.
    pub batch_max: u64,
    /// Whether the text of each response begins with the time of its emission, instead of what it says otherwise:
    /// nanoseconds since the Unix epoch, 19 digits. Such jobs are not repeatable. Default false.
    pub stamp: bool,
    /// The job that fails in place of its first response. Default none.
    pub fail: Option<u64>,
    /// Whether jobs may be begun again after a restart. Default true.
    pub repeatable: bool,
    /// Whether each execution of a job answers otherwise than every other, which a repeatable one must not. Default
    /// false; it is there to see what happens.
    pub differ: bool,
}

impl Default for SimulateSettings {
    fn default() -> Self {
        Self {
            jobs: 5,
            jobs_max: 1_000,
            responses: 1,
            responses_max: 1_000_000_000,
            step: Duration::from_secs(1),
            step_max: Duration::from_hours(1),
            every: Duration::ZERO,
            every_max: Duration::from_hours(1),
            size: 0,
            size_max: 1024 * 1024,
            batch: 1,
            batch_max: 1_024,
            stamp: false,
            fail: None,
            repeatable: true,
            differ: false,
        }
    }
}

impl SimulateSettings {
    /// Whether the settings keep their own bounds.
    ///
    /// # Errors
    /// The setting that does not, and its bound.
    pub fn check(&self) -> Result<(), String> {
        let numbers = [
            ("jobs", self.jobs, self.jobs_max),
            ("responses", self.responses, self.responses_max),
            ("size", self.size, self.size_max),
            ("batch", self.batch, self.batch_max),
        ];
        for (name, value, max) in numbers {
            if value > max {
                return Err(format!("{name} = {value} is more than {name}_max = {max}"));
            }
        }
        for (name, value, max) in [("step", self.step, self.step_max), ("every", self.every, self.every_max)] {
            if value > max {
                return Err(format!("{name} = {} is more than {name}_max = {}", show(value), show(max)));
            }
        }
        if self.batch == 0 {
            return Err("batch = 0: it is at least 1".into());
        }
        Ok(())
    }
}

/// Answers with simulated work.
#[derive(Clone, Debug, Default)]
pub struct Simulate {
    settings: SimulateSettings,
}

impl Simulate {
    /// Simulated work within these settings, which keep their own bounds ([`SimulateSettings::check`]).
    pub fn new(settings: SimulateSettings) -> Self {
        Self { settings }
    }
}

/// A source of its entry in a configuration.
pub(super) fn configured(entry: &mut Entry<'_>) -> Result<Box<dyn Source>, Problem> {
    if let Some(name) = entry.parameters().names().first() {
        let problem = "simulate has parameters of its own, and no others";
        return Err(entry.problem(&format!("parameters.{name}"), problem));
    }
    let mut settings: SimulateSettings = entry.settings()?;
    settings.repeatable = entry.repeatable(settings.repeatable);
    settings.check().map_err(|problem| entry.problem(problem.split(' ').next().unwrap_or_default(), &problem))?;
    Ok(Box::new(Simulate::new(settings)))
}

impl Source for Simulate {
    fn plan(&self, request: &Request) -> Result<Plan, Refusal> {
        let work = Arc::new(Work::parse(&self.settings, request)?);
        let id = request.id();
        let jobs = (0..work.jobs).map(|n| {
            let work = work.clone();
            Job::new(move |emitter| async move {
                pause(work.step * n as u32).await;
                Box::pin(job(emitter, work, n, id)).await
            })
        });
        // A job awaits its pauses, and otherwise does nothing but emit.
        let plan = Plan::new().jobs(jobs).placement(Placement::Reader);
        Ok(if work.is_repeatable() { plan.repeatable() } else { plan })
    }

    fn configuration(&self) -> String {
        format!("{:?}", self.settings)
    }
}

/// A job's work behind its pause: in a box of its own, so that a job that waits holds little more than its timer.
async fn job(emitter: Emitter, work: Arc<Work>, n: u64, id: i32) -> Result<(), JobError> {
    if work.fail == Some(n) {
        return Err(JobError::new(Code::Internal, format_args!("job {n} failed, as `fail` asked it to")));
    }
    let says = work.says(n, id);
    if work.batch == 1 {
        one_by_one(&emitter, &work, &says).await?
    } else {
        in_batches(&emitter, &work, &says).await?
    }
    Ok(())
}

async fn one_by_one(emitter: &Emitter, work: &Work, says: &Says) -> Result<(), EmitError> {
    let mut schedule = Schedule::begin(work.every);
    for n in 0..work.responses {
        let is_last = n + 1 == work.responses;
        if !is_last {
            schedule.set();
        }
        match says {
            Says::Always(text) => emitter.emit(text).await?,
            Says::Time { padding } => emitter.emit(&stamped(padding)).await?,
        }
        if !is_last {
            schedule.reached().await;
        }
    }
    Ok(())
}

async fn in_batches(emitter: &Emitter, work: &Work, says: &Says) -> Result<(), EmitError> {
    let mut schedule = Schedule::begin(work.every);
    let batch = |says: &Says| {
        let text = match says {
            Says::Always(text) => text.clone(),
            Says::Time { padding } => stamped(padding),
        };
        vec![text; work.batch.min(work.responses) as usize]
    };
    let mut texts = Vec::new();
    let mut left = work.responses as usize;
    while left > 0 {
        let now = left.min(work.batch as usize);
        if left > now {
            schedule.set();
        }
        if texts.is_empty() || matches!(says, Says::Time { .. }) {
            texts = batch(says);
        }
        emitter.emit_all(&texts[..now]).await?;
        left -= now;
        if left > 0 {
            schedule.reached().await;
        }
    }
    Ok(())
}

/// No time at all is not a turn of the timer, which would cost a millisecond.
async fn pause(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}

/// A job that was held up for longer, by a full disk for example, does not owe what it would have emitted meanwhile.
const HELD_UP: Duration = Duration::from_millis(100);

/// When each response is due. Not pauses: a timer wakes a millisecond late, and who waits for a slow reader would be late
/// for ever after.
struct Schedule {
    every: Duration,
    due: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Schedule {
    fn begin(every: Duration) -> Self {
        Self { every, due: Instant::now(), timer: None }
    }

    /// Sets the timer for the next response. Before this one is emitted, since it may take a system call, for which
    /// whoever gets this one would wait.
    fn set(&mut self) {
        if self.every.is_zero() {
            return;
        }
        self.due += self.every;
        match &mut self.timer {
            Some(timer) => timer.as_mut().reset(self.due),
            None => self.timer = Some(Box::pin(sleep_until(self.due))),
        }
    }

    /// Waits until the response is due for which it was set.
    async fn reached(&mut self) {
        let Some(timer) = &mut self.timer else { return };
        let now = Instant::now();
        if self.due > now {
            timer.await;
        } else if now - self.due > HELD_UP {
            self.due = now;
        }
    }
}

/// What the responses of a job say.
enum Says {
    /// The same in each.
    Always(Text),
    /// When it is emitted.
    Time { padding: String },
}

fn stamped(padding: &str) -> Text {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Text::from(format!("{:019}{padding}", now.as_nanos()))
}

/// What one request asks for, within the bounds.
struct Work {
    jobs: u64,
    responses: u64,
    step: Duration,
    every: Duration,
    size: u64,
    batch: u64,
    stamp: bool,
    fail: Option<u64>,
    repeatable: bool,
    differ: bool,
}

impl Work {
    /// What the responses of job `n` say.
    fn says(&self, n: u64, id: i32) -> Says {
        let padding = ".".repeat(self.size as usize);
        if self.stamp {
            return Says::Time { padding };
        }
        let differs = if self.differ { format!(" {:08x}", rand::random::<u32>()) } else { String::new() };
        Says::Always(Text::from(format!("Request #{n} For Id:{id}{differs}{padding}")))
    }

    /// What says when it was emitted says something else the next time.
    fn is_repeatable(&self) -> bool {
        self.repeatable && !self.stamp
    }

    fn parse(settings: &SimulateSettings, request: &Request) -> Result<Self, Refusal> {
        let mut work = Self {
            jobs: settings.jobs,
            responses: settings.responses,
            step: settings.step,
            every: settings.every,
            size: settings.size,
            batch: settings.batch,
            stamp: settings.stamp,
            fail: settings.fail,
            repeatable: settings.repeatable,
            differ: settings.differ,
        };
        for (name, value) in request.parameters() {
            let field = Field(name);
            match name.as_str() {
                "jobs" => work.jobs = number(field, value, 0, settings.jobs_max)?,
                "responses" => work.responses = number(field, value, 0, settings.responses_max)?,
                "size" => work.size = number(field, value, 0, settings.size_max)?,
                "batch" => work.batch = number(field, value, 1, settings.batch_max)?,
                "fail" => work.fail = Some(number(field, value, 0, settings.jobs_max)?),
                "step" => work.step = time(field, value, settings.step_max)?,
                "every" => work.every = time(field, value, settings.every_max)?,
                "stamp" => work.stamp = truth(field, value)?,
                "repeatable" => work.repeatable = truth(field, value)?,
                "differ" => work.differ = truth(field, value)?,
                _ => {
                    let known = "simulate knows jobs, responses, step, every, size, batch, stamp, fail, repeatable and differ";
                    return Err(Refusal::invalid(field.to_string(), format_args!("is no parameter; {known}")));
                }
            }
        }
        if let Some(fail) = work.fail
            && fail >= work.jobs
        {
            let problem = format!("is {fail}, but the jobs are numbered from 0 and there are {}", work.jobs);
            return Err(Refusal::invalid("parameters.fail", problem));
        }
        Ok(work)
    }
}

/// A parameter, as a refusal names it: written only where there is one.
#[derive(Clone, Copy)]
struct Field<'a>(&'a str);

impl fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "parameters.{}", self.0)
    }
}

fn number(field: Field<'_>, value: &str, min: u64, max: u64) -> Result<u64, Refusal> {
    match u64::from_str(value) {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        Ok(number) => {
            Err(Refusal::invalid(field.to_string(), format_args!("is {number}; {min} to {max} is allowed")))
        }
        Err(_) => Err(Refusal::invalid(
            field.to_string(),
            format_args!("is {}; a whole number from {min} to {max} is wanted", Shown(value)),
        )),
    }
}

fn truth(field: Field<'_>, value: &str) -> Result<bool, Refusal> {
    let wrong = |_| Refusal::invalid(field.to_string(), format_args!("is {}; true or false is wanted", Shown(value)));
    bool::from_str(value).map_err(wrong)
}

fn time(field: Field<'_>, value: &str, max: Duration) -> Result<Duration, Refusal> {
    match humantime::parse_duration(value) {
        Ok(time) if time <= max => Ok(time),
        Ok(time) => Err(Refusal::invalid(
            field.to_string(),
            format_args!("is {}; at most {} is allowed", show(time), show(max)),
        )),
        Err(_) => Err(Refusal::invalid(
            field.to_string(),
            format_args!("is {}; a time such as 250ms or 2s is wanted", Shown(value)),
        )),
    }
}

fn show(time: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(time)
}

/// The beginning of what a stranger sent.
struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.0.floor_char_boundary(40);
        write!(f, "{:?}{}", &self.0[..end], if end < self.0.len() { " and so on" } else { "" })
    }
}

/// Durations in configuration files: `250ms`, `1s`, `5m`.
mod duration {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, de::Error as _};

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text)
            .map_err(|_| D::Error::custom(format!("`{text}` is no time; write it as 250ms, 1s or 5m")))
    }
}

#[cfg(test)]
mod tests;
