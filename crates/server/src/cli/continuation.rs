//! The command that goes on with a run, as a person can paste it into a shell.

use std::{borrow::Cow, fmt, path::Path};

use super::output::Format;

/// Who is asked where nothing else is said.
pub(super) const SERVER: &str = "http://127.0.0.1:50005";

/// A run, and how it was read.
pub(super) struct Continuation<'a> {
    pub(super) run: &'a str,
    /// Neither with `output`, which knows.
    pub(super) after: Option<u64>,
    pub(super) last: Option<u64>,
    pub(super) output: Option<&'a Path>,
    pub(super) format: Option<Format>,
    pub(super) limit: Option<u64>,
    pub(super) server: &'a str,
}

impl fmt::Display for Continuation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "outflow fetch --run {}", quoted(self.run))?;
        if let Some(after) = self.after {
            write!(f, " --after {after}")?;
        }
        if let Some(last) = self.last {
            write!(f, " --last {last}")?;
        }
        if let Some(output) = self.output {
            let here = if output.as_os_str().as_encoded_bytes().starts_with(b"-") { "./" } else { "" };
            write!(f, " --output {}", quoted(&format!("{here}{}", output.display())))?;
        }
        if let Some(format) = self.format {
            write!(f, " --format {format}")?;
        }
        if let Some(limit) = self.limit {
            write!(f, " --limit {limit}")?;
        }
        match name(self.server) {
            server if server == name(SERVER) => Ok(()),
            server => write!(f, " --server {}", quoted(server)),
        }
    }
}

/// A server's address without what may be left out of it.
pub(super) fn name(server: &str) -> &str {
    let name = server.strip_prefix("http://").unwrap_or(server);
    name.strip_suffix('/').unwrap_or(name)
}

/// As a shell takes it for one word.
fn quoted(word: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+=,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.into()
    } else {
        format!("'{}'", word.replace('\'', r"'\''")).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_needed_is_said_and_a_shell_takes_it_as_it_is_meant() {
        let short = Continuation {
            run: "01k",
            after: Some(2),
            last: None,
            output: None,
            format: None,
            limit: None,
            server: SERVER,
        };
        assert_eq!(short.to_string(), "outflow fetch --run 01k --after 2");
        let long = Continuation {
            after: None,
            output: Some(Path::new("it's here.txt")),
            format: Some(Format::Json),
            limit: Some(3),
            server: "http://[::1]:50005/",
            ..short
        };
        let expected =
            r"outflow fetch --run 01k --output 'it'\''s here.txt' --format json --limit 3 --server '[::1]:50005'";
        assert_eq!(long.to_string(), expected);
    }
}
