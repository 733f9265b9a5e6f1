//! Nothing outside the root can be reached, however it is asked for and whatever is moved meanwhile.

use std::{
    fs,
    io::Read as _,
    os::unix::{fs::symlink, net::UnixListener},
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use proptest::prelude::*;
use rustix::fs::{FileType, RenameFlags, mknodat, renameat_with};
use tempfile::TempDir;

use super::*;

const WALKS: [Walk; 2] = [Walk::Kernel, Walk::Names];
const SECRET: &str = "outside";

/// A folder with a root in it, and with what nobody is to see beside that.
struct Folders {
    _all: TempDir,
    outside: PathBuf,
    root: PathBuf,
}

fn folders() -> Folders {
    let all = tempfile::tempdir().unwrap();
    let (outside, root) = (all.path().join("outside"), all.path().join("root"));
    fs::create_dir_all(outside.join("sub")).unwrap();
    fs::create_dir_all(root.join("sub/deep")).unwrap();
    fs::write(outside.join("secret"), SECRET).unwrap();
    fs::write(outside.join("sub/a"), SECRET).unwrap();
    fs::write(root.join("a"), "a").unwrap();
    fs::write(root.join("sub/a"), "sub/a").unwrap();
    fs::write(root.join("sub/deep/a"), "sub/deep/a").unwrap();
    Folders { _all: all, outside, root }
}

/// What is read there; what has names that are none is not opened.
fn read(walk: Walk, root: &Path, path: &str) -> Result<String, String> {
    let names = names(path).map_err(|problem| format!("{problem:?}"))?;
    let mut file = open_by(walk, root, &names).map_err(|error| match error {
        NotOpened::Missing => "missing".to_owned(),
        error => format!("{error:?}"),
    })?;
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    Ok(text)
}

fn each(check: impl Fn(&dyn Fn(&Path, &str) -> Result<String, String>, Walk)) {
    for walk in WALKS {
        check(&|root, path| read(walk, root, path), walk);
    }
}

fn missing() -> Result<String, String> {
    Err("missing".into())
}

#[test]
fn what_is_below_the_root_is_there_also_where_the_root_is_a_link() {
    let folders = folders();
    let link = folders.root.with_file_name("link");
    symlink(&folders.root, &link).unwrap();
    each(|read, walk| {
        for root in [&folders.root, &link] {
            for path in ["a", "sub/a", "sub/deep/a"] {
                assert_eq!(read(root, path), Ok(path.into()), "{walk:?}");
            }
            for path in ["b", "sub/b", "no/a", "a/a", "a/b/c"] {
                assert_eq!(read(root, path), missing(), "{path} {walk:?}");
            }
        }
    });
}

#[test]
fn what_is_no_name_is_not_looked_for() {
    let long = "x".repeat(256);
    let deep = "x/".repeat(2048) + "x";
    let not = [
        ("", NotBelow::Empty),
        ("/", NotBelow::Empty),
        ("/etc/passwd", NotBelow::Empty),
        ("//etc/passwd", NotBelow::Empty),
        ("sub//a", NotBelow::Empty),
        ("sub/", NotBelow::Empty),
        ("..", NotBelow::Dots),
        ("../outside/secret", NotBelow::Dots),
        ("sub/../../outside/secret", NotBelow::Dots),
        ("sub/..", NotBelow::Dots),
        (".", NotBelow::Dots),
        ("./a", NotBelow::Dots),
        ("a\0.csv", NotBelow::Zero),
        ("sub/\0", NotBelow::Zero),
        (&long, NotBelow::Long),
        (&deep, NotBelow::Long),
    ];
    for (path, why) in not {
        assert_eq!(names(path), Err(why), "{path:?}");
    }
    assert_eq!(names(&long[1..]).map(|names| names.len()), Ok(1));
    assert_eq!(names(&deep[2..]).map(|names| names.len()), Ok(2048));
}

#[test]
fn encodings_mean_nothing() {
    let folders = folders();
    let coded = [
        "%2e%2e/outside/secret",
        "%2e%2e%2foutside%2fsecret",
        "..%2foutside",
        "..\\outside\\secret",
        "...",
        "．．",
        "~",
    ];
    each(|read, walk| {
        for path in coded {
            assert_eq!(read(&folders.root, path), missing(), "{path} {walk:?}");
        }
    });
    // And are names like others.
    fs::create_dir(folders.root.join("%2e%2e")).unwrap();
    fs::write(folders.root.join("%2e%2e/a"), "per cent").unwrap();
    fs::write(folders.root.join("..\\a"), "backslash").unwrap();
    each(|read, _| {
        assert_eq!(read(&folders.root, "%2e%2e/a"), Ok("per cent".into()));
        assert_eq!(read(&folders.root, "..\\a"), Ok("backslash".into()));
    });
}

#[test]
fn links_lead_nowhere_outside() {
    let folders = folders();
    let (root, outside) = (&folders.root, &folders.outside);
    symlink(outside.join("secret"), root.join("absolute")).unwrap();
    symlink("../outside/secret", root.join("relative")).unwrap();
    symlink(outside, root.join("folder")).unwrap();
    symlink("../../outside", root.join("sub/up")).unwrap();
    symlink("absolute", root.join("twice")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    symlink(root.join("a"), root.join("absolute-to-inside")).unwrap();
    symlink("/proc/self/root/etc/passwd", root.join("magic")).unwrap();
    each(|read, walk| {
        for path in [
            "absolute",
            "relative",
            "folder/secret",
            "folder/sub/a",
            "sub/up/secret",
            "twice",
            "loop",
            "absolute-to-inside",
            "magic",
        ] {
            assert_eq!(read(root, path), missing(), "{path} {walk:?}");
        }
    });
}

#[test]
fn links_that_stay_below_the_root_are_followed_where_the_kernel_sees_to_it() {
    let folders = folders();
    symlink("sub/a", folders.root.join("latest")).unwrap();
    symlink("sub", folders.root.join("current")).unwrap();
    symlink("../a", folders.root.join("sub/above")).unwrap();
    for (path, text) in [("latest", "sub/a"), ("current/deep/a", "sub/deep/a"), ("sub/above", "a")] {
        assert_eq!(read(Walk::Kernel, &folders.root, path), Ok(text.into()));
        assert_eq!(read(Walk::Names, &folders.root, path), missing());
    }
}

#[test]
fn only_files_are_read_and_nothing_is_waited_for() {
    let folders = folders();
    let root = &folders.root;
    mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let _socket = UnixListener::bind(root.join("socket")).unwrap();
    each(|read, walk| {
        for path in ["sub", "pipe", "socket"] {
            assert_eq!(read(root, path), missing(), "{path} {walk:?}");
        }
    });
    // A device where this may make one; and that of the system, which everybody may open.
    let null = mknodat(CWD, root.join("null"), FileType::CharacterDevice, Mode::from_raw_mode(0o666), 0x103);
    each(|read, walk| {
        assert_eq!(read(root, "null"), missing(), "{null:?} {walk:?}");
        assert_eq!(read(Path::new("/dev"), "null"), missing(), "{walk:?}");
    });
}

#[test]
fn a_pipe_that_is_asked_for_ends_nobodys_wait() {
    let folders = folders();
    let pipe = folders.root.join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let is_opened = AtomicBool::new(false);
    thread::scope(|threads| {
        threads.spawn(|| {
            // Waits until somebody reads.
            drop(fs::File::options().write(true).open(&pipe).unwrap());
            is_opened.store(true, Ordering::Relaxed);
        });
        for _ in 0..500 {
            each(|read, _| assert_eq!(read(&folders.root, "pipe"), missing()));
            thread::yield_now();
        }
        let was_opened = is_opened.load(Ordering::Relaxed);
        drop(fs::File::open(&pipe).unwrap());
        assert!(!was_opened, "who waited was told that somebody reads");
    });
}

#[test]
fn what_the_server_may_not_read_is_denied_and_no_more_is_told() {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

    let folders = folders();
    let root = folders.root.clone();
    for (path, mode) in [("a", 0), ("sub", 0o600)] {
        fs::set_permissions(root.join(path), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }
    // Of this thread only: root may read everything, unless it has no capabilities.
    let denied = thread::spawn(move || {
        let mut mine = capabilities(None).unwrap();
        mine.effective.remove(CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH);
        set_capabilities(None, mine).unwrap();
        WALKS.map(|walk| ["a", "sub/a", "sub/none"].map(|path| read(walk, &root, path)))
    });
    let denied = denied.join().unwrap();
    assert_eq!(denied, WALKS.map(|_| ["a", "sub/a", "sub/none"].map(|_| Err("Denied".into()))));
}

/// Reads again and again while `exchange` is done again and again.
fn while_exchanging(walk: Walk, root: &Path, path: &str, exchange: [&Path; 2]) -> (usize, usize) {
    let is_over = AtomicBool::new(false);
    thread::scope(|threads| {
        threads.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                renameat_with(CWD, exchange[0], CWD, exchange[1], RenameFlags::EXCHANGE).unwrap();
            }
        });
        let (mut inside, mut missing) = (0, 0);
        for _ in 0..3_000 {
            match read(walk, root, path).as_deref() {
                Ok(SECRET) => {
                    is_over.store(true, Ordering::Relaxed);
                    panic!("what is outside was read");
                }
                Ok(_) => inside += 1,
                Err(_) => missing += 1,
            }
        }
        is_over.store(true, Ordering::Relaxed);
        (inside, missing)
    })
}

#[test]
fn a_link_that_is_put_in_the_place_of_a_folder_or_a_file_meanwhile_leads_nowhere() {
    let folders = folders();
    let root = &folders.root;
    symlink(&folders.outside, root.join("link")).unwrap();
    symlink("../outside/sub/a", root.join("file-link")).unwrap();
    for walk in WALKS {
        let (inside, missing) = while_exchanging(walk, root, "sub/a", [&root.join("sub"), &root.join("link")]);
        assert!(inside + missing == 3_000, "{walk:?}: {inside} inside");
        let (inside, missing) = while_exchanging(walk, root, "a", [&root.join("a"), &root.join("file-link")]);
        assert!(inside + missing == 3_000, "{walk:?}: {inside} inside");
    }
}

#[test]
fn a_folder_that_is_moved_out_meanwhile_takes_nobody_with_it() {
    let folders = folders();
    let (root, outside) = (&folders.root, &folders.outside);
    // Through `deep/..` one would come to what is above, if `deep` were moved.
    symlink("deep/../a", root.join("sub/through")).unwrap();
    fs::create_dir_all(outside.join("sub/deep")).unwrap();
    for walk in WALKS {
        while_exchanging(walk, root, "sub/through", [&root.join("sub/deep"), &outside.join("sub/deep")]);
    }
}

#[test]
fn a_file_is_told_from_another_by_more_than_its_name() {
    let folders = folders();
    let identity = |path: &str| Identity::of(&folders.root.join(path).metadata().unwrap());
    let before = identity("a");
    fs::write(folders.root.join("a"), "another content").unwrap();
    assert_eq!(identity("a"), before, "the same file");
    fs::rename(folders.root.join("a"), folders.root.join("b")).unwrap();
    assert_eq!(identity("b"), before, "also by another name");
    // So that a time of birth differs, however coarse the clock of the file system is.
    #[expect(clippy::disallowed_methods, reason = "a test's thread may wait")]
    thread::sleep(Duration::from_millis(20));
    fs::remove_file(folders.root.join("b")).unwrap();
    fs::write(folders.root.join("a"), "a").unwrap();
    assert_ne!(identity("a"), before, "also where it was given the same inode");
}

fn any_path() -> impl Strategy<Value = String> {
    let known = ["sub", "deep", "a", "up", "folder", "outside", "secret", "root"];
    let trick = ["..", ".", "", "/", "%2e%2e", "..\\", "..\0"];
    let part = prop_oneof![
        8 => prop::sample::select(known.to_vec()).prop_map(str::to_owned),
        2 => prop::sample::select(trick.to_vec()).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    let between = prop_oneof![8 => Just("/"), 2 => prop::sample::select(vec!["//", "/./", "/../", "\\", "%2f"])];
    (prop::collection::vec(part, 1..5), between).prop_map(|(parts, between)| parts.join(between))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_asked_for_nothing_outside_is_read(path in any_path()) {
        thread_local!(static FOLDERS: Folders = {
            let folders = folders();
            symlink("../outside", folders.root.join("folder")).unwrap();
            symlink("..", folders.root.join("up")).unwrap();
            symlink("../..", folders.root.join("sub/up")).unwrap();
            folders
        });
        FOLDERS.with(|folders| {
            for walk in WALKS {
                match read(walk, &folders.root, &path) {
                    Ok(text) => {
                        prop_assert!(text != SECRET);
                        // Without links each path is its own content.
                        let canonical = folders.root.join(&path).canonicalize().unwrap();
                        prop_assert!(canonical.starts_with(folders.root.canonicalize().unwrap()));
                    }
                    Err(why) => prop_assert!(!why.contains("Failed"), "{}", why),
                }
            }
            Ok(())
        })?;
    }
}
