//! The kind `sql` with SQLite: rows as JSON, and what happens when the query, the reader or the server does not go on.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, ChildStdout, Stdio},
    time::{Duration, Instant},
};

use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::program::{Server, outflow, run, text, wait, within};

/// A column that takes a few milliseconds to compute.
const SLOW: &str =
    "(with recursive m(j) as (select i union all select j + 1 from m where j < i + 20000) select count(*) from m)";

/// A server with a configuration and a database beside it.
pub(super) struct Place {
    pub(super) server: Server,
    folder: TempDir,
}

impl Place {
    /// One with the sources of `config`, in which `{db}` is the database's URL, over what `statements` make.
    pub(super) fn new(config: &str, statements: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = Connection::open(folder.path().join("test.db")).unwrap();
        database.execute_batch(statements).unwrap();
        Self::at("sqlite://test.db", config, folder)
    }

    /// One whose database is at `url`.
    pub(super) fn at(url: &str, config: &str, folder: TempDir) -> Self {
        std::fs::write(folder.path().join("outflow.toml"), config.replace("{db}", url)).unwrap();
        let server = Server::start(&Self::arguments(&folder).each_ref().map(String::as_str));
        Self { server, folder }
    }

    fn arguments(folder: &TempDir) -> [String; 4] {
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        ["--config".into(), path("outflow.toml"), "--data".into(), path("data")]
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// The newest run of a source.
    pub(super) fn run_id(&self, source: &str) -> String {
        let newest = || {
            let (runs, _) = run(&["runs", "--server", &self.server.address, "--source", source, "--json"]);
            text(&runs.stdout).lines().next().map(str::to_owned)
        };
        let newest = within(Duration::from_secs(10), newest).expect("there is a run");
        let newest: Value = serde_json::from_str(&newest).unwrap();
        newest["run_id"].as_str().unwrap_or_else(|| panic!("{newest}")).to_owned()
    }

    /// Kills the server and starts it again.
    pub(super) fn start_again(&mut self) {
        self.server.signal(Signal::KILL);
        self.server.wait();
        let arguments = Self::arguments(&self.folder);
        let address = self.server.address.clone();
        self.server = Server::start_at(&address, &arguments.each_ref().map(String::as_str));
    }

    /// The rows of an answer that is complete.
    pub(super) fn rows(&self, arguments: &[&str]) -> Vec<Value> {
        let (output, _) = self.server.fetch(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The lines of an answer that fails, and what is said of that.
    pub(super) fn failure(&self, arguments: &[&str]) -> (String, String) {
        let (output, _) = self.server.fetch(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", text(&output.stdout));
        (text(&output.stdout).into(), text(&output.stderr).into())
    }

    /// Begins a fetch and reads so many lines of it.
    pub(super) fn begin(&self, arguments: &[&str], lines: usize) -> (Child, BufReader<ChildStdout>, String) {
        let all = [&["fetch", "--server", &self.server.address], arguments].concat();
        let mut child = outflow(&all).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut printed = String::new();
        for _ in 0..lines {
            stdout.read_line(&mut printed).unwrap();
        }
        (child, stdout, printed)
    }
}

/// A source called `name`.
pub(super) fn source(name: &str, query: &str, more: &str) -> String {
    format!("[[source]]\nname = {name:?}\nkind = \"sql\"\nurl = \"{{db}}\"\nquery = '''{query}'''\n{more}\n")
}

/// The numbers from 1 on, as a table `n` with a column `i`.
fn numbers(condition: &str, select: &str) -> String {
    format!("with recursive n(i) as (select 1 union all select i + 1 from n {condition}) {select}")
}

#[test]
fn rows_are_objects_with_their_columns_in_order_and_nothing_lost() {
    let query = "select * from kinds order by rowid";
    let config = [
        source("number", query, "default = true"),
        source("string", query, "integers = \"string\""),
        source("bytes", query, "payload = \"bytes\""),
    ];
    let place = Place::new(
        &config.concat(),
        "create table kinds(z, a, [k\"ey] text);
         insert into kinds values(9223372036854775807, 0.1, 'tëxt \"q\" \u{1} \u{1f600}'), (-1, x'00ff', char(0)),
            (null, 9e999, ''), (1.0, -9e999, 'x')",
    );
    let (output, _) = place.server.fetch(&["1"]);
    let lines = [
        r#"{"z":9223372036854775807,"a":0.1,"k\"ey":"tëxt \"q\" \u0001 😀"}"#,
        r#"{"z":-1,"a":"AP8=","k\"ey":"\u0000"}"#,
        r#"{"z":null,"a":"Infinity","k\"ey":""}"#,
        r#"{"z":1.0,"a":"-Infinity","k\"ey":"x"}"#,
    ];
    assert_eq!(text(&output.stdout).lines().collect::<Vec<_>>(), lines);
    let rows = place.rows(&["1", "--source", "string"]);
    assert_eq!((&rows[0]["z"], &rows[1]["z"]), (&json!("9223372036854775807"), &json!("-1")));
    assert_eq!(rows[0]["a"], json!(0.1));
    let (output, _) = place.server.fetch(&["1", "--source", "bytes", "--format", "json"]);
    assert!(text(&output.stdout).contains(r#""data":"eyJ6Ijo5"#), "{}", text(&output.stdout));
}

#[test]
fn what_requests_say_is_bound_and_never_a_part_of_the_query() {
    let bind = r#"
        default = true
        bind = ["{id}", "{parameters.name}", "{parameters.price}", "{parameters.sold}", "{parameters.at}", "{id}/{parameters.name}"]
        parameters.name = { type = "text", default = "none" }
        parameters.price = { type = "number", default = 2.5 }
        parameters.sold = { type = "boolean", default = true }
        parameters.at = { type = "integer", default = -7 }"#;
    let query = "select typeof($1) a, $1 id, typeof($2) b, $2 name, typeof($3) c, $3 price, typeof($4) d, $4 sold, \
                 typeof($5) e, $5 at, $6 both";
    let by_number = source("by-number", "select ?2 as b, ?1 as a", "bind = [\"{id}\", \"x\"]");
    let out_of_order = source("out-of-order", "select $2 as b, $1 as a", "bind = [\"{id}\", \"x\"]");
    let plain = source("plain", "select ? as a, ? as b", "bind = [\"{id}\", \"x\"]");
    let config = [source("values", query, bind), by_number, out_of_order, plain].concat();
    let place = Place::new(&config, "create table sacred(a)");
    let row = json!({
        "a": "integer", "id": 42, "b": "text", "name": "none", "c": "real", "price": 2.5, "d": "integer", "sold": 1,
        "e": "integer", "at": -7, "both": "42/none",
    });
    assert_eq!(place.rows(&["42"]), [row]);
    for attempt in
        ["'; drop table sacred; --", "\" or 1=1", "1) union select sql from sqlite_master --", "$1", "{id}"]
    {
        let rows = place.rows(&["42", "--param", &format!("name={attempt}")]);
        assert_eq!((&rows[0]["name"], &rows[0]["both"]), (&json!(attempt), &json!(format!("42/{attempt}"))));
    }
    for source in ["by-number", "out-of-order", "plain"] {
        assert_eq!(place.rows(&["5", "--source", source]), [json!({"a": 5, "b": "x"})], "{source}");
    }
    for (parameter, told) in [
        ("at=x", "parameters.at: is not allowed; a whole number is wanted"),
        ("price=1e999", "parameters.price"),
        ("sold=maybe", "parameters.sold"),
        ("other=1", "parameters.other: is no parameter"),
    ] {
        let (printed, said) = place.failure(&["42", "--param", parameter]);
        assert!(printed.is_empty() && said.contains("INVALID_ARGUMENT") && said.contains(told), "{said}");
    }
}

#[test]
fn several_rows_are_one_array_of_so_many_rows_or_so_many_bytes() {
    let config = [
        source("four", &numbers("where i < 10", "select i from n"), "batch = 4\ndefault = true"),
        source("none", "select 1 as i where false", "batch = 4"),
        source("long", &numbers("where i < 6", "select i, hex(zeroblob(50000)) as x from n"), "batch = 1000"),
    ];
    let place = Place::new(&config.concat(), "");
    let (output, _) = place.server.fetch(&["1"]);
    let batches = "[{\"i\":1},{\"i\":2},{\"i\":3},{\"i\":4}]\n[{\"i\":5},{\"i\":6},{\"i\":7},{\"i\":8}]\n[{\"i\":9},{\"i\":10}]\n";
    assert_eq!(text(&output.stdout), batches);
    assert_eq!(place.rows(&["1", "--source", "none"]), [] as [Value; 0]);
    let sizes: Vec<_> =
        place.rows(&["1", "--source", "long"]).iter().map(|rows| rows.as_array().unwrap().len()).collect();
    assert_eq!(sizes, [3, 3], "256 KiB, and the row that goes beyond");
}

#[test]
fn a_row_is_there_at_once_also_where_the_next_one_never_comes() {
    let endless = numbers("", "select 0 as i union all select max(i) from n");
    let place = Place::new(&source("endless", &endless, "default = true"), "");
    let (mut child, _rest, printed) = place.begin(&["1"], 1);
    assert_eq!(printed, "{\"i\":0}\n");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn rows_before_an_error_are_delivered_and_then_the_error() {
    let query = numbers("where i < 9", "select i, case i when 4 then json('no') else 0 end as x from n");
    let config = [
        source("single", &query, "default = true"),
        source("batched", &query, "batch = 2\njob_errors = \"tolerate\""),
    ];
    let place = Place::new(&config.concat(), "");
    let (printed, said) = place.failure(&["1"]);
    assert_eq!(printed.lines().count(), 3, "{printed}");
    assert!(said.contains("OUT_OF_RANGE: SQLite: malformed JSON"), "{said}");
    let (output, _) = place.server.fetch(&["1", "--source", "batched"]);
    assert!(
        text(&output.stdout).starts_with("[{\"i\":1,\"x\":0},{\"i\":2,\"x\":0}]\n[{\"i\":3,\"x\":0}]\n"),
        "{output:?}"
    );
}

#[test]
fn a_run_that_stops_interrupts_its_query_and_frees_its_connection() {
    // Without an end and without a row where the id is 0.
    let query = numbers("where $1 = 0 or i < 3", "select i from n where i < 0 or $1 <> 0");
    let place = Place::new(&source("one", &query, "default = true\nbind = [\"{id}\"]\nconnections = 1"), "");
    for (before, way) in ["reader", "run"].into_iter().enumerate() {
        let linger: &[&str] = if way == "run" { &["--linger", "1m"] } else { &[] };
        let (mut child, _rest, _) = place.begin(&[&["0"], linger].concat(), 0);
        let busy =
            || (place.server.log().iter().filter(|line| line.contains("id : 0")).count() > before).then_some(());
        within(Duration::from_secs(10), busy).expect("it begins");
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
        assert_eq!(printed, "{\"i\":1}\n{\"i\":2}\n{\"i\":3}\n", "{way}");
        assert!(wait(&mut waiting).success());
        wait(&mut child);
    }
}

#[test]
fn the_end_of_the_server_interrupts_a_query() {
    let query = numbers("", "select max(i) from n");
    let mut place = Place::new(&source("one", &query, "default = true"), "");
    let (mut child, _rest, _) = place.begin(&["1"], 0);
    place.server.line("id : 1");
    place.server.signal(Signal::TERM);
    place.server.signal(Signal::TERM);
    let (status, took) = place.server.wait();
    assert!(status.success() && took < Duration::from_secs(8), "{status} after {took:?}");
    wait(&mut child);
}

#[test]
fn a_million_rows_arrive_whole_in_flat_memory_also_at_a_slow_reader() {
    let query = numbers("where i < 1000000", "select i, 'number ' || i as name from n");
    let place = Place::new(&source("million", &query, "default = true"), "");
    let expected = |n: usize| format!("{{\"i\":{n},\"name\":\"number {n}\"}}\n");
    place.server.fetch(&["1", "--limit", "10"]);
    let before = place.server.memory_kib("VmRSS");
    let (mut child, mut rest, first) = place.begin(&["1"], 1);
    let until = Instant::now() + Duration::from_millis(500);
    let mut peak = 0;
    within(Duration::from_secs(1), || {
        peak = peak.max(place.server.memory_kib("VmRSS"));
        (Instant::now() > until).then_some(())
    });
    let mut printed = first;
    rest.read_to_string(&mut printed).unwrap();
    assert!(wait(&mut child).success());
    assert!(printed == (1..=1_000_000).map(expected).collect::<String>(), "{} bytes", printed.len());
    peak = peak.max(place.server.memory_kib("VmHWM"));
    assert!(peak < before + 16 * 1024, "from {before} to {peak} KiB");
}

#[test]
fn a_run_goes_on_after_its_reader_left() {
    let query = numbers("where i < 500", &format!("select i, {SLOW} as x from n"));
    let place = Place::new(&source("slow", &query, "default = true\nlinger = \"1m\""), "");
    let (output, _) = place.server.fetch(&["1", "--limit", "2", "--format", "json"]);
    let first: Value = serde_json::from_str(text(&output.stdout).lines().next().unwrap()).unwrap();
    let rows = place.rows(&["--run", &place.run_id("slow"), "--after", "2"]);
    assert_eq!((rows.len(), &rows[0]["i"], &first["sequence"]), (498, &json!(3), &json!(1)));
}

/// Kills the server while a run of `source` is under way, and waits for how its reader ends.
fn killed(rows: usize, source_more: &str) -> (Place, String, String, bool) {
    let query = numbers(&format!("where i < {rows}"), &format!("select i, {SLOW} as x from n"));
    let mut place = Place::new(&source("slow", &query, source_more), "");
    let (mut child, mut rest, mut printed) = place.begin(&["1", "--linger", "5m"], 3);
    place.start_again();
    place.server.line("taking up 1 run");
    rest.read_to_string(&mut printed).unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let succeeded = wait(&mut child).success();
    (place, printed, said, succeeded)
}

#[test]
fn after_a_restart_a_query_that_may_be_repeated_goes_on_where_it_was() {
    let (place, printed, said, succeeded) = killed(400, "default = true\nrepeatable = true");
    assert!(succeeded, "{said}");
    let whole: String = (1..=400).map(|i| format!("{{\"i\":{i},\"x\":20001}}\n")).collect();
    assert_eq!(printed, whole);
    assert_eq!(place.rows(&["--run", &place.run_id("slow")]).len(), 400);
}

#[test]
fn after_a_restart_any_other_query_is_not_asked_again() {
    let (_place, printed, said, succeeded) = killed(4_000, "default = true");
    assert!(!succeeded && said.contains("ABORTED") && said.contains("not repeatable"), "{said}");
    assert!(printed.lines().count() < 4_000);
}

#[test]
fn what_cannot_be_asked_says_why_and_what_to_do() {
    let kinds = [
        ("table", "select * from missing", "", "FAILED_PRECONDITION: SQLite: no such table: missing"),
        ("syntax", "selec 1", "", "syntax error"),
        ("two", "select 1; select 2", "", "Multiple statements"),
        ("write", "insert into t values (1)", "", "FAILED_PRECONDITION: the query writes"),
        ("drop", "drop table t", "", "FAILED_PRECONDITION: the query writes"),
        ("returning", "delete from t returning *", "", "FAILED_PRECONDITION: the query writes"),
        ("twice", "select 1 as a, 2 as b, 3 as a", "", "two columns of the query are called `a`"),
        ("count", "select $1, $2", "bind = [\"{id}\"]", "up to $2, and `bind` gives 1"),
        ("more", "select $1", "bind = [\"{id}\", \"x\"]", "up to $1, and `bind` gives 2"),
        ("name", "select :id", "bind = [\"{id}\"]", "`:id` in the query"),
        ("zero", "select $0", "bind = [\"{id}\"]", "up to $0"),
        ("long", "select zeroblob(100000000) as x", "", "RESOURCE_EXHAUSTED: SQLite: string or blob too big"),
        (
            "bytes",
            "select 1 as a union all select cast(x'41ff' as text)",
            "",
            "column `a` of row 2 is a text that is not UTF-8",
        ),
    ];
    let mut config: String = kinds.iter().map(|(name, query, more, _)| source(name, query, more)).collect();
    for (name, file) in [("gone", "gone.db"), ("other", "outflow.toml"), ("folder", "data")] {
        config += &source(name, "select * from t", "").replace("{db}", &format!("sqlite:{file}"));
    }
    let place = Place::new(&config, "create table t(a); insert into t values (0)");
    for (name, _, _, told) in kinds {
        let (printed, said) = place.failure(&["7", "--source", name]);
        assert!(said.contains(told), "{name}: {said}");
        assert_eq!(printed, if name == "bytes" { "{\"a\":1}\n" } else { "" }, "{name}");
    }
    let opening = "FAILED_PRECONDITION: cannot open sqlite:gone.db: SQLite: unable to open database file";
    for (name, told) in [("gone", opening), ("other", "DATA_LOSS: "), ("folder", "cannot open sqlite:data")] {
        let (_, said) = place.failure(&["7", "--source", name]);
        assert!(said.contains(told), "{name}: {said}");
    }
    let database = Connection::open(place.path("test.db")).unwrap();
    assert_eq!(database.query_row("select count(*) from t", [], |row| row.get(0)), Ok(1), "nothing was written");
}

#[test]
fn a_file_that_takes_the_place_of_the_database_is_the_database() {
    let place = Place::new(
        &source("one", "select * from t", "default = true"),
        "create table t(a); insert into t values (1)",
    );
    assert_eq!(place.rows(&["1"]), [json!({"a": 1})]);
    let database = Connection::open(place.path("new.db")).unwrap();
    database.execute_batch("create table t(b); insert into t values (2)").unwrap();
    drop(database);
    std::fs::rename(place.path("new.db"), place.path("test.db")).unwrap();
    assert_eq!(place.rows(&["1"]), [json!({"b": 2})]);
}

#[test]
fn a_writer_is_seen_and_is_waited_for_so_long_and_no_longer() {
    let place = Place::new(
        &source("one", "select * from t", "default = true"),
        "create table t(a); insert into t values (1)",
    );
    let writer = Connection::open(place.path("test.db")).unwrap();
    assert_eq!(place.rows(&["1"]).len(), 1);
    writer.execute_batch("insert into t values (2)").unwrap();
    assert_eq!(place.rows(&["1"]).len(), 2);
    writer.execute_batch("begin exclusive").unwrap();
    let (_, said) = place.failure(&["1"]);
    assert!(said.contains("UNAVAILABLE: SQLite: database is locked"), "{said}");
    writer.execute_batch("commit").unwrap();
    assert_eq!(place.rows(&["1"]).len(), 2);
}

#[test]
fn what_is_wrong_with_a_source_is_told_with_its_line_before_a_port_is_bound() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("outflow.toml");
    let good = "[[source]]\nname = \"s\"\nkind = \"sql\"\nurl = \"sqlite://x.db\"\nquery = \"select 1\"\n";
    let url = "url = \"sqlite://x.db\"";
    for (from, to, line, told) in [
        (url, "url = \"mysql://x\"", 4, "url: it begins with sqlite:// or postgres://"),
        (url, "url = \"sqlite://\"", 4, "url: `sqlite://` and a path is wanted"),
        (url, "url = \"sqlite:///x.db?mode=rw\"", 4, "nothing behind it"),
        (url, "url = \"sqlite://{id}.db\"", 4, "url: it is the same for every request"),
        (url, "url = \"postgres://u@h:x/d\"", 4, "invalid value for option `port`"),
        (url, "url = \"postgres://u@/d\"", 4, "it has no host"),
        (url, "url = \"postgres://h/d\"", 4, "it has no user"),
        (url, "url = \"postgres://u@h/d?sslmode=require\"", 4, "this build speaks to PostgreSQL without TLS"),
        (url, "url = \"postgres://u@h/d?colour=red\"", 4, "colour"),
        ("select 1", "select '{id}'", 5, "query: neither {id} nor a parameter has a place in it; write $1 there"),
        ("select 1", " ", 5, "query: it is empty"),
        ("query", "querry", 5, "did you mean `query`?"),
        ("select 1\"\n", "select $1\"\nbind = [\"{parameters.x}\"]\n", 6, "no parameter `x` is declared"),
        ("select 1\"\n", "select 1\"\nbatch = 0\n", 6, "batch: it is how many rows one response holds, 1 to"),
        ("select 1\"\n", "select 1\"\nconnections = 0\n", 6, "connections: it is how many there are at once"),
        ("select 1\"\n", "select 1\"\nintegers = \"text\"\n", 6, "`number`"),
    ] {
        assert!(good.contains(from));
        std::fs::write(&config, good.replacen(from, to, 1)).unwrap();
        let output = outflow(&["serve", "--config", config.to_str().unwrap()]).output().unwrap();
        let said = text(&output.stderr);
        assert!(!output.status.success(), "{to}");
        assert!(said.contains(&format!("outflow.toml:{line}: source `s`: ")) && said.contains(told), "{to}: {said}");
    }
    // Of a URL with secrets nothing is shown.
    std::fs::write(&config, good.replace("sqlite://x.db", "postgres://u:{env.SQL_TEST_SECRET}@h:port/d")).unwrap();
    let secret = "swordfish";
    let output =
        outflow(&["serve", "--config", config.to_str().unwrap()]).env("SQL_TEST_SECRET", secret).output().unwrap();
    let said = text(&output.stderr);
    assert!(
        !output.status.success() && said.contains("postgres://USER:PASSWORD") && !said.contains(secret),
        "{said}"
    );
}

#[test]
fn limits_end_a_run_and_what_came_before_is_delivered() {
    let endless = numbers("", "select i from n");
    let config = [
        source("bytes", &endless, "output_limit = 1000"),
        source("time", &numbers("", "select max(i) from n"), "time_limit = \"200ms\"\nconnections = 1"),
    ];
    let place = Place::new(&config.concat(), "");
    let (printed, said) = place.failure(&["1", "--source", "bytes"]);
    assert!(said.contains("RESOURCE_EXHAUSTED"), "{said}");
    assert!(printed.starts_with("{\"i\":1}\n{\"i\":2}\n") && printed.len() < 1_200, "{printed}");
    // The second one gets the connection, so the first query has ended.
    for _ in 0..2 {
        let (printed, said) = place.failure(&["1", "--source", "time"]);
        assert!(printed.is_empty() && said.contains("DEADLINE_EXCEEDED"), "{said}");
    }
}

#[test]
fn the_example_works_as_it_is_beside_the_database_that_it_asks_for() {
    let example = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/sql.toml")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let database = Connection::open(folder.path().join("shop.db")).unwrap();
    let mut statements = 0;
    for line in example.lines().filter(|line| line.starts_with("#   sqlite3 ")) {
        database.execute_batch(line.split('"').nth(1).unwrap()).unwrap();
        statements += 1;
    }
    assert_eq!(statements, 2, "its head says how to make the database");
    std::fs::write(folder.path().join("outflow.toml"), &example).unwrap();
    let server = Server::start(&Place::arguments(&folder).each_ref().map(String::as_str));
    let place = Place { server, folder };
    let rows = [
        json!({"id": 1, "customer": 7, "item": "rope", "price": 12.5}),
        json!({"id": 3, "customer": 7, "item": "sail", "price": 240.0}),
    ];
    assert_eq!(place.rows(&["7"]), rows);
    let dear = place.rows(&["7", "--source", "dear", "--param", "price=100"]);
    assert_eq!(dear, [json!([{"id": 3, "item": "sail", "price": 240.0}])]);
}
