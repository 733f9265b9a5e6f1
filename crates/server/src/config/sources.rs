//! The sources of a configuration: what all kinds have, read the same way for each, around what the kind makes of the rest
//! of its table.

use std::{collections::BTreeSet, path::Path, time::Duration};

use outflow_engine::{JobErrors, PayloadKind, Plan, Planning, Refusal, Request, Source, SourceOptions, Sources};
use serde::Deserialize;
use toml::{Spanned, de::DeTable};

use super::{Time, ids::Ids};
use crate::source::{Entry, KINDS, LACKING, Problem, nearest};

/// One `[[source]]`, checked.
pub(super) struct Configured {
    name: String,
    default: bool,
    options: SourceOptions,
    source: Planned,
}

impl Configured {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The sources with this one.
    pub(super) fn add_to(self, sources: Sources) -> Sources {
        let sources = if self.default { sources.default_to(&self.name) } else { sources };
        sources.source_with(self.name, self.source, self.options)
    }
}

/// What a table says that is the same for all kinds. Names and order of [`COMMON`].
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct CommonFile {
    ids: Vec<Ids>,
    default: bool,
    shared: bool,
    reuse: Option<Time>,
    linger: Option<Time>,
    keep: Option<u64>,
    jobs_at_once: Option<usize>,
    repeatable: Option<bool>,
    job_errors: Option<JobErrorsFile>,
    payload: Option<PayloadFile>,
    time_limit: Option<Time>,
    output_limit: Option<u64>,
    runs_at_once: Option<usize>,
}

const COMMON: &[&str] = &[
    "ids",
    "default",
    "shared",
    "reuse",
    "linger",
    "keep",
    "jobs_at_once",
    "repeatable",
    "job_errors",
    "payload",
    "time_limit",
    "output_limit",
    "runs_at_once",
];

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum JobErrorsFile {
    Fail,
    FailFast,
    Tolerate,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum PayloadFile {
    Text,
    Lossy,
    Bytes,
}

/// Reads the tables of a file in `folder`.
///
/// # Errors
/// For whatever is wrong in one of them, or between two.
pub(super) fn read(tables: Vec<Spanned<DeTable<'_>>>, folder: &Path) -> Result<Vec<Configured>, Problem> {
    let mut sources = Vec::with_capacity(tables.len());
    let mut names = BTreeSet::new();
    let mut default: Option<String> = None;
    let mut claims: Vec<(Ids, String)> = Vec::new();
    for table in tables {
        let mut entry = Entry::new(table, folder, COMMON);
        let name = name(&mut entry)?;
        entry.set_name(&name);
        let told = |Problem { at, text }| Problem { at, text: format!("source `{name}`: {text}") };
        if !names.insert(name.clone()) {
            return Err(entry.problem("name", format_args!("two sources are called `{name}`; rename one")));
        }
        let (source, common) = source(&mut entry).map_err(told)?;
        if common.default
            && let Some(other) = default.replace(name.clone())
        {
            return Err(told(
                entry.problem("default", format_args!("`{other}` is the default source already; choose one")),
            ));
        }
        for (n, ids) in common.ids.iter().enumerate() {
            if let Some((theirs, other)) = claims.iter().find(|(theirs, _)| theirs.overlap(ids)) {
                let problem = if *other == name {
                    format!("ids: {ids} and {theirs} overlap")
                } else {
                    format!("ids: {ids} overlaps {theirs}, which source `{other}` claims")
                };
                return Err(told(entry.problem(&format!("ids.{n}"), problem)));
            }
            claims.push((ids.clone(), name.clone()));
        }
        let options = common.options();
        sources.push(Configured { default: common.default, options, source, name });
    }
    Ok(sources)
}

fn name(entry: &mut Entry<'_>) -> Result<String, Problem> {
    let name = entry.take_text("name")?;
    let name = name.ok_or_else(|| entry.problem("", "a source has no `name`"))?;
    if (1..=64).contains(&name.len()) {
        Ok(name)
    } else {
        Err(entry.problem("name", "a source's name has 1 to 64 bytes"))
    }
}

/// What answers, of the kind that the table names.
fn source(entry: &mut Entry<'_>) -> Result<(Planned, CommonFile), Problem> {
    let kinds = || KINDS.iter().map(|(name, _)| *name);
    let known = || kinds().collect::<Vec<_>>().join(", ");
    let kind = entry.take_text("kind")?;
    let kind = kind.ok_or_else(|| entry.problem("", format_args!("it has no `kind`; there are {}", known())))?;
    let Some((_, make)) = KINDS.iter().find(|(name, _)| *name == kind) else {
        if LACKING.contains(&&*kind) {
            let problem =
                format!("kind `{kind}`: this outflow was built without it; build it with --features {kind}");
            return Err(entry.problem("kind", problem));
        }
        let near = nearest(&kind, kinds()).map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
        return Err(entry.problem("kind", format_args!("kind `{kind}` is not known; there are {}{near}", known())));
    };
    let common: CommonFile = entry.take(COMMON)?;
    common.check(entry)?;
    entry.set_repeatable(common.repeatable);
    entry.take_parameters()?;
    let source = make(entry)?;
    let planned = Planned {
        source,
        payload: common.payload.map(Into::into),
        job_errors: common.job_errors.map(Into::into),
        jobs_at_once: common.jobs_at_once,
        time_limit: common.time_limit.map(|Time(time)| time),
        output_limit: common.output_limit,
    };
    Ok((planned, common))
}

impl CommonFile {
    fn check(&self, entry: &Entry<'_>) -> Result<(), Problem> {
        let zero = [
            ("keep", self.keep == Some(0), "the bytes of an endless run that are kept"),
            ("jobs_at_once", self.jobs_at_once == Some(0), "how many jobs of a run are under way at once"),
            ("output_limit", self.output_limit == Some(0), "the bytes that a run may answer with"),
            ("runs_at_once", self.runs_at_once == Some(0), "how many runs of this source are under way at once"),
            ("time_limit", self.time_limit.is_some_and(|Time(time)| time.is_zero()), "how long a run may take"),
        ];
        if let Some((key, _, what)) = zero.into_iter().find(|(_, is_zero, _)| *is_zero) {
            return Err(entry.problem(key, format_args!("{key}: it is {what}, and more than 0")));
        }
        if self.reuse.is_some() && !self.shared {
            let problem = "reuse: it is about shared runs; add shared = true, or remove it";
            return Err(entry.problem("reuse", problem));
        }
        Ok(())
    }

    /// How runs are kept.
    fn options(&self) -> SourceOptions {
        let mut options = SourceOptions::new().ids(self.ids.iter().map(|Ids(ids)| ids.clone()));
        if self.shared {
            options = options.shared(self.reuse.map_or(Duration::ZERO, |Time(reuse)| reuse));
        }
        if let Some(Time(linger)) = self.linger {
            options = options.linger(linger);
        }
        if let Some(runs) = self.runs_at_once {
            options = options.runs_at_once(runs);
        }
        if let Some(bytes) = self.keep {
            options = options.keep_bytes(bytes);
        }
        options
    }
}

/// A source whose plans are as its table says.
struct Planned {
    source: Box<dyn Source>,
    payload: Option<PayloadKind>,
    job_errors: Option<JobErrors>,
    jobs_at_once: Option<usize>,
    time_limit: Option<Duration>,
    output_limit: Option<u64>,
}

impl Source for Planned {
    fn plan(&self, request: &Request) -> Result<Plan, Refusal> {
        let mut plan = self.source.plan(request)?;
        if let Some(payload) = self.payload {
            plan = plan.payload(payload);
        }
        if let Some(job_errors) = self.job_errors {
            plan = plan.job_errors(job_errors);
        }
        if let Some(jobs) = self.jobs_at_once {
            plan = plan.jobs_at_once(jobs);
        }
        if let Some(time) = self.time_limit {
            plan = plan.time_limit(time);
        }
        if let Some(bytes) = self.output_limit {
            plan = plan.output_limit(bytes);
        }
        Ok(plan)
    }

    fn planning(&self) -> Planning {
        self.source.planning()
    }

    /// Bounds are not part of it: who sets another one wants runs to go on within that.
    fn configuration(&self) -> String {
        format!("{} {:?} {:?}", self.source.configuration(), self.payload, self.job_errors)
    }
}

impl From<JobErrorsFile> for JobErrors {
    fn from(errors: JobErrorsFile) -> Self {
        match errors {
            JobErrorsFile::Fail => JobErrors::Fail,
            JobErrorsFile::FailFast => JobErrors::FailFast,
            JobErrorsFile::Tolerate => JobErrors::Tolerate,
        }
    }
}

impl From<PayloadFile> for PayloadKind {
    fn from(payload: PayloadFile) -> Self {
        match payload {
            PayloadFile::Text => PayloadKind::Text,
            PayloadFile::Lossy => PayloadKind::Lossy,
            PayloadFile::Bytes => PayloadKind::Bytes,
        }
    }
}
