//! That no server takes up the runs of one before it while a command of that one lives: the supervisors of commands hold a
//! lock in the data directory, and who serves that directory next waits until it is free. It knows the file and who has to
//! wait, and nothing of commands or of what else is in the directory.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// The file in a data directory.
pub(crate) const FILE: &str = "commands";
/// The longest that what was started may take to end, once it is asked to: a bound on what can be configured.
pub(crate) const GRACE_MAX: Duration = Duration::from_secs(30);
/// How long it is waited for: the longest grace, and the time to die.
const PATIENCE: Duration = GRACE_MAX.saturating_add(Duration::from_secs(10));
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The files that whoever is started by this process has to hold. A process has one or none, but for tests, and what it
/// starts is started for all of them: this belongs to the process, and not to a server in it.
static HELD: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// The locks that a supervisor has to hold.
pub(crate) fn held() -> Vec<PathBuf> {
    HELD.lock().clone()
}

/// A directory whose next server waits for what this process starts, until this is dropped.
#[derive(Debug)]
pub(crate) struct Succession(PathBuf);

impl Succession {
    /// Waits until nothing lives that another process started for this directory, which has to be this process's by now,
    /// and has what is started from now on waited for by the next one.
    ///
    /// # Errors
    /// Where the file cannot be locked, or after forty seconds.
    pub(crate) fn begin(directory: &Path) -> io::Result<Self> {
        Self::begin_within(directory, PATIENCE)
    }

    fn begin_within(directory: &Path, patience: Duration) -> io::Result<Self> {
        // A command may have another directory.
        let path = std::path::absolute(directory.join(FILE))?;
        let file = File::options().write(true).create(true).truncate(false).open(&path)?;
        let until = Instant::now() + patience;
        let mut is_told = false;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(std::fs::TryLockError::Error(error)) => return Err(error),
                Err(std::fs::TryLockError::WouldBlock) if Instant::now() >= until => {
                    return Err(io::Error::other(format!(
                        "commands that an outflow started which is gone still run after {patience:?} (in lists of \
                         processes, they are below one that is called outflow-superv); end them and start again"
                    )));
                }
                Err(std::fs::TryLockError::WouldBlock) => {
                    if !std::mem::replace(&mut is_told, true) {
                        tracing::warn!(
                            "commands of an outflow that was killed are still ending; waiting, at most {patience:?}"
                        );
                    }
                    #[expect(clippy::disallowed_methods, reason = "a store is opened where a thread may block")]
                    std::thread::sleep(LOOK_AGAIN);
                }
            }
        }
        // Free again, for those that are started now.
        drop(file);
        HELD.lock().push(path.clone());
        Ok(Self(path))
    }
}

impl Drop for Succession {
    fn drop(&mut self) {
        let mut held = HELD.lock();
        if let Some(at) = held.iter().position(|path| *path == self.0) {
            held.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_next_waits_for_what_was_started_and_no_longer() {
        let directory = tempfile::tempdir().unwrap();
        let first = Succession::begin(directory.path()).unwrap();
        let path = held().into_iter().find(|path| path.starts_with(directory.path())).unwrap();
        // As a supervisor does.
        let command = File::open(&path).unwrap();
        command.try_lock_shared().unwrap();
        drop(first);
        assert!(!held().contains(&path), "nothing is started for a directory that is nobody's");

        let refused = Succession::begin_within(directory.path(), Duration::from_millis(50)).unwrap_err();
        assert!(refused.to_string().contains("still run after 50ms"), "{refused}");
        let ending = std::thread::spawn(move || drop(command));
        Succession::begin(directory.path()).unwrap();
        ending.join().unwrap();
    }
}
