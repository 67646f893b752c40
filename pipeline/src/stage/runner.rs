//! A stage at work in this process: a member of its group, with a loop for each partition that is
//! his.
//!
//! Loops are tasks of the runtime that calls [`StageRunner::run`], which has as many threads as
//! partitions are to be worked on at once. A loop that ends by a fault or a panic is begun again
//! after a pause; a member that was given up joins again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tracklog_log::Log;
use tracklog_protocol::PartitionId;

use super::partition::{LoopEnd, PartitionLoop};
use crate::groups::{Assignment, GroupError, GroupName, Groups, Member, Start};

/// How often a member says that he lives.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(2);
/// How long to wait before what ended by a fault is begun again.
const RESTART_PAUSE: Duration = Duration::from_millis(500);

/// Runs a stage.
#[derive(Debug)]
pub struct StageRunner<L: ?Sized> {
    /// What the loops share.
    pub shared: Arc<PartitionLoop<L>>,
    /// All groups.
    pub groups: Arc<Groups<L>>,
    /// The stage's group.
    pub group: GroupName,
    /// Its member's name: no other process has it.
    pub member: String,
    /// Where the group begins that has committed nothing.
    pub start: Start,
}

impl<L: Log + ?Sized> StageRunner<L> {
    /// Runs until `stop` says so, or nobody can say it any more.
    pub async fn run(self, stop: watch::Receiver<bool>) {
        self.run_to_end(stop).await;
    }

    /// The same, or until the stage's end is reached in all partitions: whether it is.
    pub async fn run_to_end(self, mut stop: watch::Receiver<bool>) -> bool {
        while !*stop.borrow() {
            let topics = vec![self.shared.source.clone()];
            match self.groups.join(&self.group, &self.member, topics, self.start.clone()).await {
                Ok(member) => {
                    let running = Running::new(&self.shared, Arc::new(member));
                    if running.run(&mut stop).await {
                        return true;
                    }
                }
                Err(error) => {
                    tracing::warn!(stage = %self.group, %error, "cannot join its group; tries again");
                    self.shared.time.pause(RESTART_PAUSE).await;
                }
            }
            if stop.has_changed().is_err() {
                // Whoever could have said it is gone.
                return false;
            }
        }
        false
    }
}

/// A member and his loops.
struct Running<'s, L: ?Sized> {
    shared: &'s Arc<PartitionLoop<L>>,
    member: Arc<Member<L>>,
    told: watch::Receiver<Assignment>,
    tasks: JoinSet<bool>,
    loops: BTreeMap<PartitionId, AbortHandle>,
    /// Those whose end is reached.
    done: BTreeSet<PartitionId>,
    /// Loops that ended by themselves, and are begun again after a pause.
    again: BTreeSet<PartitionId>,
}

impl<'s, L: Log + ?Sized> Running<'s, L> {
    fn new(shared: &'s Arc<PartitionLoop<L>>, member: Arc<Member<L>>) -> Self {
        let told = member.assignment();
        let (done, again) = (BTreeSet::new(), BTreeSet::new());
        let (tasks, loops) = (JoinSet::new(), BTreeMap::new());
        Self { shared, member, told, tasks, loops, done, again }
    }

    /// Until `stop` says so, or the member is given up, or all is done: whether it is.
    async fn run(mut self, stop: &mut watch::Receiver<bool>) -> bool {
        let mut beat = tokio::time::interval(HEARTBEAT_EVERY);
        let stopped = loop {
            if let Err(error) = self.follow().await {
                tracing::warn!(stage = self.shared.stage.name(), %error, "its group is not heard");
            }
            if self.is_done() {
                break true;
            }
            tokio::select! {
                changed = stop.changed() => if changed.is_err() || *stop.borrow() { break true },
                told = self.told.changed() => if told.is_err() { break false },
                Some(ended) = self.tasks.join_next_with_id() => {
                    self.ended(ended);
                }
                _ = beat.tick() => if let Err(GroupError::NoMember(_)) = self.member.heartbeat().await {
                    break false;
                },
            }
        };
        let is_done = self.is_done();
        self.tasks.shutdown().await;
        if let (true, Ok(member)) = (stopped, Arc::try_unwrap(self.member).map_err(drop))
            && let Err(error) = member.leave().await
        {
            tracing::debug!(%error, "the group notices later that its member left");
        }
        is_done
    }

    /// Whether the end is reached in all partitions of the topic.
    fn is_done(&self) -> bool {
        self.shared.source.partitions().all(|partition| self.done.contains(&partition))
    }

    /// Ends loops whose partition is to be given up or is gone, confirms, and begins those that are
    /// lacking.
    async fn follow(&mut self) -> Result<(), GroupError> {
        let Assignment { partitions, give_up, .. } = self.told.borrow_and_update().clone();
        let keep: BTreeSet<_> = partitions.difference(&give_up).copied().collect();
        self.end_all_but(&keep).await;
        if !give_up.is_empty() {
            self.member.confirm(&give_up).await?;
        }
        for partition in keep {
            if !self.loops.contains_key(&partition) && !self.done.contains(&partition) {
                self.begin(partition);
            }
        }
        Ok(())
    }

    async fn end_all_but(&mut self, keep: &BTreeSet<PartitionId>) {
        let ends: Vec<_> = self.loops.keys().filter(|at| !keep.contains(at)).copied().collect();
        for partition in &ends {
            self.loops[partition].abort();
        }
        while self.loops.keys().any(|at| ends.contains(at)) {
            let ended = self.tasks.join_next_with_id().await;
            self.ended(ended.expect("a loop that is known has a task"));
        }
    }

    fn ended(&mut self, ended: Result<(Id, bool), JoinError>) {
        let (id, is_done) = ended.unwrap_or_else(|error| (error.id(), false));
        let of_task = self.loops.iter().find(|(_, handle)| handle.id() == id);
        if let Some(partition) = of_task.map(|(partition, _)| *partition) {
            self.loops.remove(&partition);
            if is_done {
                self.done.insert(partition);
            } else {
                self.again.insert(partition);
            }
        }
    }

    fn begin(&mut self, partition: PartitionId) {
        let (shared, member) = (Arc::clone(self.shared), Arc::clone(&self.member));
        let is_again = self.again.remove(&partition);
        let handle = self.tasks.spawn(async move {
            if is_again {
                shared.time.pause(RESTART_PAUSE).await;
            }
            let ended = shared.run_to_end(&*member, partition).await;
            if let Err(error) = &ended {
                let stage = shared.stage.name();
                tracing::warn!(stage, %partition, %error, "stands still and is begun again");
            }
            ended == Ok(LoopEnd::Reached)
        });
        self.loops.insert(partition, handle);
    }
}
