//! A durable log inside of a program: open, make a topic, append, read, close.
//!
//! `cargo run -p tracklog-engine --example embedded [FOLDER]`

use std::error::Error;
use std::path::{Path, PathBuf};

use tracklog_engine::{Engine, Options};
use tracklog_log::{
    Append, Domain, Fetch, FetchMode, Item, Lane, Log, Retention, TopicName, TopicSpec,
};
use tracklog_protocol::{Offset, Record};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).map_or_else(|| "embedded-log".into(), PathBuf::from);
    run(&folder).await
}

/// The whole of it.
pub async fn run(folder: &Path) -> Result<(), Box<dyn Error>> {
    let log = Engine::open(folder, &Options { slot_bytes: Some(16 << 20), ..Options::default() })?;
    let name = TopicName::new("greetings")?;
    let spec = TopicSpec { name, partitions: 1, retention: Retention::Keep };
    let partition = log.create_topic(spec).await?.partition(0);

    let epoch = log.open(Domain::WHOLE).await?;
    let permit = log.reserve(Lane::FIRST_SOURCE, 64)?;
    let items = [Item::Record { partition, record: Record::opaque(b"hello") }];
    let stored = log.append(permit, epoch, Append { conditions: &[], items: &items }).await?;
    eprintln!("durable at offset {}", stored.offset(0));

    let from = vec![(partition, Offset::ZERO)];
    let fetch = Fetch { from, bytes_max: 1 << 20, wait: false, mode: FetchMode::Replay };
    for batch in &log.fetch(fetch).await?.partitions[0].batches {
        for (offset, record) in batch.records() {
            eprintln!("{offset}: {}", String::from_utf8_lossy(record.bytes()));
        }
    }
    log.close();
    Ok(())
}
