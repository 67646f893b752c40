//! Ids that are no ids: what programs send when they have none. They link nobody with anybody,
//! have no profile and no visits.

/// The longest of the words.
const WORD_BYTES_MAX: usize = 36;
const NIL_UUID: &str = "00000000-0000-0000-0000-000000000000";
/// In lower case; compared without the white space around an id.
const NO_IDS: [&str; 19] = [
    "",
    "0",
    "-1",
    "null",
    "(null)",
    "none",
    "nil",
    "nan",
    "undefined",
    "unknown",
    "false",
    "true",
    "anonymous",
    "guest",
    "n/a",
    "[object object]",
    "not set",
    "(not set)",
    NIL_UUID,
];

/// `id`, if it names somebody.
pub(super) fn real(id: Option<&str>) -> Option<&str> {
    id.filter(|id| !is_no_id(id))
}

fn is_no_id(id: &str) -> bool {
    let word = id.trim();
    word.len() <= WORD_BYTES_MAX && NO_IDS.iter().any(|no_id| word.eq_ignore_ascii_case(no_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_nothing_are_no_ids() {
        for id in ["undefined", " NULL ", "", "0", "[object Object]", NIL_UUID, "N/A", "Guest"] {
            assert_eq!(real(Some(id)), None, "{id:?}");
        }
        for id in ["alice", "00", "nullable", "1", "00000000-0000-0000-0000-000000000001"] {
            assert_eq!(real(Some(id)), Some(id));
        }
        assert_eq!(real(None), None);
    }
}
