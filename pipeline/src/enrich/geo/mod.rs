//! Where an event's user is: by the address in a database of networks, and by what a content
//! network says.
//!
//! - Which address: `address.rs`. What lies nowhere (private, reserved) is a miss.
//! - Databases in MaxMind's format, up to [`FILES_MAX`] of them: `database.rs` keeps them in
//!   memory, `row.rs` reads their rows. They are read by [`Geo::reload_if_changed`] alone; who
//!   wires this calls it at the start and from a timer, where it may block.
//! - Headers, where the operator named a content network whose word is taken: `headers.rs`. The
//!   database goes first; headers fill in what it lacks. Where a server sent the event they tell
//!   where the server is, and are not read.

mod address;
mod database;
mod headers;
mod row;

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use parking_lot::Mutex;
use tracklog_protocol::event::EventView;

use self::database::{Database, Databases, Stamp};
pub use self::database::{DatabaseError, FILE_BYTES_MAX, FILES_MAX, FileInUse, FileRead};
pub use self::headers::Edge;
use super::enrichment::Geo as Place;
use super::sender::is_server;
use super::{Enricher, Enrichment, Input, Looked, LookupFailure, present};
use crate::state::StateBatch;

/// The version of the rules that are not the files'.
const OWN_RULES: u32 = 1;

/// Where to look, and whose word to take.
#[derive(Clone, Debug)]
pub struct GeoOptions {
    /// Files in MaxMind's format, at most [`FILES_MAX`]. A place is that of the first which has
    /// one, and so is a network.
    pub files: Vec<PathBuf>,
    /// About what decoded rows may take.
    pub cache_bytes: usize,
    /// Whether what a server says of its user's address, `context.ip`, is taken.
    pub stated_addresses: bool,
    /// The content network in front of the trusted proxies or in their place, if there is one.
    pub edge: Option<Edge>,
    /// The networks whose headers are believed: those of the gateway's trusted proxies.
    pub trusted: Vec<IpNet>,
}

impl Default for GeoOptions {
    fn default() -> Self {
        Self {
            files: Vec::new(),
            cache_bytes: 32 << 20,
            stated_addresses: true,
            edge: None,
            trusted: Vec::new(),
        }
    }
}

/// More than [`FILES_MAX`] files. Leave some out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{count} databases of networks, and {FILES_MAX} can be asked")]
pub struct TooManyFiles {
    /// So many there were.
    pub count: usize,
}

/// Finds places.
pub struct Geo {
    options: GeoOptions,
    databases: ArcSwap<Databases>,
    /// What was seen of each file. Held while reading.
    seen: Mutex<Vec<Seen>>,
}

/// What was seen of a file; of none `None`, which is a look as well.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// At the call before.
    last: Option<Stamp>,
    /// When it was last read, whatever came of it.
    read: Option<Option<Stamp>>,
}

impl Seen {
    /// Whether to read the file, which looks like `now`: always at first, then when it has changed
    /// and the call before saw it so too. What is being written is left alone, and so is what was
    /// written within the same tick of the file system's clock.
    fn is_due(&mut self, now: Option<Stamp>) -> bool {
        let has_settled = self.read.is_none() || self.last == now;
        self.last = now;
        has_settled && self.read != Some(now)
    }
}

impl Geo {
    /// Reads no file yet: that is what [`Geo::reload_if_changed`] is for.
    ///
    /// # Errors
    /// [`TooManyFiles`].
    pub fn new(options: GeoOptions) -> Result<Self, TooManyFiles> {
        let count = options.files.len();
        if count > FILES_MAX {
            return Err(TooManyFiles { count });
        }
        let none = Databases::new(vec![None; count], options.cache_bytes);
        let seen = Mutex::new(vec![Seen::default(); count]);
        Ok(Self { options, databases: ArcSwap::from_pointee(none), seen })
    }

    /// Reads the files that have changed since they were last read, and says what came of each. A
    /// change is read when a second call sees it as the first did: what is being written is left
    /// alone. A whole file is in use from then on; one that is not leaves what was in use as it is,
    /// and is read again once it has changed. Blocks on the disk; for a moment, a file is in memory
    /// twice.
    pub fn reload_if_changed(&self) -> Vec<FileRead> {
        let mut seen = self.seen.lock();
        let mut files = self.databases.load().files().to_vec();
        let mut read = Vec::new();
        for ((path, seen), file) in self.options.files.iter().zip(&mut *seen).zip(&mut files) {
            let stamp = Stamp::of(path);
            if !seen.is_due(stamp) {
                continue;
            }
            let outcome = Database::read(path, stamp);
            if !matches!(outcome, Err(DatabaseError::Changing)) {
                seen.read = Some(stamp);
            }
            let outcome = outcome.map(|database| {
                let name = database.name();
                *file = Some(Arc::new(database));
                name
            });
            read.push(FileRead { path: path.clone(), outcome });
        }
        if read.iter().any(|it| it.outcome.is_ok()) {
            self.databases.store(Arc::new(Databases::new(files, self.options.cache_bytes)));
        }
        read
    }

    /// The files that are asked; one that was never whole is none of them.
    pub fn in_use(&self) -> Vec<FileInUse> {
        let databases = self.databases.load();
        let files = self.options.files.iter().zip(databases.files());
        let in_use = files.filter_map(|(path, file)| {
            let built_at_seconds = file.as_ref()?.built_at_seconds();
            Some(FileInUse { path: path.clone(), built_at_seconds })
        });
        in_use.collect()
    }

    fn by_address(&self, event: &EventView<'_>) -> Result<Option<Arc<Place>>, LookupFailure> {
        let Some(address) = address::of(event, self.options.stated_addresses) else {
            return Ok(None);
        };
        let databases = self.databases.load();
        if databases.is_blind() {
            return Err(LookupFailure::new("no database of networks could be read"));
        }
        databases.place(address).map_err(|error| LookupFailure::new(error.to_string()))
    }

    fn by_headers(&self, event: &EventView<'_>) -> Option<Place> {
        headers::place(event, self.edge_of(event)?)
    }

    /// The network whose headers tell where the user of `event` is, if there is one.
    fn edge_of(&self, event: &EventView<'_>) -> Option<Edge> {
        let edge = self.options.edge?;
        let is_believed =
            !is_server(event) && headers::is_vouched_for(event, &self.options.trusted);
        is_believed.then_some(edge)
    }
}

impl Enricher for Geo {
    fn name(&self) -> &'static str {
        "geo"
    }

    fn version(&self) -> Arc<str> {
        self.databases.load().version()
    }

    fn inputs(&self, event: &EventView<'_>, _found: &Enrichment) -> Vec<Input> {
        let address = address::of(event, self.options.stated_addresses);
        let address = address.map(|address| address.to_string());
        let mut inputs = present([
            ("clientAddress", event.client_address()),
            ("peerAddress", event.peer_address()),
            ("looked up", address.as_deref()),
        ]);
        if let Some(edge) = self.edge_of(event) {
            let told = event.headers().filter(|(name, _)| edge.tells(name));
            inputs.extend(told.map(|(name, value)| (name.to_owned(), value.to_owned())));
        }
        inputs
    }

    fn enrich(
        &self,
        event: &EventView<'_>,
        _state: &mut StateBatch<'_>,
        found: &mut Enrichment,
    ) -> Result<Looked, LookupFailure> {
        let mut place = self.by_address(event)?;
        if let Some(headers) = self.by_headers(event) {
            headers::fill(Arc::make_mut(place.get_or_insert_default()), headers);
        }
        found.geo = place;
        Ok(if found.geo.is_some() { Looked::Hit } else { Looked::Miss })
    }
}

#[cfg(test)]
mod tests;
