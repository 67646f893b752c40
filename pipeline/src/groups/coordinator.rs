//! All groups of a node: who is in them, what they may read, and how far they have come.
//!
//! The ledger is the truth. A group's own record is rewritten before anybody is told of a new
//! generation; every commit of a member depends on that record's place ([`Claim`]). So whoever was
//! not told is refused by the log itself. Nobody else writes that record: the epoch says so.
//!
//! Places move without a change of what they say, too: where the log gives up its oldest segment,
//! and in [`Groups::rewrite`]. So a place is looked up when it is needed and kept in claims alone,
//! and who holds one that does not hold any more claims again.
//!
//! A change is made in memory first. Where its record can't be written, or its caller goes away
//! meanwhile, nobody is told, and the next call writes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard, watch};
use tracklog_log::meta::{Expect, MetaError, MetaTopic};
use tracklog_log::{
    AppendError, CatalogError, Epoch, FetchError, Log, Meta as _, Topic, TopicName,
};
use tracklog_protocol::{Offset, PartitionId, TimeMicros};

use super::claim::Place;
use super::ledger::{self, GROUP_KEYS, GroupRecord, group_key, offset_key};
use super::membership::Membership;
use super::{Assignment, Claim, Committed, Generation, GroupName, MemberId, NoMember};

/// How long a member may be silent before it is taken for dead.
pub const SILENCE_MAX: Duration = Duration::from_secs(10);

/// The ledger is rewritten once it has so many records beyond those that count.
const STALE_RECORDS_MAX: u64 = 100_000;

/// The clock.
pub type Clock = Arc<dyn Fn() -> TimeMicros + Send + Sync>;

/// Where a group begins in a partition for which it has committed nothing. Committed with the first
/// claim: what goes from then on is missed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// At the first record that is there.
    #[default]
    Earliest,
    /// Behind the last record that is there.
    Latest,
    /// At these offsets, whether the log still has them or not: whoever reads tells what is gone.
    /// Partitions that are not named: as [`Earliest`](Self::Earliest).
    At(BTreeMap<PartitionId, Offset>),
}

/// Why a group did not do as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// The member is gone: join again.
    #[error(transparent)]
    NoMember(#[from] NoMember),
    /// The group's members read other topics.
    #[error("the members of group {group} read {topics}")]
    OtherTopics {
        /// The group.
        group: GroupName,
        /// What they read.
        topics: String,
    },
    /// The group has members: stop them first.
    #[error("group {group} is read by {members} now: stop that first")]
    InUse {
        /// The group.
        group: GroupName,
        /// How many.
        members: usize,
    },
    /// There is no such group.
    #[error("there is no group {group}")]
    NotFound {
        /// Its name.
        group: GroupName,
    },
    /// The group does not read that topic, or there is none.
    #[error("there is no topic {topic} for group {group}")]
    NoTopic {
        /// The group.
        group: GroupName,
        /// The topic.
        topic: String,
    },
    /// The ledger can't be read or written.
    #[error("the ledger of groups: {0}")]
    Ledger(#[from] MetaError),
    /// A partition can't be read.
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

impl From<AppendError> for GroupError {
    fn from(error: AppendError) -> Self {
        Self::Ledger(MetaError::Append(error))
    }
}

impl From<CatalogError> for GroupError {
    fn from(error: CatalogError) -> Self {
        Self::Ledger(MetaError::Catalog(error))
    }
}

/// All groups of a node.
pub struct Groups<L: ?Sized> {
    pub(super) log: Arc<L>,
    pub(super) ledger: MetaTopic<L>,
    pub(super) clock: Clock,
    groups: Mutex<BTreeMap<GroupName, Group>>,
    /// Members who were dropped: they leave when somebody looks next.
    dropped: parking_lot::Mutex<Vec<Dropped>>,
    /// The highest generation of groups that were deleted. One of such a name goes on above it, so
    /// that members from before are not taken for those after.
    deleted: AtomicU64,
    /// Of a damaged ledger: keys of offsets that were written again.
    asserted: parking_lot::Mutex<BTreeSet<Vec<u8>>>,
}

struct Dropped {
    group: GroupName,
    id: MemberId,
    since: Generation,
}

/// A group with members, or one whose last change is not written yet.
pub(super) struct Group {
    pub(super) membership: Membership,
    topics: Vec<Topic>,
    start: Start,
    /// The generation that its own record names and its members were told of.
    written: Generation,
    told: BTreeMap<MemberId, watch::Sender<Assignment>>,
}

impl<L: Log + ?Sized> Groups<L> {
    /// Opens the groups of `log`, for the writer that holds `epoch`. Nobody is a member yet:
    /// members of an earlier process are fenced by the first that joins.
    ///
    /// # Errors
    /// [`GroupError::Ledger`] when the ledger can't be read or written.
    pub async fn open(log: Arc<L>, epoch: Epoch, clock: Clock) -> Result<Arc<Self>, GroupError> {
        let name = TopicName::new(ledger::TOPIC).expect("our own names are good");
        let ledger = MetaTopic::open(Arc::clone(&log), epoch, name).await?;
        let groups = Self::over(log, ledger, clock);
        groups.rewrite(STALE_RECORDS_MAX).await?;
        Ok(Arc::new(groups))
    }

    /// The groups of a log that is only read: none where it has no ledger.
    ///
    /// # Errors
    /// [`GroupError::Ledger`] when the ledger can't be read.
    pub async fn read(log: Arc<L>, clock: Clock) -> Result<Option<Arc<Self>>, GroupError> {
        let Some(topic) = log.topic(ledger::TOPIC) else { return Ok(None) };
        let ledger = MetaTopic::over(Arc::clone(&log), Epoch(0), topic.partition(0)).await?;
        Ok(Some(Arc::new(Self::over(log, ledger, clock))))
    }

    fn over(log: Arc<L>, ledger: MetaTopic<L>, clock: Clock) -> Self {
        for damage in ledger.damage() {
            let (from, to) = (damage.from, damage.to);
            let why = "the ledger of groups is damaged: compare committed offsets";
            tracing::error!(%from, %to, damage.what, why);
        }
        let (members, dropped) = (Mutex::default(), parking_lot::Mutex::default());
        let (deleted, asserted) = (AtomicU64::new(0), parking_lot::Mutex::default());
        Self { log, ledger, clock, groups: members, dropped, deleted, asserted }
    }

    /// Writes what counts anew and gives up what lies before, where more than `stale_max` records
    /// do not count any more. Offsets in topics that are no more are forgotten.
    ///
    /// Claims depend on places that move here: their next commits are refused, and who holds them
    /// claims again.
    pub(super) async fn rewrite(&self, stale_max: u64) -> Result<(), GroupError> {
        // Asked of the first key, when all keys are known: a topic that one names was there, so
        // that it is missing now says that it was deleted.
        let topics = OnceLock::new();
        let all = || -> BTreeSet<_> { self.log.topics().iter().map(|topic| topic.id).collect() };
        let counts = |key: &[u8]| {
            ledger::topic_of(key).is_none_or(|topic| topics.get_or_init(all).contains(&topic))
        };
        Ok(self.ledger.rewrite(stale_max, counts).await?)
    }

    /// Makes `member` one of `group`, which reads `topics`. One of that name who lives already is
    /// fenced.
    ///
    /// # Errors
    /// [`GroupError::OtherTopics`] when members read others, [`GroupError::Ledger`].
    pub async fn join(
        self: &Arc<Self>,
        group: &GroupName,
        member: &str,
        topics: Vec<Topic>,
        start: Start,
    ) -> Result<Member<L>, GroupError> {
        let mut groups = self.locked().await;
        if !groups.contains_key(group) {
            self.ledger.refresh().await?;
        }
        let entry =
            groups.entry(group.clone()).or_insert_with(|| Group::after(self.written(group)));
        entry.read(group, topics, start)?;
        let id = MemberId::new(member);
        let since = entry.membership.join(id.clone(), (self.clock)());
        let told = entry.seat(&id);
        // From here on he leaves when he is dropped, as he is where the change can't be written.
        let member = Member { groups: Arc::clone(self), group: group.clone(), id, since, told };
        self.settle(group, entry).await?;
        Ok(member)
    }

    /// Where the count of generations goes on.
    fn written(&self, group: &GroupName) -> Generation {
        let record = self.ledger.get(&group_key(group));
        let record = record.and_then(|it| GroupRecord::decode(&it.value));
        let deleted = || self.deleted.load(Ordering::Relaxed);
        Generation(record.map_or_else(deleted, |record| record.generation))
    }

    /// A group of this generation is deleted. To be said while all groups are locked.
    pub(super) fn forget(&self, generation: u64) {
        self.deleted.fetch_max(generation, Ordering::Relaxed);
    }

    /// All groups, without members who were dropped.
    pub(super) async fn locked(&self) -> MutexGuard<'_, BTreeMap<GroupName, Group>> {
        let mut groups = self.groups.lock().await;
        for Dropped { group, id, since } in self.dropped.lock().drain(..) {
            if let Some(group) = groups.get_mut(&group)
                && group.membership.since(&id) == Some(since)
            {
                group.membership.leave(&id);
            }
        }
        groups
    }

    /// Persists what changed in the group, then tells it.
    async fn settle(&self, name: &GroupName, group: &mut Group) -> Result<(), GroupError> {
        let generation = group.membership.generation();
        if group.written != generation {
            let record = group.record().encode();
            self.ledger.put(&group_key(name), Some(&record), Expect::Any).await?;
            group.written = generation;
            group.tell();
        }
        Ok(())
    }

    /// Takes those for dead who were silent for too long, and rewrites a ledger that has grown. To
    /// be called now and then.
    ///
    /// # Errors
    /// [`GroupError::Ledger`]; the rest is left for the next call.
    pub async fn expire(&self) -> Result<(), GroupError> {
        let mut groups = self.locked().await;
        self.expire_in(&mut groups).await?;
        drop(groups);
        self.rewrite(STALE_RECORDS_MAX).await
    }

    /// Afterwards every group has members, each of whom lives, and all of it is written.
    pub(super) async fn expire_in(
        &self,
        groups: &mut BTreeMap<GroupName, Group>,
    ) -> Result<(), GroupError> {
        let now = (self.clock)();
        for (name, group) in &mut *groups {
            group.membership.expire(now);
            self.settle(name, group).await?;
        }
        groups.retain(|_, group| !group.membership.is_empty());
        Ok(())
    }

    /// Does `act` to the membership of the member's group.
    async fn act(
        &self,
        member: &Member<L>,
        act: impl FnOnce(&mut Membership) -> Result<(), NoMember>,
    ) -> Result<(), GroupError> {
        let mut groups = self.locked().await;
        let group = groups.get_mut(&member.group).ok_or(NoMember)?;
        let acted =
            if member.is_one_of(group) { act(&mut group.membership) } else { Err(NoMember) };
        self.settle(&member.group, group).await?;
        if group.membership.is_empty() {
            groups.remove(&member.group);
        }
        Ok(acted?)
    }

    /// The claim of `member` on `source`; `None` where it is not his.
    async fn claim(
        &self,
        member: &Member<L>,
        source: PartitionId,
    ) -> Result<Option<Claim>, GroupError> {
        let name = &member.group;
        let mut groups = self.locked().await;
        let Some(group) = groups.get_mut(name) else { return Ok(None) };
        self.settle(name, group).await?;
        if !member.is_one_of(group) || group.membership.owner(source) != Some(&member.id) {
            return Ok(None);
        }
        self.ledger.refresh().await?;
        let key = offset_key(name, source);
        let next = self.next(&key, source, group).await?;
        self.assert_readable(&key, next, group).await?;
        let [of_group, of_offset] = [group_key(name), key].map(|key| {
            let at = self.ledger.get(&key).map(|it| it.version);
            Place { key, at }
        });
        let ledger = self.ledger.partition();
        Ok(Some(Claim::new(source, next, group.written, ledger, of_group, of_offset)))
    }

    /// Where the ledger is damaged, a commit would depend on a record that nobody can read: what can
    /// be read is written again, once for each key.
    async fn assert_readable(
        &self,
        key: &[u8],
        next: Offset,
        group: &Group,
    ) -> Result<(), GroupError> {
        if self.ledger.is_damaged() && !self.asserted.lock().contains(key) {
            let committed = Committed { next, generation: group.written, at: (self.clock)() };
            self.ledger.put(key, Some(&committed.encode()), Expect::Any).await?;
            self.asserted.lock().insert(key.to_vec());
        }
        Ok(())
    }

    /// Where the group goes on in `source`, whose offset has this key.
    async fn next(
        &self,
        key: &[u8],
        source: PartitionId,
        group: &Group,
    ) -> Result<Offset, GroupError> {
        let found = self.ledger.get(key);
        if let Some(committed) = found.as_ref().and_then(|it| Committed::decode(&it.value)) {
            return Ok(committed.next);
        }
        let next = self.first(source, &group.start);
        // Kept: who begins once more would pass over what came meanwhile, or what went, and nobody
        // would count it. What lies before is nobody's lag.
        let committed = Committed { next, generation: group.written, at: (self.clock)() };
        let expect = found.map_or(Expect::Absent, |it| Expect::Version(it.version));
        self.ledger.put(key, Some(&committed.encode()), expect).await?;
        Ok(next)
    }

    /// Where a group begins that has committed nothing.
    fn first(&self, source: PartitionId, start: &Start) -> Offset {
        let extent = self.log.extent(source);
        extent.map_or(Offset::ZERO, |extent| match start {
            Start::Earliest => extent.start,
            Start::Latest => extent.end,
            Start::At(offsets) => offsets.get(&source).copied().unwrap_or(extent.start),
        })
    }

    /// All groups that are or were.
    pub(super) fn names(&self) -> Vec<GroupName> {
        let records = self.ledger.list(GROUP_KEYS);
        records.iter().filter_map(|(key, _)| ledger::group_of(key)).collect()
    }
}

impl Group {
    /// A group without members, that was written last in `generation`.
    const fn after(generation: Generation) -> Self {
        Self {
            membership: Membership::new(generation, SILENCE_MAX),
            topics: Vec::new(),
            start: Start::Earliest,
            written: generation,
            told: BTreeMap::new(),
        }
    }

    /// The group called `name` is to read `topics`, from `start` on: the first member says it.
    fn read(
        &mut self,
        name: &GroupName,
        topics: Vec<Topic>,
        start: Start,
    ) -> Result<(), GroupError> {
        if self.membership.is_empty() {
            self.membership.set_partitions(topics.iter().flat_map(Topic::partitions).collect());
            (self.topics, self.start) = (topics, start);
        } else if self.topics != topics {
            let names: Vec<_> = self.topics.iter().map(Topic::name).collect();
            let (group, topics) = (name.clone(), names.join(", "));
            return Err(GroupError::OtherTopics { group, topics });
        }
        Ok(())
    }

    /// Where `member` is told from now on. One of that name before him hears that he has nothing.
    fn seat(&mut self, member: &MemberId) -> watch::Receiver<Assignment> {
        let (teller, told) = watch::channel(Assignment::default());
        if let Some(before) = self.told.insert(member.clone(), teller) {
            before.send_replace(Assignment::default());
        }
        told
    }

    fn record(&self) -> GroupRecord {
        let membership = &self.membership;
        let of_member = |member: &MemberId| {
            let partitions = membership.assignment(member).partitions;
            let partitions = partitions.iter().map(|at| (at.topic.0, at.partition)).collect();
            (member.as_str().to_owned(), partitions)
        };
        GroupRecord {
            generation: membership.generation().0,
            topics: self.topics.iter().map(|topic| topic.name().to_owned()).collect(),
            members: membership.members().map(of_member).collect(),
        }
    }

    /// Tells each member what holds for him; one that is gone, that nothing does.
    fn tell(&mut self) {
        let membership = &self.membership;
        for (member, told) in &self.told {
            let assignment = membership.assignment(member);
            told.send_if_modified(|last| {
                let is_new = *last != assignment;
                last.clone_from(&assignment);
                is_new
            });
        }
        self.told.retain(|member, _| membership.members().any(|it| it == member));
    }
}

impl<L: ?Sized> fmt::Debug for Groups<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Groups").finish_non_exhaustive()
    }
}

/// One member of a group, in this process. He leaves when he is dropped: the others hear of it with
/// their next heartbeat.
pub struct Member<L: ?Sized> {
    groups: Arc<Groups<L>>,
    group: GroupName,
    id: MemberId,
    /// In which generation he joined: tells him from others of that name.
    since: Generation,
    told: watch::Receiver<Assignment>,
}

impl<L: Log + ?Sized> Member<L> {
    /// What he may read, as it changes. Without partitions, and closed, once he is gone.
    #[must_use]
    pub fn assignment(&self) -> watch::Receiver<Assignment> {
        self.told.clone()
    }

    /// The claim on `source` as it is now; `None` where it is not his.
    ///
    /// # Errors
    /// [`GroupError::Ledger`].
    pub async fn claim(&self, source: PartitionId) -> Result<Option<Claim>, GroupError> {
        self.groups.claim(self, source).await
    }

    /// He lives. To be said more often than every [`SILENCE_MAX`].
    ///
    /// # Errors
    /// [`GroupError::NoMember`] when he was silent for too long.
    pub async fn heartbeat(&self) -> Result<(), GroupError> {
        let now = (self.groups.clock)();
        self.groups.act(self, |membership| membership.heartbeat(&self.id, now)).await
    }

    /// He has stopped reading `partitions`, which he was to give up.
    ///
    /// # Errors
    /// [`GroupError::NoMember`], [`GroupError::Ledger`].
    pub async fn confirm(&self, partitions: &BTreeSet<PartitionId>) -> Result<(), GroupError> {
        self.groups.act(self, |membership| membership.confirm(&self.id, partitions)).await
    }

    /// He is gone; others take over at once.
    ///
    /// # Errors
    /// [`GroupError::Ledger`]; then they hear of it later.
    pub async fn leave(self) -> Result<(), GroupError> {
        let left = |membership: &mut Membership| {
            membership.leave(&self.id);
            Ok(())
        };
        match self.groups.act(&self, left).await {
            Err(GroupError::NoMember(NoMember)) => Ok(()),
            outcome => outcome,
        }
    }

    fn is_one_of(&self, group: &Group) -> bool {
        group.membership.since(&self.id) == Some(self.since)
    }
}

impl<L: ?Sized> Drop for Member<L> {
    fn drop(&mut self) {
        let (group, id, since) = (self.group.clone(), self.id.clone(), self.since);
        self.groups.dropped.lock().push(Dropped { group, id, since });
    }
}

impl<L: ?Sized> fmt::Debug for Member<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member")
            .field("group", &self.group)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
