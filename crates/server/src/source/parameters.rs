//! What requests of a configured source may say: parameters, each declared with a pattern or a type, and checked before
//! anything of them gets into a command, a path, a query or a URL.

use std::collections::BTreeMap;

use outflow_engine::{Refusal, Request};
use regex::Regex;
use serde::Deserialize;

/// A longer value needs a pattern that says so.
const TEXT_BYTES_MAX: usize = 1024;

/// The parameters of a source.
#[derive(Clone, Debug, Default)]
pub(crate) struct Declared(BTreeMap<String, Parameter>);

#[derive(Clone, Debug)]
struct Parameter {
    kind: Kind,
    /// What it is where a request has none; without it, it is wanted.
    default: Option<String>,
}

#[derive(Clone, Debug)]
enum Kind {
    /// All of the value matches.
    Pattern(Regex),
    Text,
    Integer {
        min: i64,
        max: i64,
    },
    Number,
    Boolean,
}

/// What a value is, beside its text.
#[cfg(feature = "sql")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    Text,
    Integer,
    Number,
    Boolean,
}

/// `parameters.NAME = { … }`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ParameterFile {
    pattern: Option<String>,
    r#type: Option<TypeFile>,
    min: Option<i64>,
    max: Option<i64>,
    default: Option<toml::Value>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum TypeFile {
    Text,
    Integer,
    Number,
    Boolean,
}

/// What a request asks: its id, and values each of which is as it was declared.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    id: i32,
    values: BTreeMap<String, String>,
}

impl Asked {
    pub(crate) fn id(&self) -> i32 {
        self.id
    }

    /// The value of a parameter that is declared.
    pub(crate) fn value(&self, name: &str) -> &str {
        self.values.get(name).expect("a template names only what is declared, and what is declared has a value")
    }
}

impl Declared {
    /// The table `parameters` of a source.
    ///
    /// # Errors
    /// With the parameter, and what is wrong with it.
    pub(crate) fn new(files: BTreeMap<String, ParameterFile>) -> Result<Self, (String, String)> {
        let declare = |(name, file): (String, ParameterFile)| {
            let parameter = if name.is_empty() || name.contains(['{', '}', '\0']) {
                Err("a name has at least a letter, and no braces".into())
            } else {
                Parameter::new(file)
            };
            match parameter {
                Ok(parameter) => Ok((name, parameter)),
                Err(problem) => Err((name, problem)),
            }
        };
        files.into_iter().map(declare).collect::<Result<_, _>>().map(Self)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// What the values of a parameter are.
    #[cfg(feature = "sql")]
    pub(crate) fn meaning(&self, name: &str) -> Meaning {
        match self.0.get(name).map(|parameter| &parameter.kind) {
            Some(Kind::Integer { .. }) => Meaning::Integer,
            Some(Kind::Number) => Meaning::Number,
            Some(Kind::Boolean) => Meaning::Boolean,
            Some(Kind::Pattern(_) | Kind::Text) | None => Meaning::Text,
        }
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    /// What a request asks, with what stands for values that it does not say.
    ///
    /// # Errors
    /// For one that is not declared, is not as it was declared, or is missing.
    pub(crate) fn asked(&self, request: &Request) -> Result<Asked, Refusal> {
        let field = |name: &str| format!("parameters.{name}");
        let asked = request.parameters();
        if let Some(unknown) = asked.keys().find(|name| !self.has(name)) {
            let known = match &self.names()[..] {
                [] => "this source takes none".to_owned(),
                names => format!("this source takes {}", names.join(", ")),
            };
            return Err(Refusal::invalid(field(unknown), format_args!("is no parameter; {known}")));
        }
        let value = |(name, parameter): (&String, &Parameter)| {
            let Some(value) = asked.get(name).or(parameter.default.as_ref()) else {
                return Err(Refusal::invalid(field(name), format_args!("is missing; {} is wanted", parameter.kind)));
            };
            if !parameter.kind.allows(value) {
                return Err(Refusal::invalid(
                    field(name),
                    format_args!("is not allowed; {} is wanted", parameter.kind),
                ));
            }
            Ok((name.clone(), value.clone()))
        };
        let values = self.0.iter().map(value).collect::<Result<_, _>>()?;
        Ok(Asked { id: request.id(), values })
    }
}

impl Parameter {
    fn new(file: ParameterFile) -> Result<Self, String> {
        if (file.min.is_some() || file.max.is_some()) && file.r#type != Some(TypeFile::Integer) {
            return Err("min and max are for type = \"integer\"".into());
        }
        let kind = match (file.pattern, file.r#type) {
            (Some(pattern), None) => {
                // By itself first, so that what is wrong is told of what was written, and no bracket of ours is closed by it.
                Regex::new(&pattern).map_err(|error| error.to_string())?;
                Kind::Pattern(Regex::new(&format!(r"\A(?:{pattern})\z")).map_err(|error| error.to_string())?)
            }
            (None, Some(TypeFile::Text)) => Kind::Text,
            (None, Some(TypeFile::Integer)) => {
                Kind::Integer { min: file.min.unwrap_or(i64::MIN), max: file.max.unwrap_or(i64::MAX) }
            }
            (None, Some(TypeFile::Number)) => Kind::Number,
            (None, Some(TypeFile::Boolean)) => Kind::Boolean,
            _ => return Err("it has either a pattern or a type (text, integer, number, boolean)".into()),
        };
        let default = match file.default {
            None => None,
            Some(toml::Value::String(text)) => Some(text),
            Some(value @ (toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_))) => {
                Some(value.to_string())
            }
            Some(_) => return Err("default: a text, a number, true or false is wanted".into()),
        };
        if let Some(default) = default.as_ref().filter(|default| !kind.allows(default)) {
            return Err(format!("default = {default:?}: {kind} is wanted"));
        }
        Ok(Self { kind, default })
    }
}

impl Kind {
    fn allows(&self, value: &str) -> bool {
        // Nothing that values get into can hold it.
        if value.contains('\0') {
            return false;
        }
        match self {
            Self::Pattern(pattern) => pattern.is_match(value),
            Self::Text => value.len() <= TEXT_BYTES_MAX,
            Self::Integer { min, max } => {
                // As it is written anywhere: `+1` and `01` would be other texts for the same number.
                value
                    .parse::<i64>()
                    .is_ok_and(|number| (*min..=*max).contains(&number) && number.to_string() == value)
            }
            Self::Number => {
                let plain = value.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
                plain && value.parse::<f64>().is_ok_and(f64::is_finite)
            }
            Self::Boolean => matches!(value, "true" | "false"),
        }
    }
}

/// What is wanted.
impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pattern(pattern) => {
                let whole = pattern.as_str();
                write!(
                    f,
                    "what matches {}",
                    whole.strip_prefix(r"\A(?:").and_then(|rest| rest.strip_suffix(r")\z")).unwrap_or(whole)
                )
            }
            Self::Text => write!(f, "a text of at most {TEXT_BYTES_MAX} bytes"),
            Self::Integer { min: i64::MIN, max: i64::MAX } => f.write_str("a whole number"),
            Self::Integer { min, max } => write!(f, "a whole number from {min} to {max}"),
            Self::Number => f.write_str("a number"),
            Self::Boolean => f.write_str("true or false"),
        }
    }
}

#[cfg(test)]
mod tests {
    use outflow_engine::{Limits, Principal};
    use outflow_proto::protobuf;
    use proptest::prelude::*;

    use super::*;

    fn declared(text: &str) -> Declared {
        Declared::new(toml::from_str(text).unwrap()).unwrap()
    }

    fn ask(declared: &Declared, values: &[(&str, &str)]) -> Result<Asked, String> {
        let parameters = values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let request = protobuf::Request { id: 7, parameters: parameters.collect(), ..Default::default() };
        declared
            .asked(&Request::parse(request, Principal::default(), &Limits::default()).unwrap())
            .map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn values_are_as_they_were_declared() {
        let one = |declaration: &str| declared(&format!("p = {declaration}"));
        let cases: [(&str, &[&str], &[&str]); 7] = [
            (
                "{ pattern = '[a-z0-9-]{1,4}' }",
                &["a", "a-1", "0000"],
                &["", "abcde", "A", "a\n", "\na", "a\0", "../x"],
            ),
            // Neither alternative is looked for in the middle.
            ("{ pattern = 'a|b' }", &["a", "b"], &["ab", "xb", "ax"]),
            ("{ type = 'text' }", &["", "é\n", "{id}"], &["\0"]),
            (
                "{ type = 'integer' }",
                &["0", "-7", "9223372036854775807"],
                &["", "+1", "01", "-0", "1.0", "9223372036854775808", " 1"],
            ),
            ("{ type = 'integer', min = 1, max = 5 }", &["1", "5"], &["0", "6", "-1"]),
            ("{ type = 'number' }", &["0", "-1.5e3", "1e-9"], &["", "nan", "inf", "-inf", "1_0", "0x1", "1e999"]),
            ("{ type = 'boolean' }", &["true", "false"], &["", "TRUE", "1"]),
        ];
        for (declaration, good, bad) in cases {
            for value in good {
                assert_eq!(ask(&one(declaration), &[("p", value)]).unwrap().value("p"), *value, "{declaration}");
            }
            for value in bad {
                let told = ask(&one(declaration), &[("p", value)]).unwrap_err();
                assert!(
                    told.starts_with("parameters.p") && told.contains("is wanted"),
                    "{declaration} {value:?}: {told}"
                );
            }
        }
        let told = ask(&one("{ type = 'text' }"), &[("p", &"x".repeat(TEXT_BYTES_MAX + 1))]).unwrap_err();
        assert!(told.contains("1024"), "{told}");
    }

    #[test]
    fn what_is_missing_or_unknown_is_named() {
        let both = declared("a = { type = 'text' }\nb = { type = 'integer', default = 5 }");
        let asked = ask(&both, &[("a", "x")]).unwrap();
        assert_eq!((asked.id(), asked.value("a"), asked.value("b")), (7, "x", "5"));
        let told = ask(&both, &[("b", "1")]).unwrap_err();
        assert!(told.contains("parameters.a") && told.contains("missing"), "{told}");
        let told = ask(&both, &[("a", ""), ("c", "")]).unwrap_err();
        assert!(told.contains("parameters.c") && told.contains("a, b"), "{told}");
        let told = ask(&Declared::default(), &[("c", "")]).unwrap_err();
        assert!(told.contains("takes none"), "{told}");
    }

    proptest! {
        /// Of a pattern without what stands for more, only what it says goes through.
        #[test]
        fn a_pattern_holds_for_all_of_a_value(value in "\\PC{0,12}|[a-z/.\\n-]{0,12}") {
            let declared = declared("p = { pattern = '[a-z0-9-]{1,8}' }");
            let good = (1..=8).contains(&value.len())
                && value.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
            prop_assert_eq!(ask(&declared, &[("p", &value)]).is_ok(), good);
        }
    }
}
