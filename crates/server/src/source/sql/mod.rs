//! `sql`: the rows of a query as JSON objects, each a response, or several of them as an array. The query is the author's
//! and the same for every request; what requests say is bound. Connections read only, and there are only so many of them.
//!
//! What both databases have in common is here and in `bind.rs`, `json.rs`, `rows.rs` and `pool.rs`; each has a file
//! (`sqlite.rs` with `handover.rs`; `postgres/`) that knows its driver.

mod bind;
mod handover;
mod json;
mod pool;
mod postgres;
mod rows;
mod sqlite;

use std::sync::Arc;

use outflow_engine::{Emitter, Job, JobError, Placement, Plan, Refusal, Request, Source};
use serde::Deserialize;

use self::{
    bind::{Bind, Bound},
    postgres::Postgres,
    rows::Rows,
    sqlite::Sqlite,
};
use super::{Entry, Problem, Template, parameters::Declared};

/// Connections at once, where nothing else is said. Databases of both kinds serve a handful well, and many badly.
const CONNECTIONS: usize = 8;
const CONNECTIONS_MAX: usize = 1_000;
/// Rows that one response may hold.
const BATCH_ROWS_MAX: usize = 100_000;

/// Answers every request by a query.
struct Sql {
    url: Template,
    query: Template,
    binds: Vec<Bind>,
    parameters: Declared,
    repeatable: bool,
    asked: Arc<Asked>,
    database: Database,
}

/// What is the same for all requests.
struct Asked {
    query: String,
    integers: Integers,
    /// How many rows are one response, where it is not one.
    batch: Option<usize>,
}

impl Asked {
    fn rows(&self) -> Rows {
        Rows::new(self.batch)
    }
}

#[derive(Clone)]
enum Database {
    Sqlite(Arc<Sqlite>),
    Postgres(Arc<Postgres>),
}

/// How whole numbers are written.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Integers {
    /// As JSON numbers; what reads them has to know numbers beyond 2^53.
    #[default]
    Number,
    /// As strings.
    String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    url: String,
    query: String,
    #[serde(default)]
    bind: Vec<String>,
    batch: Option<usize>,
    #[serde(default)]
    integers: Integers,
    connections: Option<usize>,
}

/// A source of its entry in a configuration.
pub(super) fn configured(entry: &mut Entry<'_>) -> Result<Box<dyn Source>, Problem> {
    let Settings { url, query, bind, batch, integers, connections } = entry.settings()?;
    let in_range = |key: &str, number: Option<usize>, max: usize, what: &str| match number {
        Some(number) if !(1..=max).contains(&number) => {
            Err(entry.problem(key, format_args!("{key}: it is {what}, 1 to {max}")))
        }
        _ => Ok(()),
    };
    in_range("batch", batch, BATCH_ROWS_MAX, "how many rows one response holds")?;
    in_range("connections", connections, CONNECTIONS_MAX, "how many there are at once")?;
    let url = entry.constant("url", &url)?;
    let query = query_of(entry, &query)?;
    let bind = bind.iter().enumerate().map(|(n, text)| {
        let template = entry.template(&format!("bind.{n}"), text)?;
        Ok(Bind::new(template, entry.parameters()))
    });
    Ok(Box::new(Sql {
        binds: bind.collect::<Result<_, _>>()?,
        database: database(entry, &url, connections.unwrap_or(CONNECTIONS))?,
        url,
        parameters: entry.parameters().clone(),
        repeatable: entry.repeatable(false),
        asked: Arc::new(Asked { query: query.text(), integers, batch }),
        query,
    }))
}

fn query_of(entry: &Entry<'_>, text: &str) -> Result<Template, Problem> {
    let query = entry.template("query", text)?;
    if !query.is_constant() {
        let problem = "query: neither {id} nor a parameter has a place in it; write $1 there, and bind = [\"{id}\"]";
        return Err(entry.problem("query", problem));
    }
    if query.text().trim().is_empty() { Err(entry.problem("query", "query: it is empty")) } else { Ok(query) }
}

fn database(entry: &Entry<'_>, url: &Template, connections: usize) -> Result<Database, Problem> {
    let text = url.text();
    let problem = |problem: &dyn std::fmt::Display| entry.problem("url", format_args!("url: {problem}"));
    match text.split_once(':') {
        Some(("sqlite", path)) => {
            // `sqlite:///srv/shop.db` is /srv/shop.db, and `sqlite://shop.db` and `sqlite:shop.db` are beside the file.
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() || path.contains('?') {
                let told = "`sqlite://` and a path is wanted, and nothing behind it: sqlite:///srv/shop.db is the file \
                            /srv/shop.db, and sqlite://shop.db is beside this configuration";
                return Err(problem(&told));
            }
            let sqlite = Sqlite::new(entry.folder().join(path), url.to_string(), connections);
            Ok(Database::Sqlite(Arc::new(sqlite)))
        }
        Some(("postgres" | "postgresql", _)) => {
            let has_secrets = url.to_string() != text;
            let postgres = Postgres::new(&text, has_secrets, connections).map_err(|error| problem(&error))?;
            Ok(Database::Postgres(Arc::new(postgres)))
        }
        _ => Err(problem(&"it begins with sqlite:// or postgres://")),
    }
}

impl Source for Sql {
    fn plan(&self, request: &Request) -> Result<Plan, Refusal> {
        let says = self.parameters.asked(request)?;
        let bound: Vec<Bound> = self.binds.iter().map(|bind| bind.fill(&says)).collect();
        let (database, asked) = (self.database.clone(), self.asked.clone());
        let job = Job::new(async move |emitter| database.answer(asked, bound, emitter).await);
        // It awaits rows, and between them only copies what came.
        let plan = Plan::new().job(job).placement(Placement::Reader);
        Ok(if self.repeatable { plan.repeatable() } else { plan })
    }

    fn configuration(&self) -> String {
        let Asked { integers, batch, .. } = &*self.asked;
        format!("{} {} {:?} {integers:?} {batch:?}", self.url, self.query, self.binds)
    }
}

impl Database {
    async fn answer(self, asked: Arc<Asked>, bound: Vec<Bound>, emitter: Emitter) -> Result<(), JobError> {
        match self {
            Self::Sqlite(sqlite) => sqlite.answer(asked, bound, emitter).await,
            Self::Postgres(postgres) => postgres.answer(asked, bound, emitter).await,
        }
    }
}
