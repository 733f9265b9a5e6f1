//! Requests of all kinds, and what each may lead to.

use std::{num::NonZeroU64, time::Duration};

use outflow_engine::{Place, Reader, Refusal, Request};

use super::{
    Shelf,
    ops::{Asked, From, Linger},
    patience::patient,
    runs::Known,
    world::{Held, LINGER, World},
};

/// What a request leads to.
#[derive(Clone, Copy, Debug)]
enum Leads {
    ToNewOne,
    To(usize),
    ToNewOneOr(usize),
    /// Its key is that of a run that may be gone.
    Anywhere,
}

impl Linger {
    fn time(self) -> Option<Duration> {
        match self {
            Self::Unset => None,
            Self::Zero => Some(Duration::ZERO),
            Self::Seconds15 => Some(Duration::from_secs(15)),
            Self::Seconds105 => Some(Duration::from_secs(105)),
        }
    }
}

impl<S: Shelf> World<S> {
    fn request(&mut self, asked: Asked, linger: Linger, limit: u8) -> Request {
        let new = i32::try_from(self.runs.len()).unwrap() + 1;
        let request = match asked {
            Asked::Lingering { kind } => Request::new(new * 64 + i32::from(kind)),
            Asked::Keyed { key } => Request::new(1_000_000 + i32::from(key) * 7).keyed(key.to_string()),
            Asked::Shared { id } => Request::new(2_000_000 + i32::from(id)).answered_by("shared"),
            Asked::Reused { id } => Request::new(3_000_000 + i32::from(id) * 5).answered_by("reused"),
            Asked::KeyedReused { id, key } => {
                self.request(Asked::Reused { id }, Linger::Unset, 0).keyed(key.to_string())
            }
        };
        let linger = match asked {
            Asked::Lingering { .. } => Some(linger.time().unwrap_or(LINGER)),
            _ => linger.time(),
        };
        let request = request.limited(u64::from(limit));
        if let Some(linger) = linger { request.lingering(linger) } else { request }
    }

    /// What a request leads to; `None`: its key was another request's.
    fn leads(&self, asked: Asked, request: &Request) -> (Leads, bool) {
        let key = match asked {
            Asked::Keyed { key } | Asked::KeyedReused { key, .. } => self.keys.get(&key),
            _ => None,
        };
        if let Some(&run) = key.filter(|run| !self.runs[**run].is_gone) {
            let known = &self.runs[run];
            let is_other = known.id != request.id();
            return (if known.is_old { Leads::Anywhere } else { Leads::To(run) }, is_other);
        }
        let run = self.shared.get(&request.id()).copied().filter(|run| !self.runs[*run].is_gone);
        let is_reused = request.source() == Some("reused");
        let leads = match run.map(|run| (run, &self.runs[run])) {
            Some((run, known)) if known.is_under_way() => Leads::To(run),
            Some((run, known)) if known.ended.is_none() => Leads::ToNewOneOr(run),
            Some((run, known)) if is_reused && known.is_complete() && !known.is_old => Leads::To(run),
            _ => Leads::ToNewOne,
        };
        (leads, false)
    }

    pub(super) async fn start(&mut self, asked: Asked, linger: Linger, limit: u8) {
        let request = self.request(asked, linger, limit);
        let leads = self.leads(asked, &request);
        self.random += 1;
        let fetched = patient("a request", self.engine.fetch(&request, self.random)).await;
        self.started(asked, &request, leads, fetched).await;
    }

    pub(super) async fn start_twice(&mut self, asked: Asked, linger: Linger) {
        let request = self.request(asked, linger, 0);
        let leads = self.leads(asked, &request);
        self.random += 2;
        let both = async {
            tokio::join!(
                self.engine.fetch(&request, self.random - 1),
                // One of its own would be one of the same id.
                async {
                    match asked {
                        Asked::Lingering { .. } => None,
                        _ => Some(self.engine.fetch(&request, self.random).await),
                    }
                }
            )
        };
        let (first, second) = patient("two requests at once", both).await;
        self.started(asked, &request, leads, first).await;
        if let Some(second) = second {
            let leads = match leads {
                (Leads::ToNewOneOr(_) | Leads::Anywhere, _) => leads,
                // Now there is one.
                _ => self.leads(asked, &request),
            };
            self.started(asked, &request, leads, second).await;
        }
    }

    /// A request was answered.
    async fn started(
        &mut self,
        asked: Asked,
        request: &Request,
        (leads, is_other): (Leads, bool),
        fetched: Result<Reader, Refusal>,
    ) {
        let reader = match fetched {
            Ok(reader) => reader,
            Err(Refusal::KeyReused { field: "id" }) if is_other => return,
            Err(refusal) => panic!("{asked:?} is refused: {refusal}"),
        };
        let name = reader.run_id().to_string();
        let known = self.runs.iter().position(|run| run.name == name);
        match (leads, known) {
            (Leads::To(run) | Leads::ToNewOneOr(run), Some(known)) if run == known && !is_other => {}
            (Leads::ToNewOne | Leads::ToNewOneOr(_), None) | (Leads::Anywhere, _) => {}
            // The first of two at once has just made it.
            (Leads::ToNewOneOr(_), Some(known)) if known == self.runs.len() - 1 => {}
            _ => panic!("{asked:?} leads {leads:?}, and led to {known:?} (another request's key: {is_other})"),
        }
        let run = match known {
            Some(run) => run,
            None => self.begun(name, request).await,
        };
        match asked {
            Asked::Keyed { key } | Asked::KeyedReused { key, .. } => {
                if let Some(before) = self.keys.insert(key, run).filter(|before| *before != run) {
                    assert!(self.runs[before].is_old, "its key led to another run");
                    self.runs[before].is_gone = true;
                }
            }
            _ => {}
        }
        if known.is_none() && request.source().is_some() {
            self.shared.insert(request.id(), run);
        }
        self.runs[run].attach(request.linger());
        let left = request.limit().map_or(u64::MAX, NonZeroU64::get);
        self.readers.push(Held { reader, run, next: Some(1), left });
    }

    /// A new run is there, and its first job begins.
    async fn begun(&mut self, name: String, request: &Request) -> usize {
        let id = request.id();
        let n = self.runs.iter().filter(|run| run.id == id).count();
        let begins = async {
            loop {
                if let Some(scripts) = self.worker.scripts(id, n) {
                    return scripts;
                }
                tokio::task::yield_now().await;
            }
        };
        let scripts = patient("the beginning of a job", begins).await;
        self.runs.push(Known::new(name, id, request.linger().unwrap_or(LINGER), scripts));
        self.runs.len() - 1
    }

    pub(super) async fn resume(&mut self, run: usize, from: From, linger: Linger, limit: u8) {
        let known = &self.runs[run];
        let tail = known.tail;
        let (place, next) = match from {
            From::After(n) => {
                let after = u64::from(n) % (tail + 1);
                (Place::After(after), Some(after + 1))
            }
            From::Last(n) => (Place::Last(NonZeroU64::new(u64::from(n)).unwrap()), None),
            From::BeyondTail(n) => {
                let after = tail + 1 + u64::from(n);
                (Place::After(after), Some(after + 1))
            }
        };
        let request = Request::new(0).again(&*known.name, place).limited(u64::from(limit));
        let request = linger.time().map_or(request.clone(), |linger| request.lingering(linger));
        self.random += 1;
        let fetched = patient("reading again", self.engine.fetch(&request, self.random)).await;
        let known = &mut self.runs[run];
        match fetched {
            Ok(reader) => {
                assert!(!known.is_gone, "{}: it was gone", known.name);
                if let From::BeyondTail(_) = from {
                    let after = next.unwrap() - 1;
                    assert!(known.ended.is_none(), "{}: nothing can be behind {after}", known.name);
                    known.tail = after;
                }
                known.attach(linger.time());
                let left = if limit == 0 { u64::MAX } else { u64::from(limit) };
                self.readers.push(Held { reader, run, next, left });
            }
            Err(Refusal::BeyondTail { after, tail: said }) => {
                assert!(matches!(from, From::BeyondTail(_)), "{}: {after} is beyond {said}, not {tail}", known.name);
                assert!(tail <= said && said < after, "{}: there were {tail}, not {said}", known.name);
            }
            // Or it is being deleted, and `is_gone` when that is durable.
            Err(Refusal::UnknownRun { .. }) => assert!(known.is_gone || known.is_old, "{}: it is gone", known.name),
            Err(refusal) => panic!("{}: {refusal}", known.name),
        }
    }
}
