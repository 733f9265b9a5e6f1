//! Calls of the services beside the stream, which are tonic's: our own, and those of whoever builds the server. They end as
//! streams of responses do: by their deadline, with a drain, or when their peer takes nothing.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, Response};
use http_body::{Body as _, Frame};

use super::{
    body::{self, Body, Rope},
    status,
    stream::StreamControl,
};

/// What a service answers a call whose stream is under `control`.
pub(super) async fn answer(
    answer: impl Future<Output = Result<Response<tonic::body::Body>, Infallible>>,
    control: Arc<StreamControl>,
) -> Response<Body> {
    tokio::select! {
        biased;
        cause = poll_fn(|cx| control.poll_ended(cx)) => body::trailers_only(&status::left(&cause)),
        answered = answer => {
            let Ok(response) = answered;
            response.map(|body| Body::Service(ServiceBody::new(body, control.clone())))
        }
    }
}

/// What a service answers, as long as its stream does not have to end.
pub(crate) struct ServiceBody {
    body: tonic::body::Body,
    /// They wait until all before them is taken, as those of a run do.
    trailers: Option<HeaderMap>,
    ended: bool,
    control: Arc<StreamControl>,
}

impl ServiceBody {
    fn new(body: tonic::body::Body, control: Arc<StreamControl>) -> Self {
        Self { body, trailers: None, ended: false, control }
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Rope>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        while self.trailers.is_none() {
            if let Poll::Ready(cause) = self.control.poll_ended(cx) {
                self.end(&status::left(&cause));
                break;
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => return Poll::Ready(Some(Frame::data(Rope::from(data).handed_over(&self.control)))),
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
                Some(Err(error)) => self.end(&error),
                None => {
                    self.ended = true;
                    return Poll::Ready(None);
                }
            }
        }
        ready!(self.control.poll_all_taken(cx));
        self.ended = true;
        Poll::Ready(self.trailers.take().map(Frame::trailers))
    }

    /// It says no more but this.
    fn end(&mut self, status: &tonic::Status) {
        // What the service has at work for it is dropped now.
        self.body = tonic::body::Body::empty();
        let mut trailers = HeaderMap::new();
        status::add(status, &mut trailers);
        self.trailers = Some(trailers);
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.ended || (self.trailers.is_none() && self.body.is_end_stream())
    }
}
