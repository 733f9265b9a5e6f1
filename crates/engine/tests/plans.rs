//! What a plan says of what it rests on, where it is made, and jobs that go on behind what they had emitted.

mod support;

use std::sync::{
    Arc, Mutex,
    mpsc::{Receiver, SyncSender, sync_channel},
};

use outflow_engine::{
    Batch, Code, Emitted, End, Engine, Job, Limits, Plan, Planning, Record, Refusal, Request, Room, Source,
    SourceOptions, Store as _,
};
use support::*;

/// What a process leaves that is killed now.
fn killed(store: &Arc<GatedStore>) -> Arc<GatedStore> {
    let left = GatedStore::like_a_disk();
    left.commit(&Batch { records: store.committed(), ..Batch::default() }, Room::Ordinary).unwrap();
    left
}

#[tokio::test]
async fn a_run_goes_on_only_where_its_plan_rests_on_what_it_did_and_is_expected_to_be_as_long() {
    let resting_on =
        |basis: &'static str| Puppets::shaped(1, move |plan| plan.repeatable().basis(basis).expected_bytes(12));
    let (store, jobs) = (GatedStore::like_a_disk(), resting_on("a file"));
    let engine = support::engine(&store, jobs.clone());
    let mut reader = start(&engine).await;
    assert_eq!(reader.expected_bytes(), Some(12));
    let id = reader.run_id();
    jobs.emit(0, "one").await.unwrap();
    assert_eq!(results(&mut reader, 1).await, ["one"]);

    for (basis, goes_on) in [("a file", true), ("another file", false)] {
        let (store, jobs) = (killed(&store), resting_on(basis));
        let engine = support::engine(&store, jobs.clone());
        engine.open().await.unwrap();
        let mut reader = fetch(&engine, &again(id, 0)).await.unwrap();
        assert_eq!(reader.expected_bytes(), Some(12), "known of a run that is read later");
        if goes_on {
            until("the job begins again", || jobs.started() == 1).await;
            jobs.emit(0, "one").await.unwrap();
            jobs.end(0).await;
        }
        let (responses, finish) = rest(&mut reader).await;
        assert_eq!(responses.len(), 1);
        match finish.end {
            Some(End::Complete) => assert!(goes_on),
            Some(End::Interrupted(reason)) => {
                assert!(!goes_on && reason == "what source `test` answers with is not what it was", "{reason}");
            }
            end => panic!("{end:?}"),
        }
    }
}

/// Emits the numbers up to a last one, and goes on behind those that it had emitted.
struct Counting {
    upto: u64,
    before: Arc<Mutex<Vec<Option<Emitted>>>>,
}

impl Source for Counting {
    fn plan(&self, _: &Request) -> Result<Plan, Refusal> {
        let (upto, known) = (self.upto, self.before.clone());
        let job = Job::new(async move |emitter| {
            let before = emitter.emitted_before();
            known.lock().unwrap().push(before.clone());
            emitter.go_on();
            assert_eq!(emitter.emitted_before(), None, "that is behind it");
            for n in before.map_or(0, |before| before.values)..upto {
                emitter.emit_partial("number ").await?;
                emitter.emit(&n.to_string()).await?;
            }
            if upto < 4 { std::future::pending().await } else { Ok(()) }
        });
        Ok(Plan::new().repeatable().job(job))
    }
}

#[tokio::test]
async fn a_job_that_goes_on_behind_what_it_had_emitted_repeats_nothing() {
    let store = GatedStore::like_a_disk();
    let before = Arc::default();
    let engine = support::engine(&store, Arc::new(Counting { upto: 2, before: Arc::clone(&before) }));
    let mut reader = start(&engine).await;
    let id = reader.run_id();
    results(&mut reader, 4).await;

    let store = killed(&store);
    let engine = support::engine(&store, Arc::new(Counting { upto: 4, before: Arc::clone(&before) }));
    engine.open().await.unwrap();
    let mut reader = fetch(&engine, &again(id, 0)).await.unwrap();
    let (responses, finish) = rest(&mut reader).await;
    let text = responses.into_iter().map(|response| response.result).collect::<String>();
    assert_eq!((&*text, finish.end), ("number 0number 1number 2number 3", Some(End::Complete)));
    let emitted = Emitted { values: 2, bytes: 16, tail: b"1".into(), is_open: false };
    assert_eq!(*before.lock().unwrap(), [None, Some(emitted)]);
}

/// A source whose plans wait until they are let go.
struct Hanging(Mutex<Receiver<()>>);

impl Hanging {
    fn new() -> (Self, SyncSender<()>) {
        let (let_go, hangs) = sync_channel(4);
        (Self(Mutex::new(hangs)), let_go)
    }
}

impl Source for Hanging {
    fn plan(&self, _: &Request) -> Result<Plan, Refusal> {
        // Also ends where the test is over.
        _ = self.0.lock().unwrap().recv();
        Ok(Plan::new())
    }

    fn planning(&self) -> Planning {
        Planning::Blocking
    }
}

fn engine_of(hanging: Hanging, limits: Limits) -> Engine {
    let claims = SourceOptions::new().ids([5..=5]);
    let engine = Engine::builder(limits).default_source("hanging", hanging);
    engine.source_with("other", Puppets::new(0), claims).build().unwrap()
}

#[tokio::test]
async fn a_plan_that_hangs_is_refused_in_time_and_holds_up_nobody_else() {
    let (hanging, _let_go) = Hanging::new();
    let engine = engine_of(hanging, impatient());
    let hanging = [Request::new(1), Request::new(1).lingering(LONG)];
    for request in hanging {
        let other = async {
            let mut reader = fetch(&engine, &Request::new(5)).await.unwrap();
            finish(&mut reader).await.end
        };
        // On one thread: whoever blocked it would block both.
        let (refused, other) = tokio::join!(fetch(&engine, &request), other);
        assert_eq!(other, Some(End::Complete));
        let Err(Refusal::Source(error)) = refused else { panic!("it was not refused") };
        assert_eq!(error.code, Code::Unavailable);
        assert_eq!(error.message, "source `hanging` did not see within 50ms what it has to answer with");
    }
}

#[tokio::test]
async fn a_plan_that_blocks_for_a_while_is_waited_for() {
    let (hanging, let_go) = Hanging::new();
    let engine = engine_of(hanging, Limits::default());
    let request = Request::new(1);
    let (reader, ()) = tokio::join!(fetch(&engine, &request), async { let_go.send(()).unwrap() });
    assert_eq!(finish(&mut reader.unwrap()).await.end, Some(End::Complete));
}

#[tokio::test]
async fn a_restart_is_not_held_up_by_plans_that_hang() {
    let store = GatedStore::like_a_disk();
    let (hanging, let_go) = Hanging::new();
    let engine = support::engine(&store, Arc::new(hanging));
    let mut left = Vec::new();
    for _ in 0..3 {
        let_go.send(()).unwrap();
        let reader = start(&engine).await;
        left.push(reader.run_id());
    }
    let store = {
        let left = GatedStore::like_a_disk();
        let started = |record: &Record| matches!(record, Record::Started(_));
        let records = store.committed().into_iter().filter(|(_, record)| started(record)).collect();
        left.commit(&Batch { records, ..Batch::default() }, Room::Ordinary).unwrap();
        left
    };

    let (hanging, _let_go) = Hanging::new();
    let engine = engine_with(&store, Arc::new(hanging), SourceOptions::new(), impatient());
    engine.open().await.unwrap();
    for id in left {
        let mut reader = fetch(&engine, &again(id, 0)).await.unwrap();
        let Some(End::Interrupted(reason)) = finish(&mut reader).await.end else { panic!("it goes on") };
        assert!(reason.contains("refuses it now: source `test` did not see within 50ms"), "{reason}");
    }
}
