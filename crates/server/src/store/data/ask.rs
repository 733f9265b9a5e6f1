//! How a command asks the server that uses a data directory: over a Unix socket in it, one question at a time. It knows
//! the way of the words, and neither what they mean nor who answers.
//!
//! A question is its length (4 bytes, big-endian) and its bytes. An answer is one byte, 0 where it was done and 1 where it
//! was not, and the text of why not up to the end of the stream.

use std::{
    fs, io,
    io::{Read as _, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// The socket's name in the directory.
const NAME: &str = "control";
/// No question is longer: a word, and a path.
const QUESTION_BYTES_MAX: u32 = 8 * 1024;
/// Who connects and then says nothing is not waited for longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// A socket's path has to be shorter than this on every system.
const PATH_BYTES_MAX: usize = 100;

/// Answers questions until it is dropped.
#[derive(Debug)]
pub(in super::super) struct Asked {
    directory: PathBuf,
    is_ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Asked {
    /// Listens in a directory that this process alone uses. `answer` is given each question, and a flag that tells it to
    /// give up because the server ends.
    ///
    /// # Errors
    /// Where the socket or the thread cannot be made.
    pub(in super::super) fn listen(
        directory: &Path,
        answer: impl Fn(&[u8], &AtomicBool) -> Result<(), String> + Send + 'static,
    ) -> io::Result<Self> {
        // What a process that was killed left behind.
        match fs::remove_file(directory.join(NAME)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = at_socket(directory, |path| UnixListener::bind(path))?;
        let is_ending = Arc::new(AtomicBool::new(false));
        let ending = Arc::clone(&is_ending);
        let thread = thread::Builder::new().name("outflow-control".to_owned()).spawn(move || {
            for stream in listener.incoming() {
                if ending.load(Ordering::Acquire) {
                    return;
                }
                let answered = stream.and_then(|stream| serve(stream, |question| answer(question, &ending)));
                if let Err(error) = answered {
                    // Who asked is gone, and nobody else is to be told.
                    tracing::debug!("a command went away without its answer: {error}");
                }
            }
        })?;
        Ok(Self { directory: directory.to_owned(), is_ending, thread: Some(thread) })
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.is_ending.store(true, Ordering::Release);
        // It waits for a connection, so it is given one.
        let woken = at_socket(&self.directory, |path| UnixStream::connect(path));
        if let Some(thread) = self.thread.take()
            && woken.is_ok()
        {
            // A thread that panicked has said so itself.
            _ = thread.join();
        }
        _ = fs::remove_file(self.directory.join(NAME));
    }
}

/// Asks whoever uses the directory; `None` where nobody does, or nobody who answers.
///
/// # Errors
/// The answer, where it was not done; or that none came.
pub(super) fn ask(directory: &Path, question: &[u8]) -> Option<Result<(), String>> {
    let stream = at_socket(directory, |path| UnixStream::connect(path)).ok()?;
    Some(answer_of(stream, question).unwrap_or_else(|error| {
        Err(format!("the server that uses {} gave no answer: {error}; look at its log", directory.display()))
    }))
}

fn answer_of(mut stream: UnixStream, question: &[u8]) -> io::Result<Result<(), String>> {
    stream.write_all(&(question.len() as u32).to_be_bytes())?;
    stream.write_all(question)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    match answer.split_first() {
        Some((0, _)) => Ok(Ok(())),
        Some((_, why)) => Ok(Err(String::from_utf8_lossy(why).into_owned())),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn serve(mut stream: UnixStream, answer: impl Fn(&[u8]) -> Result<(), String>) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > QUESTION_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut question = vec![0; length as usize];
    stream.read_exact(&mut question)?;
    match answer(&question) {
        Ok(()) => stream.write_all(&[0]),
        Err(why) => stream.write_all(&[&[1], why.as_bytes()].concat()),
    }
}

/// Does something with the socket's path: its own, or where that is too long one that leads to it.
fn at_socket<T>(directory: &Path, with: impl Fn(&Path) -> io::Result<T>) -> io::Result<T> {
    let path = directory.join(NAME);
    if path.as_os_str().len() < PATH_BYTES_MAX {
        return with(&path);
    }
    let directory = fs::File::open(directory)?;
    with(&Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(NAME))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(directory: &Path) -> Asked {
        Asked::listen(directory, |question, _| match question {
            b"good" => Ok(()),
            other => Err(format!("what is {}?", String::from_utf8_lossy(other))),
        })
        .unwrap()
    }

    #[test]
    fn a_question_is_answered_and_nobody_answers_where_nobody_listens() {
        let short = tempfile::tempdir().unwrap();
        let long = short.path().join("x".repeat(150));
        fs::create_dir(&long).unwrap();
        for directory in [short.path(), &long] {
            assert_eq!(ask(directory, b"good"), None);
            let asked = listen(directory);
            assert_eq!(ask(directory, b"good"), Some(Ok(())));
            assert_eq!(ask(directory, b"bad"), Some(Err("what is bad?".to_owned())));
            drop(asked);
            assert_eq!(ask(directory, b"good"), None);
            assert!(!directory.join(NAME).exists());
        }
    }

    #[test]
    fn what_a_killed_process_left_behind_is_in_nobodys_way() {
        let directory = tempfile::tempdir().unwrap();
        drop(UnixListener::bind(directory.path().join(NAME)).unwrap());
        assert_eq!(ask(directory.path(), b"good"), None);
        let _asked = listen(directory.path());
        assert_eq!(ask(directory.path(), b"good"), Some(Ok(())));
    }

    #[test]
    fn whoever_goes_away_or_asks_too_much_is_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let _asked = listen(directory.path());
        let connect = || UnixStream::connect(directory.path().join(NAME)).unwrap();
        drop(connect());
        connect().write_all(&[0, 0, 0, 9, 1]).unwrap();
        connect().write_all(&[0xff; 8]).unwrap();
        let too_long = ask(directory.path(), &vec![b'x'; QUESTION_BYTES_MAX as usize + 1]);
        assert!(matches!(too_long, Some(Err(_))), "{too_long:?}");
        assert_eq!(ask(directory.path(), b"good"), Some(Ok(())));
    }

    #[test]
    fn a_long_answer_is_told_when_the_server_ends() {
        let directory = tempfile::tempdir().unwrap();
        let asked = Asked::listen(directory.path(), |_, is_ending| {
            while !is_ending.load(Ordering::Acquire) {
                thread::yield_now();
            }
            Err("the server is shutting down".to_owned())
        })
        .unwrap();
        let path = directory.path().to_owned();
        let asking = thread::spawn(move || ask(&path, b"wait"));
        let deadline = std::time::Instant::now() + Duration::from_millis(50);
        while std::time::Instant::now() < deadline {
            thread::yield_now();
        }
        drop(asked);
        assert_eq!(asking.join().unwrap(), Some(Err("the server is shutting down".to_owned())));
    }
}
