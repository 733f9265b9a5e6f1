//! Who answers: the source that is named, the one that claims the id, else the default one; that no two can be meant; and
//! sources that are replaced while runs of the old ones are under way.

use std::{net::TcpListener, ops::RangeInclusive, time::Duration};

use outflow::{Plan, ServeError, Server, Source, SourceOptions, Sources, SourcesError};
use outflow_proto::protobuf::Request;
use tonic::Code;

use super::asking::{Names as _, Runs, Tap, again, end, journaled};
use crate::support::{Gauge, TestServer, one, planned, waiting, wire::Connection};

/// A source that says who it is.
fn saying(text: &'static str) -> impl Source {
    planned(move |_| {
        one(async move |emitter| {
            emitter.emit(text).await?;
            Ok(())
        })
    })
}

fn claiming(ids: impl IntoIterator<Item = RangeInclusive<i32>>) -> SourceOptions {
    SourceOptions::new().ids(ids)
}

fn id(id: i32) -> Request {
    Request { id, ..Request::default() }
}

/// Who answers `request`: what it says, or its status.
async fn answered(connection: &Connection, request: &Request) -> Result<String, Code> {
    let answer = connection.fetch(request).await;
    if answer.code() == Code::Ok { Ok(answer.results().concat()) } else { Err(answer.code()) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_id_leads_to_the_source_that_claims_it_else_to_the_default_one_else_nowhere() {
    let claims = || {
        Sources::new()
            .source_with("middle", saying("middle"), claiming([100..=199, 300..=300, 150..=210]))
            .source_with("least", saying("least"), claiming([i32::MIN..=-2]))
            .source_with("most", saying("most"), claiming([i32::MAX..=i32::MAX]))
            .source("unclaimed", saying("unclaimed"))
    };
    let expected = [
        (100, "middle"),
        (150, "middle"),
        (199, "middle"),
        (200, "middle"),
        (210, "middle"),
        (300, "middle"),
        (i32::MIN, "least"),
        (-2, "least"),
        (i32::MAX, "most"),
    ];
    let nobodys = [-1, 0, 99, 211, 299, 301, i32::MAX - 1];
    for default in [None, Some("unclaimed"), Some("middle")] {
        let sources = default.map_or_else(claims, |name| claims().default_to(name));
        let server = TestServer::start(|server| server.sources(sources));
        let connection = Connection::open(server.address()).await;
        for (asked, who) in expected {
            assert_eq!(answered(&connection, &id(asked)).await.as_deref(), Ok(who), "id {asked}");
            // Claims are for who names nobody.
            let named = Request { source: "unclaimed".into(), ..id(asked) };
            assert_eq!(answered(&connection, &named).await.as_deref(), Ok("unclaimed"), "id {asked}");
        }
        for asked in nobodys {
            let who = answered(&connection, &id(asked)).await;
            assert_eq!(who.as_deref(), default.ok_or(&Code::NotFound), "id {asked}, default {default:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_source_that_is_alone_answers_whoever_names_none_unless_it_claims_ids() {
    let lone = TestServer::start(|server| server.source("lone", saying("lone")));
    let claims = TestServer::start(|server| server.source_with("lone", saying("lone"), claiming([7..=7])));
    let two = TestServer::start(|server| server.source("lone", saying("lone")).source("other", saying("other")));
    for (server, asked, who) in [
        (&lone, 7, Ok("lone")),
        (&claims, 7, Ok("lone")),
        (&claims, 8, Err(Code::NotFound)),
        (&two, 7, Err(Code::NotFound)),
    ] {
        let connection = Connection::open(server.address()).await;
        assert_eq!(answered(&connection, &id(asked)).await.as_deref(), who.as_ref().copied());
    }
}

#[test]
fn sources_that_cannot_stand_beside_each_other_are_refused_by_name_before_a_port_is_bound() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let set = |first, second| {
        Sources::new().source_with("a", saying("a"), claiming(first)).source_with("b", saying("b"), claiming(second))
    };
    let overlap = |from, to| SourcesError::Overlap { first: "a".into(), second: "b".into(), from, to };
    #[expect(clippy::reversed_empty_ranges, reason = "it is what is refused")]
    let backwards = 9..=8;
    let cases = [
        (set(vec![1..=5], vec![5..=9]), overlap(5, 5)),
        (set(vec![1..=50], vec![60..=70, 20..=30]), overlap(20, 30)),
        (set(vec![0..=0, i32::MIN..=i32::MAX], vec![3..=4]), overlap(3, 4)),
        (set(vec![], vec![backwards]), SourcesError::NoIds { name: "b".into(), from: 9, to: 8 }),
        (set(vec![], vec![]).source("a", saying("c")), SourcesError::SameName { name: "a".into() }),
        (set(vec![], vec![]).default_to("c"), SourcesError::UnknownDefault { name: "c".into() }),
    ];
    for (sources, expected) in cases {
        let listen = [taken.local_addr().unwrap().into()];
        let refused = Server::builder().listen(listen).sources(sources).bind().map(|_| ());
        assert!(matches!(&refused, Err(ServeError::Sources(error)) if *error == expected), "{refused:?}");
    }
    let told = overlap(5, 5).to_string();
    assert!(["`a`", "`b`", "id 5"].iter().all(|part| told.contains(part)), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn replaced_sources_answer_from_then_on_and_runs_under_way_keep_their_plan() {
    let tap = Tap::shut();
    let old = tap.clone();
    let old = planned(move |_| {
        let tap = old.clone();
        one(async move |emitter| {
            emitter.emit("old begins").await?;
            tap.next().await;
            emitter.emit("old ends").await?;
            Ok(())
        })
    });
    let server = TestServer::start(|server| server.source_with("test", old, claiming([1..=1])));
    let connection = Connection::open(server.address()).await;
    let mut plain = connection.begin(&id(1)).await;
    let mut kept = connection.begin(&journaled(1)).await;
    assert_eq!(plain.response().await.result, "old begins");
    assert_eq!(kept.response().await.result, "old begins");

    let wrong = Sources::new().source("twice", saying("1")).source("twice", saying("2"));
    assert_eq!(server.sources().replace(wrong), Err(SourcesError::SameName { name: "twice".into() }));
    assert_eq!(answered(&connection, &Request { source: "twice".into(), ..id(1) }).await, Err(Code::NotFound));

    server.sources().replace(Sources::new().source_with("new", saying("new"), claiming([1..=2]))).unwrap();
    assert_eq!(answered(&connection, &id(1)).await.as_deref(), Ok("new"));
    assert_eq!(answered(&connection, &journaled(2)).await.as_deref(), Ok("new"));
    let gone = connection.fetch(&Request { source: "test".into(), ..id(1) }).await;
    assert_eq!(gone.code(), Code::NotFound);
    assert!(gone.message().contains("`new`"), "{}", gone.message());

    tap.let_out(2);
    for live in [plain, kept] {
        let run = live.run();
        let answer = live.finish().await;
        assert_eq!(
            (end(&answer), answer.results().concat()),
            (Some(("complete", "0")), "old beginsold ends".to_owned())
        );
        if answer.headers["outflow-durability"] != "none" {
            let whole = connection.fetch(&again(&run, 0)).await;
            assert_eq!(whole.results(), ["old begins", "old ends"], "a run is read again whoever answers now");
        }
    }
    server.sources().replace(Sources::new()).unwrap();
    let simulated =
        Request { parameters: [("jobs".into(), "1".into()), ("step".into(), "0s".into())].into(), ..id(1) };
    assert_eq!(answered(&connection, &simulated).await.as_deref(), Ok("Request #0 For Id:1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_source_has_so_many_runs_under_way_and_another_is_refused_with_its_name() {
    let alive = Gauge::default();
    let source = |alive: &Gauge| {
        let alive = alive.clone();
        planned(move |request| if request.id() == 0 { waiting(&alive) } else { Plan::new() })
    };
    let two = || SourceOptions::new().runs_at_once(2).shared(Duration::from_secs(60));
    let set = || Sources::new().source_with("few", source(&alive), two()).source("many", source(&alive));
    let folder = tempfile::tempdir().unwrap();
    let serve = || TestServer::start(|server| server.sources(set()).data(folder.path().join("data")));
    let few = |n: i32| Request {
        source: "few".into(),
        parameters: [("n".into(), n.to_string())].into(),
        linger: journaled(0).linger,
        ..Request::default()
    };
    let server = serve();
    let (connection, runs) = (Connection::open(server.address()).await, Runs::of(&server).await);
    let begun = [connection.begin(&few(1)).await, connection.begin(&few(2)).await];
    let joined = connection.begin(&few(2)).await;
    assert_eq!(joined.run(), begun[1].run(), "who joins a run starts none");
    for replaced in [false, true] {
        if replaced {
            server.sources().replace(set()).unwrap();
        }
        let refused = connection.fetch(&few(3)).await;
        assert_eq!(refused.code(), Code::ResourceExhausted, "replaced {replaced}");
        assert!(refused.message().contains("`few`") && refused.message().contains("(2)"), "{}", refused.message());
        refused.assert_says_when_to_retry();
        let many = connection.begin(&Request { source: "many".into(), ..Request::default() }).await;
        assert_eq!(many.headers["outflow-durability"], "none");
    }
    // A run makes room when its jobs are gone, though it is still read.
    runs.stop(&begun[0].run()).await.unwrap();
    alive.becomes(1).await;
    let third = loop {
        let third = connection.begin(&few(3)).await;
        if third.headers.contains_key("outflow-run-id") {
            break third;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(connection.fetch(&few(4)).await.code(), Code::ResourceExhausted);
    for run in [&begun[1], &third] {
        runs.stop(&run.run()).await.unwrap();
    }
}
