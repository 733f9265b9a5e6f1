//! Readers that have seen all there is are woken for what comes next, whatever task they wait in by then.

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
};

use outflow_engine::{Delivery, Leave, Reader};
use support::*;

/// A task that counts how often it is woken.
#[derive(Default)]
struct Task(AtomicUsize);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

impl Task {
    fn poll(self: &Arc<Self>, reader: &mut Reader) -> Poll<Delivery> {
        reader.poll_next(&mut Context::from_waker(&Waker::from(self.clone())))
    }

    fn woken(&self) -> usize {
        self.0.load(SeqCst)
    }

    /// Polls `reader` until it is given its next chunk, which has all that is durable.
    async fn takes(self: &Arc<Self>, reader: &mut Reader) {
        until("a chunk", || matches!(self.poll(reader), Poll::Ready(Delivery::Chunk(_)))).await;
    }
}

#[tokio::test]
async fn a_reader_that_was_given_all_is_woken_in_the_task_that_asked_last() {
    let (store, jobs) = (GatedStore::new(), Puppets::new(1));
    let engine = engine(&store, jobs.clone());
    let mut reader = start(&engine).await;
    let tasks: [Arc<Task>; 3] = Default::default();
    jobs.emit(0, "one").await.unwrap();
    tasks[0].takes(&mut reader).await;
    for task in [&tasks[0], &tasks[1], &tasks[2], &tasks[2]] {
        assert!(task.poll(&mut reader).is_pending());
    }
    let woken = tasks.each_ref().map(|task| task.woken());
    jobs.emit(0, "two").await.unwrap();
    until("a wake-up", || tasks[2].woken() > woken[2]).await;
    assert_eq!((tasks[0].woken(), tasks[1].woken()), (woken[0], woken[1]), "it no longer waits there");
    tasks[1].takes(&mut reader).await;
    engine.close().await;
}

#[tokio::test]
async fn who_leaves_among_many_that_wait_is_told_alone_and_the_others_are_woken_once() {
    let (store, jobs) = (GatedStore::new(), Puppets::new(1));
    let engine = engine(&store, jobs.clone());
    let first = start(&engine).await;
    let mut readers = vec![first];
    for _ in 1..8 {
        readers.push(fetch(&engine, &again(readers[0].run_id(), 0)).await.unwrap());
    }
    let tasks: Vec<Arc<Task>> = readers.iter().map(|_| Arc::default()).collect();
    for (task, reader) in tasks.iter().zip(&mut readers) {
        assert!(task.poll(reader).is_pending());
    }
    readers[2].closer().close(Leave::Deadline);
    assert_eq!(tasks.iter().map(|task| task.woken()).collect::<Vec<_>>(), [0, 0, 1, 0, 0, 0, 0, 0]);
    let Poll::Ready(Delivery::Finished(finish)) = tasks[2].poll(&mut readers[2]) else { panic!("it is told") };
    assert_eq!(finish.left, Some(Leave::Deadline));
    for gone in [7, 2, 0] {
        drop(readers.remove(gone));
    }
    for (task, reader) in [1, 3, 4, 5, 6].map(|task| &tasks[task]).into_iter().zip(&mut readers) {
        assert!(task.poll(reader).is_pending(), "another's leaving is no news for it");
    }

    let before: Vec<_> = tasks.iter().map(|task| task.woken()).collect();
    jobs.emit(0, "one").await.unwrap();
    until("wake-ups", || [1, 3, 4, 5, 6].iter().all(|task| tasks[*task].woken() > before[*task])).await;
    let woken: Vec<_> = tasks.iter().zip(before).map(|(task, before)| task.woken() - before).collect();
    assert_eq!(woken, [0, 1, 0, 1, 1, 1, 1, 0]);
    for reader in &mut readers {
        assert_eq!(results(reader, 1).await, ["one"]);
    }
    engine.close().await;
}
