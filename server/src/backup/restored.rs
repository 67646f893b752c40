//! What a folder remembers of the backup that it was restored from: `restored.json`.
//!
//! Behind its recovery point a restored log gives offsets anew. An archive that had come further
//! holds other events at those offsets, and would take the new ones for them. So an archive is held
//! against the ends that the log had in the backup, once, when the node first begins to write to it;
//! by the ends that the log has now nobody could tell any more.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tracklog_protocol::Offset;

use super::manifest::Manifest;
use crate::folder::{DataFolder, FolderError};

const FILE: &str = "restored.json";

/// From which backup a log was restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RestoredFrom {
    /// Its number.
    pub(super) backup: u64,
    /// Its recovery point; absent for an empty log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) recovery_point: Option<String>,
    /// Where each partition ended in it.
    ends: BTreeMap<String, Vec<u64>>,
    /// Archives that were found to hold nothing beyond these.
    archives: Vec<String>,
}

impl RestoredFrom {
    pub(super) fn of(manifest: &Manifest) -> Self {
        let ends = |(name, topic): (&String, &super::manifest::TopicEntry)| {
            (name.clone(), topic.partitions.iter().map(|(_, end)| *end).collect())
        };
        Self {
            backup: manifest.number,
            recovery_point: manifest.point.as_ref().map(super::manifest::PointEntry::time),
            ends: manifest.topics.iter().map(ends).collect(),
            archives: Vec::new(),
        }
    }

    /// What `folder` remembers; `None` where it was not restored.
    pub(crate) fn read(folder: &DataFolder) -> Result<Option<Self>, FolderError> {
        folder.read_json(FILE)
    }

    pub(super) fn write(&self, folder: &DataFolder) -> Result<(), FolderError> {
        folder.write_json(FILE, self)
    }

    /// Where the log ended, unless the archive at `url` was held against that already.
    pub(crate) fn ends_for(&self, url: &str) -> Option<BTreeMap<String, Vec<Offset>>> {
        if self.archives.iter().any(|archive| archive == url) {
            return None;
        }
        let offsets = |ends: &Vec<u64>| ends.iter().map(|end| Offset(*end)).collect();
        Some(self.ends.iter().map(|(name, ends)| (name.clone(), offsets(ends))).collect())
    }

    /// The archive at `url` holds nothing that the log lacked.
    pub(crate) fn archive_is_own(
        &mut self,
        folder: &DataFolder,
        url: &str,
    ) -> Result<(), FolderError> {
        self.archives.push(url.to_owned());
        self.write(folder)
    }
}
