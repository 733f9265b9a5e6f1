//! What keeps a store from being opened: it is said, names the file, and nothing is changed.

use std::{fs, sync::Arc};

use outflow_engine::{Record, StoreError};

use super::{
    super::{
        Settings,
        archive::Archive,
        data,
        embedded::{Embedded, Workers},
        open,
    },
    Folder, SMALL, commit,
    disk::Disk,
    ended, expected, frames, id, read_all, start,
};

fn open_on(disk: &Disk) -> Result<Embedded, StoreError> {
    let archive = |name: &str| Archive::open_on(name.to_owned(), disk.backing(name).unwrap());
    Embedded::open(Arc::new(disk.clone()), archive, SMALL, Workers::Caller)
}

#[test]
fn a_file_that_cannot_be_read_is_named_and_is_neither_damaged_nor_absent() {
    let disk = Disk::default();
    let store = open_on(&disk).unwrap();
    for n in 1..=5 {
        commit(&store, n, [(id(n), start(&[])), (id(n), Record::Frames(frames(1, 40, 1_000)))]);
    }
    commit(&store, 10, [(id(1), ended(10))]);
    drop(store);
    let names = disk.names();
    for name in names.iter().filter(|name| *name == "outflow" || name.ends_with(".journal")) {
        let mut refused = 0;
        for after in 0.. {
            disk.fail_reads(name, after, 1);
            let opened = open_on(&disk);
            if !disk.heal_reads() {
                assert!(opened.is_ok(), "{after} reads are all");
                break;
            }
            let Err(error) = opened else { panic!("{name} could not be read after {after} times") };
            let said = error.to_string();
            assert!(matches!(error, StoreError::Failed(_)), "{error:?}");
            assert!(said.contains(name) && said.contains("unreadable sector"), "{said}");
            refused += 1;
        }
        assert!(refused > 0, "{name}");
    }
    assert_eq!(disk.names(), names, "nothing was put aside");
    let store = open_on(&disk).unwrap();
    for n in 1..=5 {
        assert_eq!(read_all(&store, id(n), 1), (expected(1, 40, 1_000), 40));
    }
}

#[test]
fn an_archive_that_is_gone_is_said_and_no_new_one_is_made() {
    let folder = Folder::new();
    let store = folder.open();
    commit(&*store, 1, [(id(1), start(&[])), (id(1), ended(1))]);
    drop(store);
    let archive = folder.path().join("archive.redb");
    let kept = fs::read(&archive).unwrap();
    for (said, lose) in [
        ("archive.redb in the data directory", &(|| fs::write(&archive, "").unwrap()) as &dyn Fn()),
        ("is missing", &|| fs::remove_file(&archive).unwrap()),
    ] {
        lose();
        let target = folder.path().with_extension("backup");
        let refused = [
            open(&folder.path(), Settings::default()).err(),
            data::check(&folder.path(), &mut |finding| panic!("{finding}")).err(),
            data::compact(&folder.path()).err(),
            data::backup(&folder.path(), &target).err(),
        ];
        for error in refused {
            let Some(StoreError::Damaged(what)) = error else { panic!("{error:?}") };
            assert!(what.contains(said) && what.contains("restore the directory from a backup"), "{what}");
        }
        assert!(fs::metadata(&archive).map_or(0, |found| found.len()) == 0, "a new one was made");
        assert!(!target.exists());
    }
    fs::write(&archive, kept).unwrap();
    assert!(folder.open().find(id(1)).unwrap().is_some());
}

#[test]
fn a_directory_is_made_with_those_above_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b/../c/d");
    let store = open(&path, Settings::default()).unwrap();
    commit(&*store, 1, [(id(1), start(&[]))]);
    assert!(folder.path().join("a/c/d/outflow").exists());
}
