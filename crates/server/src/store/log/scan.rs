//! Which segment files count, and how far: the chain from the newest one back to the oldest that is still needed. It
//! reads headers and batch heads, and no records.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use outflow_engine::{RunId, StoreError};

use super::{
    super::files::{File, Files},
    record::{
        BATCH_BYTES, BatchHead, DirectoryId, HEADER_BYTES, Header, HeaderFound, Kind, Salt, find_batch, number_of,
    },
    ring::store_error,
    segment::{self, Segment},
};

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Finding {
    /// The file.
    pub(in super::super) file: String,
    /// The run that is affected, where that is known.
    pub(in super::super) run: Option<RunId>,
    /// What is wrong, and what is lost.
    pub(in super::super) what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file, self.what)
    }
}

/// What the files of the live journal turned out to be.
#[derive(Default)]
pub(super) struct Scanned {
    /// The segments that count, the oldest first.
    pub(super) chain: Vec<Link>,
    /// Files that hold nothing that counts.
    pub(super) free: Vec<Segment>,
    /// Files of which it is not known what they held: they are to be put aside.
    pub(super) aside: Vec<Segment>,
    /// Whether what was committed last may be lost.
    pub(super) is_end_lost: bool,
    /// All slots that are files.
    pub(super) slots: BTreeSet<u32>,
    /// The oldest segment that counts.
    pub(super) oldest: u64,
    /// A number that no segment has had.
    pub(super) next_number: u64,
    pub(super) findings: Vec<Finding>,
}

/// A segment that counts.
pub(super) struct Link {
    pub(super) segment: Arc<Segment>,
    /// Where it was sealed, as the next one says: behind that nothing ever happened.
    pub(super) sealed: Option<u32>,
    /// Whether the one before it is missing.
    pub(super) is_behind_gap: bool,
}

/// A segment that was used: what its first batch says.
struct Used {
    segment: Segment,
    first: BatchHead,
}

/// A file without a header that can be read, and what lies behind that.
struct Unreadable {
    segment: Segment,
    rest: Vec<u8>,
}

struct Scan {
    directory: DirectoryId,
    used: BTreeMap<u64, Used>,
    unreadable: Vec<Unreadable>,
    /// Segments whose files are shorter than they were made.
    cut: BTreeSet<u64>,
    scanned: Scanned,
}

/// Looks at all segment files.
pub(super) fn scan(files: &dyn Files, directory: DirectoryId) -> Result<Scanned, StoreError> {
    let failed = |error: &io::Error, what: &str| {
        store_error(error, || format!("opening the live journal in {}: {what}: {error}", files.place()))
    };
    let listed = files.list().map_err(|error| failed(&error, "its files cannot be listed"))?;
    let mut scanned = Scanned { oldest: 1, next_number: 1, ..Scanned::default() };
    // One that was put aside was needed no more, nor any before it, whether or not a batch says so.
    for number in listed.iter().filter_map(|name| segment::number_aside(name)) {
        scanned.oldest = scanned.oldest.max(number + 1);
        scanned.next_number = scanned.next_number.max(number + 1);
    }
    let mut names: Vec<(u32, String)> =
        listed.into_iter().filter_map(|name| Some((segment::slot(&name)?, name))).collect();
    names.sort();
    let mut scan = Scan { directory, used: BTreeMap::new(), unreadable: Vec::new(), cut: BTreeSet::new(), scanned };
    for (slot, name) in names {
        let file = files.open(&name).map_err(|error| failed(&error, &name))?;
        let length = file.length().map_err(|error| failed(&error, &name))?;
        scan.file(slot, &name, file, length).map_err(|error| failed(&error, &name))??;
    }
    scan.tell_unreadable();
    scan.finish().map_err(|(file, error)| failed(&error, &file))
}

impl Scan {
    fn file(
        &mut self,
        slot: u32,
        name: &str,
        file: Arc<dyn File>,
        length: u64,
    ) -> io::Result<Result<(), StoreError>> {
        self.scanned.slots.insert(slot);
        let mut sector = [0; HEADER_BYTES as usize];
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        if length >= HEADER_BYTES {
            file.read_at(&mut sector, 0)?;
        }
        let directory = self.directory;
        let segment = |number, bytes| Segment {
            number,
            slot,
            bytes,
            salt: Salt::new(&directory, number),
            file,
            failed: AtomicBool::new(false),
            damaged: AtomicBool::new(false),
        };
        match Header::decode(&sector) {
            HeaderFound::Newer(version) => {
                return Ok(Err(StoreError::Failed(format!(
                    "{name} is of format {version}, and this version of outflow reads none newer than {}; use the one \
                     that wrote it, or a newer one",
                    super::record::VERSION,
                ))));
            }
            HeaderFound::Valid(header) if header.directory != self.directory => {
                self.found(slot, "it is of another data directory, and put aside");
                self.scanned.aside.push(segment(0, length));
            }
            HeaderFound::Valid(header) => {
                self.scanned.next_number = self.scanned.next_number.max(header.number + 1);
                self.scanned.oldest = self.scanned.oldest.max(header.oldest);
                let made = if header.bytes == 0 { length } else { header.bytes };
                let segment = segment(header.number, made.min(length));
                if made != length {
                    segment.damaged.store(true, Ordering::Relaxed);
                    if length < made {
                        self.cut.insert(header.number);
                    }
                    self.found(slot, &format!("it is {length} bytes long, and was made {made} bytes long"));
                }
                self.segment(segment)?;
            }
            HeaderFound::Blank | HeaderFound::Invalid => {
                let segment = segment(0, length);
                let mut rest = vec![0; length.saturating_sub(HEADER_BYTES) as usize];
                if !rest.is_empty() {
                    segment.file.read_at(&mut rest, u64::from(HEADER_BYTES))?;
                }
                if is_zeros(&sector) && is_zeros(&rest) {
                    // Being made when the process ended.
                    self.scanned.free.push(segment);
                } else {
                    self.unreadable.push(Unreadable { segment, rest });
                }
            }
        }
        Ok(Ok(()))
    }

    /// A segment with a valid header: used, or prepared and not used yet.
    fn segment(&mut self, segment: Segment) -> io::Result<()> {
        match first_batch(&segment)? {
            Some(first) => self.used(segment, first),
            None => self.scanned.free.push(segment),
        }
        Ok(())
    }

    fn used(&mut self, segment: Segment, first: BatchHead) {
        self.scanned.oldest = self.scanned.oldest.max(first.oldest);
        self.used.insert(segment.number, Used { segment, first });
    }

    /// What the files without a header are, as their batches tell: a batch knows the number of its segment.
    fn tell_unreadable(&mut self) {
        for Unreadable { segment, rest } in std::mem::take(&mut self.unreadable) {
            let slot = segment.slot;
            let offset = |at: usize| HEADER_BYTES + at as u32;
            let numbered = |at: usize| Some((at, number_of(&rest[at..], &self.directory, offset(at))?));
            let found =
                (0..rest.len()).filter(|at| rest.get(at + 12) == Some(&(Kind::Batch as u8))).find_map(numbered);
            match found {
                Some((at, number)) if number >= self.scanned.oldest && !self.used.contains_key(&number) => {
                    let salt = Salt::new(&self.directory, number);
                    let first = BatchHead::decode(&rest[at..], salt, offset(at)).expect("it told the number");
                    self.found(slot, &format!("its header is damaged; it is segment {number}, as its batches tell"));
                    self.scanned.next_number = self.scanned.next_number.max(number + 1);
                    let damaged = AtomicBool::new(true);
                    self.used(Segment { number, salt, damaged, ..segment }, first);
                }
                // What it was used for next would lie over that.
                Some((0, _)) => {
                    self.found(slot, "its header is damaged; what it holds is needed no more, and it is put aside");
                    self.scanned.aside.push(segment);
                }
                None if is_zeros(&rest) => {
                    self.found(slot, "its header is damaged; it holds nothing, and is put aside");
                    self.scanned.aside.push(segment);
                }
                _ => {
                    let what = "its header is damaged, and so is what follows; if it was in use, what was committed last \
                                is lost; it is put aside";
                    self.found(slot, what);
                    self.scanned.is_end_lost = true;
                    self.scanned.aside.push(segment);
                }
            }
        }
    }

    fn found(&mut self, slot: u32, what: &str) {
        self.scanned.findings.push(Finding { file: segment::name(slot), run: None, what: what.to_owned() });
    }

    /// Follows the chain from the newest segment back.
    fn finish(mut self) -> Result<Scanned, (String, io::Error)> {
        let mut next = self.used.last_key_value().map(|(number, _)| (*number, None));
        if let Some(newest) = self.used.last_entry() {
            let segment = &newest.get().segment;
            let oldest = last_oldest(segment).map_err(|error| (segment::name(segment.slot), error))?;
            self.scanned.oldest = self.scanned.oldest.max(oldest);
            self.scanned.is_end_lost |= self.cut.contains(newest.key());
        }
        while let Some((number, sealed)) = next.filter(|(number, _)| *number >= self.scanned.oldest) {
            next = if let Some(Used { segment, first }) = self.used.remove(&number) {
                self.scanned.chain.push(Link { segment: Arc::new(segment), sealed, is_behind_gap: false });
                (first.previous > 0).then_some((first.previous, Some(first.sealed)))
            } else {
                if let Some(newer) = self.scanned.chain.last_mut() {
                    newer.is_behind_gap = true;
                }
                self.scanned.findings.push(Finding {
                    file: format!("segment {number}"),
                    run: None,
                    what: "is missing; what it held is lost".to_owned(),
                });
                self.used.range(..number).next_back().map(|(number, _)| (*number, None))
            };
        }
        self.scanned.chain.reverse();
        for Used { segment, .. } in self.used.into_values() {
            // Nothing in it counts any more; where it is damaged it is not trusted with anything new.
            let is_damaged = segment.damaged.load(Ordering::Relaxed);
            if is_damaged { self.scanned.aside.push(segment) } else { self.scanned.free.push(segment) }
        }
        Ok(self.scanned)
    }
}

fn is_zeros(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// The first batch of a segment; `None` where there is none.
fn first_batch(segment: &Segment) -> io::Result<Option<BatchHead>> {
    let Segment { salt, bytes, ref file, .. } = *segment;
    if bytes < HEADER_BYTES + BATCH_BYTES as u32 {
        return Ok(None);
    }
    let mut first = [0; BATCH_BYTES];
    file.read_at(&mut first, u64::from(HEADER_BYTES))?;
    if let Some(first) = BatchHead::decode(&first, salt, HEADER_BYTES) {
        return Ok(Some(first));
    }
    // Never used, or the first batch was torn, or is damaged: then a later one says as much.
    let mut rest = vec![0; (bytes - HEADER_BYTES) as usize];
    file.read_at(&mut rest, u64::from(HEADER_BYTES))?;
    let found = find_batch(&rest, 1, salt, HEADER_BYTES);
    Ok(found.and_then(|at| BatchHead::decode(&rest[at..], salt, HEADER_BYTES + at as u32)))
}

/// The oldest segment that counts, as the last batch of the newest says. Where that one is damaged, older ones count: what
/// they hold is in the archive, and is found to be.
fn last_oldest(segment: &Segment) -> io::Result<u64> {
    let mut oldest = 0;
    let mut at = HEADER_BYTES;
    let mut bytes = [0; BATCH_BYTES];
    while segment.bytes - at >= BATCH_BYTES as u32 {
        segment.file.read_at(&mut bytes, u64::from(at))?;
        let Some(batch) = BatchHead::decode(&bytes, segment.salt, at) else { break };
        oldest = oldest.max(batch.oldest);
        let end = u64::from(at) + BATCH_BYTES as u64 + batch.bytes;
        match u32::try_from(end) {
            Ok(end) if end <= segment.bytes => at = end,
            _ => break,
        }
    }
    Ok(oldest)
}
