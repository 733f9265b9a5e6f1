//! The journaled runs that this process has in hand: those under way, and ended ones that somebody reads. What is not
//! here is in the store only. Attaching a reader and deleting a run exclude each other here.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::{Key, Leave, RunId, Start, run::Run};

/// The journaled runs in hand. Its lock is taken before a run's, never the other way round.
#[derive(Default)]
pub(crate) struct Living(Mutex<State>);

#[derive(Default)]
struct State {
    runs: HashMap<RunId, InHand>,
    keys: HashMap<Key, RunId>,
    /// Keys of runs that came to them after their start, as few do.
    later_keys: HashMap<RunId, Vec<Key>>,
    /// Those of `keys` that are on their way into the store.
    binding: HashSet<Key>,
    deleting: HashSet<RunId>,
    let_go: Generation,
}

/// How many runs were let go so far: what was read from the store in one generation may be old in the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Generation(u64);

/// A run in hand.
#[derive(Clone)]
pub(crate) struct InHand {
    pub(crate) run: Arc<Run>,
    pub(crate) start: Arc<Start>,
}

/// What there is of a run.
pub(crate) enum Found<T> {
    Here(T),
    /// Of a run, it is being deleted, or was given up and will be; of a key, it is just being bound.
    Gone,
    /// Not here; the store may have it.
    Elsewhere(Generation),
}

/// What came of taking a run in hand.
pub(crate) enum Entered<T> {
    /// It is in hand.
    Done(T),
    /// Another is, under one of its keys or its name.
    Other,
    /// Something was let go meanwhile: look again.
    Changed,
}

impl Living {
    /// What `look` sees of a run in hand, while nobody can let it go.
    pub(crate) fn find<T>(&self, run: RunId, look: impl FnOnce(&InHand) -> T) -> Found<T> {
        let state = self.0.lock();
        match state.runs.get(&run) {
            Some(found) if found.run.is_abandoned() => Found::Gone,
            Some(found) => Found::Here(look(found)),
            None if state.deleting.contains(&run) => Found::Gone,
            None => Found::Elsewhere(state.let_go),
        }
    }

    /// The run in hand that `key` is bound to.
    pub(crate) fn bound(&self, key: &Key) -> Found<RunId> {
        let state = self.0.lock();
        if state.binding.contains(key) {
            return Found::Gone;
        }
        state.keys.get(key).map_or(Found::Elsewhere(state.let_go), |run| Found::Here(*run))
    }

    /// Takes a run in hand, unless one of its name or, `but` for one, of `keys` is. `attach` is called before anybody
    /// else can find it.
    pub(crate) fn enter<T>(
        &self,
        entering: InHand,
        keys: &[Key],
        but: Option<RunId>,
        known: Generation,
        attach: impl FnOnce(&Arc<Run>) -> T,
    ) -> Entered<T> {
        let mut state = self.0.lock();
        let id = entering.run.id();
        if state.let_go != known || state.deleting.contains(&id) {
            return Entered::Changed;
        }
        let mut bound = keys.iter().filter_map(|key| state.keys.get(key));
        if bound.any(|run| Some(*run) != but) || state.runs.contains_key(&id) {
            return Entered::Other;
        }
        let attached = attach(&entering.run);
        for key in keys {
            state.keys.insert(key.clone(), id);
        }
        state.runs.insert(id, entering);
        Entered::Done(attached)
    }

    /// Takes a run in hand that the store had when it was opened; says whether it was not there yet. Its keys may have
    /// passed to later runs.
    pub(crate) fn enter_stored(&self, entering: InHand) -> bool {
        self.0.lock().runs.insert(entering.run.id(), entering).is_none()
    }

    /// What is known now.
    pub(crate) fn generation(&self) -> Generation {
        self.0.lock().let_go
    }

    /// One more key for a run in hand, which was bound to nothing as of `known`. Until that is settled nobody else finds
    /// the key.
    pub(crate) fn bind(&self, run: &Arc<Run>, key: &Key, known: Generation) -> Entered<Binding<'_>> {
        let mut state = self.0.lock();
        let state = &mut *state;
        if state.let_go != known {
            return Entered::Changed;
        }
        match state.runs.get(&run.id()) {
            Some(_) if !state.keys.contains_key(key) => {
                state.later_keys.entry(run.id()).or_default().push(key.clone());
                state.keys.insert(key.clone(), run.id());
                state.binding.insert(key.clone());
                Entered::Done(Binding { living: self, run: run.clone(), key: key.clone(), is_durable: false })
            }
            _ => Entered::Other,
        }
    }

    /// A run was given up: its keys are free, and nobody finds it any more.
    pub(crate) fn give_up(&self, run: RunId) {
        self.0.lock().free_keys(run);
    }

    /// Lets a run go that was given up before anything of it was in the store.
    pub(crate) fn drop_run(&self, run: RunId) {
        let mut state = self.0.lock();
        state.free_keys(run);
        state.runs.remove(&run);
    }

    /// Lets a run go that has ended, if nobody reads it; says whether it is to be deleted, which it is from now on.
    pub(crate) fn forget(&self, run: RunId) -> bool {
        let mut state = self.0.lock();
        if state.runs.get(&run).is_none_or(|found| !found.run.is_over()) {
            return false;
        }
        state.free_keys(run);
        let is_abandoned = state.runs.remove(&run).is_some_and(|found| found.run.is_abandoned());
        if is_abandoned {
            state.deleting.insert(run);
        }
        is_abandoned
    }

    /// Those of `runs` that nobody has in hand, and from now on nobody can take: they are to be deleted.
    pub(crate) fn begin_deleting(&self, runs: impl IntoIterator<Item = RunId>) -> Vec<RunId> {
        let mut state = self.0.lock();
        let free = runs.into_iter().filter(|run| !state.runs.contains_key(run)).collect::<Vec<_>>();
        state.deleting.extend(&free);
        free
    }

    /// They are deleted.
    pub(crate) fn deleted(&self, runs: &[RunId]) {
        let mut state = self.0.lock();
        state.let_go.0 += 1;
        for run in runs {
            state.deleting.remove(run);
        }
    }

    /// Has all drivers look.
    pub(crate) fn tell_drivers(&self) {
        self.0.lock().runs.values().for_each(|found| found.run.tell_driver());
    }

    /// Cuts all readers: the engine ends.
    pub(crate) fn cut_readers(&self) {
        let runs: Vec<_> = self.0.lock().runs.values().map(|found| found.run.clone()).collect();
        for run in runs {
            run.cut(&Leave::Draining);
        }
    }

    /// Readers of a run in hand.
    pub(crate) fn readers(&self, run: RunId) -> usize {
        match self.find(run, |found| found.run.readers()) {
            Found::Here(readers) => readers,
            _ => 0,
        }
    }
}

impl State {
    fn free_keys(&mut self, run: RunId) {
        self.let_go.0 += 1;
        let own = self.runs.get(&run).map(|found| found.start.clone());
        let own = own.iter().flat_map(|start| start.keys.iter());
        let later = self.later_keys.remove(&run).unwrap_or_default();
        for key in own.chain(&later) {
            if self.keys.get(key) == Some(&run) {
                self.keys.remove(key);
            }
        }
    }
}

/// A key on its way into the store. Dropped before it is known to be there, it is bound to nothing.
pub(crate) struct Binding<'a> {
    living: &'a Living,
    run: Arc<Run>,
    key: Key,
    is_durable: bool,
}

impl Binding<'_> {
    /// It is in the store.
    pub(crate) fn settle(mut self) {
        self.is_durable = true;
    }
}

impl Drop for Binding<'_> {
    fn drop(&mut self) {
        if !self.is_durable {
            self.run.withdraw(&self.key);
        }
        let mut state = self.living.0.lock();
        let state = &mut *state;
        state.binding.remove(&self.key);
        if !self.is_durable && state.keys.get(&self.key) == Some(&self.run.id()) {
            state.keys.remove(&self.key);
            if let Entry::Occupied(mut keys) = state.later_keys.entry(self.run.id()) {
                keys.get_mut().retain(|key| *key != self.key);
                if keys.get().is_empty() {
                    keys.remove();
                }
            }
        }
    }
}
