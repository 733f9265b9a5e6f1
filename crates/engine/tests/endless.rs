//! Runs of which only the newest part is kept.

mod support;

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use outflow_engine::{Delivery, Engine, Leave, Limits, Reader, Record, Refusal, SourceOptions};
use support::*;

const KEPT: u64 = 64 * 1024;

fn endless(store: &Arc<GatedStore>, jobs: &Arc<Puppets>) -> Engine {
    engine_with(store, jobs.clone(), SourceOptions::new().keep_bytes(KEPT), Limits::default())
}

/// Emits so much that the head is dropped, and gives the first sequence that is kept.
async fn emit_past_the_head(store: &Arc<GatedStore>, jobs: &Arc<Puppets>) -> u64 {
    let dropped = store.count(|record| matches!(record, Record::HeadDropped(_)));
    while store.count(|record| matches!(record, Record::HeadDropped(_))) == dropped {
        jobs.emit(0, vec![b'x'; 8 * 1024]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    head(store)
}

fn head(store: &Arc<GatedStore>) -> u64 {
    let first = |(_, record)| if let Record::HeadDropped(first) = record { Some(first.get()) } else { None };
    store.committed().into_iter().filter_map(first).max().unwrap()
}

/// Who asks for a place before the head is told where that is, once the run was told.
async fn the_run_knows_its_head(engine: &Engine, store: &Arc<GatedStore>, live: &Reader) {
    until("the run knows", || {
        // Which may move, as long as something is on its way.
        let head = Refusal::BeforeHead { after: 1, first: head(store) };
        engine.fetch(&again(live.run_id(), 1), 1).now_or_never().unwrap().err().as_ref() == Some(&head)
    })
    .await;
}

/// Has `reader` begin its first read of the store, which waits at the gate.
async fn begins_to_read(store: &Arc<GatedStore>, reader: &mut Reader) {
    store.reads.close();
    assert!(reader.next().now_or_never().is_none());
    store.reads.waiting(1).await;
}

#[tokio::test]
async fn a_head_that_was_just_dropped_is_no_damage() {
    let (store, jobs) = (GatedStore::new(), Puppets::new(1));
    let engine = endless(&store, &jobs);
    let live = start(&engine).await;
    jobs.emit(0, "one").await.unwrap();
    jobs.emit(0, "two").await.unwrap();
    until("both are durable", || store.count(|record| matches!(record, Record::Frames(_))) > 0).await;
    let mut behind = within("a reader", async {
        loop {
            match fetch(&engine, &again(live.run_id(), 1)).await {
                Ok(reader) => return reader,
                Err(refusal) => assert!(matches!(refusal, Refusal::BeyondTail { .. })),
            }
        }
    })
    .await;
    begins_to_read(&store, &mut behind).await;
    // The store drops the head, and the run is not told before the reader has looked.
    let drop = |record: &Record| matches!(record, Record::HeadDropped(_));
    while store.count(drop) == 0 {
        store.shown.open();
        tokio::time::sleep(Duration::from_millis(1)).await;
        store.shown.close();
        jobs.emit(0, vec![b'x'; 8 * 1024]).await.unwrap();
        store.shown.waiting(1).await;
    }
    store.reads.open();
    let left = finish(&mut behind).await.left;
    assert!(matches!(left, Some(Leave::HeadDropped(first)) if first.get() == head(&store)), "{left:?}");
    store.shown.open();
}

#[tokio::test]
async fn who_begins_at_the_start_of_what_is_kept_can_begin_though_that_moves() {
    let (store, jobs) = (GatedStore::new(), Puppets::new(1));
    let engine = endless(&store, &jobs);
    let live = start(&engine).await;
    emit_past_the_head(&store, &jobs).await;
    let mut behind = fetch(&engine, &again(live.run_id(), 0).limited(3)).await.unwrap();
    begins_to_read(&store, &mut behind).await;
    // What it is about to read is dropped, and the run knows.
    emit_past_the_head(&store, &jobs).await;
    the_run_knows_its_head(&engine, &store, &live).await;
    store.reads.open();
    let Delivery::Chunk(chunk) = within("the first", behind.next()).await else { panic!("it is cut at once") };
    assert_eq!(chunk.first().get(), head(&store));
    let mut count = chunk.last().get() - chunk.first().get() + 1;
    let (responses, finish) = rest(&mut behind).await;
    count += responses.len() as u64;
    assert_eq!((count, finish.left), (3, Some(Leave::Enough)), "and it is given as many as it wants");
}

#[tokio::test]
async fn who_asks_for_a_place_before_the_head_is_told_where_that_is() {
    let (store, jobs) = (GatedStore::new(), Puppets::new(1));
    let engine = endless(&store, &jobs);
    let live = start(&engine).await;
    // Behind the first response is before the head only once the second is gone, too.
    emit_past_the_head(&store, &jobs).await;
    emit_past_the_head(&store, &jobs).await;
    the_run_knows_its_head(&engine, &store, &live).await;
}
