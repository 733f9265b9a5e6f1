//! Texts of a configuration with places in them. `{id}` and `{parameters.NAME}` are filled for each request; `{env.NAME}` and
//! `{file.PATH}` once, when the configuration is read, and nothing ever shows what they became. Other braces mean nothing, so
//! that scripts and JSON are written as they are. It knows nothing of what the texts are for.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use super::parameters::{Asked, Declared};

/// A text with places.
#[derive(Clone)]
pub(crate) struct Template {
    /// As it was written.
    written: String,
    parts: Vec<Part>,
}

#[derive(Clone)]
enum Part {
    Text(String),
    Id,
    /// The value of this parameter.
    Parameter(String),
}

/// Why a text cannot be filled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TemplateError {
    #[error("`{{parameters.{name}}}`: no parameter `{name}` is declared{}", declared_ones(.known))]
    Undeclared { name: String, known: Vec<String> },
    #[error("`{{env.{name}}}`: {problem}")]
    Environment { name: String, problem: &'static str },
    #[error("`{{file.{}}}`: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("`{0}` is not closed: `}}` is missing")]
    Open(String),
}

fn declared_ones(names: &[String]) -> String {
    if names.is_empty() {
        "; write parameters.NAME = { … }".into()
    } else {
        format!("; there are {}", names.join(", "))
    }
}

impl Template {
    /// Reads `written`, in a configuration file in `folder`, for requests with these parameters.
    pub(crate) fn parse(written: &str, declared: &Declared, folder: &Path) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut rest = written;
        while let Some(at) = rest.find('{') {
            text.push_str(&rest[..at]);
            rest = &rest[at..];
            let Some((place, behind)) = place(rest)? else {
                text.push('{');
                rest = &rest[1..];
                continue;
            };
            rest = behind;
            let part = match place {
                Place::Id => Part::Id,
                Place::Parameter(name) if declared.has(name) => Part::Parameter(name.into()),
                Place::Parameter(name) => {
                    return Err(TemplateError::Undeclared { name: name.into(), known: declared.names() });
                }
                Place::Environment(name) => {
                    text.push_str(&environment(name)?);
                    continue;
                }
                Place::File(path) => {
                    text.push_str(&file(&folder.join(path))?);
                    continue;
                }
            };
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut text)));
            }
            parts.push(part);
        }
        text.push_str(rest);
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(Self { written: written.into(), parts })
    }

    /// The text for a request.
    pub(crate) fn fill(&self, asked: &Asked) -> String {
        self.fill_with(asked, |value, text| text.push_str(value))
    }

    /// The text for a request, with each value written by `escape`.
    pub(crate) fn fill_with(&self, asked: &Asked, escape: impl Fn(&str, &mut String)) -> String {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Id => escape(&asked.id().to_string(), &mut text),
                Part::Parameter(name) => escape(asked.value(name), &mut text),
            }
        }
        text
    }

    /// The text where it is the same for all requests; otherwise what of it is.
    pub(crate) fn text(&self) -> String {
        let texts =
            self.parts.iter().filter_map(|part| if let Part::Text(text) = part { Some(&**text) } else { None });
        texts.collect()
    }

    /// Whether it is the same for all requests.
    pub(crate) fn is_constant(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::Text(_)))
    }
}

/// As it was written: secrets are not shown.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.written, f)
    }
}

enum Place<'a> {
    Id,
    Parameter(&'a str),
    Environment(&'a str),
    File(&'a str),
}

/// The place with which `text` begins, and what is behind it; `None` where its brace means nothing.
fn place(text: &str) -> Result<Option<(Place<'_>, &str)>, TemplateError> {
    if let Some(behind) = text.strip_prefix("{id}") {
        return Ok(Some((Place::Id, behind)));
    }
    for opening in ["{parameters.", "{env.", "{file."] {
        let Some(rest) = text.strip_prefix(opening) else { continue };
        let (name, behind) = rest.split_once('}').ok_or_else(|| TemplateError::Open(opening.into()))?;
        let place = match opening {
            "{env." => Place::Environment(name),
            "{file." => Place::File(name),
            _ => Place::Parameter(name),
        };
        return Ok(Some((place, behind)));
    }
    Ok(None)
}

fn environment(name: &str) -> Result<String, TemplateError> {
    let problem = |problem| TemplateError::Environment { name: name.into(), problem };
    match std::env::var_os(name).map(std::ffi::OsString::into_string) {
        Some(Ok(value)) => Ok(value),
        Some(Err(_)) => Err(problem("the variable is not UTF-8")),
        None => Err(problem("there is no such variable")),
    }
}

/// The file's text, without the line end that editors put behind it.
fn file(path: &Path) -> Result<String, TemplateError> {
    let text = std::fs::read_to_string(path).map_err(|source| TemplateError::File { path: path.into(), source })?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).into())
}
