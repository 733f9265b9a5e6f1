//! The bookmark: a small file beside a half-written one, which says of which run it is and how far it has come. It owns
//! what a bookmark holds, and how it is read, replaced and removed; it must not know how responses come or look.
//! `docs/output.md` describes it for others.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::Format;

/// What this version writes. A greater one is not read.
const VERSION: u32 = 1;
/// More than a request may have, even where all of its parameters are as long as they may be.
const BYTES_MAX: u64 = 64 << 20;

/// How far a file has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bookmark {
    version: u32,
    /// Who was asked, as the command line had it.
    pub(super) server: String,
    pub(super) asked: Asked,
    pub(super) format: Format,
    /// Made before the request was sent: with it the run is found whose id did not arrive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<String>,
    /// The run, where it can be gone on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) run: Option<String>,
    /// The last response that is in the file.
    pub(super) sequence: u64,
    /// How many responses are in it.
    pub(super) responses: u64,
    /// How many bytes they take.
    pub(super) bytes: u64,
    /// Whether they are all there will be: only the bookmark itself is still to be removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) whole: bool,
}

/// What every version has.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// What was asked for, as far as it decides what the whole file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct Asked {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) id: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) source: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(in crate::cli) parameters: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) run: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) after: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) last: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) limit: Option<u64>,
}

impl Bookmark {
    /// Of a file that holds nothing yet.
    pub(super) fn new(server: &str, asked: Asked, format: Format) -> Self {
        let sequence = asked.after.unwrap_or(0);
        let server = server.to_owned();
        Self {
            version: VERSION,
            server,
            asked,
            format,
            key: None,
            run: None,
            sequence,
            responses: 0,
            bytes: 0,
            whole: false,
        }
    }

    /// The one at `place`, where there is one.
    ///
    /// # Errors
    /// Of kind `InvalidData` where it is none that this version understands.
    pub(super) fn read(place: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(place) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut text = Vec::new();
        file.take(BYTES_MAX).read_to_end(&mut text)?;
        let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
        let found: Version = serde_json::from_slice(&text).map_err(|error| invalid(error.to_string()))?;
        if found.version > VERSION {
            return Err(invalid(format!("it is of version {}, and this program knows {VERSION}", found.version)));
        }
        serde_json::from_slice(&text).map(Some).map_err(|error| invalid(error.to_string()))
    }

    /// Puts it in the place of the one before: at any moment there is one of the two, whole, also after a power cut.
    pub(super) fn replace(&self, place: &Path) -> io::Result<()> {
        let new = beside(place, ".new");
        self.put(place, &new).inspect_err(|_| _ = fs::remove_file(&new))
    }

    fn put(&self, place: &Path, new: &Path) -> io::Result<()> {
        // What was asked may be nobody else's business.
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(new)?;
        let mut text = serde_json::to_vec(self)?;
        text.push(b'\n');
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(new, place)?;
        sync_folder(place)
    }
}

/// Removes the one at `place`, and what a killed writer left of the next one.
pub(super) fn remove(place: &Path) -> io::Result<()> {
    for path in [&beside(place, ".new"), place] {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    // Not synced: that takes so long that a kill often falls between this and the exit code, and then the file is whole
    // and nobody was told. One that a power cut brings back is true still.
    Ok(())
}

/// `path` with something behind its name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Makes durable which files there are where `path` is.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bookmark() -> Bookmark {
        let asked = Asked {
            id: Some(-7),
            parameters: [("a \"b\"".into(), "ü\n".into())].into(),
            limit: Some(9),
            ..Asked::default()
        };
        let run = Some("01k83182tv5msa5oei5p92vi3ic6t7m0j84d".into());
        Bookmark { run, sequence: 41, responses: 41, bytes: 820, ..Bookmark::new("h:1", asked, Format::Plain) }
    }

    #[test]
    fn what_was_written_is_read_and_the_format_stays_as_it_is_described() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("x.outflow");
        assert_eq!(Bookmark::read(&place).unwrap(), None);
        bookmark().replace(&place).unwrap();
        assert_eq!(Bookmark::read(&place).unwrap(), Some(bookmark()));
        // Fields may be added, and none may be called otherwise: files are half written when a program is replaced.
        let text = concat!(
            r#"{"version":1,"server":"h:1","asked":{"id":-7,"parameters":{"a \"b\"":"ü\n"},"limit":9},"#,
            r#""format":"plain","run":"01k83182tv5msa5oei5p92vi3ic6t7m0j84d","sequence":41,"responses":41,"bytes":820}"#,
            "\n"
        );
        assert_eq!(fs::read_to_string(&place).unwrap(), text);
        let more = text.replacen('{', r#"{"colour":"red","#, 1);
        fs::write(&place, more).unwrap();
        assert_eq!(Bookmark::read(&place).unwrap(), Some(bookmark()));
    }

    #[test]
    fn one_takes_the_place_of_the_other_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("x.outflow");
        fs::write(beside(&place, ".new"), "left by a killed one, and longer than what is written now".repeat(99))
            .unwrap();
        bookmark().replace(&place).unwrap();
        let later = Bookmark { bytes: 821, ..bookmark() };
        later.replace(&place).unwrap();
        assert_eq!(Bookmark::read(&place).unwrap(), Some(later));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        fs::write(beside(&place, ".new"), "half").unwrap();
        remove(&place).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        remove(&place).unwrap();
    }

    #[test]
    fn what_is_no_bookmark_or_a_newer_one_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("x.outflow");
        for (text, why) in [
            ("", "EOF"),
            ("{}", "version"),
            (r#"{"version":1}"#, "server"),
            ("\u{0}\u{0}", "expected"),
            (r#"{"version":2,"place":[]}"#, "of version 2"),
        ] {
            fs::write(&place, text).unwrap();
            let error = Bookmark::read(&place).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(error.to_string().contains(why), "{text}: {error}");
        }
    }
}
