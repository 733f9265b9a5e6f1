//! `file`: a file below a root, in chunks, by line or up to a delimiter; what it had when it was asked for, or, followed, all
//! that is appended until somebody stops. It is opened before anything is started, so that what cannot be read is refused,
//! and the headers tell how long it is.

mod follow;
mod place;
mod reading;
mod watch;
mod whole;

use std::{fs::File, io, path::PathBuf, sync::Arc};

use outflow_engine::{
    Code, Emitter, Job, JobError, PayloadKind, Placement, Plan, Planning, Refusal, Request, Source,
};
use serde::Deserialize;

use self::place::{Identity, NotBelow, NotOpened};
use super::{
    Entry, Problem, Split, Template,
    parameters::{Asked, Declared},
};

/// Bytes of a chunk, where the configuration does not say.
const CHUNK_BYTES: usize = 64 * 1024;
/// Smaller ones cost more than what is in them, and larger ones are split by the engine.
const CHUNK_BYTES_RANGE: std::ops::RangeInclusive<usize> = 1024..=1024 * 1024;

/// Answers with files.
struct Files {
    root: PathBuf,
    path: Template,
    parameters: Declared,
    how: How,
    repeatable: bool,
}

/// How a file becomes responses.
#[derive(Clone, Debug)]
struct How {
    split: Split,
    chunk_bytes: usize,
    /// It goes on with what is appended.
    follow: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    root: String,
    path: String,
    #[serde(default = "chunks")]
    split: Split,
    chunk_bytes: Option<usize>,
    #[serde(default)]
    follow: bool,
}

fn chunks() -> Split {
    Split::Chunks
}

/// A source of its entry in a configuration.
pub(super) fn configured(entry: &mut Entry<'_>) -> Result<Box<dyn Source>, Problem> {
    let Settings { root, path, split, chunk_bytes, follow } = entry.settings()?;
    let root = entry.folder().join(entry.constant("root", &root)?.text());
    let metadata = root.metadata().map_err(|error| {
        entry.problem(
            "root",
            format_args!("root: {}: {error}; it is the folder that files are read from", root.display()),
        )
    })?;
    if !metadata.is_dir() {
        return Err(entry.problem("root", format_args!("root: {} is no folder", root.display())));
    }
    if let Some(bytes) = chunk_bytes
        && !CHUNK_BYTES_RANGE.contains(&bytes)
    {
        let (min, max) = (CHUNK_BYTES_RANGE.start(), CHUNK_BYTES_RANGE.end());
        return Err(entry.problem("chunk_bytes", format_args!("chunk_bytes: {min} to {max} bytes are wanted")));
    }
    if chunk_bytes.is_some() && split != Split::Chunks {
        let problem = "chunk_bytes: it is about split = \"chunks\"; remove it, or split so";
        return Err(entry.problem("chunk_bytes", problem));
    }
    let template = entry.template("path", &path)?;
    check(&template, entry)?;
    let how = How { split, chunk_bytes: chunk_bytes.unwrap_or(CHUNK_BYTES), follow };
    let (parameters, repeatable) = (entry.parameters().clone(), entry.repeatable(true));
    Ok(Box::new(Files { root, path: template, parameters, how, repeatable }))
}

/// What is wrong with a path whatever is asked for.
fn check(path: &Template, entry: &Entry<'_>) -> Result<(), Problem> {
    let written = path.to_string();
    if written.starts_with('/') {
        let problem =
            format_args!("path: `{written}` begins with `/`; it is below the root, which is named by `root`");
        return Err(entry.problem("path", problem));
    }
    if path.is_constant()
        && let Err(problem) = place::names(&path.text())
    {
        return Err(entry.problem("path", format_args!("path: `{written}`: {problem}")));
    }
    Ok(())
}

impl Source for Files {
    fn plan(&self, request: &Request) -> Result<Plan, Refusal> {
        let asked = self.parameters.asked(request)?;
        let path = self.path.fill(&asked);
        let names = place::names(&path).map_err(|problem| self.refusal(&asked, problem))?;
        let file = place::open(&self.root, &names).map_err(|error| not_opened(&error))?;
        let metadata = file.metadata().map_err(|error| not_opened(&error.into()))?;
        let (identity, bytes) = (Identity::of(&metadata), metadata.len());
        let file = Arc::new(file);

        let plan = Plan::new().payload(self.payload_kind()).placement(Placement::Reader);
        let plan = if self.repeatable { plan.repeatable() } else { plan };
        let how = self.how.clone();
        if how.follow {
            let root = self.root.clone();
            let names = names.into_iter().map(str::to_owned).collect();
            let basis = format!("{identity:?}");
            let job = Job::new(async move |emitter| follow::follow(file, identity, root, names, how, emitter).await);
            return Ok(plan.basis(basis).job(job));
        }
        let basis = format!("{identity:?} {bytes} {:?}", metadata.modified());
        let job = Job::new(async move |emitter| whole::whole(file, bytes, how, emitter).await);
        Ok(plan.basis(basis).expected_bytes(bytes).job(job))
    }

    /// Opening a file may take as long as a file system likes.
    fn planning(&self) -> Planning {
        Planning::Blocking
    }

    fn configuration(&self) -> String {
        format!("{} {:?} {:?}", self.root.display(), self.path, self.how)
    }
}

impl Files {
    fn payload_kind(&self) -> PayloadKind {
        if self.how.split == Split::Chunks { PayloadKind::Bytes } else { PayloadKind::Text }
    }

    /// Why a request makes no path, and which of its fields.
    fn refusal(&self, asked: &Asked, problem: NotBelow) -> Refusal {
        let is_guilty = |name: &String| place::names(asked.value(name)).is_err();
        let field = self.parameters.names().into_iter().find(is_guilty);
        let field = field.map_or_else(|| "parameters".to_owned(), |name| format!("parameters.{name}"));
        Refusal::invalid(field, format_args!("makes no path of a file: {problem}"))
    }
}

/// Why a file that is asked for cannot be had. The path is not told: secrets may be in it.
fn not_opened(error: &NotOpened) -> Refusal {
    let code = match error {
        NotOpened::Missing => Code::NotFound,
        NotOpened::Denied => Code::PermissionDenied,
        NotOpened::Full(_) => Code::ResourceExhausted,
        NotOpened::Failed(_) => Code::Unavailable,
    };
    if !matches!(error, NotOpened::Missing) {
        tracing::warn!("a file was asked for: {error}");
    }
    Refusal::Source(JobError::new(code, format_args!("the file cannot be read: {error}")))
}

fn not_read(error: &io::Error) -> JobError {
    JobError::new(Code::Internal, format_args!("the file cannot be read on: {error}"))
}

/// Where a job begins: at the start, or behind what it had emitted before a restart. Where the file does not have that any
/// more, it fails, and so ends the run as interrupted.
async fn begin_at(file: &Arc<File>, split: &Split, emitter: &Emitter) -> Result<u64, JobError> {
    let Some(before) = emitter.emitted_before() else { return Ok(0) };
    if emitter.payload_kind() == PayloadKind::Lossy {
        // What was replaced has another length. It is emitted again, and compared.
        return Ok(0);
    }
    let end = split.end().unwrap_or_default().to_vec();
    let file = file.clone();
    let found = tokio::task::spawn_blocking(move || whole::behind(&file, &before, &end)).await;
    let found = found.map_err(|error| not_read(&io::Error::other(error)))?.map_err(|error| not_read(&error))?;
    let at = found.ok_or_else(|| JobError::new(Code::Aborted, "the file is not what it was"))?;
    emitter.go_on();
    tracing::info!("request number : {} goes on at byte {at} of its file", emitter.job());
    Ok(at)
}
