//! Messages of a source's own: each becomes a response, in order, beside other payloads, within the same bounds.

mod support;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use outflow_engine::{
    Code, EmitError, Emitter, End, Engine, Job, JobError, Limits, PayloadKind, Plan, Refusal, Request, Source,
};
use outflow_proto::protobuf::Response;
use parking_lot::Mutex;
use prost::Message;
use support::{GatedStore, Given, next, within};

#[derive(Clone, PartialEq, Message)]
struct Reading {
    #[prost(string, tag = "1")]
    sensor: String,
    #[prost(bytes = "bytes", tag = "2")]
    raw: Bytes,
}

fn reading(raw_bytes: usize) -> Reading {
    let raw = (0..raw_bytes).map(|at| (at * 31 + at / 251) as u8).collect();
    Reading { sensor: format!("sensor {raw_bytes}"), raw }
}

/// A source from a function.
struct Planned<F>(F);

impl<F: Fn() -> Plan + Send + Sync + 'static> Source for Planned<F> {
    fn plan(&self, _: &Request) -> Result<Plan, Refusal> {
        Ok((self.0)())
    }
}

/// The responses of one job that does `work` in a plan of this kind, and the run's end.
async fn answered<F, R>(limits: Limits, kind: PayloadKind, journaled: bool, work: F) -> (Vec<Response>, Option<End>)
where
    F: Fn(Emitter) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Result<(), JobError>> + Send + 'static,
{
    let plan = Planned(move || Plan::new().payload(kind).job(Job::new(work.clone())));
    let store = GatedStore::new();
    let engine =
        Engine::builder(limits).default_source("test", plan).store(move || Ok(store.clone())).build().unwrap();
    let request = if journaled { Request::new(1).lingering(support::LONG) } else { Request::new(1) };
    let mut reader = within("a fetch", engine.fetch(&request, support::number())).await.unwrap();
    let mut all = Vec::new();
    loop {
        match next(&mut reader).await {
            Given::Responses(responses) => all.extend(responses),
            Given::End(finish) => return (all, finish.end),
        }
    }
}

fn readings(responses: &[Response]) -> Vec<Reading> {
    responses.iter().map(|response| Reading::decode(response.data.clone()).unwrap()).collect()
}

/// Lengths round the places where something changes: shared from 16 KiB, blocks of 64 KiB, one response 1 MiB.
const LENGTHS: [usize; 12] = [0, 1, 16_000, 16_350, 16_384, 16_400, 3, 65_500, 65_536, 300_000, 1_048_000, 5];

#[tokio::test]
async fn messages_of_all_lengths_are_responses_in_order() {
    for journaled in [false, true] {
        let one_by_one = async move |emitter: Emitter| {
            for length in LENGTHS {
                emitter.emit_message(&reading(length)).await?;
            }
            // Nothing at all is a message, too.
            emitter.emit_message(&Reading::default()).await?;
            Ok(())
        };
        let (responses, end) = answered(Limits::default(), PayloadKind::Bytes, journaled, one_by_one).await;
        assert_eq!(end, Some(End::Complete));
        let expected: Vec<_> = LENGTHS.map(reading).into_iter().chain([Reading::default()]).collect();
        assert!(readings(&responses) == expected, "journaled: {journaled}");
        assert!(responses.iter().all(|response| !response.partial));

        let together = async move |emitter: Emitter| {
            // More than go under one lock, and more than the window has room for.
            let small: Vec<_> = (0..5_000).map(|n| reading(n % 100)).collect();
            emitter.emit_messages(&small).await?;
            emitter.emit_messages(&LENGTHS.map(reading)).await?;
            emitter.emit_messages::<Reading>(&[]).await?;
            Ok(())
        };
        let (responses, end) = answered(Limits::default(), PayloadKind::Bytes, journaled, together).await;
        assert_eq!(end, Some(End::Complete));
        let expected: Vec<_> = (0..5_000).map(|n| reading(n % 100)).chain(LENGTHS.map(reading)).collect();
        assert!(readings(&responses) == expected, "journaled: {journaled}");
        let sequences = responses.iter().map(|response| response.sequence);
        assert!(sequences.eq(1..=expected.len() as u64));
    }
}

#[tokio::test]
async fn a_message_is_refused_where_the_plan_is_one_of_text_though_its_bytes_may_be_text() {
    for kind in [PayloadKind::Text, PayloadKind::Lossy] {
        let work = async move |emitter: Emitter| {
            assert_eq!(emitter.emit_messages::<Reading>(&[]).await, Ok(()));
            assert_eq!(emitter.emit_messages(&[reading(0)]).await, Err(EmitError::NotBytes));
            emitter.emit_message(&reading(0)).await?;
            Ok(())
        };
        let (responses, end) = answered(Limits::default(), kind, false, work).await;
        let Some(End::Failed(error)) = end else { panic!("{end:?}") };
        assert_eq!(error.code, Code::Internal);
        assert_eq!(
            error.message,
            "a message is bytes, and the source answers with text; its plan says `.payload(PayloadKind::Bytes)`"
        );
        assert_eq!(responses.len(), 1, "only the error: {responses:?}");
    }
}

#[tokio::test]
async fn a_message_is_whole_or_refused_at_the_length_where_others_are_split() {
    for max in [1_000, 100_000] {
        let mut limits = Limits::default();
        limits.response_bytes_max = max;
        let told = Arc::new(Mutex::new(Vec::new()));
        let errors = told.clone();
        let work = move |emitter: Emitter| {
            let errors = errors.clone();
            async move {
                let fits = |bytes: usize| Reading { sensor: String::new(), raw: vec![7; bytes].into() };
                for bytes in (max - 60)..=max {
                    let message = fits(bytes);
                    if let Err(error) = emitter.emit_message(&message).await {
                        errors.lock().push((message.encoded_len(), error));
                    }
                }
                // Those before it are emitted, those behind it not.
                let error = emitter.emit_messages(&[fits(1), fits(2), fits(max), fits(3)]).await;
                errors.lock().push((fits(max).encoded_len(), error.unwrap_err()));
                Ok(())
            }
        };
        let (responses, end) = answered(limits, PayloadKind::Bytes, false, work).await;
        assert_eq!(end, Some(End::Complete));
        assert!(responses.iter().all(|response| !response.partial && response.encoded_len() <= max));
        let lengths: Vec<_> = readings(&responses).iter().map(|reading| reading.raw.len()).collect();
        let (longest, last) = (lengths[lengths.len() - 3], &lengths[lengths.len() - 2..]);
        assert_eq!(last, [1, 2]);
        assert!(longest >= max - 40, "{longest} of {max}");
        let told = told.lock();
        assert_eq!(told.len(), max - longest + 1, "each that is longer, and the last one");
        for (bytes, error) in &*told {
            let EmitError::MessageTooLong { bytes: said, max } = error else { panic!("{error}") };
            assert!(bytes == said && said > max, "{error}");
        }
        assert_eq!(JobError::from(told[0].1.clone()).code, Code::ResourceExhausted);
    }
}

#[tokio::test]
async fn a_message_that_is_encoded_while_another_is_finds_a_buffer_of_its_own() {
    /// A message whose encoding emits another.
    struct Nested(Emitter);

    impl Message for Nested {
        fn encode_raw(&self, buffer: &mut impl bytes::BufMut) {
            let inner = reading(3);
            assert_eq!(self.0.emit_message(&inner).now_or_never(), Some(Ok(())));
            reading(9).encode_raw(buffer);
        }

        fn merge_field(
            &mut self,
            _: u32,
            _: prost::encoding::WireType,
            _: &mut impl bytes::Buf,
            _: prost::encoding::DecodeContext,
        ) -> Result<(), prost::DecodeError> {
            unreachable!("it is never decoded")
        }

        fn encoded_len(&self) -> usize {
            reading(9).encoded_len()
        }

        fn clear(&mut self) {}
    }

    let work = async move |emitter: Emitter| {
        emitter.emit_message(&Nested(emitter.clone())).await?;
        Ok(())
    };
    let (responses, end) = answered(Limits::default(), PayloadKind::Bytes, false, work).await;
    assert_eq!(end, Some(End::Complete));
    assert_eq!(readings(&responses), [reading(3), reading(9)]);
}
