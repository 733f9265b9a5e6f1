//! Log lines with the tutorial's time stamp, `2006/01/02 15:04:05`, in local time. Lines are written by a thread of
//! their own, so that a slow terminal or pipe holds up no stream.

use std::{fmt, io, str::FromStr};

use jiff::Zoned;
use tracing::{Event, Level, Subscriber, level_filters::LevelFilter};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    Layer as _,
    filter::Targets,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    layer::SubscriberExt as _,
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

/// Lines that may wait for a slow reader of the log before new ones are dropped.
const LINES_MAX: usize = 65_536;

/// What is logged.
#[derive(Clone, Debug)]
pub(super) struct Filter(Targets);

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wanted = "write error, warn, info, debug, trace or off, or per part as in `info,outflow=debug`";
        // `Targets` would take a level with a spelling mistake for the name of a part.
        if let Some(part) = text.split(',').find(|part| !part.contains('=') && part.parse::<LevelFilter>().is_err()) {
            return Err(format!("`{part}` is no level; {wanted}"));
        }
        let asked = text.parse::<Targets>().map_err(|error| format!("{error}; {wanted}"))?;
        // These format every frame, and h2 does so in the middle of a stream; only who names them gets that.
        let quiet = ["h2", "hyper", "hyper_util", "tower"].into_iter().filter(|part| !text.contains(part));
        Ok(Self(quiet.fold(asked, |targets, part| targets.with_target(part, LevelFilter::INFO))))
    }
}

/// Writes what is logged until the returned guard is dropped, which writes the rest.
pub(super) fn start(filter: &Filter, to: impl io::Write + Send + 'static) -> WorkerGuard {
    let (writer, guard) = NonBlockingBuilder::default().buffered_lines_limit(LINES_MAX).finish(to);
    let lines =
        tracing_subscriber::fmt::layer().event_format(Lines).with_writer(writer).with_filter(filter.0.clone());
    tracing_subscriber::registry().with(lines).init();
    guard
}

/// The time stamp at the start of a line.
pub(super) fn time_stamp() -> impl fmt::Display {
    Zoned::now().strftime("%Y/%m/%d %H:%M:%S").to_string()
}

/// One line an event: the time stamp and the message, and before it what the tutorial's lines do not need.
struct Lines;

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        write!(writer, "{} ", time_stamp())?;
        let metadata = event.metadata();
        if *metadata.level() >= Level::DEBUG {
            write!(writer, "{} {}: ", metadata.level(), metadata.target())?;
        }
        let mut message = String::new();
        context.field_format().format_fields(Writer::new(&mut message), event)?;
        // One event stays one line, whatever a stranger's request or a command's stderr puts into it.
        for character in message.chars() {
            if character.is_control() {
                write!(writer, "{}", character.escape_default())?
            } else {
                writer.write_char(character)?
            }
        }
        writeln!(writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_begins_with_the_tutorials_time_stamp() {
        let stamp = time_stamp().to_string();
        let shape: String = stamp.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "0000/00/00 00:00:00");
    }

    #[test]
    fn frames_are_logged_only_for_who_names_their_library() {
        let enabled = |filter: &str| filter.parse::<Filter>().unwrap().0.would_enable("h2::codec", &Level::DEBUG);
        assert!(!enabled("trace"));
        assert!(enabled("info,h2=debug"));
        assert!("loud".parse::<Filter>().is_err());
    }
}
