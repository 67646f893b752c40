//! A store that fails where a test wants it: before or after it did what was asked, by
//! an error, by being slow, or for ever, as a process that was killed sees it.

use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// What befalls an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// It is not done, and an error says so.
    Refused,
    /// It is done, and the answer is an error.
    ReplyLost,
    /// It is done after so many polls.
    Slow(u32),
    /// A file of events is read as other bytes than were written. All else is done.
    Corrupted,
    /// It is not done, and the process ends.
    KilledBefore,
    /// It is done, and the process ends.
    KilledAfter,
}

/// Says what befalls the operation with this number.
type Plan = Box<dyn Fn(u64) -> Fault + Send + Sync>;

pub(super) struct Faulty {
    inner: Arc<dyn ObjectStore>,
    fate: Arc<Fate>,
}

/// What befell a process so far, and what comes.
struct Fate {
    plan: Plan,
    operations: AtomicU64,
    killed: AtomicBool,
}

impl Faulty {
    /// A process' view of the store `inner`.
    pub(super) fn new(
        inner: &Arc<dyn ObjectStore>,
        plan: impl Fn(u64) -> Fault + Send + Sync + 'static,
    ) -> Arc<Self> {
        let plan = Box::new(plan);
        let fate = Fate { plan, operations: AtomicU64::new(0), killed: AtomicBool::new(false) };
        Arc::new(Self { inner: Arc::clone(inner), fate: Arc::new(fate) })
    }

    /// Runs `work` to its end; `None` when it was killed.
    pub(super) async fn run<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        poll_fn(|context| match work.as_mut().poll(context) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if self.fate.killed.load(Ordering::Relaxed) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }
}

impl Fate {
    /// What befalls the next operation.
    fn next(&self) -> Fault {
        (self.plan)(self.operations.fetch_add(1, Ordering::Relaxed))
    }

    async fn befall<T>(&self, doing: impl Future<Output = Result<T>>) -> Result<T> {
        self.let_it(self.next(), doing).await
    }

    async fn let_it<T>(&self, fault: Fault, doing: impl Future<Output = Result<T>>) -> Result<T> {
        let failed =
            || Error::Generic { store: "faulty", source: "500 Internal Server Error".into() };
        match fault {
            Fault::None | Fault::Corrupted => doing.await,
            Fault::Refused => Err(failed()),
            Fault::ReplyLost => {
                // Whatever it said, nobody hears it.
                drop(doing.await);
                Err(failed())
            }
            Fault::Slow(polls) => {
                for _ in 0..polls {
                    once().await;
                }
                doing.await
            }
            Fault::KilledBefore => self.die().await,
            Fault::KilledAfter => {
                drop(doing.await);
                self.die().await
            }
        }
    }

    async fn die<T>(&self) -> T {
        self.killed.store(true, Ordering::Relaxed);
        pending().await
    }
}

/// Pending once.
async fn once() {
    let mut has_waited = false;
    poll_fn(|context| {
        if std::mem::replace(&mut has_waited, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.fate.befall(self.inner.put_opts(location, payload, options)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let fault = self.fate.next();
        let found = self.fate.let_it(fault, self.inner.get_opts(location, options)).await?;
        if fault != Fault::Corrupted || !location.as_ref().starts_with("topic=") {
            return Ok(found);
        }
        let GetResult { meta, range, attributes, extensions, .. } = &found;
        let (meta, range) = (meta.clone(), range.clone());
        let (attributes, extensions) = (attributes.clone(), extensions.clone());
        let mut bytes = found.bytes().await?.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        let payload = GetResultPayload::Stream(stream::iter([Ok(bytes.into())]).boxed());
        Ok(GetResult { payload, meta, range, attributes, extensions })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let fate = Arc::clone(&self.fate);
        let deleted = self.inner.delete_stream(locations);
        let each = move |deleted: Result<Path>| {
            let fate = Arc::clone(&fate);
            async move { fate.befall(std::future::ready(deleted)).await }
        };
        deleted.then(each).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (fate, found) = (Arc::clone(&self.fate), self.inner.list(prefix));
        let begun = async move { fate.befall(std::future::ready(Ok(found))).await };
        stream::once(begun).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

impl std::fmt::Debug for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Faulty")
    }
}

impl std::fmt::Display for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a store that fails")
    }
}
