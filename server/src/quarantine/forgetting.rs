//! What is known of rejected events that were erased: it goes too, for reasons name
//! members, and clients name those.
//!
//! Promises
//! - When [`forget_erased`] returns, no page tells of a record that is not in `rejected`, and no
//!   older record of any page is in a file of the log.
//! - Outcomes of all other events stay, so none of them is stored a second time.
//! - Whatever ends in between: called again it goes on.

use std::collections::BTreeSet;
use std::sync::Arc;

use tracklog_log::erase::STRETCHES_MAX;
use tracklog_log::meta::{Expect, Meta as _, MetaError, MetaTopic};
use tracklog_log::{Epoch, Erase, EraseError, FetchError, Log};
use tracklog_protocol::{Offset, Record};

use super::outcomes::{Page, PageKey};
use super::{REJECTED, TOPIC};
use crate::reading::each_record;

/// Why it could not be finished. Again is safe.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForgetError {
    /// The pages cannot be read or written.
    #[error(transparent)]
    Pages(#[from] MetaError),
    /// `rejected` cannot be read.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The log did not erase.
    #[error(transparent)]
    Erase(#[from] EraseError),
    /// A page holds something else.
    #[error("a page of {TOPIC} cannot be read: {0}")]
    Page(#[from] serde_json::Error),
}

/// Removes what pages tell of records that are gone from `rejected`, as the writer of `epoch`.
///
/// # Errors
/// [`ForgetError`].
pub async fn forget_erased(log: &Arc<dyn Log>, epoch: Epoch) -> Result<(), ForgetError> {
    let (Some(topic), Some(rejected)) = (log.topic(TOPIC), log.topic(REJECTED)) else {
        return Ok(());
    };
    let pages = MetaTopic::over(Arc::clone(log), epoch, topic.partition(0)).await?;
    for (bytes, found) in pages.list(b"") {
        let Some(key) = PageKey::parse(&bytes) else { continue };
        let mut page = Page::read(key, found.version, &found.value)?;
        let mut there = BTreeSet::new();
        if key.partition < rejected.spec.partitions {
            let (partition, range) = (rejected.partition(key.partition), key.first()..key.end());
            let note = |offset, _: Record<'_>| there.extend([offset]);
            each_record(&**log, partition, range, note).await?;
        }
        if page.retain(|offset| there.contains(&offset)) {
            pages.put(&bytes, Some(&page.value()), Expect::Version(found.version)).await?;
        }
    }
    erase_superseded(&**log, &pages).await
}

/// Erases all records of pages that are not the last of their page.
async fn erase_superseded(log: &dyn Log, pages: &MetaTopic<dyn Log>) -> Result<(), ForgetError> {
    let last: BTreeSet<Offset> = pages.list(b"").iter().map(|(_, found)| found.version).collect();
    let partition = pages.partition();
    let Some(extent) = log.extent(partition) else { return Ok(()) };
    let mut superseded = Vec::new();
    each_record(log, partition, extent.start..extent.end, |offset, _| {
        superseded.extend((!last.contains(&offset)).then(|| Erase::one(partition, offset)));
    })
    .await?;
    for some in superseded.chunks(STRETCHES_MAX / 2) {
        log.erase(some.to_vec()).await?;
    }
    Ok(())
}
