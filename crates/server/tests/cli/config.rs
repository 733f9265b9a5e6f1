//! `outflow config`, and what a configuration means for who asks: ids, parameters, secrets, and sources read anew.

use std::{fs, path::Path, time::Duration};

use rustix::process::Signal;

use crate::program::{Server, outflow, run, text, within};

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).to_str().unwrap().to_owned()
}

#[test]
fn a_file_to_begin_with_is_written_once_and_is_good() {
    let folder = tempfile::tempdir().unwrap();
    let file = path(folder.path(), "outflow.toml");
    let (output, _) = run(&["config", "init", &file]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let (output, _) = run(&["config", "check", &file]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), &*format!("{file}: good, 1 source\n")));
    fs::write(&file, "mine = 1").unwrap();
    let (output, _) = run(&["config", "init", &file]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("is there already"), "{}", text(&output.stderr));
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine = 1", "it is as it was");
    let (output, _) = run(&["config", "init", "-"]);
    assert!(text(&output.stdout).contains("[[source]]"));
}

#[test]
fn what_is_wrong_is_one_line_with_the_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = path(folder.path(), "outflow.toml");
    fs::write(&file, "[[source]]\nname = 'a'\nkind = 'exec'\ncomand = ['true']\n").unwrap();
    for arguments in [&["config", "check", &file][..], &["serve", "--config", &file]] {
        let (output, _) = run(arguments);
        let said = text(&output.stderr);
        assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
        assert!(
            said.contains(&format!("{file}:4: source `a`: ")) && said.contains("did you mean `command`?"),
            "{said}"
        );
    }
    let missing = path(folder.path(), "missing.toml");
    let (output, _) = run(&["config", "check", &missing]);
    assert!(output.status.code() == Some(1) && text(&output.stderr).contains(&missing));
}

const TWO: &str = r#"
[[source]]
name = "words"
kind = "exec"
ids = ["100..199"]
command = ["echo", "words", "{id}", "{parameters.word}", "{parameters.count}"]
parameters.word = { pattern = "[a-z]{1,8}" }
parameters.count = { type = "integer", min = 1, max = 9, default = 1 }

[[source]]
name = "rest"
kind = "exec"
default = true
command = ["sh", "-c", "test \"$2\" = s3cret && echo rest $1", "sh", "{id}", "{file.secret}"]
"#;

#[test]
fn ids_choose_the_source_and_parameters_are_as_declared() {
    let folder = tempfile::tempdir().unwrap();
    let file = path(folder.path(), "outflow.toml");
    fs::write(&file, TWO).unwrap();
    fs::write(folder.path().join("secret"), "s3cret\n").unwrap();
    let server = Server::start(&["--config", &file]);
    for id in ["100", "199"] {
        let (output, _) = server.fetch(&[id, "--param", "word=two words; x"]);
        assert!(text(&output.stderr).contains("parameters.word"), "{}", text(&output.stderr));
        let (output, _) = server.fetch(&[id, "--param", "word=abc"]);
        assert_eq!(text(&output.stdout), format!("words {id} abc 1\n"));
    }
    let (output, _) = server.fetch(&["150"]);
    assert!(text(&output.stderr).contains("parameters.word: is missing"), "{}", text(&output.stderr));
    let (output, _) = server.fetch(&["150", "--param", "word=a", "--param", "count=10"]);
    assert!(text(&output.stderr).contains("from 1 to 9"), "{}", text(&output.stderr));
    let (output, _) = server.fetch(&["200"]);
    assert_eq!(text(&output.stdout), "rest 200\n");
    let (output, _) = server.fetch(&["200", "--source", "words", "--param", "word=b", "--param", "count=9"]);
    assert_eq!(text(&output.stdout), "words 200 b 9\n");
    let log = server.log().join("\n");
    assert!(log.contains("fetch response for id") && !log.contains("s3cret"), "{log}");
}

#[test]
fn hangup_reads_the_sources_anew_or_keeps_them_and_runs_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = path(folder.path(), "outflow.toml");
    let go_on = folder.path().join("go-on");
    let source = |word: &str| {
        let script =
            format!("echo {word}; while [ ! -e {} ]; do sleep 0.05; done; echo still {word}", go_on.display());
        format!("[[source]]\nname = '{word}'\nkind = 'exec'\ndefault = true\ncommand = ['sh', '-c', '{script}']\n")
    };
    fs::write(&file, source("one")).unwrap();
    let server = Server::start(&["--config", &file]);
    let early =
        outflow(&["fetch", "1", "--server", &server.address]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let first = |wanted: &str| {
        let asked = || {
            let (output, _) = server.fetch(&["1", "--limit", "1", "--no-resume"]);
            (text(&output.stdout) == format!("{wanted}\n")).then_some(())
        };
        assert!(within(Duration::from_secs(10), asked).is_some(), "{wanted} does not answer");
    };
    first("one");
    fs::write(&file, "[[source]]\nname = 'broken'\n").unwrap();
    server.signal(Signal::HUP);
    server.line("the sources stay as they were");
    first("one");
    fs::write(&file, source("two")).unwrap();
    server.signal(Signal::HUP);
    first("two");
    fs::write(&go_on, "").unwrap();
    assert_eq!(text(&early.wait_with_output().unwrap().stdout), "one\nstill one\n");
    let (output, _) = server.fetch(&["1", "--source", "one"]);
    assert!(text(&output.stderr).contains("no source is called `one`"), "{}", text(&output.stderr));
}

#[test]
fn an_answer_ends_at_its_limits_after_what_came_before() {
    let folder = tempfile::tempdir().unwrap();
    let file = path(folder.path(), "outflow.toml");
    let source = |name: &str, more: &str| {
        let command = "command = ['sh', '-c', 'for i in 1 2 3 4 5; do echo 123456789; sleep 0.1; done; sleep 60']";
        format!("[[source]]\nname = '{name}'\nkind = 'exec'\n{command}\n{more}\n")
    };
    let bytes = source("bytes", "output_limit = 29");
    let time = source("time", "time_limit = '1s'");
    let one = source("one", "runs_at_once = 1");
    fs::write(&file, bytes + &time + &one).unwrap();
    let data = path(folder.path(), "data");
    let server = Server::start(&["--config", &file, "--data", &data]);
    for more in [&[][..], &["--linger", "1m"]] {
        let (output, _) = server.fetch(&[&["1", "--source", "bytes"], more].concat());
        let said = text(&output.stderr);
        assert_eq!(text(&output.stdout), "123456789\n".repeat(3), "{said}");
        assert!(said.contains("output_limit") && said.contains("29 bytes"), "{said}");
        let (output, _) = server.fetch(&[&["1", "--source", "time"], more].concat());
        let said = text(&output.stderr);
        assert_eq!(text(&output.stdout), "123456789\n".repeat(5), "{said}");
        assert!(said.contains("longer than its source allows"), "{said}");
    }
    let mut first = outflow(&["fetch", "1", "--source", "one", "--server", &server.address]).spawn().unwrap();
    let refused = || {
        let (output, _) = server.fetch(&["1", "--source", "one", "--limit", "1", "--no-resume"]);
        text(&output.stderr).contains("runs").then(|| text(&output.stderr).to_owned())
    };
    let said = within(Duration::from_secs(8), refused);
    assert!(said.as_ref().is_some_and(|said| said.contains('1')), "{said:?}");
    first.kill().unwrap();
    first.wait().unwrap();
}
