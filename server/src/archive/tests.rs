//! Restoring from one log into another: any log may stand for an archive.

use tracklog_log::memory::MemoryLog;

use super::*;
use crate::replay::tests::{Rig, Sent};

async fn digest(log: &MemoryLog, topic: &Topic) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    for partition in topic.partitions() {
        let mut next = log.extent(partition).unwrap().start;
        while next < log.extent(partition).unwrap().end {
            let (from, mode) = (vec![(partition, next)], FetchMode::Replay);
            let fetch = Fetch { from, bytes_max: 100, wait: false, mode };
            let found = log.fetch(fetch).await.unwrap().partitions.remove(0);
            for (offset, record) in found.batches.iter().flat_map(BatchView::records) {
                let place = format!("{} {offset} ", partition.partition).into_bytes();
                records.push([&place, record.bytes()].concat());
            }
            next = found.next;
        }
    }
    records
}

async fn filled() -> Rig {
    let rig = Rig::new(3).await;
    for turn in 0..50 {
        let sent = |partition| Sent::new(partition, "Bought", turn);
        rig.append(1_000 + turn, &[sent(0), sent(2), sent(0)]).await;
    }
    rig
}

/// A log without topics.
async fn empty() -> Rig {
    let rig = Rig::new(3).await;
    rig.log.delete_topic(&rig.topic.spec.name).await.unwrap();
    rig
}

#[tokio::test]
async fn a_topic_comes_back_with_the_same_records_at_the_same_offsets() {
    let (from, to) = (filled().await, empty().await);
    let mut told = Vec::new();
    let mut tell = |done, all| told.push((done, all));
    assert_eq!(restore(&*from.log, &*to.log, "raw", &mut tell).await.unwrap(), 150);
    assert_eq!(told.last(), Some(&(150, 150)));
    let topic = to.log.topic("raw").unwrap();
    assert_eq!(digest(&to.log, &topic).await, digest(&from.log, &from.topic).await);
    let again = restore(&*from.log, &*to.log, "raw", &mut |_, _| {}).await;
    assert_eq!(again.unwrap(), 0, "all is there");
}

#[tokio::test]
async fn a_restore_that_ended_goes_on_where_it_was() {
    let (from, to) = (filled().await, empty().await);
    to.log.create_topic(from.topic.spec.clone()).await.unwrap();
    let topic = to.log.topic("raw").unwrap();
    let source = from.topic.partition(0);
    let epoch = to.log.open(Domain::WHOLE).await.unwrap();
    let (archive, log, restored, holes) = (&*from.log, &*to.log, 0, Vec::new());
    let mut restoring = Restoring { archive, log, epoch, from: &from.topic, restored, holes };
    assert!(!restoring.turn(source, topic.partition(0)).await.unwrap());
    let begun = restoring.restored;
    assert!(begun > 0);
    let rest = restore(&*from.log, &*to.log, "raw", &mut |_, _| {}).await.unwrap();
    assert_eq!(begun + rest, 150);
    assert_eq!(digest(&to.log, &topic).await, digest(&from.log, &from.topic).await);
}

#[tokio::test]
async fn what_cannot_have_its_offset_is_refused() {
    let (from, to) = (filled().await, empty().await);
    from.log.trim(from.topic.partition(2), Offset(7)).await.unwrap();
    let refused = restore(&*from.log, &*to.log, "raw", &mut |_, _| {}).await.unwrap_err();
    assert_eq!(refused.to_string(), "raw/2 goes on at 7 in the archive, and at 0 in the new log");
    let refused = restore(&*from.log, &*to.log, "other", &mut |_, _| {}).await.unwrap_err();
    assert_eq!(refused.to_string(), "the archive has no topic other");
}

#[tokio::test]
async fn what_was_erased_is_erased_in_the_new_log_too() {
    let (from, to) = (filled().await, empty().await);
    let partition = from.topic.partition(0);
    let end = from.log.extent(partition).unwrap().end;
    let erase = |from: u64, to: u64| Erase { partition, from: Offset(from), to: Offset(to) };
    from.log.erase(vec![erase(3, 4), erase(90, end.0)]).await.unwrap();
    restore(&*from.log, &*to.log, "raw", &mut |_, _| {}).await.unwrap();
    let topic = to.log.topic("raw").unwrap();
    assert_eq!(digest(&to.log, &topic).await, digest(&from.log, &from.topic).await);
    assert_eq!(to.log.extent(topic.partition(0)).unwrap().end, end);
}
