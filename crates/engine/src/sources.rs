//! Which source answers a request: the set of sources, checked as a whole, and the one that is in force, which can be
//! replaced while runs are under way. It knows names, ids and options, and nothing of runs but how many are alive.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::RwLock;
use tokio::sync::Semaphore;

use crate::{Code, JobError, Plan, Planning, Refusal, Request, Source, SourceOptions, digest::Digest};

/// A set of sources: who is called what, who claims which ids, and who answers what nobody claims.
#[derive(Clone, Default)]
pub struct Sources {
    sources: Vec<Registered>,
    default: Option<String>,
}

/// Why sources cannot stand beside each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SourcesError {
    /// A name leads to one source.
    #[error("two sources are called `{name}`; rename one")]
    SameName {
        /// What both are called.
        name: String,
    },
    /// An id leads to one source.
    #[error("sources `{first}` and `{second}` both claim {}; take them from one", Ids(*from, *to))]
    Overlap {
        /// A source that claims these ids.
        first: String,
        /// Another that does.
        second: String,
        /// The first id that both claim.
        from: i32,
        /// The last one.
        to: i32,
    },
    /// A range begins behind its end.
    #[error("source `{name}` claims the ids {from} to {to}, which are none; both ends are included")]
    NoIds {
        /// The source.
        name: String,
        /// Where the range begins.
        from: i32,
        /// Where it ends.
        to: i32,
    },
    /// The default is none of them.
    #[error("the default source is to be `{name}`, and no source is called so")]
    UnknownDefault {
        /// What it is called.
        name: String,
    },
}

/// Ids, as a person reads them.
struct Ids(i32, i32);

impl fmt::Display for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(from, to) = self;
        if from == to { write!(f, "the id {from}") } else { write!(f, "the ids {from} to {to}") }
    }
}

impl Sources {
    /// A set without sources.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a source, which answers requests that name it.
    #[must_use]
    pub fn source(self, name: impl Into<String>, source: impl Source) -> Self {
        self.source_with(name, source, SourceOptions::default())
    }

    /// Adds a source that answers requests as `options` say.
    #[must_use]
    pub fn source_with(mut self, name: impl Into<String>, source: impl Source, options: SourceOptions) -> Self {
        let configuration = Digest::new().with(source.configuration()).value();
        let (name, source) = (name.into().into(), Arc::new(source));
        let (alive, planning) = (Arc::default(), Arc::new(Semaphore::new(PLANS_AT_ONCE)));
        self.sources.push(Registered { name, source, options, configuration, alive, planning });
        self
    }

    /// Has the source of this name answer every request that names none and whose id nobody claims.
    #[must_use]
    pub fn default_to(mut self, name: impl Into<String>) -> Self {
        self.default = Some(name.into());
        self
    }

    /// Adds a source that answers every request which names none and whose id nobody claims.
    #[must_use]
    pub fn default_source(self, name: impl Into<String>, source: impl Source) -> Self {
        let name = name.into();
        self.source(name.clone(), source).default_to(name)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// The name of the only source, where there is one, it claims no ids, and no default was chosen: nobody could be
    /// meant but it.
    pub fn lone(&self) -> Option<&str> {
        match &self.sources[..] {
            [lone] if lone.options.ids.is_empty() && self.default.is_none() => Some(&lone.name),
            _ => None,
        }
    }

    /// Whether these can stand beside each other.
    ///
    /// # Errors
    /// [`SourcesError`] names those that cannot.
    pub fn check(&self) -> Result<(), SourcesError> {
        Table::new(self.clone()).map(|_| ())
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.sources.iter().map(|source| &source.name);
        f.debug_struct("Sources").field("names", &names.collect::<Vec<_>>()).finish_non_exhaustive()
    }
}

/// Plans of one source that are made at once on threads that may block: a file system that hangs must not take all threads
/// that there are.
const PLANS_AT_ONCE: usize = 64;

/// A source and how its runs are kept.
#[derive(Clone)]
pub(crate) struct Registered {
    pub(crate) name: Arc<str>,
    pub(crate) source: Arc<dyn Source>,
    pub(crate) options: SourceOptions,
    pub(crate) configuration: u64,
    /// Runs of it whose jobs have not ended, also those that were begun before the sources were replaced.
    alive: Arc<AtomicUsize>,
    /// Places for plans that are being made on threads that may block.
    planning: Arc<Semaphore>,
}

/// Ids that a source claims.
struct Claim {
    from: i32,
    to: i32,
    source: Arc<Registered>,
}

/// Sources that can stand beside each other.
#[derive(Default)]
struct Table {
    by_name: BTreeMap<Arc<str>, Arc<Registered>>,
    /// In the order of ids, none of which is in two of them.
    claims: Vec<Claim>,
    default: Option<Arc<Registered>>,
}

impl Table {
    fn new(sources: Sources) -> Result<Self, SourcesError> {
        let mut table = Self::default();
        for source in sources.sources {
            let source = Arc::new(source);
            for ids in &source.options.ids {
                let (from, to) = (*ids.start(), *ids.end());
                if from > to {
                    return Err(SourcesError::NoIds { name: source.name.to_string(), from, to });
                }
                table.claims.push(Claim { from, to, source: source.clone() });
            }
            if let Some(other) = table.by_name.insert(source.name.clone(), source) {
                return Err(SourcesError::SameName { name: other.name.to_string() });
            }
        }
        table.claims = in_order(table.claims)?;
        table.default = match sources.default {
            None => None,
            Some(name) => match table.by_name.get(&*name) {
                None => return Err(SourcesError::UnknownDefault { name }),
                found => found.cloned(),
            },
        };
        Ok(table)
    }

    fn claiming(&self, id: i32) -> Option<&Arc<Registered>> {
        let behind = self.claims.partition_point(|claim| claim.from <= id);
        let claim = &self.claims[behind.checked_sub(1)?];
        (id <= claim.to).then_some(&claim.source)
    }

    fn answering(&self, request: &Request) -> Result<&Arc<Registered>, Refusal> {
        let known = || self.by_name.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        if let Some(name) = request.source() {
            let found = self.by_name.get(name);
            return found.ok_or_else(|| Refusal::UnknownSource { name: name.to_owned(), known: known() });
        }
        let found = self.claiming(request.id()).or(self.default.as_ref());
        found.ok_or_else(|| Refusal::UnknownId { id: request.id(), known: known() })
    }
}

/// The claims in the order of their ids; what one source claims twice, it claims.
fn in_order(mut claims: Vec<Claim>) -> Result<Vec<Claim>, SourcesError> {
    claims.sort_by_key(|claim| claim.from);
    let mut apart: Vec<Claim> = Vec::with_capacity(claims.len());
    for claim in claims {
        match apart.last_mut() {
            Some(last) if claim.from <= last.to => {
                if !Arc::ptr_eq(&last.source, &claim.source) {
                    let (first, second) = (last.source.name.to_string(), claim.source.name.to_string());
                    return Err(SourcesError::Overlap { first, second, from: claim.from, to: last.to.min(claim.to) });
                }
                last.to = last.to.max(claim.to);
            }
            _ => apart.push(claim),
        }
    }
    Ok(apart)
}

/// The sources in force. A handle: its clones are about the same ones.
#[derive(Clone)]
pub struct LiveSources(Arc<RwLock<Table>>);

impl LiveSources {
    /// # Errors
    /// Where these cannot stand beside each other.
    pub(crate) fn new(sources: Sources) -> Result<Self, SourcesError> {
        Ok(Self(Arc::new(RwLock::new(Table::new(sources)?))))
    }

    /// Has these answer from now on. Runs that are under way keep the plan that they have; they go on to count as runs of
    /// the source of their name.
    ///
    /// # Errors
    /// Where these cannot stand beside each other; then the old ones go on to answer.
    pub fn replace(&self, mut sources: Sources) -> Result<(), SourcesError> {
        let mut table = self.0.write();
        for source in &mut sources.sources {
            if let Some(old) = table.by_name.get(&source.name) {
                source.alive = old.alive.clone();
                source.planning = old.planning.clone();
            }
        }
        // What is let go is somebody else's, and may do anything when it is dropped.
        let old = std::mem::replace(&mut *table, Table::new(sources)?);
        drop(table);
        drop(old);
        Ok(())
    }

    /// The source that answers `request`.
    pub(crate) fn answering(&self, request: &Request) -> Result<Arc<Registered>, Refusal> {
        self.0.read().answering(request).cloned()
    }

    /// The source of this name.
    pub(crate) fn named(&self, name: &str) -> Option<Arc<Registered>> {
        self.0.read().by_name.get(name).cloned()
    }
}

impl fmt::Debug for LiveSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveSources").field("names", &self.0.read().by_name.keys()).finish_non_exhaustive()
    }
}

/// A place among the runs of a source whose jobs have not ended.
pub(crate) struct SourcePermit(Arc<Registered>);

impl SourcePermit {
    /// # Errors
    /// [`Refusal::SourceBusy`].
    pub(crate) fn acquire(source: Arc<Registered>) -> Result<Self, Refusal> {
        let others = source.alive.fetch_add(1, Ordering::Relaxed);
        let permit = Self(source);
        match permit.0.options.runs_at_once {
            Some(max) if others >= max => Err(Refusal::SourceBusy { name: permit.0.name.to_string(), max }),
            _ => Ok(permit),
        }
    }

    /// The source's plan for `request`, which counts as a run from here on; one that is made on a thread that may block is
    /// waited for no longer than `patience`.
    pub(crate) async fn plan(self, request: &Request, patience: Duration) -> Result<Plan, Refusal> {
        match self.0.source.planning() {
            Planning::Here => self.plan_here(request),
            // Boxed: most sources are not like that, and all requests would be larger.
            Planning::Blocking => Box::pin(self.plan_blocking(request.clone(), patience)).await,
        }
    }

    fn plan_here(self, request: &Request) -> Result<Plan, Refusal> {
        let mut plan = self.0.source.plan(request)?;
        plan.permit = Some(self);
        Ok(plan)
    }

    async fn plan_blocking(self, request: Request, patience: Duration) -> Result<Plan, Refusal> {
        let name = self.0.name.clone();
        let made = async {
            let place = self.0.planning.clone().acquire_owned().await.expect("the semaphore is never closed");
            // Also of one that nobody waits for any more the place is taken as long as the thread is.
            let made = tokio::task::spawn_blocking(move || (self.plan_here(&request), place)).await;
            made.map_or_else(|error| Err(Refusal::Source(JobError::new(Code::Internal, error))), |(plan, _)| plan)
        };
        tokio::time::timeout(patience, made).await.unwrap_or_else(|_| {
            let problem = format!("source `{name}` did not see within {patience:?} what it has to answer with");
            Err(Refusal::Source(JobError::new(Code::Unavailable, problem)))
        })
    }

    /// For a run that was admitted before, by the process that this one follows.
    pub(crate) fn beyond_limits(source: Arc<Registered>) -> Self {
        source.alive.fetch_add(1, Ordering::Relaxed);
        Self(source)
    }
}

impl Drop for SourcePermit {
    fn drop(&mut self) {
        self.0.alive.fetch_sub(1, Ordering::Relaxed);
    }
}
