//! What settling does to a frame of events, and reading a pack to it again: columns, then zstd, by level.
//!
//! The events are those of `visits`. Rates count the bytes of batches as they lie in the journal; what
//! an event takes, beside its JSON, is printed first. All on one thread, in memory.
#![forbid(unsafe_code)]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use tracklog_benches::pace;
use tracklog_benches::visits::{self, Batches, Crowd};
use tracklog_protocol::columns::{Areas, Encoder, decode};

const EVENTS: usize = 6_000;
/// As in a pack.
const FRAME_BYTES: usize = 512 << 10;
const LEVELS: [i32; 5] = [1, 3, 6, 12, 19];
/// The level by default.
const LEVEL: i32 = 6;

fn main() {
    let mut criterion = pace::computing();
    for (name, crowd) in [("visits", Crowd::Visits(120)), ("strangers", Crowd::Strangers)] {
        let all = visits::batches(EVENTS, crowd, 1);
        let frames = frames(&all);
        tell_sizes(name, &all, &frames);
        measure(&mut criterion, name, &frames);
    }
    criterion.final_summary();
}

/// The batches in frames, as a pack has them.
fn frames(all: &Batches) -> Vec<Vec<u8>> {
    let mut frames = vec![Vec::new()];
    for batch in &all.batches {
        let last: &Vec<u8> = frames.last().expect("there is one");
        if last.len() + batch.len() > FRAME_BYTES {
            frames.push(Vec::new());
        }
        let frame = frames.last_mut().expect("there is one");
        frame.extend_from_slice(batch);
        frame.resize(frame.len().next_multiple_of(8), 0);
    }
    frames
}

#[allow(clippy::print_stdout, reason = "sizes are a figure that criterion has no place for")]
fn tell_sizes(name: &str, all: &Batches, frames: &[Vec<u8>]) {
    let of_event = |bytes: usize| bytes as f64 / all.events as f64;
    let raw: usize = frames.iter().map(Vec::len).sum();
    println!(
        "{name}: an event has {:.0} bytes of JSON and {:.0} in the journal",
        of_event(all.json_bytes),
        of_event(raw)
    );
    for level in LEVELS {
        let as_it_is = frames.iter().map(|frame| squeezed(frame, level).len()).sum();
        let mut settler = Settler::new(level);
        let columns = frames.iter().map(|frame| settler.settle(frame).bytes()).sum();
        println!(
            "{name}: level {level}: {:.1} bytes an event as columns, {:.1} by zstd alone",
            of_event(columns),
            of_event(as_it_is)
        );
    }
}

fn measure(criterion: &mut Criterion, name: &str, frames: &[Vec<u8>]) {
    let raw: usize = frames.iter().map(Vec::len).sum();
    let mut group = criterion.benchmark_group(format!("settle/{name}"));
    group.throughput(Throughput::Bytes(raw as u64));
    for level in LEVELS {
        let mut settler = Settler::new(level);
        group.bench_with_input(BenchmarkId::new("settle", level), frames, |bencher, frames| {
            bencher
                .iter(|| frames.iter().map(|frame| settler.settle(frame).bytes()).sum::<usize>());
        });
    }
    let mut settler = Settler::new(LEVEL);
    let settled: Vec<_> = frames.iter().map(|frame| settler.settle(frame)).collect();
    group.bench_with_input("replay", &settled, |bencher, settled| {
        bencher.iter(|| settled.iter().map(|frame| frame.read().len()).sum::<usize>());
    });
    let one = &settled[0];
    group.throughput(Throughput::Bytes(one.frame_bytes as u64));
    group.bench_with_input("one frame", one, |bencher, one| {
        bencher.iter(|| black_box(one.read()));
    });
}

struct Settler {
    zstd: zstd::bulk::Compressor<'static>,
    columns: Encoder,
}

/// A frame as it lies in a pack.
struct Settled {
    numbers: (Vec<u8>, usize),
    texts: (Vec<u8>, usize),
    raw: Vec<u8>,
    frame_bytes: usize,
}

impl Settler {
    fn new(level: i32) -> Self {
        let zstd = zstd::bulk::Compressor::new(level).expect("memory");
        Self { zstd, columns: Encoder::new() }
    }

    fn settle(&mut self, frame: &[u8]) -> Settled {
        let areas = self.columns.encode(black_box(frame)).expect("a frame of events");
        let mut pack = |area: &[u8]| (self.zstd.compress(area).expect("memory"), area.len());
        Settled {
            numbers: pack(areas.numbers),
            texts: pack(areas.texts),
            raw: areas.raw.to_vec(),
            frame_bytes: frame.len(),
        }
    }
}

impl Settled {
    fn bytes(&self) -> usize {
        self.numbers.0.len() + self.texts.0.len() + self.raw.len()
    }

    fn read(&self) -> Vec<u8> {
        let spread = |(packed, bytes): &(Vec<u8>, usize)| {
            zstd::bulk::decompress(packed, *bytes).expect("it was packed here")
        };
        let (numbers, texts) = (spread(&self.numbers), spread(&self.texts));
        let areas = Areas { numbers: &numbers, texts: &texts, raw: &self.raw };
        decode(black_box(areas), self.frame_bytes).expect("it was turned here")
    }
}

fn squeezed(bytes: &[u8], level: i32) -> Vec<u8> {
    zstd::bulk::compress(bytes, level).expect("memory")
}
