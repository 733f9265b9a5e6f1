//! What is bound to a query: for each of its parameters a text of the configuration, filled for the request, and what it
//! means. A value never becomes a part of the query.

use outflow_engine::{Code, JobError};

use super::super::{
    Template,
    parameters::{Asked, Declared, Meaning},
    template::Sole,
};

/// What is bound to one parameter of a query.
#[derive(Debug)]
pub(super) struct Bind {
    template: Template,
    meaning: Meaning,
    /// The field of a request that it comes from, where it is one.
    field: Option<String>,
}

/// The same, for a request.
#[derive(Clone, Debug)]
pub(super) struct Bound {
    pub(super) text: String,
    pub(super) meaning: Meaning,
    pub(super) field: Option<String>,
}

impl Bind {
    /// `{id}` alone is a whole number, a parameter alone what it is declared as, and everything else a text.
    pub(super) fn new(template: Template, declared: &Declared) -> Self {
        let (meaning, field) = match template.sole() {
            Some(Sole::Id) => (Meaning::Integer, Some("id".into())),
            Some(Sole::Parameter(name)) => (declared.meaning(name), Some(format!("parameters.{name}"))),
            None => (Meaning::Text, None),
        };
        Self { template, meaning, field }
    }

    pub(super) fn fill(&self, asked: &Asked) -> Bound {
        Bound { text: self.template.fill(asked), meaning: self.meaning, field: self.field.clone() }
    }
}

impl Bound {
    /// What is said of it where it is wrong: the field, or where there is none which of the values it is.
    pub(super) fn name(&self, index: usize) -> String {
        self.field.clone().unwrap_or_else(|| format!("bind.{index}"))
    }
}

/// The query and `bind` do not speak of the same values.
pub(super) fn counts_differ(wanted: usize, given: usize) -> JobError {
    let problem =
        format_args!("the query has values up to ${wanted}, and `bind` gives {given}; the first of them is $1");
    JobError::new(Code::FailedPrecondition, problem)
}
