//! Any bytes as an event, and as a rejected one: refused, or readable to the last field.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tracklog_fuzz::read_all;
use tracklog_protocol::{event, rejected};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(record) = event::verify(bytes) {
        read_all(record);
    }
    if let Ok(record) = rejected::verify(bytes) {
        read_all(record);
    }
});
