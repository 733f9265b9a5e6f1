//! What the engine has for journaled runs once its store is open: the store, the way to its committer, and the runs in
//! hand. It finds runs by name and by key, and deletes those that are no longer kept.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::{
    Budget, Clock, Durability, Filter, Key, Limits, PayloadKind, Refusal, RunId, RunRecord, Store, StoreError,
    committer::{Committer, Item, Queue},
    living::{Entered, Found, Generation, InHand, Living},
    run::Run,
};

/// How often expired runs are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How many are deleted at once, so that no commit and no transaction becomes long.
const DELETED_AT_ONCE: usize = 256;
/// A breath between two such batches.
const SWEEP_PAUSE: Duration = Duration::from_millis(10);
/// A store so full, in tenths, gives back ended runs before their time …
const PRESSED_TENTHS: u64 = 9;
/// … until it is only so full.
const RELIEVED_TENTHS: u64 = 8;

/// The journaled runs of an engine.
pub(crate) struct Keeper {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) living: Arc<Living>,
    pub(crate) clock: Clock,
    limits: Arc<Limits>,
    budget: Budget,
    committer: Mutex<Committer>,
    /// How long the store had been in service when it was opened, and when that was.
    base: Duration,
    since: Instant,
}

/// What is known of a run.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RunInfo {
    /// All that is durable of it.
    pub record: RunRecord,
    /// Readers attached now.
    pub readers: usize,
    /// What it outlives.
    pub durability: Durability,
    /// Of an ended run, how long it is kept at least, unless the store becomes full.
    pub expires_in: Option<Duration>,
}

/// What a key leads to.
pub(crate) enum Bound {
    /// This run.
    To(RunId),
    /// None, as of this generation.
    Nothing(Generation),
    /// One that will soon be in the store, or not: look again.
    Soon,
}

impl Keeper {
    /// # Errors
    /// Where the system gives no thread.
    pub(crate) fn start(
        store: Arc<dyn Store>,
        clock: Clock,
        limits: Arc<Limits>,
        budget: Budget,
    ) -> Result<Self, StoreError> {
        let queue = Arc::new(Queue::default());
        let living = Arc::new(Living::default());
        let committer =
            Committer::start(queue.clone(), store.clone(), living.clone(), clock.clone(), limits.clone())?;
        Ok(Self {
            base: store.in_service(),
            since: Instant::now(),
            store,
            queue,
            living,
            clock,
            limits,
            budget,
            committer: Mutex::new(committer),
        })
    }

    /// Makes durable what there is; nothing can be written any more.
    pub(crate) async fn stop(self: &Arc<Self>) {
        let keeper = self.clone();
        // The thread may be in the middle of a commit.
        _ = tokio::task::spawn_blocking(move || keeper.committer.lock().stop()).await;
    }

    /// Calls the store on a thread that may block.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&dyn Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let store = self.store.clone();
        let answer = tokio::task::spawn_blocking(move || question(store.as_ref())).await;
        answer.unwrap_or_else(|error| Err(StoreError::Failed(error.to_string()))).map_err(Refusal::from)
    }

    /// The run that a key is bound to.
    pub(crate) async fn bound(&self, key: &Key) -> Result<Bound, Refusal> {
        let generation = match self.living.bound(key) {
            Found::Here(run) => return Ok(Bound::To(run)),
            Found::Gone => return Ok(Bound::Soon),
            Found::Elsewhere(generation) => generation,
        };
        let key = key.clone();
        let bound = self.ask(move |store| store.bound(&key)).await?;
        Ok(bound.map_or(Bound::Nothing(generation), Bound::To))
    }

    /// What `look` does with a run, while nobody can let it go: an ended one is taken in hand for that. `None` where
    /// there is no such run.
    pub(crate) async fn with<T>(&self, id: RunId, look: impl Fn(&InHand) -> T) -> Result<Option<T>, Refusal> {
        loop {
            let generation = match self.living.find(id, &look) {
                Found::Here(seen) => return Ok(Some(seen)),
                Found::Gone => return Ok(None),
                Found::Elsewhere(generation) => generation,
            };
            let Some(record) = self.ask(move |store| store.find(id)).await? else { return Ok(None) };
            if record.ended.is_none() {
                // Its request was refused, and it is about to be deleted.
                return Ok(None);
            }
            let (limits, budget) = (self.limits.clone(), self.budget.clone());
            let run = Run::stored(&record, PayloadKind::default(), limits, budget, None, self.queue.clone());
            let in_hand = InHand { run: Arc::new(run), start: record.start };
            let seen = in_hand.clone();
            match self.living.enter(in_hand, &[], None, generation, |_| look(&seen)) {
                Entered::Done(seen) => return Ok(Some(seen)),
                Entered::Other | Entered::Changed => {}
            }
        }
    }

    /// How long the store has been in service.
    pub(crate) fn in_service(&self) -> Duration {
        self.base + self.since.elapsed()
    }

    /// What is known of a run.
    pub(crate) async fn info(&self, id: RunId) -> Result<Option<RunInfo>, Refusal> {
        Ok(self.ask(move |store| store.find(id)).await?.map(|record| self.about(record)))
    }

    /// Runs that match `filter`, the last started first.
    pub(crate) async fn list(
        &self,
        filter: Filter,
        before: Option<RunId>,
        max: usize,
    ) -> Result<Vec<RunInfo>, Refusal> {
        let records = self.ask(move |store| store.list(&filter, before, max)).await?;
        Ok(records.into_iter().map(|record| self.about(record)).collect())
    }

    fn about(&self, record: RunRecord) -> RunInfo {
        let expires_in = record.ended.as_ref().map(|ended| {
            let age = self.in_service().saturating_sub(ended.in_service);
            self.limits.keep_time.max(kept_anyway(&record)).saturating_sub(age)
        });
        let readers = self.living.readers(record.id);
        RunInfo { readers, durability: self.store.durability(), expires_in, record }
    }

    /// Deletes runs that are no longer kept, until `stop`.
    pub(crate) async fn sweep(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(SWEEP_EVERY) => {}
            }
            if let Err(error) = self.sweep_once(&stop).await {
                tracing::error!("cannot look for expired runs: {error}");
            }
        }
    }

    async fn sweep_once(&self, stop: &CancellationToken) -> Result<(), Refusal> {
        let mut behind = None;
        let (bytes, bytes_max) = (self.store.bytes(), self.store.bytes_max());
        let is_pressed = bytes >= bytes_max / 10 * PRESSED_TENTHS;
        let mut excess = if is_pressed { bytes.saturating_sub(bytes_max / 10 * RELIEVED_TENTHS) } else { 0 };
        while !stop.is_cancelled() {
            let ended = self.ask(move |store| store.ended_first(behind, DELETED_AT_ONCE)).await?;
            let Some(last) = ended.last() else { return Ok(()) };
            behind = last.ended.as_ref().map(|ended| (ended.in_service, last.id));
            let now = self.in_service();
            let mut any_young = false;
            let mut expired = Vec::new();
            for record in &ended {
                let age = record.ended.as_ref().map_or(Duration::ZERO, |ended| now.saturating_sub(ended.in_service));
                any_young |= age < self.limits.keep_time;
                if age >= kept_anyway(record) && (age >= self.limits.keep_time || excess > 0) {
                    excess = excess.saturating_sub(record.bytes.max(1));
                    expired.push(record.id);
                }
            }
            self.delete(expired).await;
            if any_young && excess == 0 {
                return Ok(());
            }
            tokio::time::sleep(SWEEP_PAUSE).await;
        }
        Ok(())
    }

    /// Deletes those of `runs` that nobody reads.
    async fn delete(&self, runs: Vec<RunId>) {
        let runs = self.living.begin_deleting(runs);
        if !runs.is_empty() {
            tracing::debug!("{} runs have expired", runs.len());
            let (done, deleted) = oneshot::channel();
            self.queue.push(Item::Delete(runs, done));
            // An error: the committer has ended, and with it this process will.
            _ = deleted.await;
        }
    }
}

/// How long an ended run is kept even where room is short: somebody may come back, or join it.
fn kept_anyway(record: &RunRecord) -> Duration {
    record.linger.max(record.start.reuse.unwrap_or_default())
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Damaged(reason) => Self::Damaged { reason },
            error => Self::StoreFailing { reason: error.to_string() },
        }
    }
}
