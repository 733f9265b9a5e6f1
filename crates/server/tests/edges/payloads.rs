//! Payloads of journaled runs: text or bytes as the source says, split where they are long, and the same from the store.

use bytes::Bytes;
use outflow::{Code as JobCode, JobError, Limits, PayloadKind, Request as Asked};
use tonic::Code;

use super::asking::{Names as _, Runs, again, end, journaled, values};
use crate::support::{TestServer, one, planned, wire::Connection};

const NOT_TEXT: &[u8] = b"a\xff\x00b";

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn text_or_bytes_is_the_sources_choice_and_no_responses() {
    let folder = tempfile::tempdir().unwrap();
    let start = || {
        let data = folder.path().join("data");
        let plan = |request: &Asked| {
            let kind = [PayloadKind::Text, PayloadKind::Lossy, PayloadKind::Bytes][request.id() as usize];
            let work = async |emitter: outflow::Emitter| {
                emitter.emit("text").await?;
                emitter.emit("").await?;
                emitter.emit(Bytes::from_static(NOT_TEXT)).await?;
                Ok(())
            };
            one(work).payload(kind)
        };
        TestServer::start(|server| server.default_source("test", planned(plan)).data(data))
    };
    let server = start();
    let connection = Connection::open(server.address()).await;
    let text = |text: &str| (text.to_owned(), Bytes::new());
    let data = |data: &'static [u8]| (String::new(), Bytes::from_static(data));
    let mut seen = Vec::new();
    for (id, expected) in [
        (0, vec![text("text"), text(""), text("")]),
        (1, vec![text("text"), text(""), text("a\u{fffd}\0b")]),
        (2, vec![data(b"text"), data(b""), data(NOT_TEXT)]),
    ] {
        let answer = connection.fetch(&journaled(id)).await;
        let responses = answer.responses();
        let given: Vec<_> =
            responses.iter().map(|response| (response.result.clone(), response.data.clone())).collect();
        assert_eq!(given, expected, "id {id}");
        if id == 0 {
            let error = responses[2].error.as_ref().expect("what is no text fails its job");
            assert!(error.message.contains("byte 1"), "{}", error.message);
            assert_eq!(end(&answer), Some(("failed", "1")));
        } else {
            assert_eq!((answer.code(), end(&answer)), (Code::Ok, Some(("complete", "0"))));
        }
        seen.push(answer);
    }
    drop(server);
    let server = start();
    let connection = Connection::open(server.address()).await;
    for answer in seen {
        assert_eq!(connection.fetch(&again(&answer.run(), 0)).await.messages, answer.messages);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_too_long_is_split_between_characters_into_parts_of_one_job() {
    const RESPONSE_BYTES_MAX: usize = 1_024;
    let folder = tempfile::tempdir().unwrap();
    let texts = ["né€😀".repeat(3_000), "short".to_owned(), "😀".repeat(255), "x".repeat(1_018), "x".repeat(1_019)];
    let start = |texts: [String; 5]| {
        let mut limits = Limits::default();
        limits.response_bytes_max = RESPONSE_BYTES_MAX;
        let data = folder.path().join("data");
        let plan = move |request: &Asked| {
            let kind = [PayloadKind::Text, PayloadKind::Lossy, PayloadKind::Bytes][request.id() as usize];
            let work = |texts: [String; 5]| {
                outflow::Job::new(async move |emitter| {
                    for text in &texts {
                        emitter.emit(text).await?;
                    }
                    Ok(emitter.emit_all(&texts).await?)
                })
            };
            outflow::Plan::new().job(work(texts.clone())).job(work(texts.clone())).payload(kind)
        };
        TestServer::start(|server| server.default_source("test", planned(plan)).limits(limits).data(data))
    };
    let server = start(texts.clone());
    let connection = Connection::open(server.address()).await;
    let twice: Vec<&[u8]> = texts.iter().chain(&texts).map(String::as_bytes).collect();
    let mut seen = Vec::new();
    for id in 0..3 {
        // That every part is text is checked where it is decoded.
        let answer = connection.fetch(&journaled(id)).await;
        assert!(answer.messages.iter().all(|message| message.len() <= RESPONSE_BYTES_MAX));
        let values = values(&answer.responses());
        for job in 0..2 {
            let of_job = values.iter().filter(|(of, _)| *of == job).map(|(_, value)| &value[..]);
            assert!(of_job.eq(twice.iter().copied()), "job {job} of id {id}");
        }
        assert_eq!(end(&answer), Some(("complete", "0")));
        seen.push(answer);
    }
    drop(server);
    let server = start(texts);
    let connection = Connection::open(server.address()).await;
    for answer in seen {
        let half = answer.messages.len() / 2;
        let rest = connection.fetch(&again(&answer.run(), half as u64)).await;
        assert_eq!(rest.messages, answer.messages[half..]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_value_that_is_open_stays_so_where_its_job_fails_or_the_run_ends() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let start = || {
        let plan = |request: &Asked| {
            let id = request.id();
            one(async move |emitter| {
                emitter.emit("whole").await?;
                emitter.emit_partial("half").await?;
                match id {
                    0 => Err(JobError::new(JobCode::Internal, "failed")),
                    1 => Ok(()),
                    _ => std::future::pending().await,
                }
            })
            .repeatable()
        };
        TestServer::start(|server| server.default_source("test", planned(plan)).data(data.clone()))
    };
    let server = start();
    let (connection, runs) = (Connection::open(server.address()).await, Runs::of(&server).await);
    let ends = [("failed", "1"), ("complete", "0"), ("stopped", "0")];
    let mut seen = Vec::new();
    for (id, expected) in (0..).zip(ends) {
        let mut live = connection.begin(&journaled(id)).await;
        live.response().await;
        live.response().await;
        if id == 2 {
            runs.stop(&live.run()).await.unwrap();
        }
        let answer = live.finish().await;
        assert_eq!(end(&answer), Some(expected));
        let responses = answer.responses();
        assert_eq!((&*responses[1].result, responses[1].partial), ("half", true));
        // Nothing that would close the value: an error is none of its parts.
        let rest =
            responses[2..].iter().map(|response| (&*response.result, response.partial, response.error.is_some()));
        assert!(rest.eq([("", false, true)].into_iter().take(usize::from(id == 0))), "{responses:?}");
        seen.push(answer);
    }
    drop(server);
    let server = start();
    let connection = Connection::open(server.address()).await;
    for answer in seen {
        let later = connection.fetch(&again(&answer.run(), 0)).await;
        assert_eq!((later.messages, later.trailers), (answer.messages, answer.trailers));
    }
}
