//! The supervisor: a process of its own over one command, which holds the other end of a socket of the server's. When that
//! ends, because the run is over or the server is gone, however it went, the command and everything that came of it is
//! asked to end, and killed after a grace. It is the reaper of whatever its command leaves behind, so that nothing gets
//! away, not even by a double fork into a session of its own.
//!
//! It is one thread around `poll`, without a runtime: signals come as bytes of a descriptor, so that looking, killing and
//! reaping never race. A process that it kills by its number is its own child and not reaped, so that the number is nobody
//! else's.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, FromRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{
        Pid, Signal, WaitOptions, getpgid, getpid, kill_process, kill_process_group, set_child_subreaper,
        set_parent_process_death_signal, setsid, wait,
    },
    stdio::{dup2_stderr, dup2_stdout},
};

use super::order::{ASKED, KILL, Order, Report};

/// This process runs the supervisor where it is asked to, and so its executable can be given one.
static OFFERED: AtomicBool = AtomicBool::new(false);

/// While something is being killed, how often to look for more: the list of children may miss one that another left behind.
const KILL_AGAIN: Duration = Duration::from_millis(50);
/// The processes whose parent this thread is.
const CHILDREN: &str = "/proc/thread-self/children";
/// How a process that supervises is called in lists of processes; the kernel keeps 15 bytes.
const NAME: &str = "outflow-superv";

/// To be called first in `main` of a program that serves [`Exec`](super::Exec): where this process was started to supervise
/// a command, it does that, and never returns. Otherwise it notes that this program can, and returns at once.
///
/// Without it commands run all the same, and end with their run and with an orderly shutdown. But what left their process
/// group, and everything where the server itself is killed (`kill -9`), goes on.
///
/// ```no_run
/// outflow::supervise_if_asked();
/// // Arguments, runtime, server …
/// ```
pub fn supervise_if_asked() {
    let mut arguments = std::env::args_os();
    if arguments.next().is_some_and(|name| name == ASKED) {
        supervise(arguments);
        #[expect(clippy::disallowed_methods, reason = "this process has done what it was started for")]
        std::process::exit(0);
    }
    OFFERED.store(true, Ordering::Relaxed);
}

/// Whether a supervisor can be started from this process's own executable.
pub(super) fn is_offered() -> bool {
    OFFERED.load(Ordering::Relaxed)
}

fn supervise(arguments: impl Iterator<Item = OsString>) {
    let order = Order::from_arguments(arguments);
    let begun = order.ok_or(Report::CannotSupervise(libc::EINVAL)).and_then(|order| Supervisor::begin(&order));
    match begun {
        Ok(Some(mut supervisor)) => supervisor.watch(),
        // The server was gone before anything was started.
        Ok(None) => {}
        Err(report) => tell(report),
    }
}

/// Tells the server. Where that is gone nobody has to know.
fn tell(report: Report) {
    _ = rustix::io::write(io::stdin().as_fd(), &report.to_bytes());
}

/// A command that runs, and how far its end has come.
struct Supervisor {
    /// Its first process, and so the number of its group.
    leader: Pid,
    leader_is_alive: bool,
    /// Signals, as bytes.
    signals: OwnedFd,
    /// The server is at the other end of the socket.
    has_server: bool,
    grace: Duration,
    ending: Ending,
    /// Locked as long as this process lives.
    _held: Vec<File>,
}

/// Of what was started.
enum Ending {
    /// Nobody asked for it.
    No,
    /// All were asked to end, and those of them that are outside the group one by one.
    Asked { kill_at: Instant, asked: Vec<Pid> },
    /// All are killed, wherever they show up.
    Killing,
}

impl Supervisor {
    /// Starts the command; `None` where the server is gone.
    fn begin(order: &Order) -> Result<Option<Self>, Report> {
        let cannot = |error: io::Error| Report::CannotSupervise(error.raw_os_error().unwrap_or(libc::EIO));
        // Not named after the link it was started by. It is only for people.
        _ = fs::write("/proc/self/comm", NAME);
        let signals = take_signals().map_err(cannot)?;
        close_what_was_inherited();
        // No terminal reaches it or the command, with Ctrl-C or otherwise.
        setsid().map_err(|error| cannot(error.into()))?;
        set_child_subreaper(Some(getpid())).map_err(|error| cannot(error.into()))?;
        // Known before it is needed: a kernel may have been built without it (CONFIG_PROC_CHILDREN).
        fs::read(CHILDREN).map_err(cannot)?;
        let held = order.held.iter().map(|path| hold(path)).collect::<io::Result<_>>();
        let held = held.map_err(|error| Report::NotHeld(error.raw_os_error().unwrap_or(libc::EIO)))?;
        // From here on no other server takes up the runs of this one. If it is gone already, one may have.
        if server_is_gone().map_err(cannot)? {
            return Ok(None);
        }
        let leader =
            start(order).map_err(|error| Report::NotStarted(error.raw_os_error().unwrap_or(libc::EINVAL)))?;
        tell(Report::Started(leader.as_raw_nonzero().get()));
        Ok(Some(Self {
            leader,
            leader_is_alive: true,
            signals,
            has_server: true,
            grace: order.grace,
            ending: Ending::No,
            _held: held,
        }))
    }

    /// Until nothing of the command is left.
    fn watch(&mut self) {
        // The ends of its pipes are the command's alone: when that closes them, the server sees it.
        if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
            _ = dup2_stdout(&null);
            _ = dup2_stderr(&null);
        }
        loop {
            if self.reap() {
                return;
            }
            self.go_on_ending();
            self.wait();
        }
    }

    /// Takes note of everybody who has ended; says whether nobody is left.
    fn reap(&mut self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.leader && self.leader_is_alive => {
                    self.leader_is_alive = false;
                    tell(Report::Ended(status.as_raw()));
                }
                Ok(Some((pid, _))) => {
                    if let Ending::Asked { asked, .. } = &mut self.ending {
                        asked.retain(|other| *other != pid);
                    }
                }
                Ok(None) => return false,
                Err(rustix::io::Errno::INTR) => {}
                // No children are left, and a descendant's parent would be one.
                Err(_) => return true,
            }
        }
    }

    /// Waits for a child's end, a word of the server's, a signal, or the time to kill.
    fn wait(&mut self) {
        let time = match &self.ending {
            Ending::No => None,
            Ending::Asked { kill_at, .. } => Some(kill_at.saturating_duration_since(Instant::now())),
            Ending::Killing => Some(KILL_AGAIN),
        };
        let time = time.and_then(|time| Timespec::try_from(time).ok());
        let stdin = io::stdin();
        let mut waited = [PollFd::new(&self.signals, PollFlags::IN), PollFd::new(&stdin, PollFlags::IN)];
        let watched = if self.has_server { &mut waited[..] } else { &mut waited[..1] };
        if poll(watched, time.as_ref()).is_err() {
            return;
        }
        let [has_signal, has_word] = waited.map(|waited| !waited.revents().is_empty());
        if has_signal && self.is_signalled_to_end() {
            self.ask_to_end();
        }
        if self.has_server && has_word {
            let mut word = [0];
            match rustix::io::read(&stdin, &mut word) {
                Ok(1) if word[0] == KILL => self.ending = Ending::Killing,
                Ok(1) => self.ask_to_end(),
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                _ => {
                    self.has_server = false;
                    self.ask_to_end();
                }
            }
        }
        if matches!(self.ending, Ending::Asked { kill_at, .. } if kill_at <= Instant::now()) {
            self.ending = Ending::Killing;
        }
    }

    /// Whether somebody wants this process to end; otherwise a child has.
    fn is_signalled_to_end(&self) -> bool {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        let read = rustix::io::read(&self.signals, &mut info);
        // Its first field is the number.
        let number = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
        read.is_ok() && number != libc::SIGCHLD
    }

    fn ask_to_end(&mut self) {
        if matches!(self.ending, Ending::No) {
            self.ending = Ending::Asked { kill_at: Instant::now() + self.grace, asked: Vec::new() };
            self.signal_group(&children(), Signal::TERM);
        }
    }

    /// Reaches those who were not reached yet: a process that left the group becomes a child of this one when its parent is
    /// gone.
    fn go_on_ending(&mut self) {
        match &mut self.ending {
            Ending::No => {}
            Ending::Asked { asked, .. } => {
                for child in children() {
                    if !asked.contains(&child) && getpgid(Some(child)).is_ok_and(|group| group != self.leader) {
                        _ = kill_process(child, Signal::TERM);
                        asked.push(child);
                    }
                }
            }
            Ending::Killing => {
                let children = children();
                self.signal_group(&children, Signal::KILL);
                for child in children {
                    _ = kill_process(child, Signal::KILL);
                }
            }
        }
    }

    /// Signals the command's group, where that is known to be its still: the leader, or a child in it, holds its number.
    fn signal_group(&self, children: &[Pid], signal: Signal) {
        let in_group = |child: &Pid| getpgid(Some(*child)).is_ok_and(|group| group == self.leader);
        if self.leader_is_alive || children.iter().any(in_group) {
            _ = kill_process_group(self.leader, signal);
        }
    }
}

/// The children of this process that are not reaped.
fn children() -> Vec<Pid> {
    let list = fs::read_to_string(CHILDREN).unwrap_or_default();
    list.split_ascii_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

/// Takes a lock that whoever comes after the server waits for.
fn hold(path: &std::path::Path) -> io::Result<File> {
    let file = File::open(path)?;
    file.try_lock_shared()?;
    Ok(file)
}

fn server_is_gone() -> io::Result<bool> {
    let stdin = io::stdin();
    let mut waited = [PollFd::new(&stdin, PollFlags::IN)];
    poll(&mut waited, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(!waited[0].revents().is_empty())
}

/// All signals are taken as bytes, and mean to the command what they mean to a new process.
#[allow(unsafe_code, reason = "there are no safe names for these")]
fn take_signals() -> io::Result<OwnedFd> {
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset makes a whole set of it. The others are given that set and numbers only; no handler is installed,
    // and numbers that are no signals, or cannot be set, are refused (signal(2)). signalfd gives a descriptor of our own.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, all.as_ptr(), std::ptr::null_mut());
        for signal in 1..=libc::SIGRTMAX() {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::sigemptyset(all.as_mut_ptr());
        for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
            libc::sigaddset(all.as_mut_ptr(), signal);
        }
        match libc::signalfd(-1, all.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(io::Error::last_os_error()),
            descriptor => Ok(OwnedFd::from_raw_fd(descriptor)),
        }
    }
}

/// What the server itself inherited, and did not know of, does not reach commands.
#[allow(unsafe_code, reason = "there is no safe name for it")]
fn close_what_was_inherited() {
    // SAFETY: descriptors are only marked, to be closed in what this process starts. A kernel that does not know the call
    // (before 5.11) leaves them as they are.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// Starts the command in a group of its own.
#[allow(unsafe_code, reason = "what happens between fork and exec is not safe by itself")]
fn start(order: &Order) -> io::Result<Pid> {
    let mut command = Command::new(&order.program);
    command.args(&order.arguments).stdin(Stdio::null()).process_group(0);
    let ready = || {
        // It does not go on without this process.
        set_parent_process_death_signal(Some(Signal::KILL))?;
        let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset makes a whole set of it, which sigprocmask reads.
        let is_set = unsafe {
            libc::sigemptyset(none.as_mut_ptr());
            libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut())
        };
        if is_set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: it makes system calls only, and allocates nothing.
    unsafe { command.pre_exec(ready) };
    let child = command.spawn()?;
    Ok(Pid::from_child(&child))
}
