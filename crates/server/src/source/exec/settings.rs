//! Commands as a configuration has them: the settings of kind `exec`, and for what is wrong with one its place in the file.

use std::{collections::BTreeMap, time::Duration};

use outflow_engine::Source;
use serde::Deserialize;

use super::{Environment, Exec, ExecError, Stderr, found};
use crate::source::{Entry, Problem, Split, Template};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The one job.
    command: Option<Vec<String>>,
    /// Or several.
    commands: Option<Vec<Vec<String>>>,
    #[serde(default)]
    split: Split,
    #[serde(default)]
    stderr: Stderr,
    #[serde(default)]
    environment: EnvironmentFile,
    /// Relative to the configuration's folder.
    directory: Option<String>,
    grace: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct EnvironmentFile {
    /// Instead of the usual ones.
    pass: Option<Vec<String>>,
    set: BTreeMap<String, String>,
}

/// A source of its entry in a configuration.
pub(crate) fn configured(entry: &mut Entry<'_>) -> Result<Box<dyn Source>, Problem> {
    let settings: Settings = entry.settings()?;
    let told = |key: &str, error: &ExecError| entry.problem(key, format_args!("{key}: {error}"));
    let directory = settings.directory.map(|directory| found(entry.folder().join(directory)));
    let directory = directory.transpose().map_err(|error| told("directory", &error))?;
    let mut exec = Exec::with(directory, entry.parameters().clone());
    let commands = match (settings.command, settings.commands) {
        (Some(command), None) => vec![("command".to_owned(), command)],
        (None, Some(commands)) if commands.is_empty() => return Err(told("commands", &ExecError::Empty)),
        (None, Some(commands)) => {
            commands.into_iter().enumerate().map(|(n, command)| (format!("commands.{n}"), command)).collect()
        }
        (Some(_), Some(_)) => {
            let problem = "commands: there is a command, too; write all of them into commands";
            return Err(entry.problem("commands", problem));
        }
        (None, None) => {
            let problem =
                r#"it has no command; write command = ["PROGRAM", "ARGUMENT", …], or commands = [[…], […]]"#;
            return Err(entry.problem("", problem));
        }
    };
    for (key, command) in commands {
        let (name, arguments) = command.split_first().ok_or_else(|| told(&key, &ExecError::Empty))?;
        let argument = |(n, text): (usize, &String)| entry.template(&format!("{key}.{}", n + 1), text);
        let arguments: Vec<Template> = arguments.iter().enumerate().map(argument).collect::<Result<_, _>>()?;
        exec = exec.and_with(name, arguments).map_err(|error| told(&key, &error))?;
    }
    let EnvironmentFile { pass, set } = settings.environment;
    let mut environment = Environment::default();
    if let Some(pass) = pass {
        environment = environment.pass(pass).map_err(|error| told("environment.pass", &error))?;
    }
    for (name, value) in set {
        let key = format!("environment.set.{name}");
        exec.set.insert(name.clone(), entry.template(&key, &value)?);
        environment = environment.set(name, value).map_err(|error| told(&key, &error))?;
    }
    exec.passed = environment.passed(std::env::vars_os());
    if let Some(grace) = settings.grace {
        exec = exec.grace(time(&grace, entry)?).map_err(|error| told("grace", &error))?;
    }
    exec.repeatable = entry.repeatable(false);
    Ok(Box::new(exec.split(settings.split).stderr(settings.stderr).name(entry.name())))
}

fn time(text: &str, entry: &Entry<'_>) -> Result<Duration, Problem> {
    let problem = |_| entry.problem("grace", format_args!("grace: `{text}` is no time; write it as 250ms, 1s or 5m"));
    humantime::parse_duration(text).map_err(problem)
}
