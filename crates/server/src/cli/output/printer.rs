//! How results look: lines, bare results or JSON. It knows responses, not how they came, and writes all of a batch before
//! it takes the next. What a response looks like depends on nothing that was printed before it: so a file that is gone on
//! with is the file that one attempt would have made.

use std::{
    fmt,
    io::{self, BufWriter, IsTerminal as _, Write},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use clap::ValueEnum;
use outflow_client::{Payload, Response};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    super::{log, wait::Interrupt},
    Output,
    kept::Kept,
    paced::Paced,
    progress::Progress,
};

/// Bytes gathered for one write.
const BUFFER_BYTES: usize = 64 * 1024;

/// How responses are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::cli) enum Format {
    /// The tutorial's lines, with time stamps
    Log,
    /// The results, one per line, and nothing else
    Plain,
    /// One JSON object per response
    Json,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value().expect("no format is hidden");
        f.write_str(value.get_name())
    }
}

/// How it came that nothing more is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Ending {
    /// All that was asked for is there, and all is well.
    Well,
    /// All is there that there will ever be, and the run says that it is not well.
    Failed,
    /// There is more, or may be.
    Cut,
    /// The output takes no more.
    Unwritten,
}

/// What is written out, whole.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::cli) struct Printed {
    pub(in crate::cli) responses: u64,
    /// The sequence of the last of them.
    pub(in crate::cli) last: Option<u64>,
}

/// Prints responses in one format.
pub(in crate::cli) struct Printer {
    output: BufWriter<Paced>,
    format: Format,
    progress: Option<Progress>,
    printed: Printed,
}

impl Printer {
    /// With `interrupt` it is not waited for ever for who reads the output.
    pub(in crate::cli) fn new(output: Output, format: Format, interrupt: Option<Interrupt>) -> Self {
        // With a pipe, whoever reads it writes to the terminal.
        let out_of_sight = !output.is_terminal() && output.pipe().is_none();
        let progress = (out_of_sight && io::stderr().is_terminal()).then(Progress::new);
        let output = BufWriter::with_capacity(BUFFER_BYTES, Paced::new(output, interrupt));
        Self { output, format, progress, printed: Printed::default() }
    }

    /// About so many bytes will be there in the end, where that is known: those that are in the file already, too.
    pub(in crate::cli) fn expect(&mut self, bytes: Option<u64>) {
        let before = self.kept().map_or(0, Kept::bytes);
        if let Some(progress) = &mut self.progress {
            progress.expect(bytes, before);
        }
    }

    pub(in crate::cli) fn output(&self) -> &Output {
        &self.output.get_ref().output
    }

    /// The file that results are written to, where that is one.
    pub(in crate::cli) fn kept(&self) -> Option<&Kept> {
        if let Output::Kept(kept) = self.output() { Some(kept) } else { None }
    }

    /// What is written out.
    pub(in crate::cli) fn printed(&self) -> Printed {
        self.printed
    }

    /// When [`note`](Self::note) is due.
    pub(in crate::cli) fn due(&self) -> Option<Instant> {
        self.kept().and_then(Kept::due)
    }

    /// Makes durable what is printed, so that it need not be asked for again.
    pub(in crate::cli) fn note(&mut self) -> io::Result<()> {
        if let Output::Kept(kept) = &mut self.output.get_mut().output {
            kept.note()?;
        }
        Ok(())
    }

    /// Prints what has come, all of it before it returns.
    pub(in crate::cli) fn print(&mut self, responses: &[Response]) -> io::Result<()> {
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
        self.output.flush()?;
        let Some(last) = responses.last() else { return Ok(()) };
        let count = responses.len() as u64;
        self.printed = Printed { responses: self.printed.responses + count, last: Some(last.sequence) };
        if let Output::Kept(kept) = &mut self.output.get_mut().output {
            kept.count(count, last.sequence)?;
        }
        Ok(())
    }

    /// Says that the stream ended, if it ended well, and closes the output, which it gives back.
    pub(in crate::cli) fn finish(mut self, ending: Ending) -> (Output, io::Result<()>) {
        if let Some(progress) = &self.progress {
            progress.finish();
        }
        let written = if ending == Ending::Unwritten { Ok(()) } else { self.write_end(ending) };
        // What could not be written is not tried again when it is dropped.
        let (Paced { mut output, .. }, _) = self.output.into_parts();
        let closed = written.and_then(|()| output.close(ending));
        (output, closed)
    }

    fn write_end(&mut self, ending: Ending) -> io::Result<()> {
        if ending == Ending::Well && self.format == Format::Log {
            writeln!(self.output, "{} finished", log::time_stamp())?;
        }
        self.output.flush()
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
