//! Any bytes as a checkpoint, as they are and with their checksums made good.
//!
//! What is read is written and read again without a change. As a file of a log, next to its own or
//! alone, it is taken, or refused with an error; where it is not the log's own, the journal counts.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tracklog_engine::disk::FileName;
use tracklog_engine::fuzzing::checkpoint_again;
use tracklog_fuzz::disk::{Node, Sample, checkpoints, seal_checkpoint};

fuzz_target!(|input: &[u8]| {
    let Some((how, file)) = input.split_first() else { return };
    let mut sealed = file.to_vec();
    seal_checkpoint(&mut sealed);
    for file in [file, &sealed] {
        if let Some(again) = checkpoint_again(file) {
            assert_eq!(checkpoint_again(&again).as_ref(), Some(&again), "read, written and read");
        }
    }
    // As rot: without checksums that fit it is as good as none.
    let is_alone = how & 1 != 0;
    open_with(file, is_alone);
});

fn open_with(file: &[u8], is_alone: bool) {
    let sample = Sample::the();
    let disk = sample.machine();
    let is_good = checkpoint_again(file).is_some();
    disk.set_file(&FileName::CheckpointA, Some(file.to_vec()));
    if is_alone {
        disk.set_file(&FileName::CheckpointB, None);
    }
    let is_ours = checkpoints().iter().any(|ours| ours == file);
    match Node::open(&disk, false) {
        Ok(node) if is_ours || !is_good => {
            assert_eq!(node.contents(), sample.contents, "a bad checkpoint costs nothing");
        }
        Ok(node) => drop(node.contents_of_forged()),
        Err(error) => assert!(!is_ours, "it is whole: {error}"),
    }
}
