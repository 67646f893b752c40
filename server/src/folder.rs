//! The files of a data folder that are the node's own: its secrets, and where it can be reached.
//!
//! Promises
//! - A secret is made once, whole or not at all, readable by its owner alone from its first byte.
//! - A folder that holds something else, and no log, is nobody's to make a log in.
//! - `node.json` is there only while a node listens, or after one was killed: whoever holds the
//!   folder's lock decides which.
//!
//! The log's own files (`lock`, `journal/`, checkpoints) belong to the engine. Making and writing
//! are for the holder of the lock; reading is for everyone.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracklog_engine::OpenError;

const NODE_FILE: &str = "node.json";
/// What a node and its log leave behind, by name; a file that is written beside another ends in
/// `.new`.
const OWN_NAMES: [&str; 15] = [
    "lock",
    NODE_FILE,
    "default.key",
    "admin.token",
    "privacy.key",
    "cert.pem",
    "key.pem",
    "journal",
    "packs",
    "restored.json",
    "checkpoint-a",
    "checkpoint-b",
    "cut",
    "state",
    "archive",
];
/// The same by how they begin: the verbs' own marks, the probe of a disk, and what `doctor` leaves
/// when it is killed.
const OWN_PREFIXES: [&str; 3] = [VERB_MARK, ".probe-", ".tracklog-doctor-"];
/// What may lie in a folder before its log is made: an operator's settings and rules, and the
/// `lost+found` of a fresh mount.
const EARLIER_NAMES: [&str; 3] = ["tracklog.toml", "routes.toml", "lost+found"];
/// How folders begin in which a restore leaves the log that was there before.
const REPLACED: &str = "replaced-by-backup-";
/// As long as this lies in a folder a restore into it has not ended.
pub(crate) const RESTORING: &str = "restoring";
/// A folder with a file in it whose name is this and a verb's was made by that verb.
pub const VERB_MARK: &str = "made-by-tracklog-";
/// Bytes that nobody can guess, in the admin token and in the privacy key.
const SECRET_BYTES: usize = 32;
/// Digits of a write key: 190 bits.
const KEY_DIGITS: usize = 32;

/// A data folder. See the [module](self).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFolder {
    path: PathBuf,
}

/// A file of the data folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct FolderError {
    /// Which file.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

/// What a running node says of itself in its folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFile {
    /// Its process.
    pub pid: u32,
    /// Where it speaks plain HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<SocketAddr>,
    /// Where it speaks HTTPS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub https: Option<SocketAddr>,
    /// How its commits reach the disk, and why so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// The format of its log.
    pub format: u32,
}

/// A secret, and whether it was made just now.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// The text in the file.
    pub text: String,
    /// Whether this call made it.
    pub made: bool,
}

impl DataFolder {
    /// The folder at `path`, whether it is there or not.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file `name` in it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes the folder, for its owner alone, if it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(&self) -> Result<(), FolderError> {
        let made = match self.path.is_file() {
            true => Err(io::Error::new(io::ErrorKind::NotADirectory, "it is a file, not a folder")),
            false => DirBuilder::new().recursive(true).mode(0o700).create(&self.path),
        };
        made.map_err(|source| FolderError { path: self.path.clone(), source })
    }

    /// Whether a log was begun here: a checkpoint or a slot is there.
    #[must_use]
    pub fn holds_log(&self) -> bool {
        let is_slot = |name: &OsString| name.to_string_lossy().starts_with("slot-");
        ["checkpoint-a", "checkpoint-b"].iter().any(|name| self.file(name).is_file())
            || names_in(&self.file("journal")).is_ok_and(|names| names.iter().any(is_slot))
    }

    /// Refuses a folder that holds no log but something that no start left there.
    ///
    /// # Errors
    /// When it does, naming the first such entry, and when it cannot be looked at.
    pub fn refuse_foreign(&self) -> Result<(), FolderError> {
        if self.holds_log() {
            return Ok(());
        }
        let failed = |source| FolderError { path: self.path.clone(), source };
        let Some(foreign) = self.first_foreign(&EARLIER_NAMES).map_err(failed)? else {
            return Ok(());
        };
        Err(failed(io::Error::other(format!(
            "it holds {:?} and no log: name a new or an empty folder (--data, TRACKLOG_DATA)",
            foreign.to_string_lossy()
        ))))
    }

    /// Refuses a folder into which a restore was begun and did not end.
    ///
    /// # Errors
    /// When it is one.
    pub fn refuse_half_restored(&self) -> Result<(), OpenError> {
        if !self.file(RESTORING).exists() {
            return Ok(());
        }
        let what = "a restore into the folder was interrupted: run `tracklog restore` again";
        Err(OpenError::Damaged { what: what.to_owned() })
    }

    /// The first entry by name that neither a node nor its log makes, and that is not one of
    /// `besides`.
    ///
    /// # Errors
    /// When the folder is there and cannot be listed.
    pub fn first_foreign(&self, besides: &[&str]) -> io::Result<Option<OsString>> {
        let is_foreign = |name: &OsString| {
            let name = name.to_string_lossy();
            !is_own(&name) && !besides.contains(&&*name)
        };
        Ok(names_in(&self.path)?.into_iter().find(is_foreign))
    }

    /// What lies in the folder and is neither the node's nor its log's, by name.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub(crate) fn others(&self) -> io::Result<Vec<String>> {
        let names = names_in(&self.path)?.into_iter();
        let names = names.map(|name| name.to_string_lossy().into_owned());
        let is_other = |name: &String| {
            !is_own(name) && !self.is_replaced(name) && !EARLIER_NAMES.contains(&&**name)
        };
        Ok(names.filter(is_other).collect())
    }

    /// Where a restore of backup `number` leaves the log that was there.
    pub(crate) fn place_for_replaced(&self, number: u64) -> PathBuf {
        let first = self.file(&format!("{REPLACED}{number}"));
        let more = (2..).map(|again| self.file(&format!("{REPLACED}{number}-{again}")));
        let mut places = std::iter::once(first).chain(more);
        places.find(|place| !place.exists()).expect("a folder does not hold all of them")
    }

    /// The folders of logs that restores replaced, by name.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn replaced(&self) -> io::Result<Vec<String>> {
        let names = names_in(&self.path)?.into_iter();
        let names = names.map(|name| name.to_string_lossy().into_owned());
        Ok(names.filter(|name| self.is_replaced(name)).collect())
    }

    /// Whether a restore left a log under this name.
    fn is_replaced(&self, name: &str) -> bool {
        let numbers = name.strip_prefix(REPLACED).unwrap_or_default().split('-');
        let is_number =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        numbers.clone().count() <= 2
            && numbers.into_iter().all(is_number)
            && self.file(name).is_dir()
    }

    /// Removes a folder in it with all that it holds, durably; one that is not there is gone already.
    pub(crate) fn remove_folder(&self, name: &str) -> io::Result<()> {
        match fs::remove_dir_all(self.file(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed?,
        }
        File::open(&self.path)?.sync_all()
    }

    /// The write key of the source `default`: `tl_` and 32 letters and digits.
    ///
    /// # Errors
    /// When it can be neither read nor made.
    pub fn default_key(&self) -> Result<Secret, FolderError> {
        self.secret("default.key", || Ok(format!("tl_{}", base62(KEY_DIGITS)?)))
    }

    /// The token that registry and admin routes ask for.
    ///
    /// # Errors
    /// When it can be neither read nor made.
    pub fn admin_token(&self) -> Result<Secret, FolderError> {
        self.secret("admin.token", || random_hex(SECRET_BYTES))
    }

    /// The key of `user_id = "hmac"`, in hex.
    ///
    /// # Errors
    /// When it can be neither read nor made.
    pub fn privacy_key(&self) -> Result<Secret, FolderError> {
        self.secret("privacy.key", || random_hex(SECRET_BYTES))
    }

    /// The same, if there is one; makes nothing.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read_privacy_key(&self) -> Result<String, FolderError> {
        self.read("privacy.key")
    }

    /// The admin token, if there is one; makes nothing.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read_admin_token(&self) -> Result<String, FolderError> {
        self.read("admin.token")
    }

    /// What the node that holds, or held, the folder says of itself; `None` when it says nothing.
    ///
    /// # Errors
    /// When the file is there and cannot be read or understood.
    pub fn node(&self) -> Result<Option<NodeFile>, FolderError> {
        self.read_json(NODE_FILE)
    }

    /// What the file `name` says, if it is there.
    pub(crate) fn read_json<T: DeserializeOwned>(
        &self,
        name: &str,
    ) -> Result<Option<T>, FolderError> {
        let text = match self.read(name) {
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text?,
        };
        let said = serde_json::from_str(&text).map_err(io::Error::other);
        said.map(Some).map_err(|source| FolderError { path: self.file(name), source })
    }

    /// Replaces the file `name` with what `said` is in JSON.
    pub(crate) fn write_json(&self, name: &str, said: &impl Serialize) -> Result<(), FolderError> {
        let text = serde_json::to_string(said).expect("texts and numbers can be written");
        self.write_whole(name, format!("{text}\n").as_bytes(), 0o600)
    }

    /// The bytes of the file `name`, if it is there.
    pub(crate) fn read_bytes(&self, name: &str) -> Result<Option<Vec<u8>>, FolderError> {
        match fs::read(self.file(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(FolderError { path: self.file(name), source }),
        }
    }

    /// Replaces the file `name`, which is its owner's alone.
    pub(crate) fn write_bytes(&self, name: &str, bytes: &[u8]) -> Result<(), FolderError> {
        self.write_whole(name, bytes, 0o600)
    }

    /// Says where the node is.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_node(&self, node: &NodeFile) -> Result<(), FolderError> {
        let text = serde_json::to_string(node).expect("numbers and addresses can be written");
        self.write_whole(NODE_FILE, format!("{text}\n").as_bytes(), 0o644)
    }

    /// Takes back what [`write_node`](Self::write_node) said.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn remove_node(&self) -> Result<(), FolderError> {
        match fs::remove_file(self.file(NODE_FILE)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(FolderError { path: self.file(NODE_FILE), source })
            }
            _ => Ok(()),
        }
    }

    fn secret(
        &self,
        name: &str,
        make: impl FnOnce() -> io::Result<String>,
    ) -> Result<Secret, FolderError> {
        match self.read(name) {
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => {}
            text => return Ok(Secret { text: text?, made: false }),
        }
        let text = make().map_err(|source| FolderError { path: self.file(name), source })?;
        self.write_whole(name, format!("{text}\n").as_bytes(), 0o600)?;
        Ok(Secret { text, made: true })
    }

    fn read(&self, name: &str) -> Result<String, FolderError> {
        let path = self.file(name);
        match fs::read_to_string(&path) {
            Ok(text) if text.trim().is_empty() => {
                let source = io::Error::new(io::ErrorKind::InvalidData, "the file is empty");
                Err(FolderError { path, source })
            }
            Ok(text) => Ok(text.trim().to_owned()),
            Err(source) => Err(FolderError { path, source }),
        }
    }

    /// Replaces a file as a whole, durably: written beside it, synced, renamed.
    fn write_whole(&self, name: &str, bytes: &[u8], mode: u32) -> Result<(), FolderError> {
        let path = self.file(name);
        let beside = self.file(&format!("{name}.new"));
        let written = write_beside(&beside, bytes, mode)
            .and_then(|()| fs::rename(&beside, &path))
            .and_then(|()| File::open(&self.path)?.sync_all());
        written.map_err(|source| FolderError { path, source })
    }
}

/// The names in a folder, in their order; none where there is no folder.
fn names_in(path: &Path) -> io::Result<Vec<OsString>> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = entries
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// Whether a node, or its log, may have left an entry of this name.
fn is_own(name: &str) -> bool {
    OWN_NAMES.contains(&name.strip_suffix(".new").unwrap_or(name))
        || OWN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// A leftover of an earlier try may have another mode: it goes first.
fn write_beside(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").field("made", &self.made).finish_non_exhaustive()
    }
}

fn random_hex(bytes: usize) -> io::Result<String> {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Letters and digits, each as likely: a byte that would favour some is thrown again.
fn base62(digits: usize) -> io::Result<String> {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    const FAIR: u8 = 62 * 4;
    let mut text = String::with_capacity(digits);
    while text.len() < digits {
        let mut byte = [0];
        getrandom::fill(&mut byte).map_err(io::Error::other)?;
        if byte[0] < FAIR {
            text.push(char::from(ALPHABET[usize::from(byte[0] % 62)]));
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn secrets_are_made_once_and_are_their_owner_s_alone() {
        let parent = tempfile::tempdir().unwrap();
        let folder = DataFolder::at(parent.path().join("data"));
        folder.create().unwrap();
        assert_eq!(mode(folder.path()), 0o700);
        let key = folder.default_key().unwrap();
        assert!(key.made && key.text.len() == 35 && key.text.starts_with("tl_"));
        assert!(key.text[3..].bytes().all(|byte| byte.is_ascii_alphanumeric()));
        assert_eq!(folder.default_key().unwrap(), Secret { made: false, ..key });
        let token = folder.admin_token().unwrap();
        assert_eq!((token.text.len(), folder.read_admin_token().unwrap()), (64, token.text));
        assert_eq!(folder.privacy_key().unwrap().text.len(), 64);
        for name in ["default.key", "admin.token", "privacy.key"] {
            assert_eq!(mode(&folder.file(name)), 0o600, "{name}");
        }
    }

    #[test]
    fn an_empty_secret_is_an_error_that_names_the_file() {
        let parent = tempfile::tempdir().unwrap();
        let folder = DataFolder::at(parent.path());
        fs::write(folder.file("admin.token"), "\n").unwrap();
        let error = folder.admin_token().unwrap_err().to_string();
        assert!(error.ends_with("admin.token: the file is empty"), "{error}");
    }

    #[test]
    fn what_a_start_leaves_is_its_own_and_all_else_is_foreign() {
        let parent = tempfile::tempdir().unwrap();
        let folder = DataFolder::at(parent.path());
        for name in [
            "lock",
            "lost+found",
            "key.pem.new",
            ".probe-7",
            ".tracklog-doctor-7",
            "made-by-tracklog-demo",
        ] {
            fs::write(folder.file(name), "").unwrap();
            folder.refuse_foreign().unwrap();
        }
        fs::create_dir(folder.file("journal")).unwrap();
        folder.refuse_foreign().unwrap();
        for name in ["notes.new", "Documents", ".profile", "lock.txt"] {
            fs::write(folder.file(name), "").unwrap();
            let error = folder.refuse_foreign().unwrap_err().to_string();
            assert!(error.contains(&format!("{name:?}")), "{error}");
            fs::remove_file(folder.file(name)).unwrap();
        }
        fs::write(folder.file("notes"), "").unwrap();
        fs::write(folder.file("journal/slot-00000000"), "").unwrap();
        folder.refuse_foreign().unwrap();
    }

    #[test]
    fn logs_that_were_replaced_are_known_by_name_and_others_things_are_others() {
        let parent = tempfile::tempdir().unwrap();
        let folder = DataFolder::at(parent.path());
        for expected in ["replaced-by-backup-7", "replaced-by-backup-7-2", "replaced-by-backup-7-3"]
        {
            let place = folder.place_for_replaced(7);
            assert_eq!(place, folder.file(expected));
            fs::create_dir(&place).unwrap();
            fs::write(place.join("slot"), "").unwrap();
        }
        let others =
            ["replaced-by-backup-", "replaced-by-backup-7-2-1", "replaced-by-backup-7-old"];
        for name in others {
            fs::create_dir(folder.file(name)).unwrap();
        }
        fs::write(folder.file("replaced-by-backup-9"), "a file").unwrap();
        fs::write(folder.file("routes.toml"), "").unwrap();
        let replaced = folder.replaced().unwrap();
        assert_eq!(replaced.len(), 3, "{replaced:?}");
        assert_eq!(folder.others().unwrap(), [&others[..], &["replaced-by-backup-9"]].concat());
        for name in &replaced {
            folder.remove_folder(name).unwrap();
            folder.remove_folder(name).unwrap();
        }
        assert_eq!(folder.replaced().unwrap(), [""; 0]);
    }

    #[test]
    fn a_node_says_where_it_is_and_takes_it_back() {
        let parent = tempfile::tempdir().unwrap();
        let folder = DataFolder::at(parent.path());
        assert_eq!(folder.node().unwrap(), None);
        let http = Some("127.0.0.1:8080".parse().unwrap());
        let node = NodeFile { pid: 7, http, https: None, backend: None, format: 1 };
        folder.write_node(&node).unwrap();
        assert_eq!(folder.node().unwrap(), Some(node));
        let text = fs::read_to_string(folder.file("node.json")).unwrap();
        assert_eq!(text, "{\"pid\":7,\"http\":\"127.0.0.1:8080\",\"format\":1}\n");
        folder.remove_node().unwrap();
        folder.remove_node().unwrap();
        assert_eq!(folder.node().unwrap(), None);
    }
}
