//! The example of embedded use does what it says.

use crate::rig::{contents, wait};

#[path = "../../examples/embedded.rs"]
#[expect(dead_code, unreachable_pub, reason = "an example is a program of its own")]
mod example;

#[test]
fn the_example_stores_one_record_each_time_it_runs() {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    for _ in 0..2 {
        wait(example::run(folder.path())).expect("it runs");
    }
    let log = tracklog_engine::OfflineLog::open(folder.path()).expect("it opens");
    let records = &contents(&log)[&("greetings".to_owned(), 0)];
    assert_eq!(records.values().collect::<Vec<_>>(), [b"hello", b"hello"]);
}
