//! TLS: where the certificate comes from, and how a new one takes effect.
//!
//! Promises
//! - A connection is served with the newest pair of files that could be read and fits together;
//!   a half-written or broken pair changes nothing and is told once.
//! - A self-signed pair is made only where asked for and nothing usable is there; the key file is
//!   readable by its owner alone from its first byte on.
//!
//! Called by `http`; touches the file system only when opened and when [`Tls::reload`] is called.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Where certificate and key lie, both in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, the server's own certificate first.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Names and addresses of a self-signed pair that is made when one of the files is missing;
    /// none: a missing file is an error.
    pub self_signed: Option<Vec<String>>,
}

/// Why there is no usable pair.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// A file is no PEM of what it should hold.
    #[error("{}: no {what} in PEM form", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// Certificate and key do not fit together, or are of a kind that is not supported.
    #[error("certificate {} and its key cannot be used: {source}", path.display())]
    Pair {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong with them.
        source: rustls::Error,
    },
    /// A self-signed pair could not be made.
    #[error("cannot make a self-signed certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// The configuration that new connections get.
#[derive(Debug)]
pub(crate) struct Tls {
    files: TlsFiles,
    config: ArcSwap<ServerConfig>,
    /// The contents that were looked at last, good or bad.
    seen: Mutex<Pair>,
}

/// The bytes of both files.
#[derive(PartialEq, Eq)]
struct Pair {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pair(..)")
    }
}

impl Tls {
    /// Reads the files; makes them first where that is asked for and needed.
    pub(crate) fn open(files: TlsFiles) -> Result<Self, TlsError> {
        if let Some(names) = &files.self_signed
            && (!files.certificate.exists() || !files.key.exists())
        {
            make_self_signed(&files, names)?;
        }
        let pair = Pair::read(&files)?;
        let config = ArcSwap::from_pointee(pair.config(&files)?);
        Ok(Self { files, config, seen: Mutex::new(pair) })
    }

    /// What the next connection is served with.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }

    /// Looks at the files again; tells whether a new pair is in use now. Blocks on the disk.
    pub(crate) fn reload(&self) -> Result<bool, TlsError> {
        let pair = Pair::read(&self.files)?;
        let mut seen = self.seen.lock().expect("no holder of this lock panics");
        if *seen == pair {
            return Ok(false);
        }
        let config = pair.config(&self.files);
        *seen = pair;
        self.config.store(Arc::new(config?));
        Ok(true)
    }
}

impl Pair {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let read = |path: &PathBuf| {
            fs::read(path).map_err(|source| TlsError::File { path: path.clone(), source })
        };
        Ok(Self { certificate: read(&files.certificate)?, key: read(&files.key)? })
    }

    fn config(&self, files: &TlsFiles) -> Result<ServerConfig, TlsError> {
        let no_pem = |path: &PathBuf, what| TlsError::Pem { path: path.clone(), what };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&self.certificate)
            .collect::<Result<_, _>>()
            .map_err(|_| no_pem(&files.certificate, "certificate"))?;
        if chain.is_empty() {
            return Err(no_pem(&files.certificate, "certificate"));
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| no_pem(&files.key, "private key"))?;
        let unfit = |source| TlsError::Pair { path: files.certificate.clone(), source };
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(unfit)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(unfit)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ticketer = ring::Ticketer::new().map_err(unfit)?;
        Ok(config)
    }
}

/// Makes both files anew. Each appears whole or not at all; the certificate comes last, so that
/// its presence vouches for the key.
fn make_self_signed(files: &TlsFiles, names: &[String]) -> Result<(), TlsError> {
    let made = rcgen::generate_simple_self_signed(names.to_vec())?;
    write_whole(&files.key, made.signing_key.serialize_pem().as_bytes(), 0o600)?;
    write_whole(&files.certificate, made.cert.pem().as_bytes(), 0o644)
}

fn write_whole(path: &Path, contents: &[u8], mode: u32) -> Result<(), TlsError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let written = write_beside(&beside, contents, mode).and_then(|()| fs::rename(&beside, path));
    written.map_err(|source| TlsError::File { path: path.to_owned(), source })
}

fn write_beside(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    // A leftover of an earlier try may have another mode.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(contents)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn files(folder: &Path, self_signed: bool) -> TlsFiles {
        TlsFiles {
            certificate: folder.join("cert.pem"),
            key: folder.join("key.pem"),
            self_signed: self_signed.then(|| vec!["localhost".to_owned(), "127.0.0.1".to_owned()]),
        }
    }

    #[test]
    fn a_self_signed_pair_is_made_once_with_a_private_key_file() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path(), true);
        Tls::open(files.clone()).unwrap();
        let first = fs::read(&files.key).unwrap();
        let mode = fs::metadata(&files.key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        Tls::open(files.clone()).unwrap();
        assert_eq!(fs::read(&files.key).unwrap(), first);
    }

    #[test]
    fn missing_files_are_named_and_not_made_unasked() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path(), false);
        let error = Tls::open(files.clone()).unwrap_err();
        assert!(error.to_string().contains("cert.pem"), "{error}");
        assert!(!files.key.exists());
    }

    #[test]
    fn a_broken_pair_changes_nothing_and_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path(), true);
        let tls = Tls::open(files.clone()).unwrap();
        let before = tls.config();
        fs::write(&files.certificate, "half a certifi").unwrap();
        assert!(matches!(tls.reload(), Err(TlsError::Pem { .. })));
        assert!(matches!(tls.reload(), Ok(false)), "the same bytes are not complained of twice");
        assert!(Arc::ptr_eq(&before, &tls.config()));
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path(), true);
        let tls = Tls::open(files.clone()).unwrap();
        let other = rcgen::generate_simple_self_signed(vec!["other".to_owned()]).unwrap();
        fs::write(&files.key, other.signing_key.serialize_pem()).unwrap();
        assert!(matches!(tls.reload(), Err(TlsError::Pair { .. })));
        fs::write(&files.certificate, other.cert.pem()).unwrap();
        assert!(tls.reload().unwrap(), "now they fit");
    }
}
