//! Any bytes as the head of a commit, its header and what lies before the batches: as they are, and
//! with both checksums made good.
//!
//! What is read is written and read again without a change.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tracklog_engine::fuzzing::{body_again, header_again};
use tracklog_fuzz::disk::{HEADER_BYTES, seal_head};

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    let mut sealed = bytes.to_vec();
    if seal_head(&mut sealed) {
        read(&sealed);
    }
});

fn read(head: &[u8]) {
    let Some(header) = header_again(head) else {
        assert_eq!(body_again(head), None, "nothing is read behind a bad header");
        return;
    };
    assert_eq!(header_again(&header).as_ref(), Some(&header), "a header is read as it was written");
    if let Some(body) = body_again(head) {
        let mut again = header;
        again.extend_from_slice(&body);
        assert_eq!(again.len(), HEADER_BYTES + body.len(), "a header has one size");
        // Bytes that a later version put at the end are passed over, so its length may differ.
        seal_head(&mut again);
        assert_eq!(body_again(&again), Some(body), "and so is what lies behind it");
    }
}
