//! The program itself, run as its users run it: real processes, real signals, real pipes.

mod data;
mod demo;
mod exec;
mod fetch;
mod journaled;
mod kills;
mod output;
mod output_kills;
mod program;
mod resuming;
mod runs;
mod serve;
