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
    /// What came from the environment and from files.
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "only `http` shows what others say"))]
    secrets: Vec<String>,
}

#[derive(Clone)]
enum Part {
    Text(String),
    Id,
    /// The value of this parameter.
    Parameter(String),
}

/// The place that is all of a text.
#[cfg(feature = "sql")]
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sole<'a> {
    Id,
    Parameter(&'a str),
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
        let mut secrets = Vec::new();
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
                    secrets.push(environment(name)?);
                    text.extend(secrets.last().map(String::as_str));
                    continue;
                }
                Place::File(path) => {
                    secrets.push(file(&folder.join(path))?);
                    text.extend(secrets.last().map(String::as_str));
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
        Ok(Self { written: written.into(), parts, secrets })
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

    /// The text with `value` in each place that a request fills: to see where in it they are.
    #[cfg(feature = "http")]
    pub(crate) fn fill_all(&self, value: &str) -> String {
        let part = |part: &Part| if let Part::Text(text) = part { text.clone() } else { value.to_owned() };
        self.parts.iter().map(part).collect()
    }

    /// What must not be shown, also where somebody else says it.
    #[cfg(feature = "http")]
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &str> {
        self.secrets.iter().map(String::as_str)
    }

    /// The text where it is the same for all requests; otherwise what of it is.
    pub(crate) fn text(&self) -> String {
        let texts =
            self.parts.iter().filter_map(|part| if let Part::Text(text) = part { Some(&**text) } else { None });
        texts.collect()
    }

    /// The place that is all of it, with nothing beside it.
    #[cfg(feature = "sql")]
    pub(crate) fn sole(&self) -> Option<Sole<'_>> {
        match &self.parts[..] {
            [Part::Id] => Some(Sole::Id),
            [Part::Parameter(name)] => Some(Sole::Parameter(name)),
            _ => None,
        }
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

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs};

    use outflow_engine::{Limits, Principal, Request};
    use outflow_proto::protobuf;
    use proptest::prelude::*;

    use super::*;

    fn declared(names: &[&str]) -> Declared {
        let files = names.iter().map(|name| format!("{name} = {{ pattern = '[^\\x00]*' }}\n")).collect::<String>();
        Declared::new(toml::from_str(&files).unwrap()).unwrap()
    }

    fn asked(declared: &Declared, id: i32, values: &[(&str, &str)]) -> Asked {
        let parameters = values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let request = protobuf::Request { id, parameters: parameters.collect(), ..Default::default() };
        declared.asked(&Request::parse(request, Principal::default(), &Limits::default()).unwrap()).unwrap()
    }

    fn fill(written: &str, id: i32, values: &[(&str, &str)]) -> String {
        let declared = declared(&values.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        Template::parse(written, &declared, Path::new("")).unwrap().fill(&asked(&declared, id, values))
    }

    #[test]
    fn places_are_filled_and_other_braces_stay() {
        assert_eq!(fill("{id}/{parameters.a}{parameters.a}.csv", -7, &[("a", "x")]), "-7/xx.csv");
        assert_eq!(
            fill(r#"${HOME} {"a": {}} {ID} { id } {parameter.a} }{"#, 7, &[]),
            r#"${HOME} {"a": {}} {ID} { id } {parameter.a} }{"#
        );
        assert_eq!(fill("{{id}}", 7, &[]), "{7}");
    }

    #[test]
    fn what_a_request_says_is_no_template() {
        assert_eq!(fill("{parameters.a}-{id}", 7, &[("a", "{id}{env.HOME}")]), "{id}{env.HOME}-7");
    }

    #[test]
    fn secrets_are_read_once_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("key"), "s3cret\r\n").unwrap();
        let written = "Bearer {file.key} {env.CARGO_PKG_NAME}";
        let template = Template::parse(written, &Declared::default(), folder.path()).unwrap();
        fs::remove_file(folder.path().join("key")).unwrap();
        assert_eq!(template.text(), "Bearer s3cret outflow");
        assert_eq!(template.fill(&asked(&Declared::default(), 7, &[])), template.text());
        assert!(template.is_constant());
        for shown in [template.to_string(), format!("{template:?}")] {
            assert!(shown.contains("{file.key}") && !shown.contains("s3cret"), "{shown}");
        }
    }

    #[test]
    fn a_secret_is_no_template() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("key"), "{id}{parameters.a}").unwrap();
        let template = Template::parse("{file.key}", &Declared::default(), folder.path()).unwrap();
        assert_eq!(template.text(), "{id}{parameters.a}");
    }

    #[test]
    fn what_cannot_be_filled_is_told() {
        let cases = [
            ("{parameters.b}", "there are a"),
            ("{env.NO_SUCH_VARIABLE}", "no such variable"),
            ("{file.no/such/file}", "no/such/file"),
            ("{parameters.a", "not closed"),
        ];
        for (written, told) in cases {
            let error = Template::parse(written, &declared(&["a"]), Path::new("")).unwrap_err().to_string();
            assert!(error.contains(told), "{written}: {error}");
        }
    }

    #[derive(Clone, Debug)]
    enum Piece {
        Text(String),
        Id,
        Parameter(usize),
    }

    const NAMES: [&str; 3] = ["a", "b-2", "long_name"];

    fn pieces() -> impl Strategy<Value = Vec<Piece>> {
        let piece = prop_oneof![
            "[^{\\x00]{0,9}".prop_map(Piece::Text),
            Just(Piece::Text("{".into())),
            Just(Piece::Id),
            (0..NAMES.len()).prop_map(Piece::Parameter),
        ];
        proptest::collection::vec(piece, 0..9)
    }

    proptest! {
        /// A filled text is its pieces, whatever is in the values: nothing of them is taken for a place.
        #[test]
        fn a_filled_text_is_its_pieces(pieces in pieces(), id: i32, values in proptest::array::uniform3("[^\\x00]{0,20}")) {
            let mut written = String::new();
            let mut wanted = String::new();
            for piece in &pieces {
                match piece {
                    Piece::Text(text) => {
                        written.push_str(text);
                        wanted.push_str(text);
                    }
                    Piece::Id => {
                        written.push_str("{id}");
                        wanted.push_str(&id.to_string());
                    }
                    Piece::Parameter(n) => {
                        written.extend(["{parameters.", NAMES[*n], "}"]);
                        wanted.push_str(&values[*n]);
                    }
                }
            }
            let values: BTreeMap<&str, &str> = NAMES.iter().copied().zip(values.iter().map(String::as_str)).collect();
            let values: Vec<(&str, &str)> = values.into_iter().collect();
            prop_assert_eq!(fill(&written, id, &values), wanted);
        }

        /// Nothing that can be written makes it fail in another way than by an error.
        #[test]
        fn whatever_is_written_is_a_template_or_an_error(written in "(\\{(id|parameters\\.|env\\.|file\\.)?|[a-z]{0,3}|\\})*") {
            _ = Template::parse(&written, &declared(&["a"]), Path::new("/nowhere"));
        }
    }
}
