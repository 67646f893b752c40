//! Forgetting somebody: all that is stored of a user, and of the ids linked to them, goes for good.
//!
//! 1. The user's ids: the one that was named, its hash where sources hash ids, and those that the
//!    changelog of the state links to them.
//! 2. Logs in the folder that a restore replaced go as a whole: what they hold is in the log too.
//! 3. All other topics are read, and what is of the person is erased from the log, piece by piece;
//!    and with rejected events what was said of them when they were tried again.
//! 4. The archive's files that hold some of their events are written anew; and those of the archive in
//!    the folder, where it has one beside, as before it was given another place.
//! 5. The same with the changelog, last: until then it tells the ids to whoever has to go on.
//! 6. The store of the state goes: the node builds it again from the changelog.
//!
//! Promises
//! - When [`forget`] returns, no file of the folder, of its archive neither, holds what it found.
//! - All other records stay where they are.
//! - Whatever ends in between: called again it goes on. What the log was told to erase it erases by
//!   itself when it is opened again.
//! - Memory is bounded: by a piece of the log, by one file of the archive, by the person's ids.
//!
//! [`forget`] works on a folder that no node holds. On a node that runs, `node::forgetting` has those
//! stand still who make something of events, and does the same; there the store of the state begins
//! anew while it is open. Backups, what went to destinations, and what others put into the folder is out
//! of its reach: the receipt says so.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tracklog_ingest_gateway::source::HmacKey;
use tracklog_log::erase::STRETCHES_MAX;
use tracklog_log::{Domain, Epoch, Erase, EraseError, FetchError, Log, Topic};
use tracklog_pipeline::archive::erasure;
use tracklog_pipeline::archive::store::{Opening, Store, StoreError};
use tracklog_pipeline::destination::undelivered::{self, Undelivered};
use tracklog_pipeline::state::{self, Linking, Person, State, StateError};
use tracklog_protocol::event::EventView;
use tracklog_protocol::rejected::RejectedView;
use tracklog_protocol::{Offset, PartitionId, Record};

use crate::blocking;
use crate::clock;
use crate::folder::{DataFolder, FolderError};
use crate::offline::{self, OfflineError};
use crate::quarantine;
use crate::reading::{Piece, each_record};

/// So many stretches are erased at a time: with less than may be, so that none that a piece brings
/// is too many.
const PIECE_STRETCHES: usize = STRETCHES_MAX / 2;
/// The log's own topic: it knows nobody.
const CATALOG: &str = "_catalog";

/// Whom to forget, and how far to go.
#[derive(Clone, Copy, Debug)]
pub struct Forget<'a> {
    /// The user id, as clients send it.
    pub user: &'a str,
    /// Only count what there is.
    pub dry_run: bool,
}

/// What was forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// The user ids that were looked for, as they were stored.
    pub user_ids: Vec<String>,
    /// The anonymous ids that led to them.
    pub anonymous_ids: Vec<String>,
    /// Records, by topic.
    pub records: BTreeMap<String, u64>,
    /// Offsets of topics that could not be read: what lay there is unknown.
    pub unreadable: u64,
    /// Events in the archive, by topic.
    pub archived: BTreeMap<String, u64>,
    /// Files of archives that were written anew, or removed.
    pub archive_files: u64,
    /// The archives that were looked at.
    pub archives: Vec<String>,
    /// Folders of logs that restores replaced: these go as a whole, with all that they hold.
    pub replaced_logs: Vec<String>,
    /// Whether it was only counted.
    pub dry_run: bool,
    /// What may hold more of them, and is out of reach.
    pub unreached: Vec<Cow<'static, str>>,
}

/// Copies that nobody here can reach.
const UNREACHED: [&str; 5] = [
    "backups and snapshots of the data folder or of the archive",
    "older versions of objects, where a bucket keeps them",
    "what went to webhooks, files and other logs that routes name",
    "profiles in Redis or PostgreSQL, which enrichment only reads",
    "lines that were exported, replayed or tailed elsewhere",
];

/// So many names of what others put into the folder are told.
const OTHERS_MAX: usize = 20;

/// Why it could not be finished. Again is safe.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForgetError {
    /// The folder cannot be opened: a node may hold it.
    #[error(transparent)]
    Open(#[from] OfflineError),
    /// A file of the folder cannot be read.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The log cannot be read.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The log did not erase.
    #[error(transparent)]
    Erase(#[from] EraseError),
    /// What was said of rejected events is not done.
    #[error("what became of rejected events: {0}")]
    Retries(#[from] quarantine::ForgetError),
    /// The folder cannot be listed.
    #[error("the folder cannot be listed: {0}")]
    List(io::Error),
    /// A log that was replaced stays.
    #[error("{name} cannot be removed: {source}")]
    ReplacedStays {
        /// Its folder.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The store of the state stays.
    #[error("the state's store cannot be removed: {0}")]
    StateStays(io::Error),
    /// The store of the state cannot begin anew.
    #[error("the state's store: {0}")]
    State(#[from] StateError),
    /// The archive in the folder cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The archive is not done.
    #[error("the archive: {0}")]
    Archive(#[from] erasure::EraseError),
}

/// What it is at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Told {
    /// A topic is read.
    Topic(String),
    /// The log erases so many records.
    Erasing(u64),
    /// The files of the archive at this URL are read.
    Archive(String),
    /// A log that was replaced is removed.
    ReplacedLog(String),
}

/// What a node tells, as a line of JSON. The last is a receipt or an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ForgetLine {
    /// What it is at.
    Told(Told),
    /// It is done.
    Receipt(Receipt),
    /// Why it could not be finished.
    Error(String),
}

impl ForgetLine {
    /// The line, with its end.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut line = serde_json::to_string(self).expect("texts and numbers become JSON");
        line.push('\n');
        line
    }
}

/// Where somebody is forgotten.
#[derive(Clone, Copy)]
pub(crate) struct Site<'a> {
    pub(crate) log: &'a Arc<dyn Log>,
    pub(crate) folder: &'a DataFolder,
    /// The one that is written to, or that somebody named; the folder's own is found.
    pub(crate) archive: Option<&'a Store>,
    pub(crate) holder: Holder<'a>,
}

/// Who holds the log.
#[derive(Clone, Copy)]
pub(crate) enum Holder<'a> {
    /// Nobody else: it is open for this.
    Nobody,
    /// A node, and nobody on it makes anything of events meanwhile. It has the log's writer, and its
    /// state open, if it has one.
    Node {
        /// Of the writer.
        epoch: Epoch,
        /// Of enrichment.
        state: Option<&'a State<dyn Log>>,
    },
}

/// Forgets somebody in a folder that no node holds, in the archive that it has, and in the one that is
/// named.
///
/// # Errors
/// [`ForgetError`].
pub async fn forget(
    folder: &DataFolder,
    archive: Option<&Store>,
    whom: Forget<'_>,
    told: &mut (dyn FnMut(Told) + Send),
) -> Result<Receipt, ForgetError> {
    let holder = Holder::Nobody;
    if whom.dry_run {
        // Counting leaves the folder as it is.
        let log = offline::open(folder.path(), &mut |note| tracing::warn!("{note}"))?;
        return forget_at(Site { log: &log, folder, archive, holder }, whom, told).await;
    }
    let changing = offline::open_for_change(folder.path()).await?;
    let log = changing.log();
    let done = forget_at(Site { log: &log, folder, archive, holder }, whom, told).await;
    drop(log);
    changing.close().await;
    done
}

/// Forgets somebody at a site.
///
/// # Errors
/// [`ForgetError`].
pub(crate) async fn forget_at(
    site: Site<'_>,
    whom: Forget<'_>,
    told: &mut (dyn FnMut(Told) + Send),
) -> Result<Receipt, ForgetError> {
    let Site { log: shared, folder, archive, holder } = site;
    let log = &**shared;
    let person = person(log, folder, whom.user).await?;
    let archives = archives(folder, archive)?;
    let mut receipt = Receipt {
        user_ids: person.users().iter().cloned().collect(),
        anonymous_ids: person.devices().iter().cloned().collect(),
        archives: archives.iter().map(|store| store.url().to_owned()).collect(),
        replaced_logs: folder.replaced().map_err(ForgetError::List)?,
        dry_run: whom.dry_run,
        unreached: unreached(folder, &archives).map_err(ForgetError::List)?,
        ..Receipt::default()
    };
    if !whom.dry_run {
        // First: what they took of the disk the log may need to erase.
        remove_replaced(folder, &receipt.replaced_logs, told).await?;
    }
    let mut erasing = Erasing { log, person: &person, whom, receipt: &mut receipt };
    erasing.topics(|name| name != CATALOG && name != state::TOPIC, told).await?;
    if !whom.dry_run {
        let epoch = match holder {
            Holder::Nobody => log.open(Domain::WHOLE).await.map_err(EraseError::from)?,
            Holder::Node { epoch, .. } => epoch,
        };
        quarantine::forget_erased(shared, epoch).await?;
    }
    for store in &archives {
        told(Told::Archive(store.url().to_owned()));
        let is_doomed = |event: &EventView<'_>| person.did(event);
        let events = if whom.dry_run {
            erasure::count(store, &is_doomed).await?
        } else {
            let erased = erasure::erase(store, &is_doomed, clock::now()).await?;
            receipt.archive_files += erased.files;
            erased.events
        };
        for (topic, count) in events {
            *receipt.archived.entry(topic).or_default() += count;
        }
    }
    let mut erasing = Erasing { log, person: &person, whom, receipt: &mut receipt };
    erasing.topics(|name| name == state::TOPIC, told).await?;
    if !whom.dry_run {
        // What an earlier call began may be on its way still.
        log.erase(Vec::new()).await?;
        match holder {
            Holder::Node { state: Some(state), .. } => state.begin_anew().await?,
            // It is made of the changelog, and is built again where it is missing.
            _ => folder.remove_folder("state").map_err(ForgetError::StateStays)?,
        }
    }
    Ok(receipt)
}

/// The archive that is given, and the folder's own where it has another one: a node that was given a
/// new place leaves the old one where it is.
fn archives(folder: &DataFolder, given: Option<&Store>) -> Result<Vec<Store>, StoreError> {
    let mut archives: Vec<Store> = given.into_iter().cloned().collect();
    let own = folder.file("archive");
    if own.is_dir() && !archives.iter().any(|store| lies_at(store, &own)) {
        archives.push(Store::open(&own.to_string_lossy(), Opening::Read)?);
    }
    Ok(archives)
}

/// Whether it is the folder at `path`.
fn lies_at(store: &Store, path: &Path) -> bool {
    let place = Store::folder_of(store.url()).and_then(|place| place.canonicalize().ok());
    place.is_some() && place == path.canonicalize().ok()
}

async fn remove_replaced(
    folder: &DataFolder,
    names: &[String],
    told: &mut (dyn FnMut(Told) + Send),
) -> Result<(), ForgetError> {
    for name in names {
        told(Told::ReplacedLog(name.clone()));
        let (folder, removed) = (folder.clone(), name.clone());
        let removed = blocking::run(move || folder.remove_folder(&removed)).await;
        removed.map_err(|source| ForgetError::ReplacedStays { name: name.clone(), source })?;
    }
    Ok(())
}

/// What may hold more of somebody: copies elsewhere, and what others put into the folder.
fn unreached(folder: &DataFolder, archives: &[Store]) -> io::Result<Vec<Cow<'static, str>>> {
    let mut unreached = UNREACHED.map(Cow::Borrowed).to_vec();
    let mut others = folder.others()?;
    others.retain(|name| !archives.iter().any(|store| lies_at(store, &folder.file(name))));
    if others.len() > OTHERS_MAX {
        let more = others.len() - OTHERS_MAX;
        others.truncate(OTHERS_MAX);
        others.push(format!("{more} more"));
    }
    if !others.is_empty() {
        let others = others.join(", ");
        unreached.push(format!("what is not the node's own in the data folder: {others}").into());
    }
    Ok(unreached)
}

/// The user's ids: as named, as sources hash them, and as the changelog links them.
async fn person(log: &dyn Log, folder: &DataFolder, user: &str) -> Result<Person, ForgetError> {
    let hashed = match folder.read_privacy_key() {
        Ok(key) => Some(HmacKey::new(key.as_bytes()).hex_of(user)),
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    let mut linking = Linking::new(Person::of([user.to_owned()].into_iter().chain(hashed)));
    if let Some(changelog) = log.topic(state::TOPIC) {
        let partition = changelog.partition(0);
        loop {
            let all = Offset::ZERO..Offset(u64::MAX);
            each_record(log, partition, all.clone(), |_, record| linking.propose(record)).await?;
            each_record(log, partition, all, |_, record| linking.follow(record)).await?;
            if !linking.end_round() {
                break;
            }
        }
    }
    Ok(linking.finish())
}

struct Erasing<'a> {
    log: &'a dyn Log,
    person: &'a Person,
    whom: Forget<'a>,
    receipt: &'a mut Receipt,
}

impl Erasing<'_> {
    async fn topics(
        &mut self,
        is_meant: impl Fn(&str) -> bool,
        told: &mut (dyn FnMut(Told) + Send),
    ) -> Result<(), ForgetError> {
        let mut found = Vec::new();
        for topic in self.log.topics().iter().filter(|topic| is_meant(topic.name())) {
            told(Told::Topic(topic.name().to_owned()));
            for partition in topic.partitions() {
                self.partition(topic, partition, &mut found, told).await?;
            }
        }
        self.erase(&mut found, told).await
    }

    async fn partition(
        &mut self,
        topic: &Topic,
        partition: PartitionId,
        found: &mut Vec<Erase>,
        told: &mut (dyn FnMut(Told) + Send),
    ) -> Result<(), ForgetError> {
        let Some(extent) = self.log.extent(partition) else { return Ok(()) };
        let (mut next, mut count) = (extent.start, 0);
        while next < extent.end {
            let piece = Piece::read(self.log, partition, next).await?;
            for (offset, record) in piece.records() {
                if is_theirs(self.person, topic.name(), record) {
                    push(found, partition, offset);
                    count += 1;
                }
            }
            self.receipt.unreadable += piece.damaged;
            next = piece.next;
            if found.len() >= PIECE_STRETCHES {
                self.erase(found, told).await?;
            }
        }
        if count > 0 {
            *self.receipt.records.entry(topic.name().to_owned()).or_default() += count;
        }
        Ok(())
    }

    async fn erase(
        &self,
        found: &mut Vec<Erase>,
        told: &mut (dyn FnMut(Told) + Send),
    ) -> Result<(), ForgetError> {
        let found = std::mem::take(found);
        if found.is_empty() || self.whom.dry_run {
            return Ok(());
        }
        told(Told::Erasing(found.iter().map(|it| it.to.0 - it.from.0).sum()));
        for some in found.chunks(PIECE_STRETCHES) {
            self.log.erase(some.to_vec()).await?;
        }
        Ok(())
    }
}

/// Adds a record behind those that were found, which rise.
fn push(found: &mut Vec<Erase>, partition: PartitionId, offset: Offset) {
    match found.last_mut().filter(|last| last.partition == partition && last.to == offset) {
        Some(last) => last.to = offset.plus(1),
        None => found.push(Erase::one(partition, offset)),
    }
}

/// Whether a record is the person's.
fn is_theirs(person: &Person, topic: &str, record: Record<'_>) -> bool {
    if let Some(event) = EventView::of(record) {
        return person.did(&event);
    }
    if let Some(rejected) = RejectedView::of(record) {
        return rejected_is_theirs(person, &rejected);
    }
    match topic {
        state::TOPIC => person.is_in(record),
        undelivered::TOPIC => {
            Undelivered::of(record).is_some_and(|it| line_is_theirs(person, it.line.get()))
        }
        _ => false,
    }
}

/// The ids that a line of JSON says.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ids {
    #[serde(default)]
    user_id: serde_json::Value,
    #[serde(default)]
    anonymous_id: serde_json::Value,
    #[serde(default)]
    previous_id: serde_json::Value,
}

fn line_is_theirs(person: &Person, line: &str) -> bool {
    match serde_json::from_str::<Ids>(line) {
        Ok(ids) => {
            let is_in = |id: &serde_json::Value, of: &std::collections::BTreeSet<String>| match id {
                serde_json::Value::String(text) => of.contains(text),
                serde_json::Value::Number(number) => of.contains(&number.to_string()),
                _ => false,
            };
            is_in(&ids.user_id, person.users())
                || is_in(&ids.anonymous_id, person.devices())
                || is_in(&ids.previous_id, person.users())
                || is_in(&ids.previous_id, person.devices())
        }
        Err(_) => names(person, line.as_bytes()),
    }
}

/// Of bytes that were refused nobody can tell for sure what they say: where they are no JSON, to say
/// an id as a text is enough.
fn rejected_is_theirs(person: &Person, rejected: &RejectedView<'_>) -> bool {
    let body = rejected.body().unwrap_or_default();
    let is_in_body = match str::from_utf8(body) {
        Ok(text) => line_is_theirs(person, text),
        Err(_) => names(person, body),
    };
    is_in_body || rejected.beside().is_some_and(|beside| line_is_theirs(person, beside))
}

/// Whether the bytes have one of the person's ids in them, as a text of JSON.
fn names(person: &Person, bytes: &[u8]) -> bool {
    person.users().iter().chain(person.devices()).any(|id| {
        let text = serde_json::to_string(id).expect("a text can be written");
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    })
}
