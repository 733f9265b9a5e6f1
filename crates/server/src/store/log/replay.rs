//! Opening the live journal: its records, in their order, over what the archive has. It owns what is a torn tail and what
//! is damage.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::Range,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use outflow_engine::{End, Ended, JobIndex, Record, RunId, RunRecord, Sequence, StoreError};

use super::{
    super::files::Files,
    Log, Place, body,
    index::{Index, State},
    record::{BATCH_BYTES, BatchHead, DirectoryId, HEAD_BYTES, HEADER_BYTES, Head, Kind, find_batch, find_head},
    ring::{self, Ring, Segment, Size, store_error},
    scan::{Finding, scan},
};

/// What the archive has of runs.
pub(in super::super) trait Base {
    fn find(&self, run: RunId) -> Result<Option<RunRecord>, StoreError>;
    fn unended(&self) -> Result<Vec<RunRecord>, StoreError>;
}

/// The live journal, open.
pub(in super::super) struct Opened {
    pub(in super::super) log: Log,
    pub(in super::super) index: Index,
    /// What is damaged.
    pub(in super::super) findings: Vec<Finding>,
}

/// Opens the live journal in `files`, or begins one. Nothing in it is changed.
pub(in super::super) fn open(
    files: Arc<dyn Files>,
    directory: DirectoryId,
    size: Size,
    base: &dyn Base,
) -> Result<Opened, StoreError> {
    let scanned = scan(&*files, directory)?;
    let mut replay = Replay {
        base,
        index: Index::default(),
        findings: scanned.findings,
        unknown: BTreeMap::new(),
        interrupted: BTreeSet::new(),
        jobs: HashMap::new(),
        parts: Vec::new(),
        tail: (0, 0),
        last: Vec::new(),
    };
    for record in base.unended()? {
        replay.index.insert(record.id, State::archived(record));
    }
    let count = scanned.chain.len();
    for (at, (segment, limit)) in scanned.chain.into_iter().enumerate() {
        let is_sealed = at + 1 < count && limit < segment.bytes;
        replay.segment(&Arc::new(segment), limit, is_sealed)?;
    }
    replay.make_durable()?;
    let (index, findings, tail) = replay.finish();
    for finding in &findings {
        tracing::error!("the live journal in {} is damaged: {finding}", files.place());
    }
    let numbers = (scanned.oldest, scanned.next_number);
    let ring = Ring::new(files, directory, size, scanned.free, scanned.slots, numbers);
    Ok(Opened { log: Log::new(ring, tail), index, findings })
}

struct Replay<'a> {
    base: &'a dyn Base,
    index: Index,
    findings: Vec<Finding>,
    /// Runs that have records and no beginning, with the file of the first of them.
    unknown: BTreeMap<RunId, String>,
    /// Runs of whose jobs something is lost.
    interrupted: BTreeSet<RunId>,
    /// The jobs of runs that the archive has, which may be told a second time.
    jobs: HashMap<RunId, SeenJobs>,
    /// Parts of a batch that is not whole yet.
    parts: Vec<Part>,
    /// The end of the last whole batch.
    tail: (u64, u32),
    /// The last whole batch.
    last: Vec<Part>,
}

#[derive(Default)]
struct SeenJobs {
    started: HashSet<JobIndex>,
    ended: HashSet<JobIndex>,
}

/// The records of a part of a batch.
struct Part {
    segment: Arc<Segment>,
    bytes: Arc<Vec<u8>>,
    records: Range<usize>,
}

/// Whether all records of a stretch are known to be what was written.
#[derive(Clone, Copy, PartialEq)]
enum Trust {
    Checked,
    Unchecked,
}

impl Replay<'_> {
    /// All batches of a segment. What follows the last one is no damage where the segment was not sealed behind it.
    fn segment(&mut self, segment: &Arc<Segment>, limit: u32, is_sealed: bool) -> Result<(), StoreError> {
        self.index.begin(std::slice::from_ref(segment));
        let mut bytes = vec![0; limit.saturating_sub(HEADER_BYTES) as usize];
        segment.file.read_at(&mut bytes, u64::from(HEADER_BYTES)).map_err(|error| {
            store_error(&error, || format!("reading {segment:?} of the live journal failed: {error}"))
        })?;
        let bytes = Arc::new(bytes);
        let mut at = 0;
        while at < bytes.len() {
            if let Some((head, end)) = whole_batch(segment, &bytes, at) {
                let records = at + BATCH_BYTES..end;
                self.batch(&head, Part { segment: segment.clone(), bytes: bytes.clone(), records }, end)?;
                at = end;
                continue;
            }
            // A batch is begun when the one before it is durable: with another one behind it, this one was.
            let next = find_batch(&bytes, at + 1, segment.salt, HEADER_BYTES);
            if next.is_none() && !is_sealed {
                break;
            }
            let end = next.unwrap_or(bytes.len());
            self.damage(segment, &bytes, at..end)?;
            self.tail = (segment.number, HEADER_BYTES + end as u32);
            at = end;
        }
        Ok(())
    }

    /// A part of a batch. Its records count when all parts are there.
    fn batch(&mut self, head: &BatchHead, part: Part, end: usize) -> Result<(), StoreError> {
        if head.part == 0 {
            self.parts.clear();
        }
        let number = part.segment.number;
        self.parts.push(part);
        if head.part + 1 < head.parts {
            return Ok(());
        }
        let parts = std::mem::take(&mut self.parts);
        if parts.len() != head.parts as usize {
            self.found(
                &parts[0].segment,
                None,
                "a batch of several parts is not whole, and lost as far as it is missing",
            );
        }
        self.index.serve_until(Duration::from_nanos(head.in_service));
        for Part { segment, bytes, records } in &parts {
            self.records(segment, bytes, records.clone(), Trust::Checked)?;
        }
        self.last = parts;
        self.tail = (number, HEADER_BYTES + end as u32);
        Ok(())
    }

    /// A stretch that is not what was written: what is readable of it counts.
    fn damage(&mut self, segment: &Arc<Segment>, bytes: &[u8], stretch: Range<usize>) -> Result<(), StoreError> {
        let from = HEADER_BYTES as usize + stretch.start;
        let to = HEADER_BYTES as usize + stretch.end;
        self.found(segment, None, &format!("the batch at {from} to {to} is damaged; what is readable of it is kept"));
        let batch = BatchHead::decode(&bytes[stretch.start..], segment.salt, from as u32);
        let records = match batch {
            Some(head) => {
                self.index.serve_until(Duration::from_nanos(head.in_service));
                stretch.start + BATCH_BYTES..stretch.end
            }
            None => stretch,
        };
        self.records(segment, bytes, records, Trust::Unchecked)
    }

    fn records(
        &mut self,
        segment: &Arc<Segment>,
        bytes: &[u8],
        records: Range<usize>,
        trust: Trust,
    ) -> Result<(), StoreError> {
        let bytes = &bytes[..records.end];
        let mut at = records.start;
        while at < bytes.len() {
            let offset = HEADER_BYTES + at as u32;
            let head = Head::decode(&bytes[at..], segment.salt, offset);
            let Some(head) = head.filter(|head| at + head.record_bytes() <= bytes.len()) else {
                let next = find_head(bytes, at + 1, segment.salt, HEADER_BYTES).unwrap_or(bytes.len());
                let to = HEADER_BYTES as usize + next;
                self.found(
                    segment,
                    None,
                    &format!("what lies at {offset} to {to} is lost, and it is not known whose it was"),
                );
                at = next;
                continue;
            };
            let body = &bytes[at + HEAD_BYTES..at + head.record_bytes()];
            let place = Place { slot: segment.slot, offset, length: head.record_bytes() as u32 };
            if trust == Trust::Unchecked && segment.salt.body(offset, body) != head.body_crc {
                self.lost(segment, &head)?;
            } else if head.kind == Kind::Frames {
                self.frames(segment, &head, Some(place))?;
            } else if head.kind != Kind::Batch {
                match body::decode(head.kind, body) {
                    Ok(record) => self.record(segment, head.run(), record)?,
                    Err(_) => self.lost(segment, &head)?,
                }
            }
            at += head.record_bytes();
        }
        Ok(())
    }

    /// Whether a run is known, here or to the archive.
    fn knows(&mut self, run: RunId) -> Result<bool, StoreError> {
        if self.index.state(run).is_some() {
            return Ok(true);
        }
        if self.index.is_deleted(run) || self.unknown.contains_key(&run) {
            return Ok(false);
        }
        let Some(record) = self.base.find(run)? else { return Ok(false) };
        self.index.insert(run, State::archived(record));
        Ok(true)
    }

    /// As [`Replay::knows`], and notes a run that has records and is not known.
    fn must_know(&mut self, segment: &Segment, run: RunId) -> Result<bool, StoreError> {
        let knows = self.knows(run)?;
        if !knows && !self.index.is_deleted(run) {
            self.unknown.entry(run).or_insert_with(|| ring::name(segment.slot));
        }
        Ok(knows)
    }

    /// Frames of a run, at a place, or lost.
    fn frames(&mut self, segment: &Arc<Segment>, head: &Head, place: Option<Place>) -> Result<(), StoreError> {
        let run = head.run();
        if !self.must_know(segment, run)? {
            return Ok(());
        }
        let state = self.index.state(run).expect("the run is known");
        let last = Sequence::new(head.first + u64::from(head.count) - 1);
        let expected = state.record.last.get() + 1;
        if last.get() < expected {
            // The archive has them.
            return Ok(());
        }
        state.dirty = true;
        state.record.last = last;
        let missing = head.first > expected;
        if missing {
            state.entries.push_lost(Sequence::new(expected));
        }
        match place {
            Some(place) => {
                state.entries.push(Sequence::new(head.first), place);
                state.record.bytes += u64::from(head.length);
                self.index.bytes += u64::from(head.length);
            }
            None if !missing => state.entries.push_lost(Sequence::new(head.first)),
            None => {}
        }
        self.index.touch(run, segment.slot);
        if missing {
            self.found(segment, Some(run), &format!("its responses {expected} to {} are lost", head.first - 1));
        }
        Ok(())
    }

    fn record(&mut self, segment: &Arc<Segment>, run: RunId, record: Record) -> Result<(), StoreError> {
        match record {
            Record::Started(start) => {
                if self.knows(run)? {
                    self.index.pass_on(&start.keys);
                } else if !self.index.is_deleted(run) {
                    self.index.start(run, start);
                    self.index.touch(run, segment.slot);
                }
                return Ok(());
            }
            Record::Deleted => {
                self.knows(run)?;
                self.unknown.remove(&run);
                self.index.delete(run, segment.number);
                return Ok(());
            }
            _ => {}
        }
        if !self.must_know(segment, run)? {
            if let Record::KeyBound(key) = &record {
                // It took the key from another all the same; what the archive had of that was undone before it forgot this run.
                self.index.pass_on(std::slice::from_ref(key));
            }
            return Ok(());
        }
        let state = self.index.state(run).expect("the run is known");
        let is_new = match &record {
            Record::JobStarted(job) => !told(&mut self.jobs, state, run, |seen| seen.started.insert(*job)),
            Record::JobEnded(job, _) => !told(&mut self.jobs, state, run, |seen| seen.ended.insert(*job)),
            Record::Ended(_) => state.record.ended.is_none(),
            Record::HeadDropped(first) => *first > state.record.first,
            Record::LingerRaised(linger) => *linger != state.record.linger,
            // Bound again: it may have been another's meanwhile.
            Record::KeyBound(_) => true,
            Record::Started(_) | Record::Deleted | Record::Frames(_) => unreachable!("handled before"),
        };
        if is_new {
            match record {
                Record::Ended(ended) => self.index.end(run, ended),
                Record::KeyBound(key) => self.index.bind(run, key),
                record => {
                    state.record.add(&record);
                    state.dirty = true;
                }
            }
            self.index.touch(run, segment.slot);
        }
        Ok(())
    }

    /// A record whose head is readable, and whose body is not.
    fn lost(&mut self, segment: &Arc<Segment>, head: &Head) -> Result<(), StoreError> {
        let run = head.run();
        let what = match head.kind {
            Kind::Batch => return Ok(()),
            // It has no body that could be lost.
            Kind::Deleted => return self.record(segment, run, Record::Deleted),
            Kind::Frames => {
                let last = head.first + u64::from(head.count) - 1;
                self.found(segment, Some(run), &format!("its responses {} to {last} are lost", head.first));
                return self.frames(segment, head, None);
            }
            Kind::Started => {
                self.unknown.insert(run, ring::name(segment.slot));
                "its beginning is lost, and with it the run"
            }
            Kind::LingerRaised => "its linger is lost, and is what it was before",
            Kind::HeadDropped => "that its head was dropped is lost",
            Kind::KeyBound => "a key that was bound to it is lost, and starts another run",
            Kind::JobStarted | Kind::JobEnded | Kind::Ended => {
                self.interrupted.insert(run);
                "how its jobs ended is lost; if it did not end it is interrupted"
            }
        };
        self.found(segment, Some(run), what);
        Ok(())
    }

    /// Makes the last batch durable, which will be shown: the process that wrote it may have been killed before its sync,
    /// or after one that failed, and then it is in the kernel's memory only. Of pages whose sync failed, another sync says
    /// that all is well; so they are written again, as they are. Every batch before it was synced before this one began.
    fn make_durable(&self) -> Result<(), StoreError> {
        for Part { segment, bytes, records } in &self.last {
            let batch = records.start - BATCH_BYTES..records.end;
            let offset = u64::from(HEADER_BYTES) + batch.start as u64;
            let written = segment.file.write_at(&bytes[batch], offset).and_then(|()| segment.file.sync());
            written.map_err(|error| {
                store_error(&error, || format!("making {segment:?} of the live journal durable failed: {error}"))
            })?;
        }
        Ok(())
    }

    fn found(&mut self, segment: &Segment, run: Option<RunId>, what: &str) {
        segment.damaged.store(true, Ordering::Relaxed);
        let what = run.map_or_else(|| what.to_owned(), |run| format!("run {run}: {what}"));
        self.findings.push(Finding { file: ring::name(segment.slot), run, what });
    }

    fn finish(mut self) -> (Index, Vec<Finding>, (u64, u32)) {
        for (run, file) in self.unknown {
            let what = format!("run {run}: its beginning is lost, and with it the run");
            self.index.lose(run, format!("the live journal is damaged in {file}: {what}"));
            self.findings.push(Finding { file, run: Some(run), what });
        }
        // What a job did cannot be known, and so it cannot be taken up again: that is an end, and has a name.
        for run in self.interrupted {
            let in_service = self.index.in_service();
            if let Some(state) = self.index.state(run).filter(|state| state.record.ended.is_none()) {
                let end = End::Interrupted("a record of its jobs is lost: the live journal is damaged".to_owned());
                let jobs_failed = state.record.jobs.failed;
                let at = state.record.start.at;
                self.index.end(run, Ended { end, jobs_failed, at, in_service });
            }
        }
        self.index.settle();
        (self.index, self.findings, self.tail)
    }
}

/// Whether something was already told of a job, where the archive may have it; otherwise nothing is told twice.
fn told(
    jobs: &mut HashMap<RunId, SeenJobs>,
    state: &State,
    run: RunId,
    insert: impl FnOnce(&mut SeenJobs) -> bool,
) -> bool {
    if state.archived.is_none() {
        return false;
    }
    let seen = jobs.entry(run).or_insert_with(|| SeenJobs {
        started: state.record.jobs.started.iter().copied().collect(),
        ended: state.record.jobs.ended.iter().copied().collect(),
    });
    !insert(seen)
}

/// The batch at `at`, and where it ends; `None` where anything of it is not what was written.
fn whole_batch(segment: &Segment, bytes: &[u8], at: usize) -> Option<(BatchHead, usize)> {
    let head = BatchHead::decode(&bytes[at..], segment.salt, HEADER_BYTES + at as u32)?;
    let mut record = at + BATCH_BYTES;
    let end = record.checked_add(usize::try_from(head.bytes).ok()?)?;
    let bytes = bytes.get(..end)?;
    while record < end {
        let offset = HEADER_BYTES + record as u32;
        let head = Head::decode(&bytes[record..], segment.salt, offset)?;
        let body = bytes.get(record + HEAD_BYTES..record + head.record_bytes())?;
        if head.body_crc != segment.salt.body(offset, body) {
            return None;
        }
        record += head.record_bytes();
    }
    Some((head, end))
}
