//! Forgetting somebody on a node that runs.
//!
//! Promises
//! - Whoever makes something of events stands still meanwhile: stages and destinations, jobs, retries,
//!   the archive. So nothing that was read before it was erased is written behind it. They go on where
//!   they were, however it ends. Events go on being taken, and wait.
//! - What was acked before it began is gone when it ends well, with all that was made of it.
//! - One at a time. It goes on to its end, whether its client waits or not. A node that stops lets it
//!   be: asked again it goes on.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::{Mutex, mpsc, watch};
use tracklog_log::{Epoch, Log};
use tracklog_pipeline::state::State;

use super::archive::Archive;
use super::stages::Working;
use crate::folder::DataFolder;
use crate::forget::{self, Forget, ForgetError, ForgetLine, Holder, Receipt, Site, Told};
use crate::quarantine::Retries;
use crate::reprocess::Reprocesses;

/// So many lines may wait for the client: what is told beyond them is not told.
const LINES: usize = 64;

/// Who stands still while somebody is forgotten, and what is gone through.
pub(super) struct Parts {
    pub(super) log: Arc<dyn Log>,
    pub(super) epoch: Epoch,
    pub(super) folder: DataFolder,
    /// Nothing where the stage is off.
    pub(super) state: Option<Arc<State<dyn Log>>>,
    pub(super) working: Arc<Working>,
    pub(super) reprocesses: Arc<Reprocesses>,
    pub(super) retries: Arc<Retries>,
    pub(super) archive: Option<Arc<Archive>>,
    /// Where it runs.
    pub(super) threads: Handle,
}

/// Forgets somebody, one at a time.
pub(crate) struct Forgetting {
    parts: Arc<Parts>,
    turn: Arc<Mutex<()>>,
    stop: watch::Sender<bool>,
}

/// Why it does not begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// One at a time.
    #[error("somebody is being forgotten: try again when that is done")]
    Busy,
    /// The node stops.
    #[error("the node stops")]
    Stopping,
}

impl Forgetting {
    pub(super) fn new(parts: Parts) -> Self {
        let stop = watch::channel(false).0;
        Self { parts: Arc::new(parts), turn: Arc::default(), stop }
    }

    /// Begins; what is told of it comes as lines, the last of which is the receipt or an error.
    pub(crate) fn begin(
        &self,
        user: String,
        dry_run: bool,
    ) -> Result<mpsc::Receiver<ForgetLine>, Refused> {
        let turn = Arc::clone(&self.turn).try_lock_owned().map_err(|_| Refused::Busy)?;
        let mut stopped = self.stop.subscribe();
        if *stopped.borrow() {
            return Err(Refused::Stopping);
        }
        let (lines, receiver) = mpsc::channel(LINES);
        let parts = Arc::clone(&self.parts);
        self.parts.threads.spawn(async move {
            let (at_work, tell) = (Arc::clone(&parts), lines.clone());
            // A task of its own: a panic in it is an end like others.
            let mut task = parts
                .threads
                .spawn(async move { at_work.forget(Forget { user: &user, dry_run }, tell).await });
            let done = tokio::select! {
                done = &mut task => Some(done),
                () = told_to_stop(&mut stopped) => None,
            };
            let last = match done {
                Some(Ok(Ok(receipt))) => ForgetLine::Receipt(receipt),
                Some(Ok(Err(error))) => ForgetLine::Error(error.to_string()),
                Some(Err(panic)) => ForgetLine::Error(panic.to_string()),
                None => ForgetLine::Error("the node stops; ask again to go on".to_owned()),
            };
            if *stopped.borrow() {
                task.abort();
                drop(task.await);
            } else {
                parts.go_on().await;
            }
            drop(turn);
            // Nobody needs to wait for it.
            drop(lines.send(last).await);
        });
        Ok(receiver)
    }

    /// Ends what is going on, and begins nothing any more.
    pub(super) async fn stop(&self) {
        self.stop.send_replace(true);
        drop(self.turn.lock().await);
    }
}

async fn told_to_stop(stopped: &mut watch::Receiver<bool>) {
    // An error means that the node is gone altogether.
    drop(stopped.wait_for(|stop| *stop).await);
}

impl Parts {
    async fn forget(
        &self,
        whom: Forget<'_>,
        lines: mpsc::Sender<ForgetLine>,
    ) -> Result<Receipt, ForgetError> {
        let mut tell = |told: Told| drop(lines.try_send(ForgetLine::Told(told)));
        let site = Site {
            log: &self.log,
            folder: &self.folder,
            archive: self.archive.as_ref().map(|archive| archive.store()),
            holder: Holder::Node { epoch: self.epoch, state: self.state.as_deref() },
        };
        if whom.dry_run {
            return forget::forget_at(site, whom, &mut tell).await;
        }
        let _held = self.retries.hold().await;
        self.reprocesses.stand_still().await;
        self.working.stand_still().await;
        if let Some(archive) = &self.archive {
            archive.stand_still().await;
        }
        forget::forget_at(site, whom, &mut tell).await
    }

    async fn go_on(&self) {
        if let Some(archive) = &self.archive
            && let Err(error) = archive.go_on().await
        {
            tracing::error!(%error, "nothing is archived until the node is started again");
        }
        self.working.go_on().await;
        if let Err(error) = self.reprocesses.go_on().await {
            tracing::error!(%error, "jobs stand still until the node is started again");
        }
    }
}
