//! Batches of records of 256 bytes: the producer's way in, the appender's, and the reader's way
//! out.
#![forbid(unsafe_code)]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use tracklog_benches::{pace, samples, workload};
use tracklog_protocol::batch::{self, Stamp};
use tracklog_protocol::{
    BatchView, Offset, PartitionId, PayloadKind, TimeMicros, TopicId, VerifiedBatch,
};

const RECORDS: [usize; 4] = [1, 10, 100, 1_000];

fn main() {
    let mut criterion = pace::computing();
    encode(&mut criterion);
    decode(&mut criterion);
    criterion.final_summary();
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batch/encode");
    for records in RECORDS {
        group.throughput(Throughput::Elements(records as u64));
        group.bench_with_input(
            BenchmarkId::new("builder", records),
            &records,
            |bencher, records| {
                bencher.iter(|| workload::batch(black_box(*records)));
            },
        );
        let mut out = vec![0; batch::gathered_bytes(records, records * samples::RECORD_BYTES)];
        group.bench_with_input(
            BenchmarkId::new("gathered", records),
            &records,
            |bencher, records| {
                let pieces = vec![samples::record().bytes(); *records];
                bencher.iter(|| gather(black_box(&mut out), black_box(&pieces)));
            },
        );
    }
}

fn gather(out: &mut [u8], pieces: &[&[u8]]) -> u32 {
    let stamp = Stamp {
        partition: PartitionId::new(TopicId(1), 7),
        base_offset: Offset(1_000_000),
        append_time: TimeMicros(samples::RECEIVED_TIME.0),
    };
    batch::write_gathered(out, PayloadKind::Opaque, pieces.iter().copied(), None, &stamp)
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batch/decode");
    for records in RECORDS {
        let bytes = workload::batch(records).view().bytes().clone();
        group.throughput(Throughput::Elements(records as u64));
        group.bench_with_input(BenchmarkId::new("check", records), &bytes, |bencher, bytes| {
            bencher.iter(|| BatchView::check(black_box(bytes).clone()).is_ok());
        });
        group.bench_with_input(
            BenchmarkId::new("verify, each record touched", records),
            &bytes,
            |bencher, bytes| {
                bencher.iter(|| {
                    let batch = VerifiedBatch::verify(black_box(bytes).clone());
                    let batch = batch.expect("a good batch");
                    batch
                        .view()
                        .records()
                        .map(|(_, record)| usize::from(record.bytes()[0]))
                        .sum::<usize>()
                });
            },
        );
    }
}
