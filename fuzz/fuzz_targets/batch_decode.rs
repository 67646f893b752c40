//! Any bytes as a batch: as they are, and with their checksums made good, since a mutation that a
//! checksum catches reaches nothing behind it.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tracklog_fuzz::{read_all, with_good_checksums};
use tracklog_protocol::batch::BatchHeader;
use tracklog_protocol::{BatchView, VerifiedBatch};

fuzz_target!(|bytes: &[u8]| {
    read_batch(bytes);
    if let Some(mended) = with_good_checksums(bytes) {
        read_batch(&mended);
    }
});

fn read_batch(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    let header = BatchHeader::decode(&bytes);
    if let Ok(checked) = BatchView::check(bytes.clone()) {
        assert_eq!(header, Ok(checked), "a batch has the header that was decoded");
    }
    if let Ok(batch) = VerifiedBatch::verify(bytes) {
        walk(batch.view());
    }
}

fn walk(batch: &BatchView) {
    let mut expected = batch.base_offset();
    for (index, (offset, entry)) in batch.entries().enumerate() {
        assert_eq!(offset, expected, "offsets rise by one");
        assert_eq!(batch.entry(index), Some(entry), "each place is reached on its own too");
        read_all(entry.record().expect("a producer removes nothing"));
        expected = offset.plus(1);
    }
    assert_eq!(batch.entry(batch.count() as usize), None, "nothing lies behind the last place");
}
