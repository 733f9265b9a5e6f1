//! Runs this program under callgrind, and reads how many instructions that took. It knows nothing of what is done.

use std::{env, fs, path::PathBuf, process::Command};

use crate::{
    Outcome,
    counted::{Threads, Work},
};

/// Processors differ, and glibc chooses by them how it copies and fills (16 % of what `emit` takes, here): without these it
/// takes what every x86-64 processor has. A libc ignores names that it does not know.
const SAME_EVERYWHERE: &str = "glibc.cpu.hwcaps=-AVX2,-AVX_Fast_Unaligned_Load,-ERMS,-FSRM,-SSSE3,-SSE4_2";

/// Rounds where a second thread takes part: whether one of the two has to wait for the other makes a percent or two. What
/// disturbs only adds, so the least counts.
const ROUNDS: u32 = 3;

/// Instructions that one unit of `work` takes.
///
/// # Errors
/// Where valgrind is not there, or the work fails.
pub(crate) fn count(work: &Work) -> Outcome<f64> {
    if cfg!(debug_assertions) || cfg!(not(target_arch = "x86_64")) {
        return Err("what is recorded are the instructions of a release build for x86-64".into());
    }
    let mut least = u64::MAX;
    for _ in 0..if work.threads == Threads::Two { ROUNDS } else { 1 } {
        let once = total(work, work.times)?;
        let twice = total(work, 2 * work.times)?;
        least = least.min(twice.saturating_sub(once));
    }
    Ok(least as f64 / work.times as f64)
}

fn total(work: &Work, times: u64) -> Outcome<u64> {
    let out = folder()?.join(format!("{}.{times}", work.name));
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--quiet", "--fair-sched=yes"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(env::current_exe()?)
        .args(["--do", work.name, &times.to_string()])
        // Nothing that is inherited makes a difference, be it only in length.
        .env_clear()
        .env("GLIBC_TUNABLES", SAME_EVERYWHERE);
    let output = command
        .output()
        .map_err(|error| format!("cannot run valgrind, which the distribution has as a package: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{} under valgrind: {}\n{said}", work.name, output.status).into());
    }
    let counted = fs::read_to_string(&out)?;
    let total = counted.lines().find_map(|line| line.strip_prefix("totals: "));
    let total = total.ok_or_else(|| format!("{} has no line of totals", out.display()))?;
    Ok(total.trim().parse()?)
}

/// Where callgrind's files stay, for `callgrind_annotate`.
pub(crate) fn folder() -> Outcome<PathBuf> {
    // Beside this program, which is in `target/release`.
    let program = env::current_exe()?;
    let target = program.parent().and_then(|release| release.parent()).ok_or("this program lies in no folder")?;
    let folder = target.join("counts");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}
