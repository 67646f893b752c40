//! The place of backups in an object store: manifests, the objects that they name, and what of both
//! may go.
//!
//! ```text
//! manifests/0000000000000042.json
//! objects/0000000000000042/segment-0000000000000007-a1b2….00003.<SHA-256 of the object>
//! objects/0000000000000040/0000…-0000…-0001.pack-c3d4….roll.<SHA-256>
//! ```
//!
//! Promises
//! - An object is created, never changed, and its name tells its digest and its file: whoever
//!   creates it again creates the same, and no two files share one.
//! - A manifest is created after all that it names. Its number is the one after the newest that its
//!   writer had read; of two writers one gets it, and the other begins anew.
//! - What is named stays. An object is created below the number of the manifest that it is meant for;
//!   a manifest names objects below its own number, and such of earlier ones as the manifest before
//!   it names. So once manifest N is there, whatever lies below a number up to N and is named by none
//!   of the manifests up to N is named by no later one either: that alone is removed, whoever else
//!   writes meanwhile, and without a look at a clock.

use std::collections::BTreeSet;

use bytes::Bytes;
use tracklog_pipeline::archive::manifest::sha256;
use tracklog_pipeline::archive::store::{Created, Store, StoreError};

use super::BackupError;
use super::manifest::{FileEntry, Manifest, Parts};

const MANIFESTS: &str = "manifests";
const OBJECTS: &str = "objects";
const NUMBER_DIGITS: usize = 16;

/// What became of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Published {
    /// It is there, and the newest.
    Newest,
    /// Another writer's is there instead.
    Late,
}

/// Where backups lie.
#[derive(Clone, Debug)]
pub(super) struct Place {
    store: Store,
}

impl Place {
    pub(super) const fn new(store: Store) -> Self {
        Self { store }
    }

    pub(super) fn url(&self) -> &str {
        self.store.url()
    }

    /// The numbers of all manifests, rising.
    pub(super) async fn numbers(&self) -> Result<Vec<u64>, BackupError> {
        let paths = self.store.below(MANIFESTS).await?;
        let number = |path: &String| {
            let name = path.strip_prefix(MANIFESTS)?.strip_prefix('/')?.strip_suffix(".json")?;
            let is_ours = name.len() == NUMBER_DIGITS;
            is_ours.then(|| name.parse().ok())?
        };
        let mut numbers: Vec<u64> = paths.iter().filter_map(number).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// A manifest.
    pub(super) async fn manifest(&self, number: u64) -> Result<Manifest, BackupError> {
        let bytes = self.store.get(&manifest_path(number)).await?;
        Ok(Manifest::decode(number, &bytes)?)
    }

    /// Creates a manifest, unless another writer was first.
    pub(super) async fn publish(&self, manifest: &Manifest) -> Result<Published, BackupError> {
        let path = manifest_path(manifest.number);
        match self.store.create(&path, Bytes::from(manifest.encode())).await? {
            Created::Ours => {}
            Created::Taken => return Ok(Published::Late),
        }
        // Its number may have been given before, and be free because that one was removed: there are
        // later ones then, and what it names may be gone.
        if self.numbers().await?.last().is_some_and(|last| *last > manifest.number) {
            self.store.remove(&[path]).await?;
            return Ok(Published::Late);
        }
        Ok(Published::Newest)
    }

    /// Creates an object for manifest `number`, and gives its name.
    pub(super) async fn create(
        &self,
        number: u64,
        label: &str,
        bytes: Bytes,
    ) -> Result<String, BackupError> {
        let name = format!("{number:0NUMBER_DIGITS$}/{label}.{}", sha256(&bytes));
        match self.store.create(&object_path(&name), bytes).await? {
            Created::Ours => Ok(name),
            Created::Taken => Err(BackupError::Rotten { object: name }),
        }
    }

    /// An object, held against its digest.
    pub(super) async fn object(&self, name: &str) -> Result<Bytes, BackupError> {
        let rotten = || BackupError::Rotten { object: name.to_owned() };
        let bytes = match self.store.get(&object_path(name)).await {
            Err(StoreError::NotFound { .. }) => return Err(rotten()),
            bytes => bytes?,
        };
        let digest = name.rsplit('.').next();
        if digest == Some(&*sha256(&bytes)) { Ok(bytes) } else { Err(rotten()) }
    }

    /// The objects that hold a file.
    pub(super) async fn parts(&self, file: &FileEntry) -> Result<Vec<String>, BackupError> {
        match &file.parts {
            Parts::Listed(names) => Ok(names.clone()),
            Parts::Roll(name) => {
                let roll = self.object(name).await?;
                let rotten = |_| BackupError::Rotten { object: name.clone() };
                serde_json::from_slice(&roll).map_err(rotten)
            }
        }
    }

    /// Removes the manifests up to number `newest` but for the last `keep`, and what they alone named.
    /// An end in between leaves objects that [`sweep`](Self::sweep) finds.
    pub(super) async fn retire(&self, newest: u64, keep: usize) -> Result<(), BackupError> {
        let mut numbers = self.numbers().await?;
        numbers.retain(|number| *number <= newest);
        for pair in numbers.windows(2).take(numbers.len().saturating_sub(keep)) {
            let (old, next) = (pair[0], pair[1]);
            let superseded = match self.superseded(old, next).await {
                Ok(superseded) => superseded,
                // Another writer removes it, or it is damaged: then nobody knows what it named.
                Err(BackupError::Store(StoreError::NotFound { .. }) | BackupError::Manifest(_)) => {
                    Vec::new()
                }
                Err(BackupError::Rotten { .. }) => Vec::new(),
                Err(error) => return Err(error),
            };
            self.store.remove(&[manifest_path(old)]).await?;
            self.store.remove(&superseded).await?;
        }
        Ok(())
    }

    /// The paths of what manifest `old` names and `next` does not.
    async fn superseded(&self, old: u64, next: u64) -> Result<Vec<String>, BackupError> {
        let (old, next) = (self.manifest(old).await?, self.manifest(next).await?);
        let mut superseded = Vec::new();
        for file in old.files.iter().filter(|file| !next.files.contains(file)) {
            // Objects are those of one file: no other entry has one of them.
            let after = next.files.iter().find(|it| it.content == file.content);
            let kept = match after {
                Some(after) => self.named_by(after).await?,
                None => BTreeSet::new(),
            };
            let gone = self.named_by(file).await?.into_iter().filter(|it| !kept.contains(it));
            superseded.extend(gone.map(|name| object_path(&name)));
        }
        Ok(superseded)
    }

    pub(super) async fn named_by(&self, file: &FileEntry) -> Result<BTreeSet<String>, BackupError> {
        let mut names: BTreeSet<String> = self.parts(file).await?.into_iter().collect();
        if let Parts::Roll(roll) = &file.parts {
            names.insert(roll.clone());
        }
        Ok(names)
    }

    /// Removes what lies below numbers up to `newest`, a manifest that is there, and that no
    /// manifest names: what writers left who were killed, or who came second.
    pub(super) async fn sweep(&self, newest: u64) -> Result<usize, BackupError> {
        let mut named = BTreeSet::new();
        for number in self.numbers().await? {
            for file in &self.manifest(number).await?.files {
                named.extend(self.named_by(file).await?);
            }
        }
        let is_unnamed = |path: &String| {
            let name = path.strip_prefix(OBJECTS).and_then(|name| name.strip_prefix('/'));
            name.is_some_and(|name| {
                let number = name.split('/').next().and_then(|number| number.parse::<u64>().ok());
                number.is_some_and(|number| number <= newest) && !named.contains(name)
            })
        };
        let objects = self.store.below(OBJECTS).await?;
        let unnamed: Vec<String> = objects.into_iter().filter(is_unnamed).collect();
        let count = unnamed.len();
        self.store.remove(&unnamed).await?;
        Ok(count)
    }
}

fn manifest_path(number: u64) -> String {
    format!("{MANIFESTS}/{number:0NUMBER_DIGITS$}.json")
}

fn object_path(name: &str) -> String {
    format!("{OBJECTS}/{name}")
}
