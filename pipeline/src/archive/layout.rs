//! Where things lie in an archive.
//!
//! ```text
//! _manifest/00000000000000000042.json
//! topic=raw/date=2026-01-02/event=Order%20Completed/0.1207-15.88.42.1f0e3dad99908345.parquet
//! topic=raw/date=2026-01-02/event=__other__/…
//! ```
//!
//! - The date is that of the append, in UTC: it never goes back, so that late events open no old
//!   folder, and a replay reads folders once.
//! - An event has a folder of its own where it has a registered schema, or where a flush brings
//!   [`OWN_FILE_BYTES`] of it; all others of a flush share one file in `event=__other__`. That keeps
//!   files few and of a sane size, whatever names clients make up. The column `name` has the name
//!   in any case.
//! - A file's name says its first and last record (`PARTITION.OFFSET`, in the order of its rows),
//!   the number of the manifest that is to name it, and the first 16 digits of its SHA-256: another
//!   content never has the same name, and no other manifest ever names it.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use tracklog_protocol::TimeMicros;
use tracklog_protocol::event::{EventKind, EventView};
use tracklog_protocol::line::format_time;

use super::columns::RowPlace;

/// How many bytes of events a flush must have for a file of their own.
pub const OWN_FILE_BYTES: usize = 1 << 20;
/// The folder of manifests.
pub const MANIFESTS: &str = "_manifest";
/// The folder of events that share a file.
pub const SHARED: &str = "__other__";
/// A folder's name has at most so many bytes of the event's, percent-encoded: file systems end at
/// 255.
const FOLDER_BYTES_MAX: usize = 200;

/// What stays as it is in a folder's name.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

/// What an event is filed under: its name, or the word for calls without one; the same by which
/// its schema is found.
#[must_use]
pub fn filed_under<'a>(event: &EventView<'a>) -> &'a str {
    event.name().unwrap_or_else(|| match event.kind() {
        EventKind::Track => "$track",
        EventKind::Identify => "$identify",
        EventKind::Page => "$page",
        EventKind::Screen => "$screen",
        EventKind::Group => "$group",
        EventKind::Alias => "$alias",
    })
}

/// Whether an event of this name can have a folder: one whose encoding is too long, or that is
/// taken for the shared one or for a folder of the file system's, has none.
#[must_use]
pub fn may_have_folder(name: &str) -> bool {
    let is_dots = name.bytes().all(|byte| byte == b'.');
    let encoded: usize = utf8_percent_encode(name, ENCODED).map(str::len).sum();
    !is_dots && name != SHARED && encoded <= FOLDER_BYTES_MAX
}

/// The path of a file with these ends that takes the place of the one at `path`.
#[must_use]
pub fn beside(path: &str, ends: (RowPlace, RowPlace), manifest: u64, sha256: &str) -> String {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    format!("{folder}/{}", file_name(ends, manifest, sha256))
}

/// The path of a file; `name` is `None` for a shared one.
#[must_use]
pub fn file(
    topic: &str,
    date: Date,
    name: Option<&str>,
    ends: (RowPlace, RowPlace),
    manifest: u64,
    sha256: &str,
) -> String {
    let event = match name {
        Some(name) => utf8_percent_encode(name, ENCODED).to_string(),
        None => SHARED.to_owned(),
    };
    format!("{}/event={event}/{}", day(topic, date), file_name(ends, manifest, sha256))
}

fn file_name((first, last): (RowPlace, RowPlace), manifest: u64, sha256: &str) -> String {
    let digest = sha256.get(..16).unwrap_or(sha256);
    let ends = format!("{}.{}-{}.{}", first.partition, first.offset, last.partition, last.offset);
    format!("{ends}.{manifest}.{digest}.parquet")
}

/// The folder of a topic.
#[must_use]
pub fn topic(topic: &str) -> String {
    format!("topic={topic}")
}

/// The folder of a topic's records that were appended on a day.
#[must_use]
pub fn day(topic: &str, date: Date) -> String {
    format!("topic={topic}/date={date}")
}

/// The number of the manifest that is to name the file at this path; `None` for what is no file of
/// ours, or was written before names said it.
#[must_use]
pub fn manifest_of(path: &str) -> Option<u64> {
    let name: Vec<_> = path.rsplit('/').next()?.split('.').collect();
    let [_, _, _, manifest, _, "parquet"] = name[..] else { return None };
    manifest.parse().ok()
}

/// The event of a file's folder; `None` where it is shared or the path is none of ours.
#[must_use]
pub fn event_of(path: &str) -> Option<String> {
    let folder = path.split('/').find_map(|part| part.strip_prefix("event="))?;
    if folder == SHARED {
        return None;
    }
    percent_decode_str(folder).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

/// The path of a manifest.
#[must_use]
pub fn manifest(number: u64) -> String {
    format!("{MANIFESTS}/{number:020}.json")
}

/// The number of the manifest at this path; `None` for what is none.
#[must_use]
pub fn manifest_number(path: &str) -> Option<u64> {
    let digits = path.strip_prefix(MANIFESTS)?.strip_prefix('/')?.strip_suffix(".json")?;
    let is_whole = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if is_whole { digits.parse().ok() } else { None }
}

/// A day in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Date(i64);

impl Date {
    /// No record was appended before it.
    pub const FIRST: Self = Self(0);

    /// The day of `time`.
    #[must_use]
    pub const fn of(time: TimeMicros) -> Self {
        Self(time.0.div_euclid(86_400_000_000))
    }
}

impl std::fmt::Display for Date {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let midnight = format_time(TimeMicros(self.0.saturating_mul(86_400_000_000)));
        f.write_str(midnight.split('T').next().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tracklog_protocol::Offset;

    use super::*;

    fn place(partition: u32, offset: u64) -> RowPlace {
        RowPlace { partition, offset: Offset(offset), appended_at: TimeMicros(0) }
    }

    #[test]
    fn a_path_says_topic_date_event_and_records() {
        let date = Date::of(TimeMicros(1_767_323_045_678_901));
        let digest = "1f0e3dad99908345f7439f8ffabdffc4";
        let ends = (place(0, 1207), place(15, 88));
        let path = file("raw", date, Some("Order Completed"), ends, 42, digest);
        let folder = "topic=raw/date=2026-01-02/event=Order%20Completed/";
        assert_eq!(path, format!("{folder}0.1207-15.88.42.1f0e3dad99908345.parquet"));
        assert_eq!(manifest_of(&path), Some(42));
        let shared = file("raw", date, None, (place(0, 0), place(0, 0)), 0, digest);
        assert!(shared.contains("/event=__other__/"), "{shared}");
        assert_eq!(event_of(&path).as_deref(), Some("Order Completed"));
        assert_eq!(event_of(&shared), None);
    }

    #[test]
    fn a_name_without_a_manifest_has_none() {
        for name in ["0.1-15.88.1f0e3dad99908345.parquet", "0.1-2.3.x.1f.parquet", "x.parquet", ""]
        {
            assert_eq!(manifest_of(&format!("topic=raw/date=2026-01-02/event=A.B/{name}")), None);
        }
    }

    #[test]
    fn names_that_no_folder_can_have_are_shared() {
        for name in [SHARED, ".", "..", &"ä".repeat(100)] {
            assert!(!may_have_folder(name), "{name}");
        }
        assert!(may_have_folder("Order Completed"));
    }

    #[test]
    fn only_whole_numbers_are_manifests() {
        assert_eq!(manifest_number(&manifest(42)), Some(42));
        assert_eq!(manifest_number(&manifest(u64::MAX)), Some(u64::MAX));
        for other in ["_manifest/42.json", "_manifest/0000000000000000004x.json", "x/1.json"] {
            assert_eq!(manifest_number(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn no_name_leaves_its_folder(name in "\\PC{1,40}") {
            prop_assume!(may_have_folder(&name));
            let path = file("t", Date(0), Some(&name), (place(0, 0), place(0, 0)), 7, "");
            prop_assert_eq!(path.split('/').count(), 4);
            prop_assert_eq!(event_of(&path), Some(name));
            prop_assert_eq!(manifest_of(&path), Some(7));
        }
    }
}
