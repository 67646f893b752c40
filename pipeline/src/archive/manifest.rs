//! Manifests: what the archive holds, a step at a time.
//!
//! Promises
//! - Manifests are numbered from 0 without a hole, and each but the first bears the digest of the
//!   one before: a chain that nobody changes unseen.
//! - A manifest is created or not: it makes its files visible together, and it says where each
//!   partition of the log goes on. So a record is in the archive once, whatever crashed.
//! - Every offset below the ends is in a file, or in `missing` with the reason.
//!
//! Sans-io: bytes in, values out, and back. `chain` reads them from a store; FORMAT.md has the
//! fields.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tracklog_protocol::Offset;

/// The version of files and of manifests that add some.
pub const FORMAT: u32 = 1;
/// The version of manifests that replace files: who does not know it would read these twice.
pub const FORMAT_REPLACING: u32 = 2;
/// A manifest replaces so many at most.
pub const FILES_REPLACED_MAX: usize = 256;
/// Why offsets are missing that were erased.
pub const ERASED: &str = "erased";

/// One step of the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// [`FORMAT`], or [`FORMAT_REPLACING`].
    pub format: u32,
    /// Its number, from 0.
    pub number: u64,
    /// The SHA-256 of the manifest before, as stored; `None` for the first.
    pub predecessor: Option<String>,
    /// When it was written, RFC 3339.
    pub written_at: String,
    /// Of which topic records were added.
    pub topic: String,
    /// The records that the step is about, a range for each partition that has some.
    pub ranges: Vec<OffsetRange>,
    /// Of those ranges: what the log no longer had.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
    /// The files that it adds.
    pub files: Vec<FileEntry>,
    /// Files of earlier manifests that others take the place of, since events were erased.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaces: Vec<Replaced>,
    /// The last manifest that replaces some, up to this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_replacement: Option<u64>,
    /// All topics that the archive has, and where each goes on, after this step.
    pub topics: BTreeMap<String, TopicEnds>,
}

/// Offsets `from <= offset < to` of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsetRange {
    /// The partition's index.
    pub partition: u32,
    /// The first.
    pub from: u64,
    /// The first that is not in it.
    pub to: u64,
}

/// Offsets without a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Which.
    #[serde(flatten)]
    pub range: OffsetRange,
    /// Why: damaged, removed, dropped, or no event.
    pub why: String,
}

/// A file and what is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileEntry {
    /// Where it lies.
    pub path: String,
    /// The SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
    /// How many events it holds.
    pub rows: u64,
    /// What these take in the log.
    pub event_bytes: u64,
    /// Of which partitions, rising.
    pub partitions: Vec<FilePartition>,
    /// When the events happened: microseconds since 1970.
    pub min_event_time: i64,
    /// The last of them.
    pub max_event_time: i64,
    /// When the log took them.
    pub min_append_time: i64,
    /// The last of them.
    pub max_append_time: i64,
}

/// A file that another takes the place of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    /// Where it lay.
    pub path: String,
    /// What is left of it; nothing where all its events were erased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with: Option<FileEntry>,
    /// The offsets whose events were erased.
    pub erased: Vec<OffsetRange>,
}

/// What a file has of a partition. Other files may have offsets between these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilePartition {
    /// The partition's index.
    pub partition: u32,
    /// The first offset.
    pub first: u64,
    /// The last offset.
    pub last: u64,
    /// How many rows.
    pub rows: u64,
}

/// Where a topic goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicEnds {
    /// When the log made the topic, microseconds since 1970: another log's was made at another
    /// time.
    pub created: i64,
    /// By partition, the first offset that the archive had, and the first that it has not yet.
    pub partitions: Vec<Span>,
}

/// What an archive covers of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The first offset.
    pub start: u64,
    /// The first offset that is not there yet.
    pub end: u64,
}

/// A manifest that is read cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// It is not what a manifest looks like.
    #[error("manifest {number} cannot be read: {why}")]
    Malformed {
        /// Its number, by its name.
        number: u64,
        /// What is wrong.
        why: String,
    },
    /// A newer program wrote it.
    #[error("manifest {number} has format {format}, and this program knows {FORMAT_REPLACING}")]
    Newer {
        /// Its number.
        number: u64,
        /// Its format.
        format: u32,
    },
    /// It does not follow from the manifest before it.
    #[error("manifest {number} does not follow the one before: {why}")]
    Chain {
        /// Its number.
        number: u64,
        /// What does not fit.
        why: String,
    },
}

/// A manifest with the digest of its bytes: what the next one bears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// What it says.
    pub manifest: Manifest,
    /// The SHA-256 of its bytes.
    pub digest: String,
}

impl Manifest {
    /// Its bytes, as stored.
    ///
    /// # Panics
    /// Never: all its fields have a form in JSON.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).expect("texts and numbers can be written");
        bytes.push(b'\n');
        bytes
    }

    /// Reads the manifest stored under `number`.
    ///
    /// # Errors
    /// [`ManifestError`], but never `Chain`.
    pub fn decode(number: u64, bytes: &[u8]) -> Result<Sealed, ManifestError> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let malformed = |why: String| ManifestError::Malformed { number, why };
        let version: Version =
            serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
        if version.format > FORMAT_REPLACING {
            return Err(ManifestError::Newer { number, format: version.format });
        }
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
        if manifest.number != number {
            return Err(malformed(format!("it says that it is number {}", manifest.number)));
        }
        Ok(Sealed { manifest, digest: sha256(bytes) })
    }
}

impl Sealed {
    /// Checks that `self` follows `before`, or is a good first one: the chain, and that what it
    /// adds is what its ends say.
    ///
    /// # Errors
    /// [`ManifestError::Chain`].
    pub fn check_follows(&self, before: Option<&Self>) -> Result<(), ManifestError> {
        let manifest = &self.manifest;
        let broken = |why: String| Err(ManifestError::Chain { number: manifest.number, why });
        if manifest.predecessor.as_ref() != before.map(|before| &before.digest) {
            return broken("the digest that it bears is another".to_owned());
        }
        let none = BTreeMap::new();
        let before = before.map_or(&none, |before| &before.manifest.topics);
        for (name, ends) in before {
            let Some(after) = manifest.topics.get(name) else {
                return broken(format!("topic {name} is gone"));
            };
            if after.created != ends.created || after.partitions.len() != ends.partitions.len() {
                return broken(format!("topic {name} is another one"));
            }
        }
        for (name, after) in &manifest.topics {
            let ends = before.get(name);
            for (partition, after) in (0_u32..).zip(&after.partitions) {
                let index = partition as usize;
                let ended = ends.map(|ends| ends.partitions[index]);
                let moved = manifest.ranges.iter().find(|range| range.partition == partition);
                let moved = moved.filter(|_| *name == manifest.topic);
                let expected = match (ended, moved) {
                    (Some(ended), None) => ended,
                    (Some(ended), Some(range)) if ended.end == range.from => {
                        Span { start: ended.start, end: range.to }
                    }
                    (None, Some(range)) => Span { start: range.from, end: range.to },
                    // A partition that nothing was read of begins and ends at one place.
                    (None, None) => Span { start: after.start, end: after.start },
                    (Some(_), Some(range)) => {
                        let at = range.from;
                        return broken(format!("{name}/{partition} does not go on at {at}"));
                    }
                };
                if *after != expected {
                    return broken(format!("{name}/{partition} ends elsewhere than its ranges"));
                }
            }
        }
        manifest.check_rows().or_else(broken)
    }
}

impl Replaced {
    /// Does to the step that added the file what was done to the file. Says what does not fit.
    pub(super) fn apply(&self, step: &mut Manifest) -> Result<(), String> {
        let at = step.files.iter().position(|file| file.path == self.path);
        let at = at.ok_or_else(|| format!("{} is not there to be replaced", self.path))?;
        let missing = |range: &OffsetRange| Missing { range: *range, why: ERASED.to_owned() };
        step.missing.extend(self.erased.iter().map(missing));
        match &self.with {
            Some(with) => step.files[at] = with.clone(),
            None => drop(step.files.remove(at)),
        }
        // Every offset is still in a file, or missing.
        step.check_rows()
    }
}

impl Manifest {
    /// Each offset of the ranges is in a file or missing: by the counts.
    fn check_rows(&self) -> Result<(), String> {
        let mut counts: BTreeMap<u32, u64> = BTreeMap::new();
        for range in &self.ranges {
            let wanted = range.to.checked_sub(range.from).filter(|count| *count > 0);
            let wanted = wanted.ok_or_else(|| "a range is empty".to_owned())?;
            if counts.insert(range.partition, wanted).is_some() {
                return Err(format!("partition {} has two ranges", range.partition));
            }
        }
        let missing =
            self.missing.iter().map(|it| (it.range.partition, it.range.to - it.range.from));
        let rows = self.files.iter().flat_map(|file| &file.partitions);
        for (partition, count) in missing.chain(rows.map(|it| (it.partition, it.rows))) {
            let left = counts.get_mut(&partition).and_then(|left| {
                *left = left.checked_sub(count)?;
                Some(())
            });
            left.ok_or_else(|| format!("partition {partition} has more rows than offsets"))?;
        }
        match counts.iter().find(|(_, left)| **left > 0) {
            Some((partition, left)) => {
                Err(format!("{left} offsets of partition {partition} are nowhere"))
            }
            None => Ok(()),
        }
    }
}

impl FileEntry {
    /// What it has of a partition.
    #[must_use]
    pub fn of_partition(&self, partition: u32) -> Option<FilePartition> {
        let found = self.partitions.binary_search_by_key(&partition, |it| it.partition);
        found.ok().map(|index| self.partitions[index])
    }
}

impl OffsetRange {
    /// Whether `offset` is one of them.
    #[must_use]
    pub const fn contains(&self, offset: Offset) -> bool {
        self.from <= offset.0 && offset.0 < self.to
    }
}

/// The SHA-256 of `bytes`, in hexadecimal.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digest = Sha256::digest(bytes);
    let digits = digest.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first() -> Manifest {
        Manifest {
            format: FORMAT,
            number: 0,
            predecessor: None,
            written_at: "2026-01-02T03:04:05.678901Z".to_owned(),
            topic: "raw".to_owned(),
            ranges: vec![OffsetRange { partition: 0, from: 5, to: 9 }],
            missing: vec![Missing {
                range: OffsetRange { partition: 0, from: 6, to: 7 },
                why: "damaged".to_owned(),
            }],
            files: vec![file(3)],
            replaces: Vec::new(),
            last_replacement: None,
            topics: topics(9),
        }
    }

    fn second() -> Manifest {
        Manifest {
            number: 1,
            predecessor: Some(sha256(&first().encode())),
            ranges: vec![OffsetRange { partition: 0, from: 9, to: 12 }],
            missing: Vec::new(),
            topics: topics(12),
            ..first()
        }
    }

    fn file(rows: u64) -> FileEntry {
        FileEntry {
            path: "topic=raw/x.parquet".to_owned(),
            sha256: String::new(),
            bytes: 1,
            rows,
            event_bytes: 1,
            partitions: vec![FilePartition { partition: 0, first: 5, last: 8, rows }],
            min_event_time: 0,
            max_event_time: 0,
            min_append_time: 0,
            max_append_time: 0,
        }
    }

    fn topics(end: u64) -> BTreeMap<String, TopicEnds> {
        let partitions = vec![Span { start: 5, end }, Span::default()];
        BTreeMap::from([("raw".to_owned(), TopicEnds { created: 1, partitions })])
    }

    fn sealed(manifest: &Manifest) -> Sealed {
        Manifest::decode(manifest.number, &manifest.encode()).unwrap()
    }

    fn check(change: impl FnOnce(&mut Manifest)) -> Result<(), ManifestError> {
        let mut manifest = second();
        change(&mut manifest);
        sealed(&manifest).check_follows(Some(&sealed(&first())))
    }

    #[test]
    fn a_manifest_reads_back_and_follows() {
        assert_eq!(sealed(&first()).manifest, first());
        assert_eq!(sealed(&first()).check_follows(None), Ok(()));
        assert_eq!(check(|_| {}), Ok(()));
    }

    #[test]
    fn what_does_not_follow_is_seen() {
        let offenders: [fn(&mut Manifest); 9] = [
            |it| it.predecessor = None,
            |it| it.predecessor = Some(sha256(b"another")),
            |it| it.topics.clear(),
            |it| it.topics.get_mut("raw").unwrap().created = 2,
            |it| it.topics.get_mut("raw").unwrap().partitions[0].end = 13,
            |it| it.ranges[0].from = 10,
            |it| it.ranges.clear(),
            |it| it.files.clear(),
            |it| it.files.push(file(1)),
        ];
        for (index, offender) in offenders.into_iter().enumerate() {
            let seen = check(offender);
            assert!(
                matches!(seen, Err(ManifestError::Chain { number: 1, .. })),
                "{index}: {seen:?}"
            );
        }
    }

    #[test]
    fn what_is_replaced_keeps_each_offset_counted() {
        let (erased, with) = (vec![OffsetRange { partition: 0, from: 5, to: 6 }], Some(file(2)));
        let path = file(3).path;
        let good = Replaced { path, with, erased };
        let mut step = first();
        assert_eq!(good.apply(&mut step), Ok(()));
        assert_eq!((step.files[0].rows, step.missing.len()), (2, 2));
        let all = vec![OffsetRange { partition: 0, from: 5, to: 8 }];
        assert_eq!(
            Replaced { with: None, erased: all, ..good.clone() }.apply(&mut first()),
            Ok(())
        );
        for bad in [
            Replaced { erased: Vec::new(), ..good.clone() },
            Replaced { with: None, ..good.clone() },
            Replaced { path: "topic=raw/y.parquet".to_owned(), ..good },
        ] {
            assert!(bad.apply(&mut first()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        let decode = |text: &str| Manifest::decode(7, text.as_bytes()).unwrap_err();
        assert!(matches!(decode("{"), ManifestError::Malformed { number: 7, .. }));
        assert!(matches!(decode("{\"format\":3}"), ManifestError::Newer { format: 3, .. }));
        let other = String::from_utf8(first().encode()).unwrap();
        assert!(matches!(decode(&other), ManifestError::Malformed { number: 7, .. }));
    }
}
