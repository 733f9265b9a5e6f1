//! What `simulate` takes and refuses, when its responses come, and what they say. Runs are in paused time.

use outflow_engine::{Delivery, Engine, Limits};
use outflow_proto::protobuf::Response;
use prost::Message as _;

use super::*;

fn refused(parameters: &[(&str, &str)]) -> Option<(String, String)> {
    let request = parameters.iter().fold(Request::new(1), |request, (name, value)| request.parameter(*name, *value));
    match Simulate::default().plan(&request) {
        Ok(_) => None,
        Err(Refusal::Invalid { field, problem }) => Some((field, problem)),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn every_parameter_has_a_bound_that_its_refusal_names() {
    for (name, allowed, refused_value, bound) in [
        ("jobs", "1000", "1001", "1000"),
        ("responses", "1000000000", "1000000001", "1000000000"),
        ("step", "1h", "61m", "1h"),
        ("every", "1h", "3601s", "1h"),
        ("size", "1048576", "1048577", "1048576"),
        ("batch", "1024", "1025", "1024"),
        ("batch", "1", "0", "1 to"),
        ("fail", "4", "1001", "1000"),
    ] {
        assert_eq!(refused(&[(name, allowed)]), None, "{name}");
        let (field, problem) = refused(&[(name, refused_value)]).expect(name);
        assert_eq!(field, format!("parameters.{name}"));
        assert!(problem.contains(bound), "{name}: {problem}");
    }
}

#[test]
fn what_is_no_value_or_no_parameter_is_refused_by_name() {
    for (name, value) in [
        ("jobs", "-1"),
        ("jobs", ""),
        ("jobs", "99999999999999999999"),
        ("step", "1"),
        ("step", "-1s"),
        ("every", "soon"),
        ("jbos", "1"),
        ("fail", "5"),
        ("stamp", "1"),
    ] {
        let (field, _) = refused(&[(name, value)]).unwrap_or_else(|| panic!("{name}={value} was taken"));
        assert_eq!(field, format!("parameters.{name}"));
    }
}

/// The texts of a run with these parameters, and when each came after the first; after that the reader looks away for
/// so long.
async fn run(parameters: &[(&str, &str)], away: Duration) -> Vec<(Duration, String)> {
    let request = [("jobs", "1"), ("step", "0s")].iter().chain(parameters);
    let request = request.fold(Request::new(1), |request, (name, value)| request.parameter(*name, *value));
    let simulate = Arc::new(Simulate::default());
    let engine = Engine::builder(Limits::default()).default_source("simulate", simulate).build().unwrap();
    let mut reader = engine.fetch(&request, 7).await.unwrap();
    let (mut began, mut texts) = (None, Vec::new());
    while let Delivery::Chunk(chunk) = reader.next().await {
        let came = began.get_or_insert_with(Instant::now).elapsed();
        let bytes: Vec<u8> = chunk.into_parts().flatten().collect();
        let mut rest = &bytes[..];
        while let Some(([_, length @ ..], behind)) = rest.split_first_chunk::<5>() {
            let (message, behind) = behind.split_at(u32::from_be_bytes(*length) as usize);
            texts.push((came, Response::decode(message).unwrap().result));
            rest = behind;
        }
        pause(if came.is_zero() { away } else { Duration::ZERO }).await;
    }
    texts
}

#[tokio::test(start_paused = true)]
async fn every_is_a_schedule_and_not_a_pause() {
    // A timer is a millisecond late; a thousand such pauses would take a second and more.
    let often = run(&[("every", "10us"), ("responses", "1000")], Duration::ZERO).await;
    assert_eq!(often.len(), 1_000);
    let took = often[999].0;
    assert!((Duration::from_micros(9_990)..=Duration::from_millis(12)).contains(&took), "it took {took:?}");
    for (n, (came, _)) in often.iter().enumerate() {
        assert!(*came >= Duration::from_micros(10) * n as u32, "response {n} came after {came:?}, too early");
    }
    let batches = run(&[("every", "10ms"), ("responses", "100"), ("batch", "10")], Duration::ZERO).await;
    let took = batches[99].0;
    assert!((Duration::from_millis(90)..=Duration::from_millis(92)).contains(&took), "it took {took:?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_held_up_is_made_up_for_unless_it_was_long() {
    // The window holds one response, so that the job waits, while its reader looks away.
    let large = [("every", "10ms"), ("responses", "30"), ("size", "200000")];
    for (away, at_least, at_most) in [(80, 290, 292), (1_000, 1_250, 1_300)] {
        let slow = run(&large, Duration::from_millis(away)).await;
        assert_eq!(slow.len(), 30);
        let took = slow[29].0.as_millis();
        assert!((at_least..=at_most).contains(&took), "away for {away} ms: it took {took} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stamp_is_the_time_of_emission_in_19_digits_and_padding_follows() {
    let nanos = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    for batch in ["1", "2"] {
        let before = nanos();
        let texts =
            run(&[("stamp", "true"), ("responses", "4"), ("size", "3"), ("batch", batch)], Duration::ZERO).await;
        let stamps: Vec<u128> = texts
            .iter()
            .map(|(_, text)| {
                let (digits, padding) = text.split_at(19);
                assert_eq!(padding, "...");
                digits.parse().unwrap()
            })
            .collect();
        assert!(stamps.len() == 4 && stamps.is_sorted() && stamps[0] >= before && stamps[3] <= nanos(), "{stamps:?}");
    }
    let texts = run(&[("responses", "2"), ("size", "3")], Duration::ZERO).await;
    assert!(texts.iter().all(|(_, text)| text == "Request #0 For Id:1..."), "{texts:?}");
}

#[test]
fn stamped_jobs_are_not_repeatable() {
    for (stamp, repeatable) in [("true", false), ("false", true)] {
        let request = Request::new(1).parameter("stamp", stamp);
        let work = Work::parse(&SimulateSettings::default(), &request).unwrap();
        assert_eq!(work.is_repeatable(), repeatable);
    }
}

#[test]
fn settings_keep_their_own_bounds() {
    assert_eq!(SimulateSettings::default().check(), Ok(()));
    let settings = SimulateSettings { jobs: 7, jobs_max: 6, ..SimulateSettings::default() };
    assert_eq!(settings.check(), Err("jobs = 7 is more than jobs_max = 6".into()));
}
