//! Manifests: what a backup consists of, and up to where its log goes. FORMAT.md beside this file.
//!
//! Promises
//! - A [`Manifest`] that was decoded bears the digest of all that it says.
//! - What it names is a file of a log or a setting, never another path.
//!
//! Sans-io: bytes in, values out, and back.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use tracklog_engine::disk::{FileName, PackId, SlotId};
use tracklog_engine::{Point, TopicExtents};
use tracklog_log::Extent;
use tracklog_pipeline::archive::manifest::sha256;
use tracklog_protocol::TimeMicros;
use tracklog_protocol::line::format_time;

/// The version of backups that this program writes.
pub(super) const FORMAT: u32 = 1;
/// Settings and keys beside the log that a node needs to go on as it was.
pub(super) const SETTINGS: [&str; 5] =
    ["tracklog.toml", "routes.toml", "default.key", "admin.token", "privacy.key"];

/// One backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    /// [`FORMAT`].
    pub(super) format: u32,
    /// Its number, from 1.
    pub(super) number: u64,
    /// When it was written, RFC 3339.
    pub(super) written_at: String,
    /// The number that all files of the log carry, in hexadecimal.
    pub(super) cluster: String,
    /// The size of every slot.
    pub(super) slot_bytes: u64,
    /// The last commit that is in it; absent where the log holds nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) point: Option<PointEntry>,
    /// All topics, by name.
    pub(super) topics: BTreeMap<String, TopicEntry>,
    /// Commits that the log had lost by then.
    pub(super) missing_commits: u64,
    /// All files.
    pub(super) files: Vec<FileEntry>,
}

/// A topic, as of the recovery point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TopicEntry {
    /// When the log made it, microseconds since 1970: another one of its name was made at another
    /// time.
    pub(super) created: i64,
    /// By partition, its first offset and the one after its last.
    pub(super) partitions: Vec<(u64, u64)>,
}

/// How far a backup goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryPoint {
    /// The run of the last commit in it.
    pub run: u64,
    /// That commit's number.
    pub commit: u64,
    /// When it was appended, RFC 3339.
    #[serde(rename = "recoveryPoint")]
    pub time: String,
}

/// The recovery point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PointEntry {
    pub(super) run: u64,
    pub(super) commit: u64,
    pub(super) hash: String,
    /// Microseconds since 1970.
    pub(super) append_time: i64,
    pub(super) segment: u64,
    pub(super) salt: String,
}

impl PointEntry {
    pub(super) fn of(point: &Point) -> Self {
        Self {
            run: point.run,
            commit: point.commit,
            hash: hex(point.hash),
            append_time: point.append_time.0,
            segment: point.segment,
            salt: hex(point.salt),
        }
    }

    /// In the order of the log.
    pub(super) const fn place(&self) -> (u64, u64) {
        (self.run, self.commit)
    }

    pub(super) fn reached(&self) -> RecoveryPoint {
        RecoveryPoint { run: self.run, commit: self.commit, time: self.time() }
    }

    pub(super) fn time(&self) -> String {
        format_time(TimeMicros(self.append_time))
    }
}

impl fmt::Display for PointEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "commit {} of run {}, appended at {}", self.commit, self.run, self.time())
    }
}

/// A file of the data folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FileEntry {
    #[serde(flatten)]
    pub(super) content: Content,
    /// So many bytes of it are there, before compression.
    pub(super) bytes: u64,
    /// What each part of it has but the last.
    pub(super) part_bytes: u64,
    pub(super) parts: Parts,
}

/// Which file, and what tells it from others of its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub(super) enum Content {
    /// A checkpoint; which of the two.
    Checkpoint { file: CheckpointFile },
    /// A pack, and a hash of all of its checksums.
    Pack { name: String, fingerprint: String },
    /// A segment and the slot that it lies in.
    Segment { slot: u32, number: u64, salt: String },
    /// A file of [`SETTINGS`].
    Setting { name: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum CheckpointFile {
    A,
    B,
}

/// The objects that hold a file's bytes, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Parts {
    /// These.
    Listed(Vec<String>),
    /// Those that this object lists: of files that are complete.
    Roll(String),
}

impl Content {
    /// What of an object's name tells its file: no two files share an object.
    pub(super) fn label(&self) -> String {
        match self {
            Self::Checkpoint { file: CheckpointFile::A } => "checkpoint-a".to_owned(),
            Self::Checkpoint { file: CheckpointFile::B } => "checkpoint-b".to_owned(),
            Self::Pack { name, fingerprint } => format!("{name}-{fingerprint}"),
            Self::Segment { number, salt, .. } => format!("segment-{number:016}-{salt}"),
            Self::Setting { name } => name.clone(),
        }
    }

    /// Packs are compressed as they are.
    pub(super) const fn is_compressed(&self) -> bool {
        !matches!(self, Self::Pack { .. })
    }

    fn is_sound(&self) -> bool {
        match self {
            Self::Checkpoint { .. } | Self::Segment { .. } => true,
            Self::Pack { name, .. } => PackId::parse(name).is_some(),
            Self::Setting { name } => SETTINGS.contains(&&**name),
        }
    }

    /// Where it belongs in a log.
    pub(super) fn target(&self) -> Target<'_> {
        match self {
            Self::Checkpoint { file: CheckpointFile::A } => Target::Small(FileName::CheckpointA),
            Self::Checkpoint { file: CheckpointFile::B } => Target::Small(FileName::CheckpointB),
            Self::Pack { name, .. } => {
                Target::Pack(PackId::parse(name).expect("a manifest in hand is sound"))
            }
            Self::Segment { slot, .. } => Target::Slot(SlotId(*slot)),
            Self::Setting { name } => Target::Setting(name),
        }
    }
}

/// Where a file belongs.
pub(super) enum Target<'a> {
    Small(FileName),
    Pack(PackId),
    Slot(SlotId),
    Setting(&'a str),
}

/// A manifest cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// It is torn, rotten, or none.
    #[error("backup {number}: its manifest is damaged: {why}")]
    Malformed {
        /// Its number, by its name.
        number: u64,
        /// What is wrong.
        why: String,
    },
    /// A newer program wrote it.
    #[error("backup {number} has format {format}, and this program knows {FORMAT}")]
    Newer {
        /// Its number.
        number: u64,
        /// Its format.
        format: u32,
    },
}

impl Manifest {
    /// Its bytes: a line of JSON, and a line with the digest of that.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).expect("texts and numbers can be written");
        bytes.push(b'\n');
        let digest = sha256(&bytes);
        bytes.extend_from_slice(digest.as_bytes());
        bytes.push(b'\n');
        bytes
    }

    /// Reads the manifest that is stored under `number`.
    pub(super) fn decode(number: u64, bytes: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let malformed = |why: String| ManifestError::Malformed { number, why };
        let end = bytes.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let (said, digest) = bytes.split_at(end);
        if digest.strip_suffix(b"\n") != Some(sha256(said).as_bytes()) {
            return Err(malformed("its digest is another".to_owned()));
        }
        let version: Version =
            serde_json::from_slice(said).map_err(|error| malformed(error.to_string()))?;
        if version.format > FORMAT {
            return Err(ManifestError::Newer { number, format: version.format });
        }
        let manifest: Self =
            serde_json::from_slice(said).map_err(|error| malformed(error.to_string()))?;
        if manifest.number != number {
            return Err(malformed(format!("it says that it is number {}", manifest.number)));
        }
        match manifest.files.iter().find(|file| !file.content.is_sound()) {
            Some(file) => Err(malformed(format!("{} is no file of a log", file.content.label()))),
            None => Ok(manifest),
        }
    }

    /// Whether it says the same of the same log as an earlier one.
    pub(super) fn says_what(&self, other: &Self) -> bool {
        self.cluster == other.cluster
            && self.point == other.point
            && self.topics == other.topics
            && self.files == other.files
    }

    /// What a log has that the backup lacks, of topics that both have: by partition, from which
    /// offset to which.
    pub(super) fn lacks(&self, topics: &[TopicExtents]) -> Vec<(String, usize, u64, u64)> {
        let mut lacking = Vec::new();
        for topic in topics {
            let is_same = |it: &&TopicEntry| it.created == topic.created.0;
            let of = self.topics.get(&topic.name).filter(is_same);
            let Some(of) = of else { continue };
            for (index, extent) in topic.extents.iter().enumerate() {
                let end = of.partitions.get(index).map_or(0, |(_, end)| *end);
                if extent.end.0 > end {
                    lacking.push((topic.name.clone(), index, end, extent.end.0));
                }
            }
        }
        lacking
    }
}

/// Topics as manifests have them.
pub(super) fn entries(topics: &[TopicExtents]) -> BTreeMap<String, TopicEntry> {
    let span = |extent: &Extent| (extent.start.0, extent.end.0);
    let of = |it: &TopicExtents| {
        let partitions = it.extents.iter().map(span).collect();
        (it.name.clone(), TopicEntry { created: it.created.0, partitions })
    };
    topics.iter().map(of).collect()
}

/// A number as manifests have those that no parser of JSON should round.
pub(super) fn hex(number: u64) -> String {
    format!("{number:016x}")
}

/// The number of a log.
pub(super) fn cluster_hex(cluster: u128) -> String {
    format!("{cluster:032x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let file = |content, parts| FileEntry { content, bytes: 5, part_bytes: 8 << 20, parts };
        Manifest {
            format: FORMAT,
            number: 7,
            written_at: "2026-01-02T03:04:05Z".to_owned(),
            cluster: cluster_hex(9),
            slot_bytes: 16 << 20,
            point: Some(PointEntry {
                run: 2,
                commit: 40,
                hash: hex(u64::MAX),
                append_time: 1_767_323_045_000_000,
                segment: 3,
                salt: hex(1),
            }),
            topics: [(
                "raw".to_owned(),
                TopicEntry { created: 1, partitions: vec![(0, 5), (1, 1)] },
            )]
            .into(),
            missing_commits: 0,
            files: vec![
                file(
                    Content::Checkpoint { file: CheckpointFile::B },
                    Parts::Listed(vec!["0000000000000007/checkpoint-b.00000.00".to_owned()]),
                ),
                file(
                    Content::Segment { slot: 1, number: 3, salt: hex(1) },
                    Parts::Roll("0000000000000006/segment.roll.00".to_owned()),
                ),
            ],
        }
    }

    #[test]
    fn a_manifest_reads_back_and_any_other_byte_is_noticed() {
        let manifest = manifest();
        let bytes = manifest.encode();
        assert_eq!(Manifest::decode(7, &bytes), Ok(manifest));
        assert!(Manifest::decode(8, &bytes).is_err(), "under another number");
        for at in 0..bytes.len() {
            let mut rotten = bytes.clone();
            rotten[at] ^= 1;
            assert!(Manifest::decode(7, &rotten).is_err(), "byte {at}");
            assert!(Manifest::decode(7, &bytes[..at]).is_err(), "torn at {at}");
        }
    }

    #[test]
    fn a_later_format_and_foreign_files_are_refused() {
        let newer = Manifest { format: FORMAT + 1, ..manifest() };
        let decoded = Manifest::decode(7, &newer.encode());
        assert_eq!(decoded, Err(ManifestError::Newer { number: 7, format: FORMAT + 1 }));
        for content in [
            Content::Setting { name: "../../etc/passwd".to_owned() },
            Content::Setting { name: "lock".to_owned() },
            Content::Pack { name: "../x.pack".to_owned(), fingerprint: hex(1) },
        ] {
            let mut foreign = manifest();
            foreign.files[0].content = content;
            assert!(matches!(
                Manifest::decode(7, &foreign.encode()),
                Err(ManifestError::Malformed { .. })
            ));
        }
    }
}
