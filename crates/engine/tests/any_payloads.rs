//! Whatever a job emits, its reader is given: random payloads, random limits, against the list of what was emitted.

use std::sync::Arc;

use bytes::Bytes;
use outflow_engine::{
    Delivery, EmitError, Emitter, End, Engine, Job, Limits, PayloadKind, Placement, Plan, Refusal, Request, Source,
};
use outflow_proto::protobuf::Response;
use proptest::prelude::*;
use prost::Message as _;

#[derive(Clone, Debug)]
enum Step {
    Borrowed(usize),
    Owned(usize),
    Many(Vec<usize>),
    Partial(usize),
}

/// Lengths round the places where something changes: shared from 16 KiB, blocks of 64 KiB, responses of up to 1 MiB.
fn length() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => 0..200_usize,
        2 => 16_300..16_500_usize,
        1 => 65_400..65_600_usize,
        1 => 0..300_000_usize,
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => length().prop_map(Step::Borrowed),
        3 => length().prop_map(Step::Owned),
        2 => prop::collection::vec(length(), 0..100).prop_map(Step::Many),
        1 => length().prop_map(Step::Partial),
    ]
}

/// Bytes that differ from place to place, so that a cut in the wrong place shows.
fn payload(length: usize, salt: usize) -> Bytes {
    (0..length).map(|at| (at * 31 + salt * 7 + at / 251) as u8).collect()
}

async fn emit(emitter: &Emitter, steps: &[Step]) -> Result<(), EmitError> {
    for (salt, step) in steps.iter().enumerate() {
        match step {
            Step::Borrowed(length) => emitter.emit(&payload(*length, salt)[..]).await?,
            Step::Owned(length) => emitter.emit(payload(*length, salt)).await?,
            Step::Many(lengths) => {
                let many: Vec<Bytes> = lengths.iter().map(|length| payload(*length, salt)).collect();
                emitter.emit_all(&many).await?;
            }
            Step::Partial(length) => emitter.emit_partial(payload(*length, salt)).await?,
        }
    }
    // Ends a value that a partial one may have left open.
    emitter.emit("end").await
}

/// The values that `steps` make, with what is partial put together.
fn values(steps: &[Step]) -> Vec<Vec<u8>> {
    let mut values = Vec::new();
    let mut open = Vec::new();
    let mut whole = |open: &mut Vec<u8>, last: &[u8]| {
        let mut value = std::mem::take(open);
        value.extend_from_slice(last);
        values.push(value);
    };
    for (salt, step) in steps.iter().enumerate() {
        match step {
            Step::Borrowed(length) | Step::Owned(length) => whole(&mut open, &payload(*length, salt)),
            Step::Many(lengths) => lengths.iter().for_each(|length| whole(&mut open, &payload(*length, salt))),
            Step::Partial(length) => open.extend_from_slice(&payload(*length, salt)),
        }
    }
    whole(&mut open, b"end");
    values
}

struct Steps(Vec<Step>);

impl Source for Steps {
    fn plan(&self, _: &Request) -> Result<Plan, Refusal> {
        let steps = self.0.clone();
        let job = Job::new(async move |emitter| Ok(emit(&emitter, &steps).await?));
        Ok(Plan::new().job(job).payload(PayloadKind::Bytes).placement(Placement::Reader))
    }
}

/// Every response of a run of `steps`, for a reader with this limit, and whether it was told the end.
async fn run(steps: Vec<Step>, limits: Limits, limit: u64) -> (Vec<Response>, bool) {
    let engine = Engine::builder(limits).default_source("steps", Arc::new(Steps(steps))).build().unwrap();
    let mut reader = engine.fetch(&Request::new(1).limited(limit), 1).await.unwrap();
    let mut bytes = Vec::new();
    let ended = loop {
        match reader.next().await {
            Delivery::Chunk(chunk) => chunk.into_parts().for_each(|part| bytes.extend_from_slice(&part)),
            Delivery::Finished(finish) => break finish.end == Some(End::Complete),
        }
    };
    drop(reader);
    engine.drain();
    engine.drained().await;
    assert_eq!((engine.budget().used(), engine.runs()), (0, 0), "something is held after the end");

    let mut responses = Vec::new();
    let mut rest = &bytes[..];
    while let Some((prefix, after)) = rest.split_first_chunk::<5>() {
        let length = u32::from_be_bytes(*prefix.last_chunk().unwrap()) as usize;
        responses.push(Response::decode(&after[..length]).unwrap());
        rest = &after[length..];
    }
    assert!(rest.is_empty(), "a frame is cut off");
    (responses, ended)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_emitted_is_read(
        steps in prop::collection::vec(step(), 0..12),
        response_bytes_max in prop_oneof![1_024..5_000_usize, Just(1 << 20)],
        budget_bytes in prop_oneof![Just(0_usize), Just(1 << 30)],
        limit in prop_oneof![Just(0_u64), 1..50_u64],
    ) {
        let mut limits = Limits::default();
        limits.response_bytes_max = response_bytes_max;
        limits.budget_bytes = budget_bytes;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (responses, ended) = runtime.block_on(run(steps.clone(), limits, limit));

        for (at, response) in responses.iter().enumerate() {
            prop_assert_eq!(response.sequence, at as u64 + 1);
            prop_assert!(response.encoded_len() <= response_bytes_max);
        }
        let expected = values(&steps);
        let given: Vec<Vec<u8>> = responses
            .split_inclusive(|response| !response.partial)
            .map(|parts| parts.iter().flat_map(|part| part.data.iter().copied()).collect())
            .collect();
        if limit == 0 {
            prop_assert!(ended);
            prop_assert!(given == expected, "{} of {} values", given.len(), expected.len());
        } else {
            prop_assert!(responses.len() as u64 <= limit);
            // The limit may fall inside a value.
            for (given, expected) in given.iter().zip(&expected) {
                prop_assert!(expected.starts_with(given));
            }
        }
    }
}
