//! Reading a long run again: its rate, and whether a place in the middle is as near as the start.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use outflow_client::{Client, Fetch};
use outflow_proto::protobuf::Request;

use crate::{
    Bench, Outcome,
    crowd::drain,
    directory::forget,
    drain::{LARGE, SMALL},
    process::pause,
};

pub(crate) fn parameters(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// A request for one simulated job that emits as fast as it can, journaled under a key of its own.
pub(crate) fn journaled(n: u32, pairs: &[(&str, &str)]) -> Request {
    let mut parameters = parameters(pairs);
    parameters.extend(self::parameters(&[("jobs", "1"), ("step", "0s")]));
    let linger = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    Request { id: n.cast_signed(), idempotency_key: format!("key {n:012}"), linger, parameters, ..Request::default() }
}

pub(crate) fn measure(bench: &Bench) -> Outcome<()> {
    let responses = 10_000_000 / bench.shrink;
    println!("\nReading a run of {responses} small responses again");
    let (process, store) = bench.start()?;
    let request = journaled(1, &[("responses", &responses.to_string()), ("batch", "64")]);
    drain(&process, std::slice::from_ref(&request), LARGE)?.print("the first time");
    for windows in [LARGE, SMALL] {
        for _ in 0..bench.rounds {
            drain(&process, std::slice::from_ref(&request), windows)?
                .print(&format!("from the live journal, {}", windows.name));
        }
    }
    let mut others: Vec<_> = (2..1_002)
        .map(|n| journaled(n, &[("responses", &(1_000 / bench.shrink.min(10)).to_string()), ("batch", "64")]))
        .collect();
    let among = journaled(1_002, &[("responses", &responses.to_string()), ("batch", "64")]);
    others.push(among.clone());
    drain(&process, &others, LARGE)?.print("another one, written among 1,000 others");
    pause(Duration::from_secs(15));
    for (request, what) in [(request, "alone"), (among, "among others")] {
        for _ in 0..bench.rounds {
            drain(&process, std::slice::from_ref(&request), LARGE)?
                .print(&format!("after a quarter of a minute, written {what}"));
        }
        for _ in 0..bench.rounds {
            let Some(store) = &store else { break };
            forget(&store.path().join("data"))?;
            drain(&process, std::slice::from_ref(&request), LARGE)?
                .print(&format!("from a cold disk, written {what}"));
        }
    }
    seeks(&format!("http://{}", process.address), responses, bench)
}

/// Time to the first response after a place in the run.
fn seeks(address: &str, responses: u64, bench: &Bench) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = Client::connect(address).await?;
        let fetch = Fetch::id(1)
            .parameter("jobs", "1")
            .parameter("step", "0s")
            .parameter("responses", responses.to_string())
            .parameter("batch", "64")
            .idempotency_key("key 000000000001")
            .limit(1);
        let run = client.fetch(fetch).await?.run_id().ok_or("no run id")?.to_owned();
        for place in [0, 1, 3, 5, 7, 9] {
            let after = responses / 10 * place;
            let mut micros = Vec::new();
            for n in 0..u64::from(bench.rounds) * 20 {
                let began = Instant::now();
                let mut stream = client.fetch(Fetch::run(run.clone()).after(after + n).limit(1)).await?;
                while let Some(response) = stream.next().await {
                    response?;
                }
                micros.push(began.elapsed().as_micros());
            }
            micros.sort_unstable();
            println!("  one response after {after}: median {} µs", micros[micros.len() / 2]);
        }
        Ok(())
    })
}
