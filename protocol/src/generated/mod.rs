//! What flatc makes of `schema/*.fbs`. Not edited by hand: `protocol/flatc` writes it.
//!
//! Seen by this crate alone, which wraps it: `event` and `rejected` build, verify and read these
//! tables, `trusted` opens one without the verifier.

#[allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::multiple_unsafe_ops_per_block,
    clippy::undocumented_unsafe_blocks,
    clippy::unwrap_used,
    clippy::use_self,
    dead_code,
    elided_lifetimes_in_paths,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    unnameable_types,
    unreachable_pub,
    unused,
    unused_qualifications,
    reason = "generated"
)]
#[rustfmt::skip]
pub(crate) mod event;

#[allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::multiple_unsafe_ops_per_block,
    clippy::undocumented_unsafe_blocks,
    clippy::unwrap_used,
    clippy::use_self,
    dead_code,
    elided_lifetimes_in_paths,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    unnameable_types,
    unreachable_pub,
    unused,
    unused_qualifications,
    reason = "generated"
)]
#[rustfmt::skip]
pub(crate) mod rejected;

#[cfg(test)]
mod tests {
    use xxhash_rust::xxh3::xxh3_64;

    /// The compiler must be of the version of the `flatbuffers` crate that the workspace pins.
    const COMPILER: &str = "flatc version 25.12.19";

    fn assert_generated_from(code: &str, schema: &str) {
        let expected = format!("// schema {:016x}, {COMPILER}", xxh3_64(schema.as_bytes()));
        assert_eq!(code.lines().next(), Some(&*expected), "run protocol/flatc");
    }

    #[test]
    fn event_code_is_generated_from_the_schema() {
        assert_generated_from(include_str!("event.rs"), include_str!("../../schema/event.fbs"));
    }

    #[test]
    fn rejected_code_is_generated_from_the_schema() {
        let schema = include_str!("../../schema/rejected.fbs");
        assert_generated_from(include_str!("rejected.rs"), schema);
    }
}
