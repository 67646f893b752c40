//! A stage at work on threads of the node: begun where its group has come to, and ended between two
//! commits. Called by `stages` and `routing`.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracklog_log::Log;
use tracklog_pipeline::groups::{GroupName, Groups, Start};
use tracklog_pipeline::stage::{PartitionLoop, StageCounters, StageRunner};

/// A stage at work.
pub(super) struct Runner {
    name: String,
    counters: Arc<StageCounters>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Runner {
    /// Lets it work; a group that has committed nothing begins at `start`.
    pub(super) fn begin(
        threads: &Handle,
        groups: &Arc<Groups<dyn Log>>,
        shared: Arc<PartitionLoop<dyn Log>>,
        start: Start,
    ) -> Self {
        let name = shared.stage.name().to_owned();
        let counters = Arc::clone(&shared.counters);
        let runner = StageRunner {
            shared,
            groups: Arc::clone(groups),
            group: GroupName::new(&name).expect("a stage is called as its group"),
            member: format!("node-{}", std::process::id()),
            start,
        };
        let (stop, stopped) = watch::channel(false);
        let task = threads.spawn(runner.run(stopped));
        Self { name, counters, stop, task }
    }

    /// The stage's name, and what it has done.
    pub(super) fn shown(&self) -> (String, Arc<StageCounters>) {
        (self.name.clone(), Arc::clone(&self.counters))
    }

    /// Asks all of them to end, and waits until they have.
    pub(super) async fn end_all(runners: Vec<Self>) {
        for runner in &runners {
            runner.stop.send_replace(true);
        }
        for Self { name, task, .. } in runners {
            if let Err(error) = task.await {
                tracing::warn!(%error, stage = name, "did not end by itself");
            }
        }
    }
}
