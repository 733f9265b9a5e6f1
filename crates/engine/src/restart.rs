//! Takes up the runs that had not ended when the process before this one did: a job that ended is never run again, one
//! that may be repeated is, and is compared with what it had emitted, and a run that cannot go on ends `interrupted`.

use std::{collections::BTreeMap, pin::Pin, sync::Arc};

use tokio::{sync::Semaphore, time::Instant};

use crate::{
    Code, End, Engine, JobError, JobErrors, JobIndex, PayloadKind, Plan, Planning, Refusal, Request, RunRecord,
    Sequence, Store, StoreError,
    driver::Resumed,
    frame::read_frame,
    keeper::Keeper,
    living::InHand,
    run::{Repeating, Run, RunPermit},
    sources::SourcePermit,
};

/// Runs whose journals are read at once, each on a thread of its own.
const READ_AT_ONCE: usize = 2;
/// Bytes of a journal that are read at once.
const READ_BYTES: usize = 1024 * 1024;

/// A plan that is being made again, and how much of its run is kept.
type MadeAgain = Pin<Box<dyn Future<Output = Result<(Plan, Option<u64>), Refusal>> + Send>>;

impl Engine {
    /// Takes up every run of the store that has not ended. When it returns, all of them can be read; what their jobs had
    /// emitted is read after that.
    pub(crate) async fn take_up_all(&self, keeper: &Arc<Keeper>) -> Result<(), Refusal> {
        let unended = keeper.ask(Store::unended).await?;
        match unended.len() {
            0 => {}
            1 => tracing::info!("taking up 1 run that had not ended"),
            n => tracing::info!("taking up {n} runs that had not ended"),
        }
        let reading = Arc::new(Semaphore::new(READ_AT_ONCE));
        // Plans that look at disks are made beside each other: one that hangs holds up no other.
        let plans: Vec<_> = unended.iter().map(|record| self.plan_again(record)).collect();
        for (record, plan) in unended.into_iter().zip(plans) {
            let planned = match plan {
                Ok(plan) => self.planned_again(&record, plan.await),
                Err(reason) => Err(reason),
            };
            self.take_up(keeper, record, planned, &reading);
        }
        Ok(())
    }

    fn take_up(
        &self,
        keeper: &Arc<Keeper>,
        record: RunRecord,
        planned: Result<(Plan, Option<u64>), String>,
        reading: &Arc<Semaphore>,
    ) {
        let payload = planned.as_ref().map_or(PayloadKind::default(), |(plan, _)| plan.payload);
        let run = Arc::new(Run::stored(
            &record,
            payload,
            self.limits.clone(),
            self.budget.clone(),
            Some(RunPermit::beyond_limits(&self.runs)),
            keeper.queue.clone(),
        ));
        let in_hand = InHand { run: run.clone(), start: record.start.clone() };
        if !keeper.living.enter_stored(in_hand) {
            tracing::error!("run {} is in the store twice, which is a bug", record.id);
            return;
        }
        let (plan, keep_bytes) = match planned {
            Ok(planned) => planned,
            Err(reason) => {
                tracing::warn!("run {} cannot go on: {reason}", record.id);
                run.close(End::Interrupted(reason));
                return;
            }
        };
        run.keep(keep_bytes);
        let not_before = Instant::now() + self.limits.linger_after_restart;
        let resumed = Resumed {
            ended: record.jobs.ended.clone(),
            first_error: record.jobs.first_error.clone().filter(|_| plan.job_errors != JobErrors::Tolerate),
        };
        let journaled = self.as_journaled(keeper, &plan, Some(resumed));
        let failed_fast = plan.job_errors == JobErrors::FailFast && record.jobs.first_error.is_some();
        let begins_none = failed_fast || record.jobs.ended.len() == plan.jobs.len();
        if let Some(bytes) = plan.output_limit {
            run.limit_output(bytes, 0);
        }
        // What it has is read where it is compared, or counted.
        let reads = plan.repeatable || plan.output_limit.is_some();
        if record.last == Sequence::NONE || !reads || begins_none {
            run.take_up(BTreeMap::new(), not_before);
            self.driver_of(run, plan, Some(journaled), self.background()).begin();
            return;
        }
        self.repeat(keeper, record, run, plan, journaled, reading.clone(), not_before);
    }

    /// Reads what the unfinished jobs of a run had emitted, and then begins them again.
    #[expect(clippy::too_many_arguments, reason = "one call, and each says one thing")]
    fn repeat(
        &self,
        keeper: &Arc<Keeper>,
        record: RunRecord,
        run: Arc<Run>,
        plan: Plan,
        journaled: crate::driver::Journaled,
        reading: Arc<Semaphore>,
        not_before: Instant,
    ) {
        let keeper = keeper.clone();
        let here = self.background();
        let (repeatable, output_limit) = (plan.repeatable, plan.output_limit);
        let driver = self.driver_of(run.clone(), plan, Some(journaled), here.clone());
        let draining = self.draining.clone();
        self.tasks.spawn_on(
            async move {
                let id = record.id;
                let read = async {
                    let _place = reading.acquire().await.expect("the semaphore is never closed");
                    if repeatable && record.first > Sequence::FIRST {
                        let reason = "its first responses are no longer kept, and cannot be compared";
                        return Err(StoreError::Failed(reason.into()).into());
                    }
                    keeper.ask(move |store| Emitted::read(store, &record)).await
                };
                let emitted = tokio::select! {
                    emitted = read => emitted,
                    // The next process will.
                    () = draining.cancelled() => return,
                };
                match emitted {
                    Ok(Emitted { by_unfinished, bytes }) => {
                        if let Some(max) = output_limit {
                            run.limit_output(max, bytes);
                        }
                        run.take_up(by_unfinished, not_before);
                        driver.begin();
                    }
                    Err(error) => {
                        tracing::error!("run {id} cannot go on: {error}");
                        run.close(End::Interrupted(format!("what it had emitted cannot be read: {error}")));
                    }
                }
            },
            &here,
        );
    }

    /// Has the plan of a run made again, or says why it cannot go on.
    fn plan_again(&self, record: &RunRecord) -> Result<MadeAgain, String> {
        let start = &record.start;
        let registered = self
            .sources
            .named(&start.source)
            .ok_or_else(|| format!("there is no source `{}` any more", start.source))?;
        if registered.configuration != start.configuration {
            return Err(format!("the configuration of source `{}` was changed", start.source));
        }
        let request = Request::rebuilt(start.id, &start.source, start.parameters.to_map(), &start.principal);
        let (planning, patience) = (registered.source.planning(), self.limits.patience);
        let made = async move {
            let keep_bytes = registered.options.keep_bytes;
            let plan = SourcePermit::beyond_limits(registered).plan(&request, patience).await?;
            Ok((plan, keep_bytes))
        };
        Ok(match planning {
            Planning::Here => Box::pin(made),
            Planning::Blocking => {
                let made = self.tasks.spawn_on(made, &self.background());
                let gone = |error| Err(Refusal::Source(JobError::new(Code::Internal, error)));
                Box::pin(async move { made.await.unwrap_or_else(gone) })
            }
        })
    }

    /// The plan of a run, made again, and how much of it is kept; or why it cannot go on.
    fn planned_again(
        &self,
        record: &RunRecord,
        made: Result<(Plan, Option<u64>), Refusal>,
    ) -> Result<(Plan, Option<u64>), String> {
        let start = &record.start;
        let made = made.and_then(|(plan, keep_bytes)| Ok((self.within_limits(plan)?, keep_bytes)));
        let (plan, keep_bytes) =
            made.map_err(|refusal| format!("source `{}` refuses it now: {refusal}", start.source))?;
        if plan.jobs.len() != start.jobs as usize {
            return Err(format!("its plan had {} jobs and has {} now", start.jobs, plan.jobs.len()));
        }
        if plan.basis != start.basis {
            return Err(format!("what source `{}` answers with is not what it was", start.source));
        }
        let jobs = &record.jobs;
        let in_the_middle = jobs.started.iter().find(|job| !jobs.ended.contains(job));
        if let Some(job) = in_the_middle.filter(|_| !plan.repeatable) {
            return Err(format!("job {job} was under way when the server ended, and is not repeatable"));
        }
        Ok((plan, keep_bytes))
    }
}

/// What the jobs of a run have emitted.
#[derive(Default)]
struct Emitted {
    by_unfinished: BTreeMap<JobIndex, Repeating>,
    /// Bytes of all payloads that are kept.
    bytes: u64,
}

impl Emitted {
    fn read(store: &dyn Store, record: &RunRecord) -> Result<Self, StoreError> {
        let mut emitted = Self::default();
        let damaged = |at: Sequence| StoreError::Damaged(format!("response {at} of run {} is not there", record.id));
        let mut next = record.first;
        while next <= record.last {
            let chunks = store.read(record.id, next, READ_BYTES)?;
            if chunks.is_empty() {
                return Err(damaged(next));
            }
            for chunk in chunks {
                let chunk = chunk.between(next, chunk.last().min(record.last));
                // Frames may lie across parts.
                let bytes = if let [part] = chunk.parts() { part.clone() } else { chunk.parts().concat().into() };
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let (frame, behind) = read_frame(rest).ok_or_else(|| damaged(next))?;
                    rest = behind;
                    if !frame.is_error {
                        emitted.bytes += frame.payload.len() as u64;
                    }
                    if !record.jobs.ended.contains(&frame.job) {
                        emitted.by_unfinished.entry(frame.job).or_default().expect(frame.payload, frame.part);
                    }
                }
                next = Sequence(chunk.last().0 + 1);
            }
        }
        emitted.by_unfinished.values_mut().for_each(Repeating::begin);
        Ok(emitted)
    }
}
