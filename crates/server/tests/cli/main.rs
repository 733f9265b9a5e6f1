//! The program itself, run as its users run it: real processes, real signals, real pipes.

mod damage;
mod data;
mod demo;
mod exec;
mod fetch;
mod journaled;
mod kills;
mod kills_mixed;
mod output;
mod output_kills;
mod program;
mod resuming;
mod runs;
mod serve;
