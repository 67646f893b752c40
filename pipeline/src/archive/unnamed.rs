//! Files that no manifest names: what a writer left that was killed before it could name them, or
//! whose manifest came second.
//!
//! Promises
//! - A file is removed only when the manifest whose number its name bears is there, and does not
//!   name it. Manifests never change, and no other one names the file, so nobody ever will: that
//!   holds beside any number of other writers, and however late theirs arrive.
//!
//! Called by the archiver, which takes the next number before it asks about files that bear it.

use std::collections::{BTreeMap, HashSet};

use super::chain::{self, ChainError};
use super::layout;
use super::manifest::Manifest;
use super::store::Store;

/// Removes those of `paths` that no manifest below the number `next`, where the chain goes on,
/// names; what bears `next` or a later number may be named yet. Returns how many it were.
///
/// # Errors
/// [`ChainError`], but not `Empty`: some may be removed, calling again does the rest.
pub(super) async fn remove(
    store: &Store,
    paths: &[String],
    next: u64,
) -> Result<usize, ChainError> {
    let mut by_manifest: BTreeMap<u64, Vec<&String>> = BTreeMap::new();
    for path in paths {
        if let Some(number) = layout::manifest_of(path).filter(|number| *number < next) {
            by_manifest.entry(number).or_default().push(path);
        }
    }
    let mut removed = 0;
    for (number, paths) in by_manifest {
        let sealed = chain::read(store, number).await?;
        let Manifest { files, replaces, .. } = &sealed.manifest;
        let with = replaces.iter().filter_map(|replaced| replaced.with.as_ref());
        let named: HashSet<_> = files.iter().chain(with).map(|file| &file.path).collect();
        for path in paths.into_iter().filter(|path| !named.contains(path)) {
            store.remove(std::slice::from_ref(path)).await?;
            removed += 1;
        }
    }
    Ok(removed)
}
