//! The store on disk: a live journal of our own, to which all runs are appended together, and an archive, in which ended
//! runs are looked up. It owns a directory, and all that is in it.

mod archive;
pub(crate) mod data;
mod directory;
mod embedded;
mod files;
mod log;
mod mover;

pub(crate) use embedded::{Settings, open};

#[cfg(test)]
mod tests;
