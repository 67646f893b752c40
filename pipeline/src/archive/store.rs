//! The object store under an archive, or under backups: a folder, a bucket, or memory.
//!
//! Promises
//! - An object that was created is durable when the call returns: in a folder files and their
//!   folders are synced.
//! - Nothing is overwritten: [`Store::create`] is the only way to write. What may be removed,
//!   `unnamed` and [`erasure`](super::erasure) decide for archives.
//!
//! A plain path or `file:///…` is a folder; `s3://`, `gs://` and `az://` need the feature `full`,
//! and take their credentials from the environment, as their vendors' tools do.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};

use super::layout::{self, Date};

/// The store did not do as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The URL names no store that this program knows.
    #[error("{url}: {why}")]
    Url {
        /// As given.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// There is no such object.
    #[error("there is no {path}")]
    NotFound {
        /// Where it should be.
        path: String,
    },
    /// The store failed, or did not answer: the outcome of a write is unknown. Ask again.
    #[error("the store failed: {0}")]
    Failed(#[source] object_store::Error),
}

/// Who may make the folder of a local archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Whoever writes: it is made where it is missing.
    Write,
    /// Readers: a missing one is an error.
    Read,
}

/// What became of a creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It is there now, with these bytes.
    Ours,
    /// Another object is there.
    Taken,
}

/// An object that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Where.
    pub path: String,
    /// How large.
    pub bytes: u64,
}

/// A place for objects that are written once.
#[derive(Clone, Debug)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    url: String,
    /// Where the objects are files.
    folder: Option<PathBuf>,
}

impl Store {
    /// Opens the store at `url`.
    ///
    /// # Errors
    /// [`StoreError::Url`] when there is none, or this program was built without it.
    pub fn open(url: &str, opening: Opening) -> Result<Self, StoreError> {
        let wrong = |why: String| StoreError::Url { url: url.to_owned(), why };
        if let Some(path) = Self::folder_of(url) {
            let objects = folder(path, opening).map_err(wrong)?;
            return Ok(Self { objects, url: url.to_owned(), folder: Some(path.to_owned()) });
        }
        let scheme = url.split_once("://");
        let objects: Arc<dyn ObjectStore> = match scheme.expect("all else is a folder") {
            ("s3" | "s3a" | "gs" | "az" | "azure" | "abfs" | "abfss", _) => {
                cloud(url).map_err(wrong)?
            }
            (scheme, _) => {
                let known = "a path, file, s3, gs and az are known";
                return Err(wrong(format!("{scheme} is no store: {known}")));
            }
        };
        Ok(Self { objects, url: url.to_owned(), folder: None })
    }

    /// The folder that `url` names, if it is one.
    #[must_use]
    pub fn folder_of(url: &str) -> Option<&std::path::Path> {
        match url.split_once("://") {
            None => Some(std::path::Path::new(url)),
            Some(("file", path)) => Some(std::path::Path::new(path)),
            Some(_) => None,
        }
    }

    /// An archive in any store, such as one in memory.
    #[must_use]
    pub fn of(objects: Arc<dyn ObjectStore>, url: &str) -> Self {
        Self { objects, url: url.to_owned(), folder: None }
    }

    /// As it was opened.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Creates an object, or finds that it is there: with these very bytes, since an earlier call
    /// created it whose answer was lost, or with others.
    ///
    /// # Errors
    /// [`StoreError::Failed`]: it may or may not be there; calling again finds out.
    pub async fn create(&self, path: &str, bytes: Bytes) -> Result<Created, StoreError> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let payload = PutPayload::from(bytes.clone());
        match self.objects.put_opts(&location(path), payload, options).await {
            Ok(_) => Ok(Created::Ours),
            Err(
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. },
            ) => {
                let is = self.get(path).await?;
                Ok(if is == bytes { Created::Ours } else { Created::Taken })
            }
            Err(error) => Err(StoreError::Failed(error)),
        }
    }

    /// All bytes of an object.
    ///
    /// # Errors
    /// [`StoreError`] when there is none, or the store failed.
    pub async fn get(&self, path: &str) -> Result<Bytes, StoreError> {
        let failed = |error| match error {
            object_store::Error::NotFound { .. } => StoreError::NotFound { path: path.to_owned() },
            error => StoreError::Failed(error),
        };
        let found = self.objects.get(&location(path)).await.map_err(failed)?;
        found.bytes().await.map_err(failed)
    }

    /// The numbers of all manifests from `first` on, rising.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn manifests(&self, first: u64) -> Result<Vec<u64>, StoreError> {
        let folder = location(layout::MANIFESTS);
        let found = match first.checked_sub(1) {
            None => self.objects.list(Some(&folder)),
            Some(before) => {
                self.objects.list_with_offset(Some(&folder), &location(&layout::manifest(before)))
            }
        };
        let numbers = found.try_filter_map(|object| async move {
            Ok(layout::manifest_number(object.location.as_ref()))
        });
        let mut numbers: Vec<_> = numbers.try_collect().await.map_err(StoreError::Failed)?;
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The paths of all objects below `folder`, in no order.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn below(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let found = self.objects.list(Some(&location(folder))).map_err(StoreError::Failed);
        found.map_ok(|object| object.location.as_ref().to_owned()).try_collect().await
    }

    /// All objects of an archive but its manifests.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn files(&self) -> Result<Vec<Object>, StoreError> {
        let found = self.objects.list(None).map_err(StoreError::Failed);
        let files = found.try_filter_map(|object| async move {
            let path = object.location.as_ref().to_owned();
            let is_file = path.starts_with("topic=");
            Ok(is_file.then_some(Object { path, bytes: object.size }))
        });
        files.try_collect().await
    }

    /// The paths of a topic's files with records that were appended on `day` or later.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn files_since(&self, topic: &str, day: Date) -> Result<Vec<String>, StoreError> {
        let (folder, day) = (location(&layout::topic(topic)), location(&layout::day(topic, day)));
        let found = self.objects.list_with_offset(Some(&folder), &day);
        let paths = found.map_ok(|object| object.location.as_ref().to_owned());
        paths.try_collect().await.map_err(StoreError::Failed)
    }

    /// Removes objects, or finds that they are gone.
    ///
    /// # Errors
    /// [`StoreError::Failed`]: some may be gone; calling again finds out.
    pub async fn remove(&self, paths: &[String]) -> Result<(), StoreError> {
        let paths: Vec<_> = paths.iter().map(|path| Ok(location(path))).collect();
        let mut gone = self.objects.delete_stream(futures_util::stream::iter(paths).boxed());
        while let Some(gone) = gone.next().await {
            match gone {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(StoreError::Failed(error)),
            }
        }
        Ok(())
    }

    /// In a folder: removes what puts left there that were killed midway, which no list shows, and
    /// makes this and earlier removals durable. Returns how many files it were. Nobody may write
    /// meanwhile.
    ///
    /// # Errors
    /// When the folder cannot be read or changed.
    pub(super) fn remove_unfinished(&self) -> io::Result<u64> {
        self.folder.as_deref().map_or(Ok(0), remove_unfinished_below)
    }
}

fn remove_unfinished_below(folder: &std::path::Path) -> io::Result<u64> {
    let mut removed = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            removed += remove_unfinished_below(&entry.path())?;
        } else if is_unfinished(&entry.file_name().to_string_lossy()) {
            std::fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    std::fs::File::open(folder)?.sync_all()?;
    Ok(removed)
}

/// How `object_store` calls a file that is to become the one whose name stands before the `#`.
fn is_unfinished(name: &str) -> bool {
    name.rsplit_once('#').is_some_and(|(_, number)| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Our own paths hold what paths may, percent-encoded already.
fn location(path: &str) -> Path {
    Path::parse(path).expect("the layout makes good paths")
}

fn folder(path: &std::path::Path, opening: Opening) -> Result<Arc<dyn ObjectStore>, String> {
    if opening == Opening::Write {
        std::fs::create_dir_all(path).map_err(|error| error.to_string())?;
    }
    if !path.is_dir() {
        return Err("there is no such folder".to_owned());
    }
    let store = LocalFileSystem::new_with_prefix(path).map_err(|error| error.to_string())?;
    // Backups remove objects: the folders of numbers that are gone go too.
    Ok(Arc::new(store.with_fsync(true).with_automatic_cleanup(true)))
}

#[cfg(feature = "full")]
fn cloud(url: &str) -> Result<Arc<dyn ObjectStore>, String> {
    // Names of settings are those of the vendors' environment: AWS_REGION, GOOGLE_…, AZURE_….
    let environment = std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?.to_ascii_lowercase();
        Some((name, value.into_string().ok()?))
    });
    cloud_by(url, environment)
}

/// The same with these settings instead of the environment's.
#[cfg(feature = "full")]
pub(super) fn cloud_by(
    url: &str,
    settings: impl IntoIterator<Item = (String, String)>,
) -> Result<Arc<dyn ObjectStore>, String> {
    // The one TLS provider of this program; whoever set it before set the same.
    drop(rustls::crypto::ring::default_provider().install_default());
    let place = url.parse().map_err(|error| format!("it is no URL: {error}"))?;
    let (store, prefix) =
        object_store::parse_url_opts(&place, settings).map_err(|error| error.to_string())?;
    Ok(Arc::new(object_store::prefix::PrefixStore::new(store, prefix)))
}

#[cfg(not(feature = "full"))]
fn cloud(_: &str) -> Result<Arc<dyn ObjectStore>, String> {
    Err("this program was built without cloud stores: build it with `--features full`".to_owned())
}
