//! How a request becomes a reader of a journaled run: it starts one, joins the one that its key or its source leads to, or
//! reads one again. And what else is asked about such runs: what they are, and to stop them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::runtime::Handle;

use crate::{
    Again, Among, Durability, End, Engine, Filter, Key, Place, Plan, Principal, Reader, Refusal, Request, RunId,
    RunInfo, Sequence, Start, Store, StoreError,
    digest::Digest,
    driver::{Journaled, Resumed},
    keeper::{Bound, Keeper},
    living::{Entered, Generation, InHand},
    run::{From, Run, RunPermit},
    sources::{Registered, SourcePermit},
};

/// A breath before looking again for a run that is being deleted.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(5);

/// The keys of a request: its own, and that of the run which its source shares.
struct Keys {
    own: Option<Key>,
    shared: Option<Key>,
}

/// A run that was planned and is not begun.
struct Prepared {
    in_hand: InHand,
    plan: Plan,
}

/// Where a request's keys lead.
enum Joined {
    /// To a run that it reads now.
    Reader(Reader),
    /// To none as of `known`, but for one that is not to be joined any more.
    Nothing { known: Generation, stale: Option<RunId> },
    /// To something that is just changing.
    LookAgain,
}

impl Registered {
    /// Whether a run for `request` is journaled.
    pub(crate) fn journals(&self, request: &Request) -> bool {
        let asked = request.linger().is_some() || request.key().is_some();
        asked || self.options.linger.is_some() || self.options.shared.is_some()
    }

    /// Whether `start` answers `request`, or which field differs.
    fn answers(&self, request: &Request, start: &Start) -> Result<(), &'static str> {
        let same = [
            ("id", request.id() == start.id),
            ("source", self.name == start.source),
            ("parameters", start.parameters == *request.parameters()),
        ];
        same.into_iter().find(|(_, same)| !same).map_or(Ok(()), |(field, _)| Err(field))
    }

    fn shared_key(&self, request: &Request) -> Option<Key> {
        let shared = self.options.shared?;
        let mut digest =
            Digest::new().with(&*self.name).with(self.configuration.to_le_bytes()).with(request.id().to_le_bytes());
        for (name, value) in request.parameters() {
            digest = digest.with(name).with(value);
        }
        let principal = match shared.among {
            Among::OnePrincipal => request.principal().tag(),
            Among::Everybody => "everybody",
        };
        Some(Key(Bytes::from(format!("shared {:016x} {principal}", digest.value()))))
    }
}

impl Principal {
    /// Tells principals apart in keys.
    fn tag(&self) -> &'static str {
        match self {
            Principal::Anonymous => "",
        }
    }
}

fn idempotency_key(principal: &Principal, key: &str) -> Key {
    Key(Bytes::from(format!("key {} {key}", principal.tag())))
}

impl Engine {
    /// Opens the store, if it is not open, and takes up the runs in it that have not ended. Requests do that by
    /// themselves where they need it.
    ///
    /// # Errors
    /// Where the store cannot be opened; nothing is changed by that, and it may be tried again.
    pub async fn open(&self) -> Result<(), Refusal> {
        self.keeper().await.map(|_| ())
    }

    /// What the store outlives; `None` while it is not open.
    pub fn durability(&self) -> Option<Durability> {
        self.keeper.get().map(|keeper| keeper.store.durability())
    }

    pub(crate) async fn keeper(&self) -> Result<&Arc<Keeper>, Refusal> {
        let open = async || {
            let open_store = self.open_store.clone();
            let opened = tokio::task::spawn_blocking(move || open_store()).await;
            let store = opened.unwrap_or_else(|error| Err(StoreError::Failed(error.to_string())))?;
            let keeper = Keeper::start(store, self.clock.clone(), self.limits.clone(), self.budget.clone())?;
            let keeper = Arc::new(keeper);
            self.take_up_all(&keeper).await?;
            self.background().spawn(keeper.clone().sweep(self.draining.clone()));
            Ok::<_, Refusal>(keeper)
        };
        let keeper = self.keeper.get_or_try_init(open).await?;
        if self.draining.is_cancelled() {
            // Of a drain that came while it was opened nobody knew whom to tell.
            keeper.living.tell_drivers();
        }
        Ok(keeper)
    }

    /// Makes durable what there is, and ends the store's threads. To be called when the engine is drained.
    pub async fn close(&self) {
        if let Some(keeper) = self.keeper.get() {
            keeper.stop().await;
        }
    }

    /// A run that is journaled: a new one, or the one that the request's key, or its source's sharing, leads to.
    pub(crate) async fn fetch_journaled(
        &self,
        request: &Request,
        registered: &Arc<Registered>,
        random: u128,
    ) -> Result<Reader, Refusal> {
        let keeper = self.keeper().await?;
        let keys = Keys {
            own: request.key().map(|key| idempotency_key(request.principal(), key)),
            shared: registered.shared_key(request),
        };
        let asked = Instant::now();
        let mut prepared = None;
        while !self.draining.is_cancelled() {
            // Boxed: what waits in here is not to be as large for all the others that wait below.
            let found = Box::pin(self.join(keeper, request, registered, &keys)).await?;
            let reader = match found {
                Joined::Reader(reader) => Some(reader),
                Joined::Nothing { known, stale } => {
                    let new = match prepared.take() {
                        Some(new) => new,
                        None => self.prepare(keeper, request, registered, &keys, random).await?,
                    };
                    self.begin(keeper, request, new, stale, known, &mut prepared)?
                }
                Joined::LookAgain => None,
            };
            match reader {
                Some(reader) => return self.durable(keeper, request, reader).await,
                // What is on its way into the store, or out of it, may be kept waiting.
                None if asked.elapsed() >= self.limits.patience => return Err(self.in_vain(keeper)),
                None => {}
            }
        }
        Err(Refusal::Draining)
    }

    /// Joins the run that one of the request's keys leads to.
    async fn join(
        &self,
        keeper: &Keeper,
        request: &Request,
        registered: &Arc<Registered>,
        keys: &Keys,
    ) -> Result<Joined, Refusal> {
        let mut known = None;
        if let Some(key) = &keys.own {
            match keeper.bound(key).await? {
                Bound::To(run) => return self.join_own(keeper, run, registered, request).await,
                Bound::Nothing(generation) => known = Some(generation),
                Bound::Soon => {
                    tokio::time::sleep(LOOK_AGAIN_AFTER).await;
                    return Ok(Joined::LookAgain);
                }
            }
        }
        let mut stale = None;
        if let Some(key) = &keys.shared {
            match keeper.bound(key).await? {
                Bound::To(run) => match self.join_shared(keeper, run, registered, request).await? {
                    Some(reader) => return self.bind_own(keeper, reader, keys.own.as_ref().zip(known)).await,
                    None => stale = Some(run),
                },
                Bound::Nothing(generation) => known = known.or(Some(generation)),
                Bound::Soon => unreachable!("a run begins with the key that shares it"),
            }
        }
        Ok(Joined::Nothing { known: known.unwrap_or_else(|| keeper.living.generation()), stale })
    }

    /// Binds the request's own key, which was bound to nothing as of then, to the shared run that it joined.
    async fn bind_own(
        &self,
        keeper: &Keeper,
        reader: Reader,
        own: Option<(&Key, Generation)>,
    ) -> Result<Joined, Refusal> {
        let Some((key, known)) = own else { return Ok(Joined::Reader(reader)) };
        let run = reader.run();
        let Entered::Done(binding) = keeper.living.bind(run, key, known) else { return Ok(Joined::LookAgain) };
        self.in_time(keeper, run.bind(key.clone())).await?;
        // A stop may have dropped it.
        let (id, key) = (run.id(), key.clone());
        if keeper.ask(move |store| store.bound(&key)).await? != Some(id) {
            return Ok(Joined::LookAgain);
        }
        binding.settle();
        Ok(Joined::Reader(reader))
    }

    /// A run that may be started.
    async fn prepare(
        &self,
        keeper: &Keeper,
        request: &Request,
        registered: &Arc<Registered>,
        keys: &Keys,
        random: u128,
    ) -> Result<Prepared, Refusal> {
        if let Some(reason) = keeper.queue.failing() {
            return Err(Refusal::StoreFailing { reason });
        }
        let permit = RunPermit::acquire(&self.runs, self.limits.runs_max)?;
        let plan = self.plan(request, SourcePermit::acquire(registered.clone())?).await?;
        let at = keeper.clock.now();
        let keys = keys.own.iter().chain(&keys.shared).cloned().collect();
        let start = Arc::new(self.start_of(request, registered, &plan, keys, at));
        let run = Run::journaled(
            RunId::journaled(at, random),
            plan.payload,
            self.limits.clone(),
            self.budget.clone(),
            permit,
            start.clone(),
            keeper.queue.clone(),
        );
        let run = Arc::new(run.expecting(plan.expected_bytes));
        run.keep(registered.options.keep_bytes);
        if let Some(bytes) = plan.output_limit {
            run.limit_output(bytes, 0);
        }
        Ok(Prepared { in_hand: InHand { run, start }, plan })
    }

    /// Starts a run, unless somebody else just did, or something was let go meanwhile: then it is kept in `prepared`.
    fn begin(
        &self,
        keeper: &Keeper,
        request: &Request,
        new: Prepared,
        stale: Option<RunId>,
        known: Generation,
        prepared: &mut Option<Prepared>,
    ) -> Result<Option<Reader>, Refusal> {
        let store = keeper.store.clone();
        let begin = |run: &Arc<Run>| attach(run, From::After(Sequence::NONE), request, store);
        let Entered::Done(reader) =
            keeper.living.enter(new.in_hand.clone(), &new.in_hand.start.keys, stale, known, begin)
        else {
            *prepared = Some(new);
            return Ok(None);
        };
        let Prepared { in_hand, plan } = new;
        in_hand.run.begin();
        let journaled = self.as_journaled(keeper, &plan, None);
        self.driver_of(in_hand.run, plan, Some(journaled), Handle::current()).begin();
        reader.map(Some)
    }

    fn start_of(
        &self,
        request: &Request,
        registered: &Arc<Registered>,
        plan: &Plan,
        keys: Box<[Key]>,
        at: crate::Timestamp,
    ) -> Start {
        let linger = request.linger().max(registered.options.linger).unwrap_or(self.limits.linger);
        Start {
            source: registered.name.clone(),
            configuration: registered.configuration,
            id: request.id(),
            parameters: request.parameters().into(),
            principal: request.principal().clone(),
            keys,
            at,
            jobs: plan.jobs.len() as u32,
            linger,
            reuse: registered.options.shared.map(|shared| shared.reuse),
            basis: plan.basis,
            expected_bytes: plan.expected_bytes,
        }
    }

    /// What the driver of a journaled run has to know.
    pub(crate) fn as_journaled(&self, keeper: &Keeper, plan: &Plan, resumed: Option<Resumed>) -> Journaled {
        // What a restart does again, or what no restart will find, need not be finished now.
        let is_lost = keeper.store.durability() != Durability::Disk;
        let suspend = if plan.repeatable || is_lost { &self.draining } else { &self.suspend };
        Journaled { resumed: resumed.map(Box::new), draining: self.draining.clone(), suspend: suspend.clone() }
    }

    /// Joins the run that a request's own key is bound to.
    async fn join_own(
        &self,
        keeper: &Keeper,
        run: RunId,
        registered: &Arc<Registered>,
        request: &Request,
    ) -> Result<Joined, Refusal> {
        let reader = keeper
            .with(run, |found| {
                registered.answers(request, &found.start).map_err(|field| Refusal::KeyReused { field })?;
                attach(&found.run, From::After(Sequence::NONE), request, keeper.store.clone())
            })
            .await?;
        if reader.is_none() {
            // It is just being deleted.
            tokio::time::sleep(LOOK_AGAIN_AFTER).await;
        }
        reader.map_or(Ok(Joined::LookAgain), |reader| reader.map(Joined::Reader))
    }

    /// Joins a run that its source shares; `None` where it is not one to be joined.
    async fn join_shared(
        &self,
        keeper: &Keeper,
        run: RunId,
        registered: &Arc<Registered>,
        request: &Request,
    ) -> Result<Option<Reader>, Refusal> {
        let join = |found: &InHand| {
            let same = registered.answers(request, &found.start).is_ok();
            if !same || found.start.configuration != registered.configuration {
                return Ok(None);
            }
            attach(&found.run, From::After(Sequence::NONE), request, keeper.store.clone()).map(Some)
        };
        let under_way = |found: &InHand| if found.run.is_closed() { Ok(None) } else { join(found) };
        if let Some(reader) = keeper.with(run, under_way).await?.transpose()?.flatten() {
            return Ok(Some(reader));
        }
        if let Some(ending) = keeper.with(run, |found| found.run.clone()).await? {
            self.in_time(keeper, ending.ended()).await?;
        }
        let Some(info) = keeper.info(run).await? else { return Ok(None) };
        let reuse = registered.options.shared.map_or(Duration::ZERO, |shared| shared.reuse);
        let is_fresh = info.record.ended.as_ref().is_some_and(|ended| {
            ended.end == End::Complete && keeper.in_service().saturating_sub(ended.in_service) < reuse
        });
        if !is_fresh {
            return Ok(None);
        }
        Ok(keeper.with(run, join).await?.transpose()?.flatten())
    }

    /// The reader, once the run that it reads is durable, and how long that goes on without readers.
    async fn durable(&self, keeper: &Keeper, request: &Request, reader: Reader) -> Result<Reader, Refusal> {
        let run = reader.run();
        let is_durable = async {
            let is_started = run.started().await;
            if is_started && request.linger().is_some() {
                run.linger_raised().await;
            }
            is_started
        };
        if self.in_time(keeper, is_durable).await == Ok(true) {
            return Ok(reader);
        }
        if run.abandon() {
            keeper.living.give_up(run.id());
            return Err(self.in_vain(keeper));
        }
        // What it waited for may just have come.
        if request.linger().is_some() && run.raises_linger() { Err(self.in_vain(keeper)) } else { Ok(reader) }
    }

    /// Waits for the store, no longer than a request's patience.
    async fn in_time<T>(&self, keeper: &Keeper, durable: impl Future<Output = T>) -> Result<T, Refusal> {
        tokio::time::timeout(self.limits.patience, durable).await.map_err(|_| self.in_vain(keeper))
    }

    /// Why a request waited for the store in vain.
    fn in_vain(&self, keeper: &Keeper) -> Refusal {
        let waited = || format!("nothing became durable within {:?}", self.limits.patience);
        Refusal::StoreFailing { reason: keeper.queue.failing().unwrap_or_else(waited) }
    }

    /// Reads a run again, from a place in it.
    pub(crate) async fn read_again(&self, request: &Request, again: &Again) -> Result<Reader, Refusal> {
        let from = match again.place {
            Place::After(after) => From::After(Sequence(after)),
            Place::Last(count) => From::Last(count.get()),
        };
        let (keeper, id) = self.named(&again.run)?;
        let reader = keeper
            .with(id, |found| {
                is_own(request, &found.start, &again.run)?;
                attach(&found.run, from, request, keeper.store.clone())
            })
            .await?
            .transpose()?;
        let reader = reader.ok_or_else(|| Refusal::UnknownRun { id: again.run.clone() })?;
        self.durable(keeper, request, reader).await
    }

    /// The keeper and the id of a run that can be read again.
    fn named(&self, run: &str) -> Result<(&Arc<Keeper>, RunId), Refusal> {
        let unknown = || Refusal::UnknownRun { id: run.chars().take(64).collect() };
        let id: RunId = run.parse().map_err(|_| unknown())?;
        if !id.is_journaled() {
            return Err(Refusal::NotReadable { id: run.into() });
        }
        // No run is in a store that was never opened.
        Ok((self.keeper.get().ok_or_else(unknown)?, id))
    }

    /// What is known of a run: what is durable of it.
    ///
    /// # Errors
    /// [`Refusal::UnknownRun`], [`Refusal::NotReadable`], or where the store fails.
    pub async fn run(&self, principal: &Principal, run: &str) -> Result<RunInfo, Refusal> {
        let (keeper, id) = self.named(run)?;
        let info = keeper.info(id).await?.filter(|info| info.record.start.principal == *principal);
        info.ok_or_else(|| Refusal::UnknownRun { id: run.into() })
    }

    /// Runs that match `filter`, the last started first: at most `max`, started before `before`.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn list(&self, filter: Filter, before: Option<RunId>, max: usize) -> Result<Vec<RunInfo>, Refusal> {
        match self.keeper.get() {
            Some(keeper) => keeper.list(filter, before, max).await,
            None => Ok(Vec::new()),
        }
    }

    /// Stops a run, and tells what is known of it when its end is durable. One that has ended stays as it is.
    ///
    /// # Errors
    /// As [`Engine::run`].
    pub async fn stop(&self, principal: &Principal, run: &str) -> Result<RunInfo, Refusal> {
        let info = self.run(principal, run).await?;
        if info.record.ended.is_some() {
            return Ok(info);
        }
        let (keeper, id) = self.named(run)?;
        if let Some(stopping) = keeper.with(id, |found| found.run.clone()).await? {
            if stopping.close(End::Stopped) {
                stopping.tell_driver();
                tracing::info!("run {id} stopped: somebody asked for it");
            }
            keeper.queue.stop_soon();
            self.in_time(keeper, stopping.ended()).await?;
        }
        self.run(principal, run).await
    }
}

fn attach(run: &Arc<Run>, from: From, request: &Request, store: Arc<dyn Store>) -> Result<Reader, Refusal> {
    let place = run.attach(from, request.limit(), request.linger())?;
    Ok(Reader::journaled(run.clone(), place, store))
}

/// Whether a request that names a run says nothing else than that run does.
fn is_own(request: &Request, start: &Start, run: &str) -> Result<(), Refusal> {
    if *request.principal() != start.principal {
        return Err(Refusal::UnknownRun { id: run.into() });
    }
    let differs =
        |field| Err(Refusal::invalid(field, "is not what this run was asked for; leave it unset with run_id"));
    if request.id() != 0 && request.id() != start.id {
        return differs("id");
    }
    if request.source().is_some_and(|source| source != &*start.source) {
        return differs("source");
    }
    if !request.parameters().is_empty() && start.parameters != *request.parameters() {
        return differs("parameters");
    }
    Ok(())
}
