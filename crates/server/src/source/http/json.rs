//! A table of a configuration as JSON, each text of it with places. A value that a request says is always a JSON string, or
//! a part of one: it can become nothing else.

use serde_json::{Map, Value};

use crate::source::{Entry, Problem, Template, parameters::Asked};

/// JSON with places.
#[derive(Debug)]
pub(super) enum Json {
    Text(Template),
    Constant(Value),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// The value at `key` of this entry.
    pub(super) fn new(entry: &Entry<'_>, key: &str, value: &toml::Value) -> Result<Self, Problem> {
        Ok(match value {
            toml::Value::String(text) => Self::Text(entry.template(key, text)?),
            toml::Value::Integer(number) => Self::Constant((*number).into()),
            toml::Value::Boolean(is) => Self::Constant((*is).into()),
            toml::Value::Float(number) if number.is_finite() => Self::Constant((*number).into()),
            toml::Value::Float(_) => return Err(entry.problem(key, format_args!("{key}: JSON has no such number"))),
            toml::Value::Datetime(time) => Self::Constant(time.to_string().into()),
            toml::Value::Array(values) => {
                let values = values.iter().enumerate();
                Self::Array(
                    values
                        .map(|(n, value)| Self::new(entry, &format!("{key}.{n}"), value))
                        .collect::<Result<_, _>>()?,
                )
            }
            toml::Value::Table(table) => {
                let member = |(name, value): (&String, &toml::Value)| {
                    Ok((name.clone(), Self::new(entry, &format!("{key}.{name}"), value)?))
                };
                Self::Object(table.iter().map(member).collect::<Result<_, _>>()?)
            }
        })
    }

    /// The value for a request.
    pub(super) fn fill(&self, asked: &Asked) -> Value {
        match self {
            Self::Text(template) => template.fill(asked).into(),
            Self::Constant(value) => value.clone(),
            Self::Array(values) => values.iter().map(|value| value.fill(asked)).collect(),
            Self::Object(members) => {
                members.iter().map(|(name, value)| (name.clone(), value.fill(asked))).collect::<Map<_, _>>().into()
            }
        }
    }

    /// Shows each text of it.
    pub(super) fn templates(&self, show: &mut impl FnMut(&Template)) {
        match self {
            Self::Text(template) => show(template),
            Self::Constant(_) => {}
            Self::Array(values) => values.iter().for_each(|value| value.templates(show)),
            Self::Object(members) => members.iter().for_each(|(_, value)| value.templates(show)),
        }
    }
}
