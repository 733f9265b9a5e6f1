//! Asks other services: connections and TLS, how many at once, time limits, redirects, and another try for what may be
//! tried again. It knows neither templates nor what becomes of an answer's body.

use std::{
    error::Error,
    io,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use outflow_engine::{Code, JobError};
use rand::RngExt as _;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tower_service::Service;

use super::{body::Body, url};

/// Unread bytes of one answer by HTTP/2 that the other side may send.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// Of all answers on a connection: as much as all streams of a service's usual limit, so that one that is read slowly does
/// not hold up the others.
const CONNECTION_WINDOW_BYTES: u32 = 100 * STREAM_WINDOW_BYTES;
/// How many frames may come, in a connection's life, on streams that were reset and forgotten: each counts as an error.
const RESET_ERRORS_MAX: usize = 1 << 20;
/// Unread bytes of one answer by HTTP/1, and the longest head.
const BUFFER_BYTES: usize = 64 * 1024;
/// Connections to one host that are kept for later, and how long.
const IDLE_CONNECTIONS_MAX: usize = 32;
const IDLE_CONNECTION_TIME: Duration = Duration::from_secs(30);
/// Before the first further try; then twice as long each time.
const BACK_OFF: Duration = Duration::from_millis(200);
const BACK_OFF_MAX: Duration = Duration::from_secs(10);
/// Who asks for more patience than this is not asked again.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);
/// How much of an answer that tells an error is read, and shown.
const COMPLAINT_READ_BYTES_MAX: usize = 4096;
const COMPLAINT_BYTES_MAX: usize = 512;

/// What a source says of all its requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) connect_time: Duration,
    pub(super) idle_time: Duration,
    pub(super) body_bytes_max: u64,
    pub(super) requests_at_once: usize,
    pub(super) retries: u32,
    pub(super) redirects: u32,
}

/// What is asked.
pub(super) struct Question {
    pub(super) method: Method,
    pub(super) url: Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// Method and URL as the configuration has them, for errors.
    pub(super) what: String,
    /// What no error shows, also where the other side says it.
    pub(super) secrets: Arc<[String]>,
}

/// Asks.
pub(super) struct Asker {
    client: Client<Bounded, Full<Bytes>>,
    places: Arc<Semaphore>,
    bounds: Bounds,
    trusts_nobody: bool,
}

/// Why there is no answer.
struct Failed {
    error: JobError,
    /// Whether it may be otherwise the next time.
    passes: bool,
}

impl Asker {
    /// # Errors
    /// Where the certificates in `authorities` cannot be read.
    pub(super) fn new(bounds: Bounds, authorities: Option<&Path>) -> Result<Self, String> {
        let roots = roots(authorities)?;
        let trusts_nobody = roots.is_empty();
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .pool_idle_timeout(IDLE_CONNECTION_TIME)
            .http1_max_buf_size(BUFFER_BYTES)
            .http2_initial_stream_window_size(STREAM_WINDOW_BYTES)
            .http2_initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_max_local_error_reset_streams(RESET_ERRORS_MAX)
            .build(Bounded { connector, time: bounds.connect_time });
        Ok(Self { client, places: Arc::new(Semaphore::new(bounds.requests_at_once)), bounds, trusts_nobody })
    }

    /// The body of a good answer, and the place among the requests at once, which is to be kept until the body is read.
    ///
    /// # Errors
    /// The last try's.
    pub(super) async fn ask(
        &self,
        question: &Question,
    ) -> Result<(Response<()>, Body, OwnedSemaphorePermit), JobError> {
        let place = self.places.clone().acquire_owned().await.expect("it is never closed");
        let mut tried = 0;
        loop {
            let (failed, wanted) = match self.follow(question).await {
                Ok(answer) => {
                    let (head, body) = answer.into_parts();
                    let body =
                        Body::new(body, self.bounds.idle_time, self.bounds.body_bytes_max, question.what.clone())?;
                    if head.status.is_success() {
                        return Ok((Response::from_parts(head, ()), body, place));
                    }
                    let wanted = retry_after(&head.headers);
                    (bad_answer(question, head.status, &head.headers, body).await, wanted)
                }
                Err(failed) => (failed, None),
            };
            if !failed.passes || tried == self.bounds.retries || wanted.is_some_and(|time| time > RETRY_AFTER_MAX) {
                return Err(failed.error);
            }
            let time = back_off(tried).max(wanted.unwrap_or_default());
            tracing::debug!("{}; try {} in {time:?}", failed.error, tried + 2);
            sleep(time).await;
            tried += 1;
        }
    }

    /// The answer to it, or to what it was sent on to.
    async fn follow(&self, question: &Question) -> Result<Response<Incoming>, Failed> {
        let (mut method, mut url) = (question.method.clone(), question.url.clone());
        let (mut headers, mut body) = (question.headers.clone(), question.body.clone());
        let mut followed = 0;
        loop {
            let answer = self.once(question, &method, &url, &headers, &body).await?;
            let status = answer.status();
            if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) || self.bounds.redirects == 0 {
                return Ok(answer);
            }
            if followed == self.bounds.redirects {
                return Err(sent_on(question, &format!("more than redirects = {followed} times")));
            }
            let location = answer.headers().get(header::LOCATION).and_then(|location| location.to_str().ok());
            let Some(next) = location.and_then(|location| url::resolve(&url, location)) else {
                return Err(sent_on(question, "to what is no HTTP URL"));
            };
            if url.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                return Err(sent_on(question, "from https to http"));
            }
            let becomes_get = status == StatusCode::SEE_OTHER && method != Method::HEAD
                || matches!(status.as_u16(), 301 | 302) && method == Method::POST;
            if becomes_get {
                (method, body) = (Method::GET, Bytes::new());
                headers.remove(header::CONTENT_TYPE);
            }
            if !url::same_origin(&url, &next) {
                if !body.is_empty() {
                    return Err(sent_on(question, "with its body to another host"));
                }
                headers = super::usual_headers();
            }
            url = next;
            followed += 1;
        }
    }

    /// One request and the head of its answer.
    async fn once(
        &self,
        question: &Question,
        method: &Method,
        url: &Uri,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Response<Incoming>, Failed> {
        let mut request = Request::new(Full::new(body.clone()));
        *request.method_mut() = method.clone();
        *request.uri_mut() = url.clone();
        *request.headers_mut() = headers.clone();
        let time = self.bounds.connect_time.saturating_add(self.bounds.idle_time);
        match timeout(time, self.client.request(request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.not_asked(question, &error)),
            Err(_) => {
                let time = humantime::format_duration(self.bounds.idle_time);
                let text = format!("{}: no answer within idle_time = {time}", question.what);
                Err(Failed { error: JobError::new(Code::DeadlineExceeded, text), passes: false })
            }
        }
    }

    fn not_asked(&self, question: &Question, error: &hyper_util::client::legacy::Error) -> Failed {
        let what = &question.what;
        let causes = causes(error);
        if is_tls(error) {
            let hint = if self.trusts_nobody {
                "this machine has no root certificates: install its ca-certificates, or write ca = \"FILE\""
            } else {
                "for an authority of your own write ca = \"FILE\""
            };
            let text = format!("{what}: no TLS: {causes}; {hint}");
            return Failed { error: JobError::new(Code::FailedPrecondition, text), passes: false };
        }
        let text = if error.is_connect() {
            format!("{what}: cannot connect: {causes}")
        } else {
            format!("{what}: {causes}")
        };
        Failed { error: JobError::new(Code::Unavailable, text), passes: true }
    }
}

fn sent_on(question: &Question, how: &str) -> Failed {
    let text = format!("{}: it is redirected {how}", question.what);
    Failed { error: JobError::new(Code::FailedPrecondition, text), passes: false }
}

async fn bad_answer(question: &Question, status: StatusCode, headers: &HeaderMap, body: Body) -> Failed {
    let mut text = body.first(COMPLAINT_READ_BYTES_MAX).await;
    for secret in question.secrets.iter() {
        text = text.replace(secret, "…");
    }
    text.truncate(text.floor_char_boundary(COMPLAINT_BYTES_MAX));
    let text = text.trim();
    let colon = if text.is_empty() { "" } else { ": " };
    let hint = if status.is_redirection() && headers.contains_key(header::LOCATION) {
        "; to go where it sends, write redirects = 1, or the right URL"
    } else {
        ""
    };
    let error = JobError::new(code(status), format_args!("{} answered {status}{hint}{colon}{text}", question.what));
    Failed { error, passes: matches!(status.as_u16(), 429 | 502 | 503 | 504) }
}

/// What a status means for who asked.
fn code(status: StatusCode) -> Code {
    match status.as_u16() {
        400 | 422 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 | 410 => Code::NotFound,
        408 | 504 => Code::DeadlineExceeded,
        409 => Code::Aborted,
        413 | 429 => Code::ResourceExhausted,
        416 => Code::OutOfRange,
        405 | 501 => Code::Unimplemented,
        502 | 503 => Code::Unavailable,
        500..=599 => Code::Internal,
        _ => Code::FailedPrecondition,
    }
}

/// How long the other side asks to wait, in seconds or until a date (RFC 9110 §10.2.3), which is one of its own clock.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let date = |text: &str| httpdate::parse_http_date(text).ok();
    let wanted = text(header::RETRY_AFTER)?;
    if let Ok(seconds) = wanted.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let now = text(header::DATE).and_then(date).unwrap_or_else(SystemTime::now);
    Some(date(wanted)?.duration_since(now).unwrap_or_default())
}

/// From half of it to all, so that many who were refused together do not come back together.
fn back_off(tried: u32) -> Duration {
    let longest = BACK_OFF.saturating_mul(2_u32.saturating_pow(tried)).min(BACK_OFF_MAX);
    longest.mul_f64(rand::rng().random_range(0.5..=1.0))
}

/// The error and what caused it. Nothing of a request is in it.
pub(super) fn causes(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = chain(error).map(ToString::to_string).collect();
    texts.dedup();
    texts.join(": ")
}

fn chain<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}

/// Whether TLS itself is why there is no connection: then another try will not be better.
fn is_tls(error: &(dyn Error + 'static)) -> bool {
    chain(error).any(|error| {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        error.is::<rustls::Error>() || inner.is_some_and(|inner| inner.is::<rustls::Error>() || is_tls(inner))
    })
}

/// Whom to trust: those in the file alone, or else whom the machine trusts.
fn roots(authorities: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let Some(path) = authorities else {
        // What of it cannot be read is left out, as other programs do it.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(roots);
    };
    let problem = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| problem(&error))?;
    for certificate in certificates {
        roots.add(certificate.map_err(|error| problem(&error))?).map_err(|error| problem(&error))?;
    }
    if roots.is_empty() { Err(problem(&"there is no certificate in it")) } else { Ok(roots) }
}

/// Connects, TLS included, within a time.
#[derive(Clone)]
struct Bounded {
    connector: HttpsConnector<HttpConnector>,
    time: Duration,
}

type Connecting<T> = Pin<Box<dyn Future<Output = Result<T, Box<dyn Error + Send + Sync>>> + Send>>;

impl Service<Uri> for Bounded {
    type Response = <HttpsConnector<HttpConnector> as Service<Uri>>::Response;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.connector.poll_ready(context)
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let (connecting, time) = (self.connector.call(url), self.time);
        Box::pin(async move {
            let Ok(connected) = timeout(time, connecting).await else {
                let time = humantime::format_duration(time);
                return Err(format!("not connected within connect_time = {time}").into());
            };
            connected
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_the_code_that_fits() {
        let codes = [
            (401, Code::Unauthenticated),
            (403, Code::PermissionDenied),
            (404, Code::NotFound),
            (408, Code::DeadlineExceeded),
            (429, Code::ResourceExhausted),
            (500, Code::Internal),
            (503, Code::Unavailable),
            (504, Code::DeadlineExceeded),
            (302, Code::FailedPrecondition),
        ];
        for (status, wanted) in codes {
            assert_eq!(code(StatusCode::from_u16(status).unwrap()), wanted, "{status}");
        }
    }

    #[test]
    fn the_time_between_tries_grows_and_ends_growing() {
        for tried in 0..40 {
            let longest = BACK_OFF.saturating_mul(2_u32.saturating_pow(tried)).min(BACK_OFF_MAX);
            let time = back_off(tried);
            assert!(time >= longest / 2 && time <= longest, "{tried}: {time:?}");
        }
    }
}
