//! Opening the live journal: its records, in their order, over what the archive has. It owns what damage costs.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::Range,
    sync::{Arc, atomic::Ordering, mpsc},
    time::Duration,
};

use outflow_engine::{End, Ended, JobIndex, Record, RunId, RunRecord, Sequence, StoreError};

use super::{
    super::files::Files,
    Log, Place, body,
    index::{Index, State, touch},
    look::{Looked, Stretch, look},
    record::{BATCH_BYTES, BatchHead, DirectoryId, HEAD_BYTES, HEADER_BYTES, Head, Kind, find_head},
    ring::{Found, Ring, Size, store_error},
    scan::{Finding, Link, Scanned, scan},
    segment::{self, Segment},
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
    /// Runs that have an end because of that, which is nowhere but in the index yet.
    pub(in super::super) interrupted: Vec<RunId>,
}

/// Opens the live journal in `files`, or begins one. Nothing in it is changed.
pub(in super::super) fn open(
    files: Arc<dyn Files>,
    directory: DirectoryId,
    size: Size,
    base: &dyn Base,
) -> Result<Opened, StoreError> {
    let mut scanned = scan(&*files, directory)?;
    let mut replay = Replay {
        base,
        index: Index::default(),
        findings: std::mem::take(&mut scanned.findings),
        unknown: BTreeMap::new(),
        interrupted: BTreeSet::new(),
        jobs: HashMap::new(),
        parts: Vec::new(),
        // The first segment that counts may begin in the middle of a batch.
        next_part: None,
        tail: (0, 0),
        last: Vec::new(),
    };
    for record in base.unended()? {
        replay.index.insert(record.id, State::archived(record));
    }
    replay.chain(&std::mem::take(&mut scanned.chain))?;
    if scanned.is_end_lost {
        replay.lose_track()?;
    }
    replay.make_durable()?;
    let (index, findings, interrupted, tail) = replay.finish();
    for finding in &findings {
        tracing::error!("the live journal in {} is damaged: {finding}", files.place());
    }
    let Scanned { free, aside, slots, oldest, next_number, .. } = scanned;
    let ring = Ring::new(files, directory, size, Found { free, aside, slots, oldest, next_number });
    Ok(Opened { log: Log::new(ring, tail), index, findings, interrupted })
}

struct Replay<'a> {
    base: &'a dyn Base,
    index: Index,
    findings: Vec<Finding>,
    /// Runs that have records and no beginning, with the file of the first of them.
    unknown: BTreeMap<RunId, String>,
    /// Runs of which something is lost that is not frames, or may be.
    interrupted: BTreeSet<RunId>,
    /// The jobs of runs that the archive has, which may be told a second time.
    jobs: HashMap<RunId, SeenJobs>,
    /// Parts of a batch that is not whole yet.
    parts: Vec<Part>,
    /// Which part comes next, where that is known.
    next_part: Option<u32>,
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
    /// All segments: one is read and checked, on a thread of its own, while the one before it is replayed.
    fn chain(&mut self, chain: &[Link]) -> Result<(), StoreError> {
        std::thread::scope(|scope| {
            let (ahead, looked) = mpsc::sync_channel(1);
            let look_ahead = move || {
                // Who does not replay any more has an error to tell.
                chain.iter().all(|Link { segment, sealed, .. }| ahead.send(look(segment, *sealed)).is_ok())
            };
            let thread = std::thread::Builder::new().name("outflow-opening".into());
            let spawned = thread.spawn_scoped(scope, look_ahead);
            spawned.map_err(|error| StoreError::Failed(format!("cannot start a thread: {error}")))?;
            for Link { segment, sealed, is_behind_gap } in chain {
                let looked = looked.recv().expect("each segment is looked at")?;
                if *is_behind_gap {
                    self.lose_track()?;
                }
                self.segment(segment, *sealed, looked)?;
            }
            Ok(())
        })
    }

    /// All that is in a segment.
    fn segment(&mut self, segment: &Arc<Segment>, sealed: Option<u32>, looked: Looked) -> Result<(), StoreError> {
        self.index.begin(std::slice::from_ref(segment));
        let Looked { bytes, stretches } = looked;
        for stretch in stretches {
            match stretch {
                Stretch::Batch(head, Range { start, end }) => {
                    let records = start + BATCH_BYTES..end;
                    self.batch(&head, Part { segment: segment.clone(), bytes: bytes.clone(), records }, end)?;
                }
                Stretch::Damaged(stretch) => {
                    let end = stretch.end;
                    self.damage(segment, &bytes, stretch)?;
                    self.tail = (segment.number, HEADER_BYTES + end as u32);
                }
            }
        }
        if let Some(sealed) = sealed.filter(|sealed| *sealed > segment.bytes) {
            let end = segment.bytes;
            self.found(segment, None, &format!("it ends at {end}, and what lay up to {sealed} is lost"));
            self.lose_track()?;
            self.tail = (segment.number, end);
        }
        Ok(())
    }

    /// A part of a batch. Its records count when all parts are there.
    fn batch(&mut self, head: &BatchHead, part: Part, end: usize) -> Result<(), StoreError> {
        if self.next_part.is_some_and(|next| next != head.part) {
            // With another batch behind it, this one was durable.
            let segment = self.parts.first().map_or_else(|| part.segment.clone(), |part| part.segment.clone());
            self.found(&segment, None, "a batch of several parts is not whole, and lost as far as it is missing");
            self.lose_track()?;
        }
        let number = part.segment.number;
        self.parts.push(part);
        self.expect_after(head);
        if head.part + 1 < head.parts {
            return Ok(());
        }
        self.index.serve_until(Duration::from_nanos(head.in_service));
        self.last = self.add_parts()?;
        self.tail = (number, HEADER_BYTES + end as u32);
        Ok(())
    }

    fn expect_after(&mut self, head: &BatchHead) {
        self.next_part = Some(if head.part + 1 < head.parts { head.part + 1 } else { 0 });
    }

    /// Adds the records of the parts that are here, and gives these.
    fn add_parts(&mut self) -> Result<Vec<Part>, StoreError> {
        let parts = std::mem::take(&mut self.parts);
        for Part { segment, bytes, records } in &parts {
            self.records(segment, bytes, records.clone(), Trust::Checked)?;
        }
        Ok(parts)
    }

    /// A stretch that is not what was written: what is readable of it counts.
    fn damage(&mut self, segment: &Arc<Segment>, bytes: &[u8], stretch: Range<usize>) -> Result<(), StoreError> {
        // What is lost here may be a further part of the batch that they begin.
        self.add_parts()?;
        let from = HEADER_BYTES as usize + stretch.start;
        let to = HEADER_BYTES as usize + stretch.end;
        self.found(segment, None, &format!("the batch at {from} to {to} is damaged; what is readable of it is kept"));
        let records = if let Some(head) = BatchHead::decode(&bytes[stretch.start..], segment.salt, from as u32) {
            self.index.serve_until(Duration::from_nanos(head.in_service));
            self.expect_after(&head);
            stretch.start + BATCH_BYTES..stretch.end
        } else {
            self.next_part = None;
            // A batch record is nobody's: where the next one follows it, nothing else is lost.
            let next = find_head(&bytes[..stretch.end], stretch.start + 1, segment.salt, HEADER_BYTES);
            let is_all = next == Some(stretch.start + BATCH_BYTES);
            if is_all { stretch.start + BATCH_BYTES..stretch.end } else { stretch }
        };
        self.records(segment, bytes, records, Trust::Unchecked)
    }

    /// Notes that something is lost here, and not whose it was: how jobs started and ended is not known any more of any
    /// run that has not ended before, nor ends later.
    fn lose_track(&mut self) -> Result<(), StoreError> {
        self.add_parts()?;
        self.next_part = None;
        let unended = self.index.runs.iter().filter(|(_, state)| state.record.ended.is_none());
        self.interrupted.extend(unended.map(|(run, _)| *run));
        Ok(())
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
            let head = match trust {
                Trust::Checked => Head::checked(&bytes[at..]),
                Trust::Unchecked => Head::decode(&bytes[at..], segment.salt, offset),
            };
            let Some(head) = head.filter(|head| at + head.record_bytes() <= bytes.len()) else {
                let next = find_head(bytes, at + 1, segment.salt, HEADER_BYTES).unwrap_or(bytes.len());
                let to = HEADER_BYTES as usize + next;
                self.found(
                    segment,
                    None,
                    &format!("what lies at {offset} to {to} is lost, and it is not known whose it was"),
                );
                self.lose_track()?;
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
                    Ok(record) => {
                        self.reach(segment, &head)?;
                        self.record(segment, head.run(), record)?;
                    }
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
            self.unknown.entry(run).or_insert_with(|| segment::name(segment.slot));
        }
        Ok(knows)
    }

    /// Frames of a run, at a place, or lost.
    fn frames(&mut self, segment: &Arc<Segment>, head: &Head, place: Option<Place>) -> Result<(), StoreError> {
        let run = head.run();
        if !self.index.runs.contains_key(&run) && !self.must_know(segment, run)? {
            return Ok(());
        }
        let Index { runs, live, bytes, .. } = &mut self.index;
        let state = runs.get_mut(&run).expect("the run is known");
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
                *bytes += u64::from(head.length);
            }
            None if !missing => state.entries.push_lost(Sequence::new(head.first)),
            None => {}
        }
        touch(live, state, run, segment.slot);
        if missing {
            self.found(segment, Some(run), &format!("its responses {expected} to {} are lost", head.first - 1));
        }
        Ok(())
    }

    /// The end of a run says how far it came: what is not there of that is lost.
    fn reach(&mut self, segment: &Arc<Segment>, head: &Head) -> Result<(), StoreError> {
        let run = head.run();
        if head.kind != Kind::Ended || head.first == 0 || !self.must_know(segment, run)? {
            return Ok(());
        }
        let state = self.index.state(run).expect("the run is known");
        let expected = state.record.last.get() + 1;
        if head.first >= expected {
            state.dirty = true;
            state.record.last = Sequence::new(head.first);
            state.entries.push_lost(Sequence::new(expected));
            self.index.touch(run, segment.slot);
            self.found(segment, Some(run), &format!("its responses {expected} to {} are lost", head.first));
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
        // The end is the last thing that is told of a run, but for keys: with it the archive has all that came before.
        let is_over = state.is_archived && state.record.ended.is_some();
        let is_new = match &record {
            // Bound again: it may have been another's meanwhile.
            Record::KeyBound(_) => true,
            _ if is_over => false,
            Record::JobStarted(job) => !told(&mut self.jobs, state, run, |seen| seen.started.insert(*job)),
            Record::JobEnded(job, _) => !told(&mut self.jobs, state, run, |seen| seen.ended.insert(*job)),
            Record::Ended(_) => state.record.ended.is_none(),
            Record::HeadDropped(first) => *first > state.record.first,
            Record::LingerRaised(linger) => *linger != state.record.linger,
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
                self.unknown.insert(run, segment::name(segment.slot));
                "its beginning is lost, and with it the run"
            }
            Kind::LingerRaised => "its linger is lost, and is what it was before",
            Kind::HeadDropped => "that its head was dropped is lost",
            Kind::KeyBound => "a key that was bound to it is lost, and starts another run",
            Kind::JobStarted | Kind::JobEnded | Kind::Ended => {
                self.reach(segment, head)?;
                self.interrupted.insert(run);
                "what became of its jobs is lost; if it has no end it is interrupted"
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
        self.findings.push(Finding { file: segment::name(segment.slot), run, what });
    }

    fn finish(mut self) -> (Index, Vec<Finding>, Vec<RunId>, (u64, u32)) {
        let mut interrupted = Vec::new();
        for (run, file) in self.unknown {
            let what = format!("run {run}: its beginning is lost, and with it the run");
            self.index.lose(run, format!("the live journal is damaged in {file}: {what}"));
            self.findings.push(Finding { file, run: Some(run), what });
        }
        // What a job did cannot be known, and so it cannot be taken up again: that is an end, and has a name.
        for run in self.interrupted {
            let in_service = self.index.in_service();
            if let Some(state) = self.index.state(run).filter(|state| state.record.ended.is_none()) {
                interrupted.push(run);
                let reason = "what became of its jobs may be lost: the live journal is damaged";
                let end = End::Interrupted(reason.to_owned());
                let jobs_failed = state.record.jobs.failed;
                let at = state.record.start.at;
                self.index.end(run, Ended { end, jobs_failed, at, in_service });
            }
        }
        self.index.settle();
        (self.index, self.findings, interrupted, self.tail)
    }
}

/// Whether something was already told of a job, where the archive may have it; otherwise nothing is told twice.
fn told(
    jobs: &mut HashMap<RunId, SeenJobs>,
    state: &State,
    run: RunId,
    insert: impl FnOnce(&mut SeenJobs) -> bool,
) -> bool {
    if !state.is_archived {
        return false;
    }
    let seen = jobs.entry(run).or_insert_with(|| SeenJobs {
        started: state.record.jobs.started.iter().copied().collect(),
        ended: state.record.jobs.ended.iter().copied().collect(),
    });
    !insert(seen)
}
