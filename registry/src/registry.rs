//! The public face: register, look up, delete, validate.
//!
//! Requests read an immutable snapshot of compiled schemas through one atomic load. A change goes
//! store first, then snapshot: nothing is validated by a schema that a crash could take back.
//! Changes of this registry are made one at a time; against other writers of the same store a
//! version's record is written only where none is, and a name is read anew at every change.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::Mutex;
use tracklog_log::Meta;
use tracklog_log::meta::MetaError;

use crate::compile::{Compiled, Compiler, Limits};
use crate::error::{OpenError, RegistryError};
use crate::folder::{self, FolderEntry};
use crate::name::SchemaName;
use crate::scan;
use crate::store::{self, Stored};
use crate::verdict::{Verdict, Violation};

/// JSON Schemas by event name and version. Clones share one registry.
///
/// Its async methods need a Tokio runtime with time enabled.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

/// The answer to a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The number that the text has.
    pub version: u32,
    /// Whether it was given now; false when the text was there already.
    pub created: bool,
}

/// A name and what is there under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The name.
    pub name: SchemaName,
    /// Its versions, rising. Never empty.
    pub versions: Vec<u32>,
}

/// Whether a name has a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// It has; this is its newest version.
    Known {
        /// The newest version.
        newest: u32,
    },
    /// It has none, or no more.
    Unknown,
}

/// What a dry run holds a payload against.
#[derive(Clone, Debug)]
pub enum Candidate<'a> {
    /// A schema that is not registered.
    Body(Bytes),
    /// A registered one; `None` is the newest.
    Registered(&'a str, Option<u32>),
}

impl Registry {
    /// Opens the registry that `meta` holds, and compiles all of its schemas. One that this build
    /// or these limits no longer take does not keep the others from working: its events are
    /// answered `Invalid` with the reason, and a warning is logged.
    ///
    /// # Errors
    /// [`OpenError`] when the store holds what no registry writes.
    pub async fn open(meta: Arc<dyn Meta>, limits: Limits) -> Result<Self, OpenError> {
        let limits = Arc::new(limits);
        let shared = Shared {
            compiler: Compiler::new(Arc::clone(&limits)),
            limits,
            meta,
            snapshot: ArcSwap::default(),
            changing: Mutex::default(),
        };
        let mut snapshot = Snapshot::default();
        for (name, stored) in store::read_all(&*shared.meta)? {
            if let Some(named) = shared.named(&name, stored, None).await {
                snapshot.insert(name, Arc::new(named));
            }
        }
        shared.snapshot.store(Arc::new(snapshot));
        let shared = Arc::new(shared);
        Ok(Self { shared })
    }

    /// Registers `body` as the next version of `name`; durable when it returns. The text of the
    /// newest version, sent again, is answered with its number. Dropping the future does not
    /// cancel the registration.
    ///
    /// # Errors
    /// [`RegistryError`] when the name or the body is refused, or the change is not durable.
    pub async fn put(&self, name: &str, body: Bytes) -> Result<Registered, RegistryError> {
        self.register(SchemaName::try_from(name)?, None, body).await
    }

    /// Registers `body` as version `version` of `name`, which must be above every number given so
    /// far, or there already with this very text.
    ///
    /// # Errors
    /// As [`put`](Self::put); [`RegistryError::VersionTaken`] when the number was given before.
    pub async fn put_version(
        &self,
        name: &str,
        version: u32,
        body: Bytes,
    ) -> Result<Registered, RegistryError> {
        let name = SchemaName::try_from(name)?;
        self.register(name, Some(version), body).await
    }

    async fn register(
        &self,
        name: SchemaName,
        version: Option<u32>,
        body: Bytes,
    ) -> Result<Registered, RegistryError> {
        let shared = Arc::clone(&self.shared);
        let change = tokio::spawn(async move { shared.register(name, version, body).await });
        change.await.expect("a registration does not panic and is not aborted")
    }

    /// Deletes all versions of `name`; durable when it returns. Its numbers stay taken. Dropping
    /// the future does not cancel it.
    ///
    /// # Errors
    /// [`RegistryError::UnknownName`] when there is none; else what the store says.
    pub async fn delete(&self, name: &str) -> Result<(), RegistryError> {
        let name = SchemaName::try_from(name)?;
        let shared = Arc::clone(&self.shared);
        let change = tokio::spawn(async move { shared.delete(name).await });
        change.await.expect("a deletion does not panic and is not aborted")
    }

    /// The text of a version, as registered, and its number. `None` is the newest.
    ///
    /// # Errors
    /// When the name, or the version, is not there.
    pub fn get(&self, name: &str, version: Option<u32>) -> Result<(u32, Bytes), RegistryError> {
        let named = self.shared.find(name)?;
        let version = version.unwrap_or(named.newest);
        match named.versions.get(&version) {
            Some(found) => Ok((version, found.text.clone())),
            None => Err(RegistryError::UnknownVersion { version }),
        }
    }

    /// The versions of `name`, rising.
    ///
    /// # Errors
    /// When the name is not there.
    pub fn versions(&self, name: &str) -> Result<Vec<u32>, RegistryError> {
        let named = self.shared.find(name)?;
        Ok(named.versions.keys().copied().collect())
    }

    /// All names with their versions, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Summary> {
        let snapshot = self.shared.snapshot.load();
        let summaries = snapshot.iter().map(|(name, named)| Summary {
            name: name.clone(),
            versions: named.versions.keys().copied().collect(),
        });
        let mut summaries: Vec<_> = summaries.collect();
        summaries.sort_by(|a, b| a.name.cmp(&b.name));
        summaries
    }

    /// Whether `name` has a schema.
    #[must_use]
    pub fn lookup(&self, name: &str) -> Known {
        match self.shared.snapshot.load().get(name) {
            Some(named) => Known::Known { newest: named.newest },
            None => Known::Unknown,
        }
    }

    /// Holds `payload` against a version of `name`, the newest for `None`. Called for every event:
    /// takes no lock, compiles nothing.
    ///
    /// `payload` must have passed a byte scan already: it nests at most 64 deep, has no key twice
    /// and no number beyond a double. An event without properties is `{}`.
    #[must_use]
    pub fn validate(&self, name: &str, version: Option<u32>, payload: &str) -> Verdict {
        let snapshot = self.shared.snapshot.load();
        let Some(named) = snapshot.get(name) else {
            return Verdict::UnknownEvent;
        };
        let version = version.unwrap_or(named.newest);
        match named.versions.get(&version).map(|found| found.judge(payload)) {
            None => Verdict::UnknownVersion,
            Some(Ok(())) => Verdict::Valid { version },
            Some(Err(violation)) => Verdict::Invalid { version, violation },
        }
    }

    /// The dry run: what is wrong with `payload`, if anything. Scans the payload itself.
    ///
    /// # Errors
    /// When the candidate is refused or not there, or the payload is not JSON that an event may
    /// hold.
    pub async fn check(
        &self,
        candidate: Candidate<'_>,
        payload: &[u8],
    ) -> Result<Option<Violation>, RegistryError> {
        let payload = scan::payload(payload).map_err(RegistryError::Payload)?;
        let outcome = match candidate {
            Candidate::Body(body) => self.shared.compiler.compile(body).await?.judge(payload),
            Candidate::Registered(name, version) => {
                let named = self.shared.find(name)?;
                let version = version.unwrap_or(named.newest);
                let found = named.versions.get(&version);
                found.ok_or(RegistryError::UnknownVersion { version })?.judge(payload)
            }
        };
        Ok(outcome.err())
    }

    /// Registers the schemas of a folder: `NAME.json` as the next version, `NAME@N.json` as
    /// version N, names percent-encoded. Other files are left alone. A file that is refused does
    /// not keep the others from being read: the answer has an entry for each.
    ///
    /// # Errors
    /// When the folder itself cannot be read.
    pub async fn load_folder(&self, folder: &Path) -> std::io::Result<Vec<FolderEntry>> {
        folder::load(self, folder, self.shared.limits.schema_bytes_max).await
    }
}

/// What all clones share.
struct Shared {
    meta: Arc<dyn Meta>,
    limits: Arc<Limits>,
    compiler: Compiler,
    snapshot: ArcSwap<Snapshot>,
    /// Held over a change, from the look at the store to the new snapshot.
    changing: Mutex<()>,
}

type Snapshot = HashMap<SchemaName, Arc<Named>, foldhash::fast::RandomState>;

/// The versions of a name. There is at least one.
struct Named {
    newest: u32,
    versions: BTreeMap<u32, Arc<Version>>,
}

struct Version {
    text: Bytes,
    /// The reason when the text can no longer be compiled.
    compiled: Result<Compiled, String>,
}

impl Version {
    fn judge(&self, payload: &str) -> Result<(), Violation> {
        match &self.compiled {
            Ok(compiled) => compiled.judge(payload),
            Err(reason) => Err(Violation::unusable_schema(reason)),
        }
    }
}

impl Shared {
    fn find(&self, name: &str) -> Result<Arc<Named>, RegistryError> {
        let snapshot = self.snapshot.load();
        snapshot.get(name).cloned().ok_or(RegistryError::UnknownName)
    }

    async fn register(
        &self,
        name: SchemaName,
        wanted: Option<u32>,
        body: Bytes,
    ) -> Result<Registered, RegistryError> {
        let _changing = self.changing.lock().await;
        let mut compiled = None;
        loop {
            let stored = store::read(&*self.meta, &name);
            if let Some(version) = already_there(&stored, wanted, &body) {
                self.publish(name, stored, None).await;
                let created = false;
                return Ok(Registered { version, created });
            }
            let version = next_number(&stored, wanted)?;
            self.check_room()?;
            if compiled.is_none() {
                compiled = Some(self.compiler.compile(body.clone()).await?);
            }
            match store::write(&*self.meta, &name, version, &body).await {
                // Another writer took the number: look again.
                Err(MetaError::Conflict) => {}
                Err(error) => return Err(error.into()),
                Ok(()) => {
                    let stored = store::read(&*self.meta, &name);
                    let fresh = compiled.map(|compiled| (version, compiled));
                    self.publish(name, stored, fresh).await;
                    let created = true;
                    return Ok(Registered { version, created });
                }
            }
        }
    }

    async fn delete(&self, name: SchemaName) -> Result<(), RegistryError> {
        let _changing = self.changing.lock().await;
        loop {
            let stored = store::read(&*self.meta, &name);
            if stored.texts.is_empty() {
                self.publish(name, stored, None).await;
                return Err(RegistryError::UnknownName);
            }
            match store::delete(&*self.meta, &name, &stored).await {
                Err(MetaError::Conflict) => {}
                Err(error) => return Err(error.into()),
                Ok(()) => {
                    let stored = store::read(&*self.meta, &name);
                    self.publish(name, stored, None).await;
                    return Ok(());
                }
            }
        }
    }

    fn check_room(&self) -> Result<(), RegistryError> {
        let versions_max = self.limits.versions_max;
        let snapshot = self.snapshot.load();
        let versions: usize = snapshot.values().map(|named| named.versions.len()).sum();
        if versions < versions_max { Ok(()) } else { Err(RegistryError::Full { versions_max }) }
    }

    /// Makes the snapshot say of `name` what the store says.
    async fn publish(&self, name: SchemaName, stored: Stored, fresh: Option<(u32, Compiled)>) {
        let named = self.named(&name, stored, fresh).await;
        let mut snapshot = Snapshot::clone(&self.snapshot.load());
        match named {
            Some(named) => snapshot.insert(name, Arc::new(named)),
            None => snapshot.remove(&name),
        };
        self.snapshot.store(Arc::new(snapshot));
    }

    /// What is stored under `name`, compiled: `fresh` is at hand, others may be in the snapshot.
    async fn named(
        &self,
        name: &SchemaName,
        stored: Stored,
        mut fresh: Option<(u32, Compiled)>,
    ) -> Option<Named> {
        let before = self.snapshot.load().get(name.as_str()).cloned();
        let newest = *stored.texts.keys().next_back()?;
        let mut versions = BTreeMap::new();
        for (version, text) in stored.texts {
            let known = before.as_ref().and_then(|named| named.versions.get(&version));
            let entry = match (known, fresh.take_if(|(of, _)| *of == version)) {
                (Some(known), _) if known.text == text => Arc::clone(known),
                (_, Some((_, compiled))) => Arc::new(Version { text, compiled: Ok(compiled) }),
                _ => Arc::new(self.compiled_again(name, version, text).await),
            };
            versions.insert(version, entry);
        }
        Some(Named { newest, versions })
    }

    /// Compiles a text that was accepted before.
    async fn compiled_again(&self, name: &SchemaName, version: u32, text: Bytes) -> Version {
        let compiled = self.compiler.compile(text.clone()).await;
        let compiled = compiled.map_err(|error| {
            tracing::warn!(%name, version, %error, "a registered schema cannot be used");
            error.to_string()
        });
        Version { text, compiled }
    }
}

/// The version that `body` has already: the one wanted, or the newest.
fn already_there(stored: &Stored, wanted: Option<u32>, body: &Bytes) -> Option<u32> {
    let (&version, text) = match wanted {
        Some(version) => stored.texts.get_key_value(&version)?,
        None => stored.texts.last_key_value()?,
    };
    (text == body).then_some(version)
}

/// The number to give: the next one, or the one wanted if it is above all given so far.
fn next_number(stored: &Stored, wanted: Option<u32>) -> Result<u32, RegistryError> {
    let last = stored.last;
    match wanted {
        Some(version) if version > last => Ok(version),
        Some(version) => Err(RegistryError::VersionTaken { version, last }),
        None => last.checked_add(1).ok_or(RegistryError::VersionsUsedUp),
    }
}
