//! What the server answers: statuses, ends, limits, and what is no answer of this contract.

mod support;

use std::{error::Error as _, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt as _;
use outflow_client::{
    Client, Code, Durability, End, Fetch, FetchError, JobError, Outcome, Payload, Responses, Violation,
};
use outflow_proto::protobuf;
use prost::Message as _;
use support::{COMPLETE, OK, RUN, frame, map, response, responses, serve, serve_with};

/// Sends these headers, data and trailers, and returns the responses' texts, the error, and what is left.
async fn answered(
    fetch: Fetch,
    headers: &'static [(&'static str, &'static str)],
    data: Bytes,
    trailers: &'static [(&'static str, &'static str)],
) -> (Vec<String>, Option<FetchError>, Responses) {
    let (client, _server) = serve(move |mut call| {
        let data = data.clone();
        async move {
            let mut stream = call.open(headers);
            if !data.is_empty() {
                stream.send_data(data, false).unwrap();
            }
            stream.send_trailers(map(trailers)).unwrap();
        }
    })
    .await;
    read(client.fetch(fetch).await.unwrap()).await
}

/// Reads to the end.
async fn read(mut responses: Responses) -> (Vec<String>, Option<FetchError>, Responses) {
    let mut texts = Vec::new();
    let mut error = None;
    while let Some(response) = responses.next().await {
        assert!(error.is_none(), "something came after {error:?}");
        match response {
            Ok(response) => texts.push(text(response.payload)),
            Err(failed) => error = Some(failed),
        }
    }
    assert!(responses.next().await.is_none());
    (texts, error, responses)
}

fn text(payload: Payload) -> String {
    match payload {
        Payload::Text(text) => text.to_string(),
        other => panic!("{other:?}"),
    }
}

fn violation(error: Option<FetchError>) -> Violation {
    match error {
        Some(FetchError::Protocol { violation, .. }) => *violation,
        other => panic!("{other:?}"),
    }
}

/// Answers a fetch with headers alone.
async fn only(status: u16, headers: &'static [(&'static str, &'static str)]) -> Result<Responses, FetchError> {
    let (client, _server) = serve(move |mut call| async move { call.raw(status, headers) }).await;
    client.fetch(Fetch::id(1)).await
}

const GRPC: (&str, &str) = ("content-type", "application/grpc");

#[tokio::test]
async fn a_run_is_read_to_its_end() {
    let trailers = &[OK, COMPLETE, ("outflow-jobs-failed", "2"), ("outflow-last-sequence", "3")];
    let headers = &[RUN, ("outflow-durability", "disk"), ("outflow-expected-bytes", "18")];
    let (texts, error, ended) = answered(Fetch::id(1), headers, responses(3), trailers).await;
    assert_eq!(texts, ["text 1", "text 2", "text 3"]);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(ended.outcome(), Some(&Outcome::Ended { end: End::Complete, jobs_failed: 2, last_sequence: 3 }));
    assert_eq!((ended.run_id(), ended.durability()), (Some("r1"), Some(Durability::Disk)));
    assert_eq!(ended.expected_bytes(), Some(18));
    assert!(!ended.is_plain());
    assert!(ended.unsupported().is_empty());
    assert_eq!(ended.last_sequence(), 3);
}

#[tokio::test]
async fn every_kind_of_response_arrives_as_it_was_sent() {
    let sent = [
        protobuf::Response { sequence: 1, job: 4, data: Bytes::from_static(b"\0\xff"), ..Default::default() },
        protobuf::Response { sequence: 2, job: 9, result: "part".into(), partial: true, ..Default::default() },
        protobuf::Response {
            sequence: 3,
            job: 9,
            error: Some(protobuf::JobError { code: 5, message: "gone".into() }),
            ..Default::default()
        },
        protobuf::Response { sequence: 4, ..Default::default() },
    ];
    let data: Bytes = sent.iter().flat_map(|response| frame(&response.encode_to_vec())).collect();
    let (client, _server) = serve(move |mut call| {
        let data = data.clone();
        async move {
            let mut stream = call.run();
            stream.send_data(data, false).unwrap();
            stream.send_trailers(map(&[OK, COMPLETE])).unwrap();
        }
    })
    .await;
    let got: Vec<_> = client.fetch(Fetch::id(1)).await.unwrap().map(Result::unwrap).collect().await;
    assert_eq!(
        got.iter().map(|r| (r.sequence, r.job, r.partial)).collect::<Vec<_>>(),
        [(1, 4, false), (2, 9, true), (3, 9, false), (4, 0, false)]
    );
    assert_eq!(got[0].payload, Payload::Data(Bytes::from_static(b"\0\xff")));
    assert_eq!(got[1].payload, Payload::Text("part".into()));
    let Payload::Error(JobError { code: Code::NOT_FOUND, message, .. }) = &got[2].payload else { panic!("{got:?}") };
    assert_eq!(*message, "gone");
    assert_eq!(got[3].payload, Payload::Text("".into()));
}

#[tokio::test]
async fn the_request_is_what_was_asked() {
    let (client, _server) = serve(|mut call| async move {
        let request = call.message().await;
        let headers = call.request.headers();
        assert_eq!(headers["content-type"], "application/grpc");
        assert_eq!(headers["te"], "trailers");
        assert_eq!(headers["grpc-timeout"], "60000000u");
        assert!(headers["user-agent"].to_str().unwrap().starts_with("outflow-client/"));
        assert!(!headers.contains_key("grpc-accept-encoding"));
        assert_eq!(call.request.uri().path(), "/protobuf.StreamService/FetchResponse");
        let mut stream = call.run();
        let echo = format!("{} {} {} {:?}", request.run_id, request.after, request.limit, request.parameters);
        stream.send_data(response(42, &echo), false).unwrap();
        stream.send_trailers(map(&[OK, COMPLETE])).unwrap();
    })
    .await;
    let fetch = Fetch::run("r1").after(41).limit(7).parameter("k", "v").deadline(Duration::from_mins(1));
    let (texts, error, _) = read(client.fetch(fetch).await.unwrap()).await;
    assert_eq!(texts, [r#"r1 41 7 {"k": "v"}"#], "{error:?}");
}

#[tokio::test]
async fn a_refusal_is_told_with_its_message_and_when_to_try_again() {
    let refused = only(
        200,
        &[
            GRPC,
            ("grpc-status", "14"),
            ("grpc-message", "draining: 100%25 %zz"),
            ("grpc-retry-pushback-ms", "1500"),
            ("grpc-status-details-bin", "!!! no base64 !!!"),
        ],
    )
    .await
    .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the pipe refused the request: UNAVAILABLE: draining: 100% %zz (try again in 1.5s)"
    );
    assert_eq!(refused.code(), Some(Code::UNAVAILABLE));
    let FetchError::Refused { status, .. } = refused else { panic!("{refused}") };
    assert_eq!(status.retry_delay(), Some(Duration::from_millis(1500)));
    assert!(status.details().is_empty());
}

#[tokio::test]
async fn a_plain_server_that_refuses_after_its_headers_refuses_all_the_same() {
    let (texts, error, ended) = answered(Fetch::id(1), &[], Bytes::new(), &[("grpc-status", "5")]).await;
    assert!(texts.is_empty());
    assert!(matches!(error, Some(FetchError::Refused { .. })), "{error:?}");
    assert_eq!(ended.outcome(), None);
}

#[tokio::test]
async fn a_run_that_failed_before_its_first_response_is_no_refusal() {
    let answer = only(
        200,
        &[
            GRPC,
            RUN,
            ("grpc-status", "3"),
            ("outflow-end", "failed"),
            ("outflow-jobs-failed", "1"),
            ("outflow-last-sequence", "0"),
        ],
    );
    let (texts, error, ended) = read(answer.await.unwrap()).await;
    assert!(texts.is_empty());
    assert!(matches!(error, Some(FetchError::Status { .. })), "{error:?}");
    assert_eq!(ended.outcome(), Some(&Outcome::Ended { end: End::Failed, jobs_failed: 1, last_sequence: 0 }));
}

#[tokio::test]
async fn a_status_with_an_end_is_the_runs_and_one_without_is_a_cut() {
    let ended =
        &[("grpc-status", "9"), ("grpc-message", "no"), ("outflow-end", "failed"), ("outflow-jobs-failed", "1")];
    let cut = &[("grpc-status", "14"), ("outflow-last-sequence", "2")];
    let run = &[RUN, ("outflow-durability", "memory")];

    let (texts, error, responses_ended) = answered(Fetch::id(1), run, responses(2), ended).await;
    assert_eq!(texts.len(), 2);
    let error = error.unwrap();
    assert_eq!(
        error.to_string(),
        "the stream from the pipe, run r1, after response 2, ended with FAILED_PRECONDITION: no"
    );
    assert!(matches!(error, FetchError::Status { .. }));
    let outcome = Outcome::Ended { end: End::Failed, jobs_failed: 1, last_sequence: 2 };
    assert_eq!(responses_ended.outcome(), Some(&outcome));

    let (texts, error, responses_cut) = answered(Fetch::id(1), run, responses(2), cut).await;
    assert_eq!(texts.len(), 2);
    let Some(FetchError::Status { position, status }) = error else { panic!("{error:?}") };
    assert_eq!(status.code(), Code::UNAVAILABLE);
    assert!(position.is_resumable());
    assert_eq!((position.run_id.as_deref(), position.last_sequence), (Some("r1"), 2));
    assert_eq!(responses_cut.outcome(), None);

    // A plain server has no runs that could end, whatever it says.
    let (_, error, plain) = answered(Fetch::id(1), &[], responses(2), ended).await;
    assert!(matches!(error, Some(FetchError::Status { .. })), "{error:?}");
    assert_eq!(plain.outcome(), None);
}

#[tokio::test]
async fn an_ok_that_explains_nothing_is_no_good_end() {
    let run = &[RUN];
    for (asked, trailers, expected) in [
        // Neither an end nor a limit.
        (Fetch::id(1), &[OK, ("outflow-last-sequence", "2")][..], Violation::EndMissing),
        // A limit that was not reached.
        (Fetch::id(1).limit(3), &[OK], Violation::EndMissing),
        // An end that is none of OK's.
        (Fetch::id(1), &[OK, ("outflow-end", "failed")], Violation::EndMissing),
        (Fetch::id(1), &[OK, ("outflow-end", "interrupted")], Violation::EndMissing),
        // Responses that were lost on the way.
        (Fetch::id(1), &[OK, COMPLETE, ("outflow-last-sequence", "3")], Violation::LastSequence { told: 3 }),
        (Fetch::id(1), &[OK, COMPLETE, ("outflow-last-sequence", "1")], Violation::LastSequence { told: 1 }),
        (
            Fetch::id(1),
            &[OK, COMPLETE, ("outflow-jobs-failed", "some")],
            Violation::Trailer { name: "outflow-jobs-failed", value: "some".into() },
        ),
    ] {
        let (texts, error, ended) = answered(asked, run, responses(2), trailers).await;
        assert_eq!(texts.len(), 2);
        assert_eq!(violation(error), expected, "{trailers:?}");
        assert_eq!(ended.outcome(), None);
    }
}

#[tokio::test]
async fn a_limit_that_was_reached_is_a_good_end() {
    let trailers = &[OK, ("outflow-last-sequence", "3")];
    let (texts, error, ended) = answered(Fetch::id(1).limit(3), &[RUN], responses(3), trailers).await;
    assert_eq!(texts.len(), 3);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(ended.outcome(), Some(&Outcome::Limit { last_sequence: 3 }));

    let (texts, error, _) = answered(Fetch::id(1).limit(2), &[RUN], responses(3), trailers).await;
    assert_eq!(texts.len(), 2);
    assert_eq!(violation(error), Violation::OverLimit { received: 3 });

    // The run may end just there.
    let (_, error, ended) = answered(Fetch::id(1).limit(3), &[RUN], responses(3), &[OK, COMPLETE]).await;
    assert!(error.is_none(), "{error:?}");
    assert!(matches!(ended.outcome(), Some(Outcome::Ended { end: End::Complete, .. })));
}

#[tokio::test]
async fn a_gap_and_a_repeat_are_loud() {
    for (second, expected, received) in [(3, 2, 3), (1, 2, 1)] {
        let data = [response(1, "text 1"), response(second, "wrong"), response(second + 1, "wrong")].concat();
        let (texts, error, _) = answered(Fetch::id(1), &[RUN], data.into(), &[OK, COMPLETE]).await;
        assert_eq!(texts, ["text 1"]);
        assert_eq!(violation(error), Violation::Sequence { expected, received });
    }
    let (_, error, _) = answered(Fetch::run("r1").after(7), &[RUN], response(1, "old"), &[OK, COMPLETE]).await;
    assert_eq!(violation(error), Violation::Sequence { expected: 8, received: 1 });
}

#[tokio::test]
async fn heartbeats_are_swallowed() {
    let heartbeat = frame(&[]);
    let data = [heartbeat.clone(), response(1, "a"), heartbeat.clone(), heartbeat, response(2, "b")].concat();
    let trailers = &[OK, COMPLETE, ("outflow-last-sequence", "2")];
    let (texts, error, _) = answered(Fetch::id(1), &[RUN], data.into(), trailers).await;
    assert_eq!(texts, ["a", "b"]);
    assert!(error.is_none(), "{error:?}");
    // To a plain server an empty message is a response.
    let data = [frame(&[]), response(0, "a")].concat();
    let (texts, error, _) = answered(Fetch::id(1), &[], data.into(), &[OK]).await;
    assert_eq!(texts, ["", "a"], "{error:?}");
}

#[tokio::test]
async fn a_message_that_is_none_ends_the_stream_after_what_came_before() {
    let oversized = [&[0, 0, 0x40, 0, 1][..], b"x"].concat();
    for (bad, expected) in [
        (vec![1, 0, 0, 0, 0], "compressed"),
        (vec![7, 0, 0, 0, 0], "flag 7"),
        (oversized, "4194305 bytes, more than the limit of 4194304"),
        (frame(b"\x0a\x01\xff").to_vec(), "no UTF-8"),
        (frame(b"\x0a\x7f").to_vec(), "past the message's end"),
        (frame(b"\x0f").to_vec(), "no protobuf message"),
        (frame(b"\x08\x01").to_vec(), "field 1 is not of the contract's type"),
    ] {
        let data = [&responses(1)[..], &bad].concat();
        let (texts, error, _) = answered(Fetch::id(1), &[RUN], data.into(), &[OK, COMPLETE]).await;
        assert_eq!(texts, ["text 1"]);
        let error = error.unwrap();
        assert!(matches!(error, FetchError::Protocol { .. }));
        assert!(error.to_string().contains(expected), "{error}");
        assert!(error.source().is_none() && error.code().is_none());
    }
}

#[tokio::test]
async fn the_message_limit_is_the_callers() {
    let builder = Client::builder().no_resume().message_bytes_max(20);
    let (client, _server) = serve_with(builder, |mut call| async move {
        let mut stream = call.run();
        stream.send_data(frame(&[b"\x10\x01\x0a\x10", &[b'a'; 16][..]].concat()), false).unwrap();
        stream.send_data(frame(&[b"\x10\x02\x0a\x11", &[b'a'; 17][..]].concat()), false).unwrap();
        stream.send_trailers(map(&[OK, COMPLETE])).unwrap();
    })
    .await;
    let (texts, error, _) = read(client.fetch(Fetch::id(1)).await.unwrap()).await;
    assert_eq!(texts, ["a".repeat(16)]);
    assert_eq!(violation(error), Violation::MessageTooLarge { bytes: 21, limit: 20 });
}

#[tokio::test]
async fn an_end_inside_a_message_is_no_good_end_but_a_status_is_told() {
    let half = [&responses(1)[..], &response(2, "half")[..9]].concat();
    let (texts, error, _) = answered(Fetch::id(1), &[RUN], half.clone().into(), &[OK, COMPLETE]).await;
    assert_eq!(texts, ["text 1"]);
    assert_eq!(violation(error), Violation::Truncated);
    let (_, error, _) = answered(Fetch::id(1), &[RUN], half.into(), &[("grpc-status", "13")]).await;
    assert_eq!(error.unwrap().code(), Some(Code::INTERNAL));
}

#[tokio::test]
async fn what_is_no_grpc_is_told_with_the_code_that_stands_for_it() {
    for (status, headers, code, text) in [
        (415, &[][..], Some(Code::UNKNOWN), "HTTP status 415"),
        (503, &[("content-type", "text/html")], Some(Code::UNAVAILABLE), "HTTP status 503"),
        (404, &[GRPC], Some(Code::UNIMPLEMENTED), "HTTP status 404"),
        (200, &[("content-type", "text/html")], None, "text/html"),
        (200, &[], None, "content type is \"\""),
        (200, &[GRPC, ("grpc-status", "fine")], None, "grpc-status is \"fine\""),
    ] {
        let error = only(status, headers).await.unwrap_err();
        assert!(matches!(error, FetchError::Protocol { .. }), "{error}");
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }
    // A status that was received counts for more than HTTP's.
    let refused = only(503, &[GRPC, ("grpc-status", "7")]).await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::PERMISSION_DENIED));
    assert!(only(503, &[("content-type", "text/html"), ("grpc-status", "7")]).await.unwrap_err().status().is_none());
}

#[tokio::test]
async fn a_status_in_headers_that_do_not_end_the_stream_counts_where_no_other_comes() {
    let (client, _server) = serve(|mut call| async move {
        let mut stream = call.open(&[("grpc-status", "8"), ("grpc-message", "full")]);
        stream.send_data(Bytes::new(), true).unwrap();
    })
    .await;
    let error = client.fetch(Fetch::id(1)).await.unwrap_err();
    assert_eq!(error.to_string(), "the pipe refused the request: RESOURCE_EXHAUSTED: full");
}

#[tokio::test]
async fn a_plain_servers_ok_is_a_complete_end_and_its_wishes_are_told() {
    let fetch = Fetch::id(1).source("exec").parameter("k", "v").heartbeat(Duration::from_secs(1));
    let data = [response(0, "a"), response(0, "b")].concat();
    let (texts, error, ended) = answered(fetch, &[], data.into(), &[OK]).await;
    assert_eq!(texts, ["a", "b"], "{error:?}");
    assert!(ended.is_plain());
    assert_eq!(ended.unsupported(), ["source", "parameters", "heartbeat"]);
    assert_eq!(ended.outcome(), Some(&Outcome::Ended { end: End::Complete, jobs_failed: 0, last_sequence: 2 }));
    // An empty answer may come as headers alone.
    let empty = only(200, &[GRPC, OK]).await.unwrap();
    assert_eq!(empty.outcome(), Some(&Outcome::Ended { end: End::Complete, jobs_failed: 0, last_sequence: 0 }));
}

#[tokio::test]
async fn a_plain_server_cannot_stand_in_for_a_run() {
    let (client, _server) = serve(|mut call| async move {
        let mut stream = call.open(&[]);
        stream.send_data(response(0, "another thing"), false).unwrap();
    })
    .await;
    let error = client.fetch(Fetch::run("r9").after(3)).await.unwrap_err();
    assert_eq!(violation(Some(error)), Violation::NoRuns { run_id: "r9".into() });

    // But its refusal is its answer.
    let (client, _server) = serve(|mut call| async move { call.only(&[("grpc-status", "5")]) }).await;
    let error = client.fetch(Fetch::run("r9")).await.unwrap_err();
    assert!(matches!(error, FetchError::Refused { .. }), "{error}");
}

#[tokio::test]
async fn a_request_that_no_server_takes_is_not_sent() {
    let (client, _server) = serve(|_| async { panic!("it was sent") }).await;
    let error = client.fetch(Fetch::id(1).parameter("k", "v".repeat(4 << 20))).await.unwrap_err();
    assert!(matches!(error, FetchError::RequestTooLarge { bytes } if bytes > 4 << 20), "{error}");
}
