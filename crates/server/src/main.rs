//! The composition root: arguments in, exit code out. Where the process was started to supervise a command, it is that.

use std::process::ExitCode;

fn main() -> ExitCode {
    outflow::supervise_if_asked();
    outflow::cli::run()
}
