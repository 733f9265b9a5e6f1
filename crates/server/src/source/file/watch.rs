//! Hears of it when something happens to a file, where the kernel tells: Linux does, by inotify, up to its limit on who
//! listens (`fs.inotify.max_user_instances`). It knows nothing of what is done then.

use std::fs::File;

use tokio::time::Instant;

#[cfg(target_os = "linux")]
mod told {
    use std::{
        fs::File,
        io,
        os::fd::{AsRawFd as _, OwnedFd},
    };

    use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
    use tokio::io::{Interest, unix::AsyncFd};

    /// Whom the kernel tells.
    pub(super) struct Told(AsyncFd<OwnedFd>);

    impl Told {
        /// Of what happens to this file, whatever it is called by now.
        pub(super) fn of(file: &File) -> io::Result<Self> {
            let told = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
            // Written, cut; its names (a file that was replaced lost one), which is all that is told while it is open.
            let of = WatchFlags::MODIFY | WatchFlags::ATTRIB | WatchFlags::MOVE_SELF | WatchFlags::DELETE_SELF;
            inotify::add_watch(&told, format!("/proc/self/fd/{}", file.as_raw_fd()), of)?;
            // Deprecated for types that lend others' descriptors; this one owns its own.
            #[expect(deprecated, reason = "what took its place is unsafe, and an OwnedFd is sound")]
            let told = AsyncFd::with_interest(told, Interest::READABLE)?;
            Ok(Self(told))
        }

        /// Resolves when it was told something. What it was does not matter, since whoever waits looks.
        pub(super) async fn something(&self) -> io::Result<()> {
            let mut heard = self.0.readable().await?;
            let mut events = [0; 4096];
            loop {
                match rustix::io::read(heard.get_inner(), &mut events) {
                    Ok(1..) | Err(rustix::io::Errno::INTR) => {}
                    Err(rustix::io::Errno::AGAIN) => break,
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Err(error) => return Err(error.into()),
                }
            }
            heard.clear_ready();
            Ok(())
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod told {
    use std::{fs::File, io};

    pub(super) enum Told {}

    impl Told {
        pub(super) fn of(_: &File) -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(super) async fn something(&self) -> io::Result<()> {
            match *self {}
        }
    }
}

/// Hears of a file.
pub(super) struct Watch(Option<told::Told>);

impl Watch {
    /// What happens to `file` from here on.
    pub(super) fn new(file: &File) -> Self {
        let told = told::Told::of(file);
        if let Err(error) = &told {
            tracing::debug!("nobody tells when a file grows, so it is looked at often: {error}");
        }
        Self(told.ok())
    }

    /// Whether somebody tells.
    pub(super) fn is_told(&self) -> bool {
        self.0.is_some()
    }

    /// Resolves when something happened, but not before `earliest`, and at `latest`.
    pub(super) async fn changed(&mut self, earliest: Instant, latest: Instant) {
        let Some(told) = &self.0 else { return tokio::time::sleep_until(latest).await };
        match tokio::time::timeout_at(latest, told.something()).await {
            Ok(Ok(())) => tokio::time::sleep_until(earliest).await,
            Ok(Err(error)) => {
                tracing::debug!("nobody tells any more when a file grows: {error}");
                self.0 = None;
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, time::Duration};

    use super::*;

    const HANGS_AFTER: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn what_happens_to_a_file_is_heard_and_otherwise_it_is_looked_at_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut file = File::create(&path).unwrap();
        let mut watch = Watch::new(&file);
        let began = Instant::now();
        let changes: [&dyn Fn(&mut File); 4] = [
            &|file| file.write_all(b"more").unwrap(),
            &|file| file.set_len(0).unwrap(),
            &|_| std::fs::rename(&path, folder.path().join("log.1")).unwrap(),
            &|_| std::fs::remove_file(folder.path().join("log.1")).unwrap(),
        ];
        if watch.is_told() {
            for change in changes {
                change(&mut file);
                watch.changed(began, began + HANGS_AFTER).await;
            }
            assert!(began.elapsed() < HANGS_AFTER);
        }
        let latest = Instant::now() + Duration::from_millis(20);
        Watch(None).changed(latest, latest).await;
        assert!(Instant::now() >= latest);
    }
}
