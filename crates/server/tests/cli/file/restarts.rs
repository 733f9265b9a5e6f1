//! The server is killed in the middle of a file: the run goes on where it was, in the same file, or ends.

use std::fs;

use outflow_client::{Code, End, Fetch, Outcome};

use super::*;

/// What happens to a file while the server is down.
type Change = fn(&Place);

/// Reads a run on, from a server that was just started again.
async fn read_on(place: &Place, run: &str, after: u64) -> Responses {
    let fetch = Fetch::run(run).after(after);
    place.client().await.fetch(fetch).await.unwrap()
}

/// Why a run was interrupted.
async fn interrupted(place: &Place, run: &str) -> String {
    let mut stream = read_on(place, run, 0).await;
    let (_, error) = rest(&mut stream).await;
    let error = error.expect("it is interrupted");
    assert_eq!(error.code(), Some(Code::ABORTED), "{error}");
    assert!(matches!(stream.outcome(), Some(Outcome::Ended { end: End::Interrupted, .. })));
    error.to_string()
}

/// A run of a followed file of which so many lines came, whose server was killed then.
fn followed(content: &str) -> (Place, String, Vec<String>) {
    let mut place = Place::new("follow = true\nsplit = 'lines'");
    place.write("log", content);
    let whole = content.matches('\n').count();
    let (run, lines) = within_time(async {
        let mut stream = place.fetch(file("log").linger(LONG)).await.unwrap();
        let lines = texts(&mut stream, whole).await;
        (stream.run_id().unwrap().to_owned(), lines)
    });
    place.kill();
    (place, run, lines)
}

#[test]
fn a_followed_file_goes_on_at_its_offset_without_reading_what_was_read() {
    let content = (0..200_000).map(|n| format!("{n}: a line as lines are, é\n")).collect::<String>() + "unfini";
    let (mut place, run, lines) = followed(&content);
    place.append("log", "shed\nlater\n");
    place.start_again();
    let at = content.len() - "unfini".len();
    place.server.line(&format!("goes on at byte {at} of its file"));
    within_time(async {
        let mut stream = read_on(&place, &run, lines.len() as u64 - 1).await;
        assert_eq!(texts(&mut stream, 3).await, [&lines[lines.len() - 1], "unfinished", "later"]);
        place.append("log", "and on\n");
        assert_eq!(texts(&mut stream, 1).await, ["and on"]);
    });
    // And once more.
    place.kill();
    place.start_again();
    within_time(async {
        let mut stream = read_on(&place, &run, lines.len() as u64).await;
        place.append("log", "once more\n");
        assert_eq!(texts(&mut stream, 4).await, ["unfinished", "later", "and on", "once more"]);
    });
}

#[test]
fn a_followed_file_that_was_replaced_cut_or_changed_meanwhile_ends_its_run() {
    let changes: [(&str, Change); 5] = [
        ("is not what it was", |place| {
            fs::rename(place.path("log"), place.path("log.1")).unwrap();
            place.write("log", "one\ntwo\nthree\n");
        }),
        ("refuses it now", |place| fs::remove_file(place.path("log")).unwrap()),
        ("is not what it had emitted before", |place| place.write("log", "one\n")),
        ("is not what it had emitted before", |place| place.write("log", "one\ntwo\n3\nfour\nfive\nsix\nseven\n")),
        ("refuses it now", |place| {
            fs::rename(place.path("log"), place.folder.path().join("outside")).unwrap();
            std::os::unix::fs::symlink("../outside", place.path("log")).unwrap();
        }),
    ];
    for (why, change) in changes {
        let (mut place, run, _) = followed("one\ntwo\nthree\n");
        change(&place);
        place.start_again();
        let said = within_time(interrupted(&place, &run));
        assert!(said.contains(why), "{why}: {said}");
    }
}

/// A run of a large file, whose server was killed in the middle of it.
fn half_read(content: &[u8], settings: &str) -> (Place, String, Vec<u8>, u64) {
    let mut place = Place::new(settings);
    place.write("a", content);
    let (run, first, last) = within_time(async {
        let mut stream = place.fetch(file("a").linger(LONG)).await.unwrap();
        let first = some(&mut stream, 3).await.concat();
        (stream.run_id().unwrap().to_owned(), first, stream.last_sequence())
    });
    place.kill();
    (place, run, first, last)
}

/// So large that it is not journaled before the kill.
const LARGE: usize = 96 << 20;

#[test]
fn a_large_file_goes_on_in_the_middle() {
    for settings in ["", "split = { delimiter = 'ab' }\npayload = 'bytes'"] {
        let content = noise(LARGE);
        let (mut place, run, first, last) = half_read(&content, settings);
        place.start_again();
        place.server.line("of its file");
        within_time(async {
            let mut stream = read_on(&place, &run, last).await;
            let mut all = first;
            let mut is_open = false;
            while let Some(response) = stream.next().await {
                let response = response.unwrap();
                all.extend_from_slice(payload(&response));
                is_open = response.partial;
            }
            assert!(matches!(stream.outcome(), Some(Outcome::Ended { end: End::Complete, .. })) && !is_open);
            if settings.is_empty() {
                assert!(all == content, "{} bytes and not {}", all.len(), content.len());
            } else {
                // Without the delimiters, which are looked for from left to right.
                let mut expected = Vec::with_capacity(content.len());
                let mut rest = &content[..];
                while let Some(at) = memchr::memmem::find(rest, b"ab") {
                    expected.extend_from_slice(&rest[..at]);
                    rest = &rest[at + 2..];
                }
                expected.extend_from_slice(rest);
                assert!(all == expected, "{} bytes and not {}", all.len(), expected.len());
            }
        });
    }
}

#[test]
fn a_file_that_is_not_the_same_any_more_ends_its_run_in_the_middle() {
    let content = noise(LARGE);
    let changes: [Change; 3] = [
        |place| place.append("a", "longer"),
        // The same length, and another time.
        |place| {
            fs::File::options().write(true).open(place.path("a")).unwrap().write_all(b"!").unwrap();
        },
        |place| {
            fs::copy(place.path("a"), place.path("b")).unwrap();
            fs::rename(place.path("b"), place.path("a")).unwrap();
        },
    ];
    for change in changes {
        let (mut place, run, _, _) = half_read(&content, "");
        change(&place);
        place.start_again();
        let said = within_time(interrupted(&place, &run));
        assert!(said.contains("what source `files` answers with is not what it was"), "{said}");
    }
}

#[test]
fn what_replaced_no_text_is_emitted_again_and_compared() {
    let mut content = b"b\xffd\n".repeat(3);
    content.extend_from_slice("a line\n".repeat(3_000_000).as_bytes());
    let (mut place, run, _, last) = half_read(&content, "split = 'lines'\npayload = 'lossy'");
    place.start_again();
    within_time(async {
        let mut stream = read_on(&place, &run, last).await;
        let mut count = last;
        while let Some(response) = stream.next().await {
            response.unwrap();
            count += 1;
        }
        assert_eq!(count, 3_000_003);
        assert!(matches!(stream.outcome(), Some(Outcome::Ended { end: End::Complete, .. })));
    });
}

#[test]
fn a_file_that_must_not_be_read_twice_ends_its_run() {
    let (mut place, run, _, _) = half_read(&noise(LARGE), "repeatable = false");
    place.start_again();
    let said = within_time(interrupted(&place, &run));
    assert!(said.contains("not repeatable"), "{said}");
}
