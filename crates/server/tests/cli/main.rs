//! The program itself, run as its users run it: real processes, real signals, real pipes.

#[path = "../support/network.rs"]
#[allow(unreachable_pub, reason = "other tests use it, too")]
mod network;

mod bad_ways;
mod bench;
mod bench_others;
mod config;
mod damage;
mod data;
mod demo;
mod exec;
mod exec_ends;
mod exec_settings;
mod fetch;
mod file;

#[cfg(feature = "http")]
mod http;
mod journaled;
mod kills;
mod kills_mixed;
mod output;
mod output_kills;
mod program;
mod proxy;
mod resuming;
mod runs;
mod serve;
#[cfg(feature = "sql")]
mod sql;
#[cfg(feature = "sql")]
mod sql_postgres;
