//! A file that is followed, as `tail -F` follows it.

use std::fs;

use outflow_client::{Code, End, Fetch, Outcome};

use super::*;

#[test]
fn what_is_appended_comes_and_a_line_comes_when_it_is_whole() {
    let place = Place::new("follow = true\nsplit = 'lines'");
    place.write("log", "one\ntwo\nthr");
    within_time(async {
        let mut stream = place.fetch(file("log")).await.unwrap();
        assert_eq!(stream.expected_bytes(), None, "nobody knows how long it will be");
        assert_eq!(texts(&mut stream, 2).await, ["one", "two"]);
        place.append("log", "ee\nfour\n");
        assert_eq!(texts(&mut stream, 2).await, ["three", "four"]);
        for n in 0..50 {
            place.append("log", &format!("line {n}\n"));
            assert_eq!(texts(&mut stream, 1).await, [format!("line {n}")]);
        }
    });
}

#[test]
fn chunks_come_as_they_are_written() {
    let place = Place::new("follow = true");
    place.write("log", "");
    within_time(async {
        let mut stream = place.fetch(file("log")).await.unwrap();
        for text in ["a", "bcd", "é"] {
            place.append("log", text);
            assert_eq!(texts(&mut stream, 1).await, [text]);
        }
        let content = noise(300_000);
        fs::write(place.path("log"), [b"abcd\xc3\xa9", &content[..]].concat()).unwrap();
        // It was cut first, and grew to more than there was, or was seen in between: either way no byte is missing at the end.
        let mut all = Vec::new();
        while !all.ends_with(&content[content.len() - 1000..]) {
            all.extend(some(&mut stream, 1).await.concat());
        }
    });
}

#[test]
fn text_that_is_written_in_the_middle_of_a_character_waits_for_its_rest() {
    let place = Place::new("follow = true\npayload = 'text'");
    place.write("log", b"a\xc3");
    within_time(async {
        let mut stream = place.fetch(file("log")).await.unwrap();
        assert_eq!(texts(&mut stream, 1).await, ["a"]);
        fs::File::options().append(true).open(place.path("log")).unwrap().write_all(b"\xa9b").unwrap();
        assert_eq!(texts(&mut stream, 1).await, ["éb"]);
    });
}

#[test]
fn a_file_that_takes_its_place_is_read_from_its_start_and_nothing_of_the_old_one_is_lost() {
    let place = Place::new("follow = true\nsplit = 'lines'");
    place.write("log", "old 1\n");
    within_time(async {
        let mut stream = place.fetch(file("log")).await.unwrap();
        assert_eq!(texts(&mut stream, 1).await, ["old 1"]);
        for round in 0..5 {
            // As logrotate does it: the writer has the old file until it is told.
            fs::rename(place.path("log"), place.path("log.1")).unwrap();
            place.append("log.1", &format!("late {round}\nunfinished"));
            if round % 2 == 0 {
                // For a while there is none.
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            place.write("log.new", format!("new {round}\n"));
            fs::rename(place.path("log.new"), place.path("log")).unwrap();
            let lines = texts(&mut stream, 3).await;
            assert_eq!(lines, [format!("late {round}"), "unfinished".into(), format!("new {round}")]);
            place.append("log", "more\n");
            assert_eq!(texts(&mut stream, 1).await, ["more"]);
        }
        // Of those that were there before none is held.
        let old: Vec<_> = place
            .server
            .open_files()
            .into_iter()
            .filter(|path| path.contains("log.1") || path.contains("deleted"))
            .collect();
        assert!(old.is_empty(), "{old:?}");
    });
}

#[test]
fn a_file_that_was_cut_is_read_from_its_start() {
    let place = Place::new("follow = true\nsplit = 'lines'");
    place.write("log", "one\ntwo\nthree\n");
    within_time(async {
        let mut stream = place.fetch(file("log")).await.unwrap();
        assert_eq!(texts(&mut stream, 3).await, ["one", "two", "three"]);
        place.write("log", "new\n");
        assert_eq!(texts(&mut stream, 1).await, ["new"]);
        place.append("log", "more\n");
        assert_eq!(texts(&mut stream, 1).await, ["more"]);
    });
}

#[test]
fn a_link_that_is_turned_to_another_file_is_followed() {
    let place = Place::new("follow = true\nsplit = 'lines'");
    place.write("day-1", "one\n");
    place.write("day-2", "two\n");
    std::os::unix::fs::symlink("day-1", place.path("today")).unwrap();
    within_time(async {
        let mut stream = place.fetch(file("today")).await.unwrap();
        assert_eq!(texts(&mut stream, 1).await, ["one"]);
        std::os::unix::fs::symlink("day-2", place.path("next")).unwrap();
        fs::rename(place.path("next"), place.path("today")).unwrap();
        assert_eq!(texts(&mut stream, 1).await, ["two"]);
        // One that leads outside is as none: the file is kept until there is another.
        std::os::unix::fs::symlink("/etc/hostname", place.path("next")).unwrap();
        fs::rename(place.path("next"), place.path("today")).unwrap();
        place.append("day-2", "still\n");
        assert_eq!(texts(&mut stream, 1).await, ["still"]);
    });
}

#[test]
fn a_file_that_is_not_there_yet_is_refused() {
    let place = Place::new("follow = true");
    within_time(async {
        let refused = place.fetch(file("log")).await.err().unwrap();
        assert_eq!(refused.code(), Some(Code::NOT_FOUND), "{refused}");
    });
}

#[test]
fn it_ends_by_limit_by_time_and_with_its_last_reader() {
    let place = Place::new("follow = true\nsplit = 'lines'\ntime_limit = '1s'");
    place.write("log", "one\ntwo\n");
    within_time(async {
        let mut stream = place.fetch(file("log").limit(2)).await.unwrap();
        let (lines, error) = rest(&mut stream).await;
        assert!(error.is_none() && lines.len() == 2);
        assert!(matches!(stream.outcome(), Some(Outcome::Limit { .. })));
        place.closed("log").await;

        let mut stream = place.fetch(file("log")).await.unwrap();
        let (lines, error) = rest(&mut stream).await;
        assert_eq!((lines.len(), error.unwrap().code()), (2, Some(Code::DEADLINE_EXCEEDED)));
        assert!(matches!(stream.outcome(), Some(Outcome::Ended { end: End::Deadline, .. })));
        place.closed("log").await;
    });
}

#[test]
fn many_who_follow_one_file_share_one_run() {
    let place = Place::new("follow = true\nsplit = 'lines'\nshared = true\nlinger = '5m'");
    place.write("log", "one\n");
    within_time(async {
        let mut streams = Vec::new();
        for _ in 0..10 {
            streams.push(place.fetch(file("log")).await.unwrap());
        }
        place.append("log", "two\n");
        for stream in &mut streams {
            assert_eq!(texts(stream, 2).await, ["one", "two"]);
        }
        let path = place.path("log");
        let open = place.server.open_files().iter().filter(|open| **open == *path.to_str().unwrap()).count();
        assert_eq!(open, 1);
        // It goes on while everybody is away.
        let run = streams[0].run_id().unwrap().to_owned();
        drop(streams);
        place.append("log", "three\n");
        let mut stream = place.fetch(Fetch::run(run).after(2)).await.unwrap();
        assert_eq!(texts(&mut stream, 1).await, ["three"]);
    });
}
