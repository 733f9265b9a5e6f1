//! A file that goes on growing, as `tail -F` follows it: what is appended comes at once, a file that was put in its place is
//! read from its start, and so is one that was cut. It ends when the run does.

use std::{fs::File, io, path::PathBuf, sync::Arc, time::Duration};

use outflow_engine::{Emitter, JobError};
use tokio::time::Instant;

use super::{
    How, begin_at, not_read,
    place::{self, Identity},
    reading::Reading,
    watch::Watch,
    whole::{Output, read_bytes},
};

/// How often it is looked whether the name leads to another file, also where nothing was heard: not all file systems tell,
/// and those that are shared over a network tell only what happens on this machine.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The same where nobody tells anything.
const LOOK_OFTEN: Duration = Duration::from_millis(250);
/// And while the name leads nowhere: the next file will be there soon.
const LOOK_SOON: Duration = Duration::from_millis(100);
/// Looks that somebody caused are no closer together, whatever happens to a file.
const LOOKS_APART: Duration = Duration::from_millis(10);

/// Where the file is found again.
#[derive(Clone)]
struct Place {
    root: PathBuf,
    names: Arc<[String]>,
}

/// What a look found.
enum Found {
    /// The same file, which is so long.
    Same(u64),
    /// For now the name leads nowhere; the file is so long.
    Moved(u64),
    /// Another one; the one that was followed is so long.
    Other(File, Identity, u64),
}

impl Place {
    /// It may block.
    fn look(&self, file: &File, identity: Identity) -> io::Result<Found> {
        let bytes = file.metadata()?.len();
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let Ok(found) = place::open(&self.root, &names) else { return Ok(Found::Moved(bytes)) };
        let theirs = Identity::of(&found.metadata()?);
        Ok(if theirs == identity { Found::Same(bytes) } else { Found::Other(found, theirs, bytes) })
    }
}

/// A file that is followed.
struct Followed {
    file: Arc<File>,
    identity: Identity,
    reading: Reading,
    watch: Watch,
}

impl Followed {
    fn new(file: Arc<File>, identity: Identity, at: u64, how: &How) -> Self {
        // Before it is read: what is appended from here on is heard of.
        let watch = Watch::new(&file);
        Self { reading: Reading::new(file.clone(), at, read_bytes(how)).growing(), file, identity, watch }
    }

    /// Emits all that is there before `end`; says whether that was anything.
    async fn emit(&mut self, end: u64, output: &mut Output<'_>) -> Result<bool, JobError> {
        let mut is_any = false;
        loop {
            let piece = self.reading.next(end).await.map_err(|error| not_read(&error))?;
            if piece.is_empty() {
                return Ok(is_any);
            }
            is_any = true;
            output.emit(piece).await?;
        }
    }

    async fn look(&self, place: &Place) -> Result<Found, JobError> {
        let (place, file, identity) = (place.clone(), self.file.clone(), self.identity);
        let looked = tokio::task::spawn_blocking(move || place.look(&file, identity)).await;
        looked.map_err(io::Error::other).flatten().map_err(|error| not_read(&error))
    }
}

/// Emits what is in a file, and what is appended to it and to its successors.
pub(super) async fn follow(
    file: Arc<File>,
    identity: Identity,
    root: PathBuf,
    names: Vec<String>,
    how: How,
    emitter: Emitter,
) -> Result<(), JobError> {
    let at = begin_at(&file, &how.split, &emitter).await?;
    let place = Place { root, names: names.into() };
    let mut followed = Followed::new(file, identity, at, &how);
    let mut output = Output::new(&how, &emitter);
    let mut looked = Instant::now();
    loop {
        let is_any = followed.emit(u64::MAX, &mut output).await?;
        let mut pause = followed.pause();
        if !is_any || looked.elapsed() >= pause {
            let found = followed.look(&place).await?;
            looked = Instant::now();
            match found {
                Found::Other(file, identity, bytes) => {
                    // What was written before its successor came.
                    followed.emit(bytes, &mut output).await?;
                    output.finish().await?;
                    followed = Followed::new(Arc::new(file), identity, 0, &how);
                    continue;
                }
                Found::Same(bytes) | Found::Moved(bytes) if bytes < followed.reading.at() => {
                    output.finish().await?;
                    followed = Followed::new(followed.file, followed.identity, 0, &how);
                    continue;
                }
                Found::Same(bytes) | Found::Moved(bytes) if bytes > followed.reading.at() => continue,
                Found::Same(_) => {}
                Found::Moved(_) => pause = LOOK_SOON,
            }
        }
        followed.reading.rest();
        output.rest();
        followed.watch.changed(looked + LOOKS_APART, looked + pause).await;
    }
}

impl Followed {
    fn pause(&self) -> Duration {
        if self.watch.is_told() { LOOK_EVERY } else { LOOK_OFTEN }
    }
}
