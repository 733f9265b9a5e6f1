//! What a run promises to its reader and its jobs, through the public engine.

use std::{
    future::pending,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use outflow_engine::{
    Code, Delivery, EmitError, Emitter, End, Engine, Finish, Job, JobError, JobErrors, Leave, Limits, PayloadKind,
    Placement, Plan, Reader, Refusal, Request, Source,
};
use outflow_proto::protobuf::Response;
use prost::Message as _;
use tokio::time::{Instant, sleep};

/// A source that answers with whatever plan the test makes.
struct Planned<F>(F);

impl<F> Source for Planned<F>
where
    F: Fn(&Request) -> Result<Plan, Refusal> + Send + Sync + 'static,
{
    fn plan(&self, request: &Request) -> Result<Plan, Refusal> {
        (self.0)(request)
    }
}

fn engine_within(limits: Limits, plan: impl Fn() -> Plan + Send + Sync + 'static) -> Engine {
    let source = Planned(move |_: &Request| Ok(plan().placement(Placement::Reader)));
    Engine::builder(limits).default_source("test", Arc::new(source)).build().unwrap()
}

fn engine(plan: impl Fn() -> Plan + Send + Sync + 'static) -> Engine {
    engine_within(Limits::default(), plan)
}

fn start(engine: &Engine) -> Reader {
    engine.fetch(&Request::new(1), 1).now_or_never().unwrap().unwrap()
}

/// A plan of one job.
fn one<F, R>(work: F) -> Plan
where
    F: FnOnce(Emitter) -> R + Send + 'static,
    R: Future<Output = Result<(), JobError>> + Send + 'static,
{
    Plan::new().job(Job::new(work))
}

/// The responses in `bytes`, as any client decodes them.
fn decode(mut bytes: &[u8]) -> Vec<Response> {
    let mut responses = Vec::new();
    while let Some((prefix, rest)) = bytes.split_first_chunk::<5>() {
        let length = u32::from_be_bytes(*prefix.last_chunk().unwrap()) as usize;
        responses.push(Response::decode(&rest[..length]).unwrap());
        bytes = &rest[length..];
    }
    responses
}

/// Everything that `reader` is given.
async fn read_all(reader: &mut Reader) -> (Vec<Response>, Finish) {
    let mut responses = Vec::new();
    loop {
        match reader.next().await {
            Delivery::Chunk(chunk) => {
                let bytes: Vec<u8> = chunk.into_parts().flatten().collect();
                responses.extend(decode(&bytes));
            }
            Delivery::Finished(finish) => return (responses, finish),
        }
    }
}

fn results(responses: &[Response]) -> Vec<&str> {
    responses.iter().map(|response| response.result.as_str()).collect()
}

/// Counts itself out when it is dropped.
struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, SeqCst);
        Self(count.clone())
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// Waits, in paused time, until `count` is `wanted`.
async fn becomes(count: &AtomicUsize, wanted: usize) {
    for _ in 0..100 {
        if count.load(SeqCst) == wanted {
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
    panic!("it is {}, not {wanted}", count.load(SeqCst));
}

#[tokio::test(start_paused = true)]
async fn responses_come_in_the_order_in_which_they_became_ready() {
    let engine = engine(|| {
        let jobs = [30, 10, 20].map(|time| {
            Job::new(async move |emitter| {
                sleep(Duration::from_millis(time)).await;
                emitter.emit(format!("after {time}")).await?;
                Ok(())
            })
        });
        Plan::new().jobs(jobs)
    });
    let began = Instant::now();
    let (responses, finish) = read_all(&mut start(&engine)).await;
    assert_eq!(results(&responses), ["after 10", "after 20", "after 30"]);
    assert_eq!(
        responses.iter().map(|response| (response.sequence, response.job)).collect::<Vec<_>>(),
        [(1, 1), (2, 2), (3, 0)]
    );
    assert_eq!((finish.end, finish.last_sequence.get(), finish.jobs_failed), (Some(End::Complete), 3, 0));
    assert!(began.elapsed() < Duration::from_millis(40), "job beside job, not one after the other");
}

#[tokio::test(start_paused = true)]
async fn no_more_jobs_are_under_way_at_once_than_allowed() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (now, most.clone());
    let engine = engine_within(Limits::default(), move || {
        let jobs = (0..20).map(|_| {
            let (now, most) = counts.clone();
            Job::new(async move |emitter| {
                let _alive = Alive::new(&now);
                most.fetch_max(now.load(SeqCst), SeqCst);
                sleep(Duration::from_millis(5)).await;
                emitter.emit("done").await?;
                Ok(())
            })
        });
        Plan::new().jobs(jobs).jobs_at_once(3)
    });
    let (responses, _) = read_all(&mut start(&engine)).await;
    assert_eq!((responses.len(), most.load(SeqCst)), (20, 3));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_leaves_stops_the_jobs_also_those_that_sleep() {
    let alive = Arc::new(AtomicUsize::new(0));
    let jobs_alive = alive.clone();
    let engine = engine(move || {
        Plan::new().jobs((0..5).map(|_| {
            let alive = jobs_alive.clone();
            Job::new(async move |_| {
                let _alive = Alive::new(&alive);
                pending().await
            })
        }))
    });
    let reader = start(&engine);
    becomes(&alive, 5).await;
    assert_eq!(engine.runs(), 1);
    drop(reader);
    becomes(&alive, 0).await;
    assert_eq!(engine.runs(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_limit_ends_the_stream_at_once_and_stops_the_rest() {
    let alive = Arc::new(AtomicUsize::new(0));
    let job_alive = alive.clone();
    let engine = engine(move || {
        let alive = job_alive.clone();
        one(async move |emitter| {
            let _alive = Alive::new(&alive);
            for n in 1..=3 {
                emitter.emit(format!("{n}")).await?;
            }
            pending().await
        })
    });
    let mut reader = engine.fetch(&Request::new(1).limited(2), 1).now_or_never().unwrap().unwrap();
    let (responses, finish) = read_all(&mut reader).await;
    assert_eq!(results(&responses), ["1", "2"]);
    assert_eq!((finish.end, finish.left, finish.last_sequence.get()), (None, Some(Leave::Enough), 2));
    becomes(&alive, 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_limit_beyond_the_end_changes_nothing() {
    let engine = engine(|| one(async |emitter| Ok(emitter.emit("only").await?)));
    let mut reader = engine.fetch(&Request::new(1).limited(2), 1).now_or_never().unwrap().unwrap();
    let (responses, finish) = read_all(&mut reader).await;
    assert_eq!((results(&responses), finish.end), (vec!["only"], Some(End::Complete)));
}

#[tokio::test(start_paused = true)]
async fn jobs_wait_while_the_window_is_full_and_lose_nothing() {
    let emitted = Arc::new(AtomicUsize::new(0));
    let count = emitted.clone();
    let limits = Limits::default();
    let window = limits.window_bytes;
    let engine = engine_within(limits, move || {
        let count = count.clone();
        one(async move |emitter| {
            for n in 0..100_000 {
                emitter.emit(format!("response {n}")).await?;
                count.fetch_add(1, SeqCst);
            }
            Ok(())
        })
    });
    let mut reader = start(&engine);
    sleep(Duration::from_secs(1)).await;
    let waiting_at = emitted.load(SeqCst);
    // A frame of these is 20 to 35 bytes.
    assert!((window / 35..window / 20).contains(&waiting_at), "it waits after {waiting_at}");
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(emitted.load(SeqCst), waiting_at, "it waits as long as nobody reads");

    let (responses, finish) = read_all(&mut reader).await;
    assert_eq!(responses.len(), 100_000);
    for (n, response) in responses.iter().enumerate() {
        assert_eq!((response.sequence, &response.result), (n as u64 + 1, &format!("response {n}")));
    }
    assert_eq!(finish.end, Some(End::Complete));
    assert_eq!(engine.budget().used(), 0);
}

#[tokio::test(start_paused = true)]
async fn emit_all_is_emit_for_each() {
    let texts: Vec<String> = (0..10_000).map(|n| format!("response {n}")).collect();
    let expected = texts.clone();
    let engine = engine(move || {
        let texts = texts.clone();
        one(async move |emitter| Ok(emitter.emit_all(&texts).await?))
    });
    let (responses, _) = read_all(&mut start(&engine)).await;
    assert_eq!(results(&responses), expected);
}

#[tokio::test(start_paused = true)]
async fn a_long_payload_is_split_between_characters() {
    let mut limits = Limits::default();
    limits.response_bytes_max = 1_024;
    let text = "a".to_owned() + &"é€😀".repeat(1_000);
    let all = text.clone();
    let engine = engine_within(limits, move || {
        let text = text.clone();
        one(async move |emitter| {
            emitter.emit(&text).await?;
            emitter.emit_all(&["short".to_owned(), text, "short".to_owned()]).await?;
            Ok(())
        })
    });
    let (responses, _) = read_all(&mut start(&engine)).await;
    assert!(responses.iter().all(|response| response.encoded_len() <= 1_024));
    let values: Vec<String> = responses
        .split_inclusive(|response| !response.partial)
        .map(|parts| parts.iter().map(|part| part.result.as_str()).collect())
        .collect();
    assert_eq!(values, [&all, "short", &all, "short"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_text_fails_its_job_unless_the_source_says_otherwise() {
    let not_text = Bytes::from_static(b"a\xffb");
    for (kind, expected) in [
        (PayloadKind::Text, None),
        (PayloadKind::Lossy, Some(("a\u{fffd}b", &b""[..]))),
        (PayloadKind::Bytes, Some(("", &b"a\xffb"[..]))),
    ] {
        let not_text = not_text.clone();
        let engine = engine(move || {
            let not_text = not_text.clone();
            one(async move |emitter| {
                emitter.emit_all(&[not_text]).await?;
                Ok(())
            })
            .payload(kind)
        });
        let (responses, finish) = read_all(&mut start(&engine)).await;
        let [response] = &responses[..] else { panic!("{responses:?}") };
        if let Some((result, data)) = expected {
            assert_eq!((response.result.as_str(), &response.data[..]), (result, data));
            assert_eq!(finish.end, Some(End::Complete));
        } else {
            let error = response.error.as_ref().expect("the job failed");
            assert!(error.message.contains("byte 1"), "{}", error.message);
            assert!(matches!(finish.end, Some(End::Failed(_))));
        }
    }
}

/// A plan of three jobs: the second fails after the first has ended and before the third does.
fn failing_plan(job_errors: JobErrors) -> Plan {
    let jobs = [(10, false), (20, true), (30, false)].map(|(time, fails)| {
        Job::new(async move |emitter| {
            sleep(Duration::from_millis(time)).await;
            if fails {
                return Err(JobError::new(Code::NotFound, "nothing there"));
            }
            emitter.emit(format!("after {time}")).await?;
            Ok(())
        })
    });
    Plan::new().jobs(jobs).job_errors(job_errors)
}

#[tokio::test(start_paused = true)]
async fn a_failed_job_leaves_its_error_in_its_place() {
    for (job_errors, expected, end) in [
        (JobErrors::Fail, vec!["after 10", "", "after 30"], "failed"),
        (JobErrors::FailFast, vec!["after 10", ""], "failed"),
        (JobErrors::Tolerate, vec!["after 10", "", "after 30"], "complete"),
    ] {
        let engine = engine(move || failing_plan(job_errors));
        let (responses, finish) = read_all(&mut start(&engine)).await;
        assert_eq!(results(&responses), expected, "{job_errors:?}");
        let error = responses[1].error.as_ref().expect("an error in its place");
        assert_eq!((error.code, error.message.as_str(), responses[1].job), (5, "nothing there", 1));
        assert_eq!(finish.end.as_ref().map(End::to_string).as_deref(), Some(end), "{job_errors:?}");
        assert_eq!(finish.jobs_failed, 1);
        if let Some(End::Failed(error)) = finish.end {
            assert_eq!(error, JobError::new(Code::NotFound, "nothing there"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_panics_fails_alone() {
    let engine = engine(|| {
        one(async |_| panic!("out of order")).job(Job::new(async |emitter| {
            sleep(Duration::from_millis(1)).await;
            emitter.emit("still here").await?;
            Ok(())
        }))
    });
    let (responses, finish) = read_all(&mut start(&engine)).await;
    assert_eq!(results(&responses), ["", "still here"]);
    assert_eq!(responses[0].error.as_ref().unwrap().message, "the job panicked: out of order");
    assert_eq!(finish.jobs_failed, 1);
}

/// Panics when it is dropped.
struct Falls(&'static str);

impl Drop for Falls {
    fn drop(&mut self) {
        panic!("{}", self.0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_may_panic_before_its_first_await_and_when_it_is_over() {
    let engine = engine(|| {
        let before = Job::new(|_| -> std::future::Ready<Result<(), JobError>> { panic!("not even begun") });
        let over = Job::new(|_| {
            let falls = Falls("left badly");
            std::future::poll_fn(move |_| {
                let _held = &falls;
                std::task::Poll::Ready(Ok(()))
            })
        });
        Plan::new().placement(Placement::Reader).job(before).job(over)
    });
    let (responses, finish) = read_all(&mut start(&engine)).await;
    let errors: Vec<_> = responses.iter().map(|response| &*response.error.as_ref().unwrap().message).collect();
    assert_eq!(errors, ["the job panicked: not even begun", "the job panicked: left badly"]);
    assert_eq!(finish.jobs_failed, 2);
}

#[tokio::test(start_paused = true)]
async fn the_first_cause_closes_and_later_emissions_are_dropped() {
    let outcome = Arc::new(OnceLock::new());
    let seen = outcome.clone();
    let engine = engine(move || {
        let seen = seen.clone();
        one(async move |emitter| {
            emitter.emit("first").await?;
            // Handed to somebody who outlives the job.
            let cleanup = emitter.cleanup();
            cleanup.spawn(async move {
                sleep(Duration::from_millis(50)).await;
                _ = seen.set(emitter.emit("too late").await);
            });
            pending().await
        })
    });
    let mut reader = start(&engine);
    sleep(Duration::from_millis(10)).await;
    let closer = reader.closer();
    closer.close(Leave::Deadline);
    closer.close(Leave::Draining);
    let (responses, finish) = read_all(&mut reader).await;
    assert_eq!((responses.len(), finish.left, finish.end), (0, Some(Leave::Deadline), None));
    engine.drain();
    engine.drained().await;
    assert_eq!(outcome.get(), Some(&Err(EmitError::Closed)));
}

#[tokio::test(start_paused = true)]
async fn runs_and_jobs_have_limits_with_names() {
    let mut limits = Limits::default();
    (limits.runs_max, limits.jobs_max) = (2, 3);
    let engine = engine_within(limits.clone(), || one(async |_| pending().await));
    let _first = start(&engine);
    let second = start(&engine);
    let refused = engine.fetch(&Request::new(1), 1).now_or_never().unwrap().map(|_| ());
    assert!(matches!(refused, Err(Refusal::Exhausted { max: 2, .. })), "{refused:?}");
    drop(second);
    sleep(Duration::from_millis(10)).await;
    start(&engine);

    let too_many = engine_within(limits, || Plan::new().jobs((0..4).map(|_| Job::new(async |_| Ok(())))));
    let refused = too_many.fetch(&Request::new(1), 1).now_or_never().unwrap().map(|_| ());
    assert!(matches!(refused, Err(Refusal::Exhausted { max: 3, .. })), "{refused:?}");
    assert_eq!(too_many.runs(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_plan_without_jobs_is_complete_at_once() {
    let (responses, finish) = read_all(&mut start(&engine(Plan::new))).await;
    assert_eq!((responses.len(), finish.end), (0, Some(End::Complete)));
}

#[tokio::test]
async fn who_is_asked_is_found_or_named() {
    let source = || Arc::new(Planned(|_: &Request| Ok(Plan::new())));
    let engine = Engine::builder(Limits::default()).source("a", source()).source("b", source()).build().unwrap();
    let message = |name: &str| outflow_proto::protobuf::Request { source: name.into(), ..Default::default() };
    let ask = |name: &str| {
        let request = Request::parse(message(name), outflow_engine::Principal::Anonymous, engine.limits()).unwrap();
        engine.fetch(&request, 1).now_or_never().unwrap().map(|_| ())
    };
    assert_eq!(ask("a"), Ok(()));
    assert_eq!(ask("c"), Err(Refusal::UnknownSource { name: "c".into(), known: "`a`, `b`".into() }));
    assert_eq!(ask(""), Err(Refusal::UnknownId { id: 0, known: "`a`, `b`".into() }));
    engine.drain();
    assert_eq!(ask("a"), Err(Refusal::Draining));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn computing_jobs_beside_each_other_lose_nothing() {
    let source = Planned(|_: &Request| {
        Ok(Plan::new().jobs((0..4).map(|job| {
            Job::new(async move |emitter: Emitter| {
                for n in 0..20_000 {
                    emitter.emit(format!("{job} {n}")).await?;
                }
                Ok(())
            })
        })))
    });
    let engine = Engine::builder(Limits::default()).default_source("test", Arc::new(source)).build().unwrap();
    let (responses, finish) = read_all(&mut start(&engine)).await;
    assert_eq!((responses.len(), finish.end), (80_000, Some(End::Complete)));
    let mut next = [0; 4];
    for (at, response) in responses.iter().enumerate() {
        let job = response.job as usize;
        assert_eq!((response.sequence, &response.result), (at as u64 + 1, &format!("{job} {}", next[job])));
        next[job] += 1;
    }
}

/// Of each call under way there is one, in a task of its own: glibc has what is up to 1,032 bytes long at hand.
#[test]
fn what_answers_a_plain_request_is_small() {
    let engine = engine(Plan::new);
    let bytes = size_of_val(&engine.fetch(&Request::new(1), 1));
    assert!(bytes <= 384, "{bytes} bytes");
}
