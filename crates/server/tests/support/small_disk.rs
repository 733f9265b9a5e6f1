//! A real disk that is soon full, mounted for one test. Only root may do that.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// A mounted disk. Dropping it takes it away.
pub(crate) struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// One of so many MiB in memory, whose room is there at once when a file is cut or removed.
    pub(crate) fn tmpfs(mib: u64) -> Self {
        let disk = Self::folder();
        command("mount", &["-t", "tmpfs", "-o", &format!("size={mib}m"), "outflow-test", text(&disk.path())]);
        disk
    }

    /// One of so many MiB with a journal, which decides only when it is synced where what was written lies.
    pub(crate) fn ext4(mib: u64) -> Self {
        let disk = Self::folder();
        let image = disk.folder.path().join("image");
        File::create(&image).unwrap().set_len(mib << 20).unwrap();
        command("mkfs.ext4", &["-q", text(&image)]);
        command("mount", &["-o", "loop", text(&image), text(&disk.path())]);
        disk
    }

    fn folder() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("disk")).unwrap();
        Self { folder }
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Where it was not mounted, or somebody still uses it, there is nothing more to be done.
        _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn command(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
}
