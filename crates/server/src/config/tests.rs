//! What configurations say, and what is said of wrong ones.

use std::{fs, time::Duration};

use super::*;

/// What is said of `text`: its line, and the problem.
fn check(text: &str) -> Result<Config, (usize, String)> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outflow.toml");
    fs::write(&path, text).unwrap();
    Config::read(&path).map_err(|error| match error {
        ConfigError::Wrong { line, problem, .. } => (line.unwrap_or(0), problem),
        ConfigError::Read { .. } => panic!("{error}"),
    })
}

#[test]
fn a_whole_file_is_understood() {
    let config = check(
        r#"
        listen = ["127.0.0.1:0", "[::1]:0"]
        workers = 3
        data = "memory"

        [limits]
        streams_per_connection = 7
        stall_time = "90s"
        budget_bytes = 1_000_000

        [[source]]
        name = "slow"
        kind = "simulate"
        ids = [7, "100..199", "..-1"]
        step = "2s"
        jobs = 3

        [[source]]
        name = "log"
        kind = "exec"
        default = true
        command = ["echo", "{id}", "{parameters.word}"]
        payload = "lossy"
        jobs_at_once = 2
        job_errors = "fail_fast"
        time_limit = "1h"
        parameters.word = { pattern = "[a-z]+", default = "none" }
        "#,
    )
    .unwrap();
    assert_eq!(config.limits.transport().streams_per_connection, 7);
    assert_eq!(config.limits.transport().stall_time, Duration::from_secs(90));
    assert_eq!(config.limits.engine().budget_bytes, 1_000_000);
    assert_eq!((config.listen.len(), config.workers, config.data.as_deref()), (2, Some(3), Some("memory")));
    assert_eq!(config.sources.len(), 2);
}

#[test]
fn what_is_wrong_is_named_with_its_line_and_what_may_have_been_meant() {
    let cases = [
        (1, "lisen = []", "did you mean `listen`?"),
        (1, "sourc = []", "did you mean `source`?"),
        (1, "source = 1", "[[source]]"),
        (2, "workers = 1\nlisten = ['127.0.0.1:1', 'nowhere']", "nowhere"),
        (1, "workers = 0", "workers"),
        (1, "data = ''", "data"),
        (1, "data = '{id}'", "same for every request"),
        (2, "[limits]\nruns_max = 0", "runs_max"),
        (2, "[limits]\nresponse_bytes_max = 5_000_000", "response_bytes_max"),
        (2, "[limits]\nstall_time = 'soon'", "soon"),
        (2, "workers = 1\nlisten = [", "rray"),
    ];
    for (line, text, told) in cases {
        let (at, problem) = check(text).map(|_| ()).unwrap_err();
        assert!(at == line && problem.contains(told), "{text}: line {at}: {problem}");
    }
}

#[test]
fn what_is_wrong_in_a_source_is_named_with_its_line() {
    let head = "[[source]]\nname = 'a'\nkind = 'exec'\n";
    let cases = [
        (4, "comand = ['true']", "did you mean `command`?"),
        (4, "sharde = true\ncommand = ['true']", "did you mean `shared`?"),
        (1, "", "command"),
        (4, "command = []", "no command"),
        (4, "command = ['no-such-command-anywhere']", "no-such-command-anywhere"),
        (4, "command = ['echo', '{parameters.x}']", "parameters.NAME"),
        (4, "command = ['echo', '{parameters.x']", "not closed"),
        (4, "command = ['echo', '{env.NO_SUCH_VARIABLE}']", "no such variable"),
        (4, "command = ['echo', '{file.no-such-file}']", "no-such-file"),
        (5, "command = ['true']\nsplit = 'words'", "words"),
        (5, "command = ['true']\nsplit = { delimiter = '' }", "1 to 256"),
        (5, "command = ['true']\nids = ['7..3']", "3..7"),
        (5, "command = ['true']\nids = ['1..3', '3..4']", "overlap"),
        (5, "command = ['true']\nids = [4_000_000_000]", "an id such as 7"),
        (5, "command = ['true']\nids = ['x']", "100..199"),
        (5, "command = ['true']\nlinger = 'soon'", "soon"),
        (5, "command = ['true']\nreuse = '1h'", "shared"),
        (5, "command = ['true']\nkeep = 0", "keep"),
        (5, "command = ['true']\njobs_at_once = 0", "jobs_at_once"),
        (5, "command = ['true']\njob_errors = 'fail-fast'", "did you mean `fail_fast`?"),
        (5, "command = ['true']\npayload = 'txt'", "did you mean `text`?"),
        (5, "command = ['true']\nparameters.x = { patern = 'a' }", "did you mean `pattern`?"),
        (5, "command = ['true']\nparameters.x = { pattern = '(' }", "parameters.x"),
        (5, "command = ['true']\nparameters.x = {}", "pattern or a type"),
        (5, "command = ['true']\nparameters.x = { type = 'integer', default = 'a' }", "whole number"),
        (5, "command = ['true']\nparameters.x = { type = 'text', min = 1 }", "integer"),
    ];
    for (line, text, told) in cases {
        let (at, problem) = check(&format!("{head}{text}")).map(|_| ()).unwrap_err();
        assert!(at == line && problem.contains(told) && problem.contains("`a`"), "{text}: line {at}: {problem}");
    }
}

#[test]
fn what_is_wrong_between_sources_is_named_with_the_line_of_the_second() {
    let source = |name: &str, more: &str| format!("[[source]]\nname = '{name}'\nkind = 'simulate'\n{more}\n");
    let cases = [
        (6, source("a", "") + &source("a", ""), "two sources are called `a`"),
        (8, source("a", "default = true") + &source("b", "default = true"), "`a` is the default"),
        (8, source("a", "ids = ['1..5']") + &source("b", "ids = [5]"), "5 overlaps 1..5, which source `a` claims"),
        (4, source("a", "jbos = 1"), "did you mean `jobs`?"),
        (4, source("a", "step = 'soon'"), "soon"),
        (4, source("a", "jobs = 1001"), "jobs_max"),
        (4, source("a", "parameters.x = { type = 'text' }"), "of its own"),
        (1, "[[source]]\nkind = 'simulate'".into(), "no `name`"),
        (1, "[[source]]\nname = 'a'".into(), "no `kind`"),
        (3, "[[source]]\nname = 'a'\nkind = 'exce'".into(), "did you mean `exec`?"),
        (2, "[[source]]\nname = 1\nkind = 'exec'".into(), "text"),
    ];
    for (line, text, told) in cases {
        let (at, problem) = check(&text).map(|_| ()).unwrap_err();
        assert!(at == line && problem.contains(told), "{text}: line {at}: {problem}");
    }
}

/// The sample's lines, each example without its comment, as pieces between empty lines.
fn sample_pieces() -> Vec<String> {
    let uncommented = |line: &str| {
        let setting = line.strip_prefix("# ").filter(|rest| {
            let key = rest.split(['=', ' ']).next().unwrap_or_default();
            rest.starts_with("[[")
                || (rest.contains(" = ")
                    && !key.is_empty()
                    && key.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'_' | b'.')))
        });
        setting.unwrap_or(line).to_owned() + "\n"
    };
    SAMPLE.split("\n\n").map(|piece| piece.lines().map(uncommented).collect()).collect()
}

#[test]
fn the_sample_is_good_and_so_is_each_example_in_it() {
    assert_eq!(check(SAMPLE).unwrap().source_names(), ["simulate"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outflow.toml");
    fs::create_dir(folder.path().join("reports")).unwrap();
    fs::write(folder.path().join("llm-key"), "key").unwrap();
    fs::write(folder.path().join("shop.db"), "").unwrap();
    let mut kinds = std::collections::BTreeSet::new();
    let mut settings = 0;
    for piece in sample_pieces() {
        let kind = crate::source::KINDS.iter().find(|(kind, _)| piece.contains(&format!("kind = \"{kind}\"")));
        if let Some((kind, _)) = kind {
            kinds.insert(*kind);
        } else if piece.contains("[[source]]\n") {
            // A kind that this build is without.
            continue;
        }
        settings += piece.lines().filter(|line| !line.starts_with('#') && line.contains(" = ")).count();
        fs::write(&path, &piece).unwrap();
        if let Err(error) = Config::read(&path) {
            panic!("{error} in:\n{piece}");
        }
    }
    assert_eq!(kinds.len(), crate::source::KINDS.len(), "each kind has an example: {kinds:?}");
    assert!(settings > 20, "{settings}");
}
