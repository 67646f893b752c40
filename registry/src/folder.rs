//! Schemas from a folder of files: `NAME.json`, `NAME@N.json`, names percent-encoded.
//!
//! Files go through the same door as any registration, in the order of names, then versions; a
//! file that has not changed since registers nothing. What follows the last `@` is a version when
//! it is all digits; an `@` of the name itself may be written `%40`.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use percent_encoding::percent_decode_str;

use crate::error::RegistryError;
use crate::name::SchemaName;
use crate::registry::{Registered, Registry};

/// Files read from one folder. More are an error of the operator, told at once.
const FILES_MAX: usize = 10_000;

/// What became of one file.
#[derive(Debug)]
pub struct FolderEntry {
    /// The file.
    pub file: PathBuf,
    /// Its schema's name and version, or why there is none.
    pub outcome: Result<(SchemaName, Registered), FolderError>,
}

/// Why a file registered no schema.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// The file's name names no schema: rename it.
    #[error("{}: its name is not NAME.json or NAME@N.json: {reason}", file.display())]
    FileName {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file cannot be read.
    #[error("{}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The registry refused it.
    #[error("{}: {source}", file.display())]
    Refused {
        /// The file.
        file: PathBuf,
        /// Why.
        source: RegistryError,
    },
}

/// Registers what `folder` holds.
pub(crate) async fn load(
    registry: &Registry,
    folder: &Path,
    bytes_max: usize,
) -> io::Result<Vec<FolderEntry>> {
    let folder = folder.to_owned();
    let files = tokio::task::spawn_blocking(move || read_folder(&folder, bytes_max));
    let mut entries = Vec::new();
    for file in files.await.map_err(io::Error::other)?? {
        entries.push(register(registry, file).await);
    }
    Ok(entries)
}

/// A file that may hold a schema.
struct File {
    path: PathBuf,
    target: Result<Target, FolderError>,
    body: io::Result<Bytes>,
}

/// Where a file's schema goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    name: SchemaName,
    /// Files without a version come after those with one: they mean the next.
    version: Option<u32>,
}

async fn register(registry: &Registry, file: File) -> FolderEntry {
    let outcome = match (file.target, file.body) {
        (Err(error), _) => Err(error),
        (_, Err(source)) => Err(FolderError::Read { file: file.path.clone(), source }),
        (Ok(target), Ok(body)) => {
            let name = target.name.as_str();
            let registered = match target.version {
                Some(version) => registry.put_version(name, version, body).await,
                None => registry.put(name, body).await,
            };
            match registered {
                Ok(registered) => Ok((target.name, registered)),
                Err(source) => Err(FolderError::Refused { file: file.path.clone(), source }),
            }
        }
    };
    FolderEntry { file: file.path, outcome }
}

fn read_folder(folder: &Path, bytes_max: usize) -> io::Result<Vec<File>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let Some(target) = target_of(&path) else {
            continue;
        };
        if files.len() == FILES_MAX {
            let message = format!("the folder holds more than {FILES_MAX} schema files");
            return Err(io::Error::other(message));
        }
        files.push((path, target));
    }
    files.sort_by(|(path, target), (other_path, other)| {
        let order = |target: &Result<Target, FolderError>| {
            let target = target.as_ref().ok()?;
            let unversioned = target.version.is_none();
            Some((target.name.clone(), unversioned, target.version))
        };
        order(target).cmp(&order(other)).then_with(|| path.cmp(other_path))
    });
    let files = files.into_iter().map(|(path, target)| {
        let body = read_file(&path, bytes_max);
        File { path, target, body }
    });
    Ok(files.collect())
}

/// Reads `path`, one byte past the limit at most: the registry refuses what is longer.
fn read_file(path: &Path, bytes_max: usize) -> io::Result<Bytes> {
    let mut body = Vec::new();
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    fs::File::open(path)?.take(limit).read_to_end(&mut body)?;
    Ok(body.into())
}

/// What the file's name says; `None` for a file that is none of ours.
fn target_of(path: &Path) -> Option<Result<Target, FolderError>> {
    let file_name = path.file_name()?.to_string_lossy();
    let stem = file_name.strip_suffix(".json")?;
    if stem.starts_with('.') {
        return None;
    }
    let target = parse_stem(stem);
    Some(target.map_err(|reason| FolderError::FileName { file: path.to_owned(), reason }))
}

fn parse_stem(stem: &str) -> Result<Target, String> {
    let is_version = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (name, version) = match stem.rsplit_once('@') {
        Some((name, version)) if is_version(version) => (name, Some(version)),
        _ => (stem, None),
    };
    let version = match version.map(str::parse::<u32>) {
        None => None,
        Some(Ok(version)) if version > 0 => Some(version),
        Some(_) => return Err("its version is not a number from 1 to 4294967295".to_owned()),
    };
    let name = percent_decode_str(name).decode_utf8();
    let name = name.map_err(|_| "its name is not UTF-8 when decoded".to_owned())?;
    let name = SchemaName::try_from(name.as_ref()).map_err(|error| error.to_string())?;
    Ok(Target { name, version })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(stem: &str) -> Option<(String, Option<u32>)> {
        let target = parse_stem(stem).ok()?;
        Some((target.name.to_string(), target.version))
    }

    #[test]
    fn file_names_say_name_and_version() {
        let named = |name: &str, version| Some((name.to_owned(), version));
        assert_eq!(parsed("Order%20Done"), named("Order Done", None));
        assert_eq!(parsed("a@2"), named("a", Some(2)));
        assert_eq!(parsed("a@b"), named("a@b", None));
        assert_eq!(parsed("a%402"), named("a@2", None));
        assert_eq!(parsed("a@1@2"), named("a@1", Some(2)));
        assert_eq!(parsed("a%2Fb"), named("a/b", None));
        assert_eq!(parsed("a@0"), None);
        assert_eq!(parsed("a@99999999999"), None);
        assert_eq!(parsed("%ff"), None);
        assert_eq!(parsed("a%00"), None);
        assert_eq!(parsed("@1"), None);
    }
}
