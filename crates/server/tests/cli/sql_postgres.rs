//! The kind `sql` with PostgreSQL. One server is there for all tests (`.ci/postgres`); each is known to it by the name of its
//! application.

use std::{io::Read as _, process::Command, time::Duration};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{
    program::{run, text, wait, within},
    sql::{Place, source},
};

const PATIENCE: Duration = Duration::from_secs(20);
/// Rows that take a few milliseconds each, without an end where `$1` is 0.
const SLOW: &str = "select i, pg_sleep(0.002)::text as x from generate_series(1, $1) i order by i";

fn url() -> String {
    std::env::var("OUTFLOW_TEST_POSTGRES").expect(".ci/postgres runs these tests beside a server")
}

/// A server with a configuration, whose sessions are called `name`.
fn place(name: &str, config: &str) -> Place {
    Place::at(&format!("{}?application_name={name}", url()), config, tempfile::tempdir().unwrap())
}

/// What a query answers that is asked beside ours.
fn psql(query: &str) -> String {
    let output = Command::new("psql").args([&url(), "--no-psqlrc", "-qAtc", query]).output().unwrap();
    assert!(output.status.success(), "{query}: {}", text(&output.stderr));
    text(&output.stdout).trim().to_owned()
}

/// How many sessions called `name` there are of which `condition` holds.
fn sessions(name: &str, condition: &str) -> usize {
    let query = format!("select count(*) from pg_stat_activity where application_name = '{name}' and {condition}");
    psql(&query).parse().unwrap()
}

/// Waits until so many sessions called `name` are in a query.
fn until_asked(name: &str, count: usize) {
    let found = within(PATIENCE, || (sessions(name, "state = 'active'") == count).then_some(()));
    assert!(found.is_some(), "{name}: {count} queries are wanted");
}

#[test]
#[ignore = "needs PostgreSQL"]
fn types_become_json_and_nothing_is_lost() {
    let values = [
        ("(-32768)::smallint", json!(-32_768)),
        ("2147483647", json!(2_147_483_647)),
        ("9223372036854775807", json!(9_223_372_036_854_775_807_i64)),
        ("4294967295::oid", json!(4_294_967_295_u32)),
        ("0.1::real", json!(0.1)),
        ("0.1::double precision", json!(0.1)),
        ("'-infinity'::double precision", json!("-Infinity")),
        ("'nan'::real", json!("NaN")),
        ("12.50", json!("12.50")),
        ("-0.000012::numeric", json!("-0.000012")),
        ("123456789012345678901234567890.000001", json!("123456789012345678901234567890.000001")),
        ("1e20::numeric", json!("100000000000000000000")),
        ("'nan'::numeric", json!("NaN")),
        ("'-infinity'::numeric", json!("-Infinity")),
        ("true", json!(true)),
        ("'tëxt \"q\" ' || chr(1) || chr(128512)", json!("tëxt \"q\" \u{1}\u{1f600}")),
        ("'ab'::char(4)", json!("ab  ")),
        ("'\\x00ff'::bytea", json!("AP8=")),
        ("'2026-11-25 23:40:00.5+01'::timestamptz", json!("2026-11-25T22:40:00.5Z")),
        ("'2026-11-25 23:40:00.000001'::timestamp", json!("2026-11-25T23:40:00.000001")),
        ("'2024-02-29'::date", json!("2024-02-29")),
        ("'1969-12-31'::date", json!("1969-12-31")),
        ("'23:59:59.25'::time", json!("23:59:59.25")),
        ("'23:59:59+05:30'::timetz", json!("23:59:59+05:30")),
        ("'1 year 2 months 3 days 4:05:06.7'::interval", json!("P1Y2M3DT4H5M6.7S")),
        ("'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid", json!("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")),
        ("'10.1.2.3/8'::inet", json!("10.1.2.3/8")),
        ("'2001:db8::1'::inet", json!("2001:db8::1")),
        ("'10.0.0.0/8'::cidr", json!("10.0.0.0/8")),
        ("'08:00:2b:01:02:03'::macaddr", json!("08:00:2b:01:02:03")),
        ("B'10110'", json!("10110")),
        ("'{\"a\": [1, null]}'::json", json!({"a": [1, null]})),
        ("'{\"b\": 1.50}'::jsonb", json!({"b": 1.50})),
        ("array[1, null, 3]", json!([1, null, 3])),
        ("array[array['a', 'b'], array['c', 'd']]", json!([["a", "b"], ["c", "d"]])),
        ("'{}'::int[]", json!([])),
        ("''::oidvector", json!([])),
        ("array[null]::text[][]", json!([null])),
        ("null::int", json!(null)),
        ("null", json!(null)),
    ];
    let columns: Vec<_> = values.iter().enumerate().map(|(n, (sql, _))| format!("{sql} as c{n}")).collect();
    let query = format!("select {}", columns.join(", "));
    let config = [source("number", &query, "default = true"), source("string", &query, "integers = \"string\"")];
    let place = place("types", &config.concat());
    let rows = place.rows(&["1"]);
    for (n, (sql, wanted)) in values.iter().enumerate() {
        assert_eq!(&rows[0][format!("c{n}")], wanted, "{sql}");
    }
    let rows = place.rows(&["1", "--source", "string"]);
    assert_eq!((&rows[0]["c2"], &rows[0]["c33"]), (&json!("9223372036854775807"), &json!(["1", null, "3"])));
}

#[test]
#[ignore = "needs PostgreSQL"]
fn types_of_ones_own_become_json_too() {
    psql(
        "drop schema if exists own cascade; create schema own; create type own.mood as enum ('glad', 'sad');
         create domain own.price as numeric(8, 2); create type own.pair as (a int, \"b \"\"q\" own.mood)",
    );
    let query = "select 'sad'::own.mood as mood, 7::own.price as price, (1, 'glad')::own.pair as pair, \
                 array[(2, null)::own.pair] as pairs";
    let place = place("own", &source("one", query, "default = true"));
    let row = json!({
        "mood": "sad", "price": "7.00", "pair": {"a": 1, "b \"q": "glad"}, "pairs": [{"a": 2, "b \"q": null}],
    });
    assert_eq!(place.rows(&["1"]), [row]);
}

#[test]
#[ignore = "needs PostgreSQL"]
fn what_requests_say_is_bound_and_what_does_not_fit_is_refused_with_its_field() {
    let bind = r#"
        default = true
        bind = ["{id}", "{parameters.name}", "{parameters.day}", "{parameters.amount}"]
        parameters.name = { type = "text", default = "none" }
        parameters.day = { type = "text", default = "2026-11-25" }
        parameters.amount = { type = "number", default = 2.5 }"#;
    let query = "select $1::smallint as id, $2::text as name, $3::date as day, $4::numeric as amount";
    let place = place("bind", &source("values", query, bind));
    let row = |name: &str| json!({"id": 42, "name": name, "day": "2026-11-25", "amount": "2.5"});
    assert_eq!(place.rows(&["42"]), [row("none")]);
    for attempt in ["'; drop table x; --", "$1", "{id}", "\\", "é"] {
        assert_eq!(place.rows(&["42", "--param", &format!("name={attempt}")]), [row(attempt)]);
    }
    let (printed, said) = place.failure(&["42", "--param", "day=yesterday-ish"]);
    assert!(printed.is_empty() && said.contains("INVALID_ARGUMENT: parameters.day: invalid input syntax"), "{said}");
    let (_, said) = place.failure(&["42", "--param", "day=2026-02-30"]);
    assert!(said.contains("INVALID_ARGUMENT: parameters.day: date/time field value out of range"), "{said}");
    let (_, said) = place.failure(&["32768"]);
    assert!(said.contains("INVALID_ARGUMENT: id: it is no int2, which $1 of the query is"), "{said}");
    assert_eq!(place.rows(&["42"]), [row("none")], "the session is as good as it was");
}

#[test]
#[ignore = "needs PostgreSQL"]
fn what_cannot_be_asked_says_why_and_what_to_do() {
    psql(
        "drop table if exists kept; create table kept(a int); insert into kept values (0); create sequence if not exists counter",
    );
    let late = "select 10 / (4 - i) as x from generate_series(1, 9) i";
    let kinds = [
        (
            "table",
            "select * from missing",
            "",
            "FAILED_PRECONDITION: PostgreSQL: relation \"missing\" does not exist",
        ),
        ("syntax", "selec 1", "", "(at character 1 of the query)"),
        ("two", "select 1; delete from kept", "", "cannot insert multiple commands"),
        ("write", "insert into kept values (1)", "", "FAILED_PRECONDITION: PostgreSQL: cannot execute INSERT"),
        ("within", "with d as (delete from kept returning *) select * from d", "", "read-only transaction"),
        ("next", "select nextval('counter')", "", "read-only transaction"),
        ("twice", "select 1 as a, 2 as a", "", "two columns of the query are called `a`"),
        ("count", "select $1::int, $2::int", "bind = [\"{id}\"]", "up to $2, and `bind` gives 1"),
        ("type", "select '(1,2)'::point as at", "", "column `at` has the type `point`"),
        ("late", late, "", "OUT_OF_RANGE: PostgreSQL: division by zero"),
    ];
    let config: String = kinds.iter().map(|(name, query, more, _)| source(name, query, more)).collect();
    let other = |name: &str, from: &str, to: &str| {
        let url = url().replace(from, to);
        format!("[[source]]\nname = '{name}'\nkind = 'sql'\nquery = 'select pg_sleep(60)'\nurl = '{url}'\n")
    };
    let port = url().rsplit_once(':').unwrap().1.to_owned();
    let others = [
        other("password", "secret", "swordfish"),
        other("nobody", &port, "1/postgres"),
        other("missing", &port, &port.replace("postgres", "nowhere")),
        other("slow", &port, &format!("{port}?options=-c%20statement_timeout%3D100")),
    ];
    let place = place("refused", &(config + &others.concat()));
    for (name, _, _, told) in kinds {
        let (printed, said) = place.failure(&["7", "--source", name]);
        assert!(said.contains(told), "{name}: {said}");
        assert_eq!(printed, if name == "late" { "{\"x\":3}\n{\"x\":5}\n{\"x\":10}\n" } else { "" }, "{name}");
    }
    for (name, told) in [
        ("password", "PERMISSION_DENIED: PostgreSQL refuses the login (28P01)"),
        ("nobody", "UNAVAILABLE: PostgreSQL cannot be reached"),
        ("missing", "PERMISSION_DENIED: PostgreSQL refuses the login (3D000)"),
        ("slow", "DEADLINE_EXCEEDED: PostgreSQL: canceling statement due to statement timeout"),
    ] {
        let (_, said) = place.failure(&["7", "--source", name]);
        assert!(said.contains(told) && !said.contains("swordfish"), "{name}: {said}");
    }
    assert_eq!(psql("select count(*), sum(a) from kept"), "1|0", "nothing was written");
}

#[test]
#[ignore = "needs PostgreSQL"]
fn a_run_that_stops_cancels_its_query_and_frees_its_connection() {
    let query = "select i, pg_sleep(case $1 when 0 then 600 else 0 end)::text as x from generate_series(1, 3) i";
    let more = "default = true\nbind = [\"{id}\"]\nconnections = 1";
    let limited = source("limited", "select pg_sleep(600)::text as x", "time_limit = \"1s\"");
    let place = place("stopped", &(source("one", &query.replace("$1", "$1::int"), more) + &limited));
    for way in ["reader", "run"] {
        let linger: &[&str] = if way == "run" { &["--linger", "1m"] } else { &[] };
        let (mut child, _rest, _) = place.begin(&[&["0"], linger].concat(), 0);
        until_asked("stopped", 1);
        // It waits for the one connection.
        let (mut waiting, mut stdout, _) = place.begin(&["1"], 0);
        if way == "run" {
            let run_id = place.run_id("one");
            run(&["runs", "stop", &run_id, "--server", &place.server.address]);
        } else {
            child.kill().unwrap();
        }
        let mut printed = String::new();
        stdout.read_to_string(&mut printed).unwrap();
        assert_eq!(printed.lines().count(), 3, "{way}");
        assert!(wait(&mut waiting).success());
        until_asked("stopped", 0);
        wait(&mut child);
    }
    let (_, said) = place.failure(&["1", "--source", "limited"]);
    assert!(said.contains("DEADLINE_EXCEEDED"), "{said}");
    until_asked("stopped", 0);
}

#[test]
#[ignore = "needs PostgreSQL"]
fn the_end_of_the_server_cancels_a_query() {
    let mut place = place("ended", &source("one", "select pg_sleep(600)::text as x", "default = true"));
    let (mut child, _rest, _) = place.begin(&["1"], 0);
    until_asked("ended", 1);
    place.server.signal(Signal::TERM);
    place.server.signal(Signal::TERM);
    let (status, _) = place.server.wait();
    assert!(status.success(), "{status}");
    until_asked("ended", 0);
    wait(&mut child);
}

#[test]
#[ignore = "needs PostgreSQL"]
fn a_million_rows_arrive_whole_in_flat_memory_and_the_database_waits_for_a_slow_reader() {
    let query = "select i, 'number ' || i as name from generate_series(1, 1000000) i";
    let place = place("million", &source("million", query, "default = true"));
    place.server.fetch(&["1", "--limit", "10"]);
    let before = place.server.memory_kib("VmRSS");
    let (mut child, mut rest, first) = place.begin(&["1"], 1);
    let waits = || (sessions("million", "wait_event = 'ClientWrite'") == 1).then_some(());
    within(PATIENCE, waits).expect("the database waits for its reader");
    let mut printed = first;
    rest.read_to_string(&mut printed).unwrap();
    assert!(wait(&mut child).success());
    let expected = |n: usize| format!("{{\"i\":{n},\"name\":\"number {n}\"}}\n");
    assert!(printed == (1..=1_000_000).map(expected).collect::<String>(), "{} bytes", printed.len());
    let peak = place.server.memory_kib("VmHWM");
    assert!(peak < before + 16 * 1024, "from {before} to {peak} KiB");
}

#[test]
#[ignore = "needs PostgreSQL"]
fn a_reader_that_does_not_read_can_leave_and_its_query_ends() {
    let query = "select i, repeat('x', 1000) as x from generate_series(1, 100000000) i";
    let place = place("unread", &source("one", query, "default = true"));
    let (mut child, _rest, _) = place.begin(&["1"], 1);
    let waits = || (sessions("unread", "wait_event = 'ClientWrite'") == 1).then_some(());
    within(PATIENCE, waits).expect("the database waits for its reader");
    child.kill().unwrap();
    wait(&mut child);
    until_asked("unread", 0);
}

#[test]
#[ignore = "needs PostgreSQL"]
fn a_connection_that_is_lost_is_told_and_the_next_query_has_a_new_one() {
    let place = place("lost", &source("slow", SLOW, "default = true\nbind = [\"{id}\"]\nconnections = 1"));
    assert_eq!(place.rows(&["3"]).len(), 3);
    // One that nobody uses.
    psql("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'lost'");
    assert_eq!(place.rows(&["3"]).len(), 3);
    let (mut child, mut rest, _) = place.begin(&["1000000"], 2);
    psql("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'lost'");
    rest.read_to_string(&mut String::new()).unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(!wait(&mut child).success() && said.contains("UNAVAILABLE: PostgreSQL"), "{said}");
    assert_eq!(place.rows(&["3"]).len(), 3);
}

#[test]
#[ignore = "needs PostgreSQL"]
fn a_run_goes_on_after_its_reader_left() {
    let place = place("left", &source("slow", SLOW, "default = true\nbind = [\"{id}\"]\nlinger = \"1m\""));
    place.server.fetch(&["500", "--limit", "2"]);
    let rows = place.rows(&["--run", &place.run_id("slow"), "--after", "2"]);
    assert_eq!((rows.len(), &rows[0]["i"]), (498, &json!(3)));
}

/// Kills the server while a run is under way, and waits for how its reader ends.
fn killed(name: &str, rows: &str, more: &str) -> (Place, Vec<Value>, String, bool) {
    let mut place = place(name, &source("slow", SLOW, &format!("default = true\nbind = [\"{{id}}\"]\n{more}")));
    let (mut child, mut rest, mut printed) = place.begin(&[rows, "--linger", "5m"], 3);
    place.start_again();
    place.server.line("taking up 1 run");
    rest.read_to_string(&mut printed).unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let succeeded = wait(&mut child).success();
    let rows = printed.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["i"].clone()).collect();
    (place, rows, said, succeeded)
}

#[test]
#[ignore = "needs PostgreSQL"]
fn after_a_restart_a_query_that_may_be_repeated_goes_on_and_any_other_is_not_asked_again() {
    let (place, rows, said, succeeded) = killed("repeated", "600", "repeatable = true");
    assert!(succeeded, "{said}");
    assert_eq!(rows, (1..=600).map(|i| json!(i)).collect::<Vec<_>>());
    assert_eq!(place.rows(&["--run", &place.run_id("slow")]).len(), 600);
    let (_place, rows, said, succeeded) = killed("once", "20000", "");
    assert!(!succeeded && said.contains("ABORTED") && said.contains("not repeatable"), "{said}");
    assert!(rows.len() < 20_000);
}
