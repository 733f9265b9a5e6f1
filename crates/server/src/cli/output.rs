//! Where results go and how they look there: stdout or a file; lines, bare results or JSON; and a progress display
//! where the results themselves are out of sight. It knows responses, not how they came.

use std::{
    fs::File,
    io::{self, BufWriter, IsTerminal as _, Write},
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use clap::ValueEnum;
use indicatif::{HumanBytes, HumanCount, HumanDuration, ProgressBar, ProgressStyle};
use outflow_client::{Payload, Response};
use serde::Serialize;

use super::log;

/// Bytes gathered for one write.
const BUFFER_BYTES: usize = 64 * 1024;
/// A stream that is over sooner shows no progress.
const PROGRESS_AFTER: Duration = Duration::from_millis(500);

/// How responses are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// The tutorial's lines, with time stamps
    Log,
    /// The results, one per line, and nothing else
    Plain,
    /// One JSON object per response
    Json,
}

/// Where results are written.
pub(super) enum Output {
    Stdout(io::Stdout),
    File(File),
}

impl Output {
    /// The file at `path`, emptied, or stdout.
    pub(super) fn open(path: Option<&Path>) -> io::Result<Self> {
        let Some(path) = path else { return Ok(Self::Stdout(io::stdout())) };
        let file = File::create(path);
        file.map(Self::File).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    }

    pub(super) fn is_terminal(&self) -> bool {
        matches!(self, Self::Stdout(stdout) if stdout.is_terminal())
    }

    /// This output, where it is a pipe that somebody reads.
    pub(super) fn pipe(&self) -> Option<&Self> {
        let kind = rustix::fs::fstat(self).ok().map(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode));
        (kind == Some(rustix::fs::FileType::Fifo)).then_some(self)
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stdout(stdout) => stdout.as_fd(),
            Self::File(file) => file.as_fd(),
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            // Not through its own buffer, which looks for line ends: every batch is flushed as a whole anyway.
            Self::Stdout(stdout) => rustix::io::write(stdout, bytes).map_err(Into::into),
            Self::File(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Prints responses in one format.
pub(super) struct Printer {
    output: BufWriter<Output>,
    format: Format,
    progress: Option<Progress>,
}

impl Printer {
    pub(super) fn new(output: Output, format: Format) -> Self {
        // With a pipe, whoever reads it writes to the terminal.
        let out_of_sight = !output.is_terminal() && output.pipe().is_none();
        let progress = (out_of_sight && io::stderr().is_terminal()).then(Progress::new);
        Self { output: BufWriter::with_capacity(BUFFER_BYTES, output), format, progress }
    }

    pub(super) fn output(&self) -> &Output {
        self.output.get_ref()
    }

    /// Prints what has come, all of it before it returns.
    pub(super) fn print(&mut self, responses: &[Response]) -> io::Result<()> {
        for response in responses {
            let out = &mut self.output;
            match self.format {
                Format::Log => print_log(out, response)?,
                Format::Plain => print_plain(out, response)?,
                Format::Json => print_json(out, response)?,
            }
            if let Some(progress) = &mut self.progress {
                progress.count(response);
            }
        }
        self.output.flush()
    }

    /// Says that the stream ended, if it ended well, and closes the output.
    pub(super) fn finish(mut self, well: bool) -> io::Result<()> {
        if let Some(progress) = &self.progress {
            progress.finish();
        }
        if well && self.format == Format::Log {
            writeln!(self.output, "{} finished", log::time_stamp())?;
        }
        self.output.flush()?;
        match self.output.get_ref() {
            // What a full disk or a remote file system has not said yet, it says now.
            Output::File(file) => match file.sync_all() {
                // A device or a pipe by name cannot be synced and need not be.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
                synced => synced,
            },
            Output::Stdout(_) => Ok(()),
        }
    }
}

fn print_log(out: &mut impl Write, response: &Response) -> io::Result<()> {
    let stamp = log::time_stamp();
    match &response.payload {
        Payload::Text(text) => writeln!(out, "{stamp} Resp received: {text}"),
        Payload::Data(data) => writeln!(out, "{stamp} Resp received: {} bytes", data.len()),
        Payload::Error(error) => writeln!(out, "{stamp} job {} failed: {error}", response.job),
    }
}

fn print_plain(out: &mut impl Write, response: &Response) -> io::Result<()> {
    match &response.payload {
        Payload::Text(text) => {
            out.write_all(text.as_bytes())?;
            if response.partial { Ok(()) } else { out.write_all(b"\n") }
        }
        // A file that comes in chunks is put together again by writing them down.
        Payload::Data(data) => out.write_all(data),
        Payload::Error(error) => {
            tracing::error!("job {} failed: {error}", response.job);
            Ok(())
        }
    }
}

fn print_json(out: &mut impl Write, response: &Response) -> io::Result<()> {
    serde_json::to_writer(&mut *out, &Json::from(response))?;
    out.write_all(b"\n")
}

/// A response as JSON, its fields named as in the contract; bytes in base64, as protobuf's JSON mapping has them.
#[derive(Serialize)]
struct Json<'a> {
    sequence: u64,
    job: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    partial: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<JsonError<'a>>,
}

#[derive(Serialize)]
struct JsonError<'a> {
    code: i32,
    message: &'a str,
}

impl<'a> From<&'a Response> for Json<'a> {
    fn from(response: &'a Response) -> Self {
        let (mut result, mut data, mut error) = (None, None, None);
        match &response.payload {
            Payload::Text(text) => result = Some(text.as_str()),
            Payload::Data(bytes) => data = Some(BASE64_STANDARD.encode(bytes)),
            Payload::Error(job) => error = Some(JsonError { code: job.code.value(), message: job.message.as_str() }),
        }
        Self { sequence: response.sequence, job: response.job, result, data, partial: response.partial, error }
    }
}

/// How much has come and how fast, on stderr.
struct Progress {
    bar: ProgressBar,
    bytes: u64,
    responses: u64,
}

impl Progress {
    fn new() -> Self {
        let style = ProgressStyle::with_template("{spinner} {msg}").expect("the template is well-formed");
        let bar = ProgressBar::new_spinner().with_style(style);
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar, bytes: 0, responses: 0 }
    }

    fn count(&mut self, response: &Response) {
        self.responses += 1;
        self.bytes += match &response.payload {
            Payload::Text(text) => text.len() as u64,
            Payload::Data(data) => data.len() as u64,
            Payload::Error(_) => 0,
        };
        // Not for every one of millions.
        if self.responses.is_multiple_of(256) || self.bar.elapsed() < PROGRESS_AFTER {
            self.show();
        }
    }

    fn show(&self) {
        let elapsed = self.bar.elapsed();
        let per_second = self.bytes as f64 / elapsed.as_secs_f64().max(0.001);
        self.bar.set_message(format!(
            "{} responses, {}, {}/s, {}",
            HumanCount(self.responses),
            HumanBytes(self.bytes),
            HumanBytes(per_second as u64),
            HumanDuration(elapsed)
        ));
    }

    fn finish(&self) {
        self.show();
        if self.bar.elapsed() < PROGRESS_AFTER { self.bar.finish_and_clear() } else { self.bar.finish() }
    }
}
