//! `http`: what other services answer. One URL or many are the jobs of a run; a body is one response, or one for each line,
//! chunk or server-sent event. It is read as fast as the run's reader takes it, and a run that stops closes its requests.

mod body;
mod client;
mod events;
mod json;
mod url;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use outflow_engine::{Code, Emitter, Job, JobError, PayloadKind, Placement, Plan, Refusal, Request, Source};
use serde::Deserialize;

use self::{
    body::Split,
    client::{Asker, Bounds, Question},
    json::Json,
    url::Url,
};
use super::{
    Entry, Problem, Template,
    parameters::{Asked, Declared},
};
use crate::config::Time;

/// URLs of one source.
const URLS_MAX: usize = 256;
const CONNECT_TIME: Duration = Duration::from_secs(10);
const IDLE_TIME: Duration = Duration::from_secs(60);
const BODY_LIMIT: u64 = 1 << 30;
const REQUESTS_AT_ONCE: usize = 256;
/// How often is tried again what may be, where the source does not say.
const RETRIES: u32 = 2;
/// More is a mistake.
const RETRIES_MAX: u32 = 10;
const REDIRECTS_MAX: u32 = 10;
/// Headers that say how a message is sent, which is not the configuration's to say.
const OURS: &[&str] = &[
    "accept-encoding",
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    url: Option<String>,
    urls: Option<Vec<String>>,
    method: Option<String>,
    #[serde(default)]
    headers: std::collections::BTreeMap<String, String>,
    body: Option<toml::Value>,
    #[serde(default)]
    split: Split,
    connect_time: Option<Time>,
    idle_time: Option<Time>,
    body_limit: Option<u64>,
    requests_at_once: Option<usize>,
    retries: Option<u32>,
    redirects: Option<u32>,
    ca: Option<String>,
}

/// Answers every request with what others answer.
struct Http {
    method: Method,
    urls: Vec<Url>,
    headers: Vec<(HeaderName, Template)>,
    body: Option<Body>,
    split: Split,
    parameters: Declared,
    repeatable: bool,
    secrets: Arc<[String]>,
    asker: Arc<Asker>,
}

/// What is sent.
#[derive(Debug)]
enum Body {
    Text(Template),
    Json(Json),
}

/// A source of its entry in a configuration.
pub(super) fn configured(entry: &mut Entry<'_>) -> Result<Box<dyn Source>, Problem> {
    let settings: Settings = entry.settings()?;
    let method = method(entry, settings.method.as_deref())?;
    let urls = urls(entry, settings.url.as_deref(), settings.urls.as_deref())?;
    let headers =
        settings.headers.iter().map(|(name, value)| header(entry, name, value)).collect::<Result<_, _>>()?;
    if settings.body.is_some() && matches!(method, Method::GET | Method::HEAD) {
        return Err(entry.problem("body", format_args!("body: {method} has none; write method = \"POST\"")));
    }
    let body = match &settings.body {
        None => None,
        Some(toml::Value::String(text)) => Some(Body::Text(entry.template("body", text)?)),
        Some(table @ toml::Value::Table(_)) => Some(Body::Json(Json::new(entry, "body", table)?)),
        Some(_) => return Err(entry.problem("body", "body: a text, or a table (it is sent as JSON), is wanted")),
    };
    let bounds = bounds(entry, &settings, &method)?;
    let authorities = settings.ca.as_deref().map(|path| entry.path(path));
    let asker = Asker::new(bounds, authorities.as_deref())
        .map_err(|problem| entry.problem("ca", format_args!("ca: {problem}")))?;
    let mut http = Http {
        method,
        urls,
        headers,
        body,
        split: settings.split,
        parameters: entry.parameters().clone(),
        repeatable: entry.repeatable(false),
        secrets: Arc::default(),
        asker: Arc::new(asker),
    };
    http.secrets = http.all_secrets().into();
    Ok(Box::new(http))
}

fn method(entry: &Entry<'_>, written: Option<&str>) -> Result<Method, Problem> {
    let all = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
    let written = written.unwrap_or("GET");
    all.iter().find(|method| *method == written).cloned().ok_or_else(|| {
        let names = all.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
        entry.problem("method", format_args!("method: `{written}` is not known; there are {names}"))
    })
}

fn urls(entry: &Entry<'_>, url: Option<&str>, urls: Option<&[String]>) -> Result<Vec<Url>, Problem> {
    match (url, urls) {
        (Some(url), None) => Ok(vec![Url::new(entry, "url", url)?]),
        (None, Some(urls)) if (1..=URLS_MAX).contains(&urls.len()) => {
            urls.iter().enumerate().map(|(n, url)| Url::new(entry, &format!("urls.{n}"), url)).collect()
        }
        (None, Some(_)) => Err(entry.problem("urls", format_args!("urls: 1 to {URLS_MAX} are wanted"))),
        (None, None) => Err(entry.problem("", "it has no `url` and no `urls`")),
        (Some(_), Some(_)) => Err(entry.problem("url", "url: there are `urls`, too; write it among them")),
    }
}

fn header(entry: &Entry<'_>, name: &str, value: &str) -> Result<(HeaderName, Template), Problem> {
    let key = format!("headers.{name}");
    let parsed = HeaderName::from_bytes(name.as_bytes())
        .map_err(|error| entry.problem(&key, format_args!("{key}: {error}")))?;
    if OURS.contains(&parsed.as_str()) {
        return Err(
            entry.problem(&key, format_args!("{key}: this header is not for a configuration to set; remove it"))
        );
    }
    let template = entry.template(&key, value)?;
    // The value is not in the problem: a secret may be in it.
    if HeaderValue::from_bytes(template.fill_all("x").as_bytes()).is_err() {
        return Err(
            entry.problem(&key, format_args!("{key}: a header holds no line ends and other control characters"))
        );
    }
    Ok((parsed, template))
}

fn bounds(entry: &Entry<'_>, settings: &Settings, method: &Method) -> Result<Bounds, Problem> {
    let time = |time: Option<Time>, usual| time.map_or(usual, |Time(time)| time);
    let usual = if method.is_idempotent() { RETRIES } else { 0 };
    let bounds = Bounds {
        connect_time: time(settings.connect_time, CONNECT_TIME),
        idle_time: time(settings.idle_time, IDLE_TIME),
        body_bytes_max: settings.body_limit.unwrap_or(BODY_LIMIT),
        requests_at_once: settings.requests_at_once.unwrap_or(REQUESTS_AT_ONCE),
        retries: settings.retries.unwrap_or(usual),
        redirects: settings.redirects.unwrap_or(0),
    };
    let wrong = [
        ("connect_time", bounds.connect_time.is_zero(), "more than 0"),
        ("idle_time", bounds.idle_time.is_zero(), "more than 0"),
        ("body_limit", bounds.body_bytes_max == 0, "bytes, at least 1"),
        ("requests_at_once", !(1..=REQUESTS_AT_ONCE).contains(&bounds.requests_at_once), "1 to 256"),
        ("retries", bounds.retries > RETRIES_MAX, "0 to 10"),
        ("redirects", bounds.redirects > REDIRECTS_MAX, "0 to 10"),
    ];
    match wrong.into_iter().find(|(_, is_wrong, _)| *is_wrong) {
        Some((key, _, wanted)) => Err(entry.problem(key, format_args!("{key}: it is {wanted}"))),
        None => Ok(bounds),
    }
}

impl Http {
    fn all_secrets(&self) -> Vec<String> {
        let mut secrets: Vec<String> = Vec::new();
        let mut add = |template: &Template| {
            secrets.extend(template.secrets().filter(|secret| !secret.is_empty()).map(str::to_owned));
        };
        self.urls.iter().for_each(|url| add(url.template()));
        self.headers.iter().for_each(|(_, value)| add(value));
        match &self.body {
            None => {}
            Some(Body::Text(text)) => add(text),
            Some(Body::Json(json)) => json.templates(&mut add),
        }
        secrets
    }

    fn headers(&self, asked: &Asked) -> Result<HeaderMap, Refusal> {
        let mut headers = usual_headers();
        if self.split == Split::Events {
            headers.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
        }
        if let Some(Body::Json(_)) = self.body {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        for (name, template) in &self.headers {
            let value = HeaderValue::try_from(template.fill(asked).into_bytes());
            let mut value = value.map_err(|_| self.not_for_headers(asked, template))?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Ok(headers)
    }

    fn not_for_headers(&self, asked: &Asked, template: &Template) -> Refusal {
        let written = template.to_string();
        let names = self.parameters.names();
        let name = names.into_iter().find(|name| {
            written.contains(&format!("{{parameters.{name}}}"))
                && HeaderValue::from_bytes(asked.value(name).as_bytes()).is_err()
        });
        let field = name.map_or("parameters".into(), |name| format!("parameters.{name}"));
        Refusal::invalid(field, "goes into a header, which holds no line ends and other control characters")
    }

    fn payload(&self) -> PayloadKind {
        match self.split {
            Split::Whole | Split::Lines => PayloadKind::Text,
            Split::Chunks => PayloadKind::Bytes,
            // They are decoded as the specification has it.
            Split::Events => PayloadKind::Lossy,
        }
    }
}

/// What every request has.
fn usual_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("outflow/", env!("CARGO_PKG_VERSION"))));
    headers
}

impl Source for Http {
    fn plan(&self, request: &Request) -> Result<Plan, Refusal> {
        let asked = self.parameters.asked(request)?;
        let headers = self.headers(&asked)?;
        let body = match &self.body {
            None => Bytes::new(),
            Some(Body::Text(text)) => text.fill(&asked).into(),
            Some(Body::Json(json)) => json.fill(&asked).to_string().into(),
        };
        let mut plan = Plan::new().payload(self.payload()).placement(Placement::Reader);
        if self.repeatable {
            plan = plan.repeatable();
        }
        for url in &self.urls {
            let question = Question {
                method: self.method.clone(),
                url: url.fill(&asked, &self.parameters)?,
                headers: headers.clone(),
                body: body.clone(),
                what: format!("{} {}", self.method, url.shown()),
                secrets: self.secrets.clone(),
            };
            let (asker, split) = (self.asker.clone(), self.split);
            plan = plan.job(Job::new(async move |emitter| run(&asker, &question, split, emitter).await));
        }
        Ok(plan)
    }

    /// Times and bounds are not part of it.
    fn configuration(&self) -> String {
        let urls = self.urls.iter().map(|url| url.template().to_string()).collect::<Vec<_>>();
        let Self { method, headers, body, split, .. } = self;
        format!("{method} {urls:?} {headers:?} {body:?} {split:?}")
    }
}

async fn run(asker: &Asker, question: &Question, split: Split, emitter: Emitter) -> Result<(), JobError> {
    // The place is kept until the body is read.
    let (head, body, _place) = asker.ask(question).await?;
    let what = &question.what;
    let text = |name| head.headers().get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    if let Some(encoding) = text(header::CONTENT_ENCODING).filter(|encoding| encoding != "identity") {
        let text = format_args!("{what}: the body is encoded ({encoding:.32}), although that was not asked for");
        return Err(JobError::new(Code::FailedPrecondition, text));
    }
    if split == Split::Events
        && let Some(kind) = text(header::CONTENT_TYPE)
        && !kind.trim_start().to_ascii_lowercase().starts_with("text/event-stream")
    {
        let text = format_args!("{what}: the body is {kind:.64} and not text/event-stream; choose another split");
        return Err(JobError::new(Code::FailedPrecondition, text));
    }
    body.emit(split, &emitter).await
}
