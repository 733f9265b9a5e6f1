//! Which segment files count, and how far: the chain from the newest one back to the oldest that is still needed. It
//! reads headers and batch heads, and no records.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, atomic::AtomicBool},
};

use outflow_engine::{RunId, StoreError};

use super::{
    super::files::{File, Files},
    record::{BATCH_BYTES, BatchHead, DirectoryId, HEADER_BYTES, Header, HeaderFound, Salt, find_batch},
    ring::{self, Segment, store_error},
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
pub(super) struct Scanned {
    /// The segments that count, the oldest first, each with where it was sealed. Behind that nothing ever happened; of
    /// the last one it is not known yet, and this is its length.
    pub(super) chain: Vec<(Segment, u32)>,
    /// Files that hold nothing that counts.
    pub(super) free: Vec<Segment>,
    /// All slots that are files.
    pub(super) slots: BTreeSet<u32>,
    /// The oldest segment that counts.
    pub(super) oldest: u64,
    /// A number that no segment has had.
    pub(super) next_number: u64,
    pub(super) findings: Vec<Finding>,
}

/// A segment that was used: what its first batch says.
struct Used {
    segment: Segment,
    first: BatchHead,
}

struct Scan {
    directory: DirectoryId,
    used: BTreeMap<u64, Used>,
    /// Files without a header that can be read.
    unreadable: Vec<Segment>,
    scanned: Scanned,
}

/// Looks at all segment files.
pub(super) fn scan(files: &dyn Files, directory: DirectoryId) -> Result<Scanned, StoreError> {
    let failed = |error: &std::io::Error, what: &str| {
        store_error(error, || format!("opening the live journal in {}: {what}: {error}", files.place()))
    };
    let mut names: Vec<(u32, String)> = files
        .list()
        .map_err(|error| failed(&error, "its files cannot be listed"))?
        .into_iter()
        .filter_map(|name| Some((ring::slot(&name)?, name)))
        .collect();
    names.sort();
    let scanned = Scanned {
        chain: Vec::new(),
        free: Vec::new(),
        slots: BTreeSet::new(),
        oldest: 1,
        next_number: 1,
        findings: Vec::new(),
    };
    let mut scan = Scan { directory, used: BTreeMap::new(), unreadable: Vec::new(), scanned };
    for (slot, name) in names {
        let file = files.open(&name).map_err(|error| failed(&error, &name))?;
        let length = file.length().map_err(|error| failed(&error, &name))?;
        scan.file(slot, &name, file, length).map_err(|error| failed(&error, &name))??;
    }
    Ok(scan.finish())
}

impl Scan {
    fn file(
        &mut self,
        slot: u32,
        name: &str,
        file: Arc<dyn File>,
        length: u64,
    ) -> std::io::Result<Result<(), StoreError>> {
        self.scanned.slots.insert(slot);
        let mut sector = [0; HEADER_BYTES as usize];
        let bytes = u32::try_from(length).unwrap_or(u32::MAX);
        if length >= u64::from(HEADER_BYTES) {
            file.read_at(&mut sector, 0)?;
        }
        let segment = |number| Segment {
            number,
            slot,
            bytes,
            salt: Salt::new(&self.directory, number),
            file,
            failed: AtomicBool::new(false),
            damaged: AtomicBool::new(false),
        };
        match Header::decode(&sector) {
            // Being made when the process ended.
            HeaderFound::Blank => self.scanned.free.push(segment(0)),
            HeaderFound::Newer(version) => {
                return Ok(Err(StoreError::Failed(format!(
                    "{name} is of format {version}, and this version of outflow reads none newer than {}; use the one \
                     that wrote it, or a newer one",
                    super::record::VERSION,
                ))));
            }
            HeaderFound::Valid(header) if header.directory == self.directory => {
                self.scanned.next_number = self.scanned.next_number.max(header.number + 1);
                self.scanned.oldest = self.scanned.oldest.max(header.oldest);
                self.segment(segment(header.number))?;
            }
            HeaderFound::Valid(_) | HeaderFound::Invalid => self.unreadable.push(segment(0)),
        }
        Ok(Ok(()))
    }

    /// A segment with a valid header: used, or prepared and not used yet.
    fn segment(&mut self, segment: Segment) -> std::io::Result<()> {
        match first_batch(&segment)? {
            Some(first) => {
                self.scanned.oldest = self.scanned.oldest.max(first.oldest);
                self.used.insert(segment.number, Used { segment, first });
            }
            None => self.scanned.free.push(segment),
        }
        Ok(())
    }

    /// Follows the chain from the newest segment back.
    fn finish(mut self) -> Scanned {
        let mut next = self.used.last_key_value().map(|(number, _)| (*number, None));
        if let Some(newest) = self.used.last_entry() {
            self.scanned.oldest = self.scanned.oldest.max(last_oldest(&newest.get().segment));
        }
        while let Some((number, sealed)) = next.filter(|(number, _)| *number >= self.scanned.oldest) {
            let used = self.used.remove(&number).or_else(|| self.without_header(number));
            next = if let Some(Used { segment, first }) = used {
                let limit = sealed.unwrap_or(segment.bytes).min(segment.bytes);
                self.scanned.chain.push((segment, limit));
                (first.previous > 0).then_some((first.previous, Some(first.sealed)))
            } else {
                self.scanned.findings.push(Finding {
                    file: format!("segment {number}"),
                    run: None,
                    what: "is missing; what it held is lost".to_owned(),
                });
                self.used.range(..number).next_back().map(|(number, _)| (*number, None))
            };
        }
        self.scanned.chain.reverse();
        self.scanned.free.extend(self.used.into_values().map(|used| used.segment));
        for segment in self.unreadable {
            if !self.scanned.findings.is_empty() {
                // It may be what is missing: kept for whoever can make something of it.
                segment.damaged.store(true, std::sync::atomic::Ordering::Relaxed);
            }
            self.scanned.free.push(segment);
        }
        self.scanned
    }

    /// The segment of this number among those whose header is not readable: its batches tell.
    fn without_header(&mut self, number: u64) -> Option<Used> {
        for at in 0..self.unreadable.len() {
            let salt = Salt::new(&self.directory, number);
            let candidate = Segment { number, salt, ..self.unreadable[at].again() };
            if let Ok(Some(first)) = first_batch(&candidate) {
                let lost = self.unreadable.remove(at);
                self.scanned.findings.push(Finding {
                    file: ring::name(lost.slot),
                    run: None,
                    what: format!("its header is damaged; it is segment {number}, and nothing is lost by that"),
                });
                return Some(Used { segment: candidate, first });
            }
        }
        None
    }
}

/// The first batch of a segment; `None` where there is none.
fn first_batch(segment: &Segment) -> std::io::Result<Option<BatchHead>> {
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

/// The oldest segment that counts, as the last batch of the newest says. Where it cannot be read, older ones count: what
/// they hold is in the archive, and is found to be.
fn last_oldest(segment: &Segment) -> u64 {
    let mut oldest = 0;
    let mut at = HEADER_BYTES;
    let mut bytes = [0; BATCH_BYTES];
    while segment.bytes - at >= BATCH_BYTES as u32 && segment.file.read_at(&mut bytes, u64::from(at)).is_ok() {
        let Some(batch) = BatchHead::decode(&bytes, segment.salt, at) else { break };
        oldest = oldest.max(batch.oldest);
        let end = u64::from(at) + BATCH_BYTES as u64 + batch.bytes;
        match u32::try_from(end) {
            Ok(end) if end <= segment.bytes => at = end,
            _ => break,
        }
    }
    oldest
}
