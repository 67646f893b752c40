//! Whose certificates are trusted by who calls out over TLS.

use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// Where systems keep the certificates that they trust.
const SYSTEM_BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// There are no certificates to trust.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// The file can't be used.
    #[error("{}: {why}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// Nothing is where systems keep them.
    #[error("this system has no list of certificates that it trusts: SSL_CERT_FILE may name one")]
    NoList,
}

/// The certificates in this file.
///
/// # Errors
/// [`TrustError::File`] when it can't be read or has none that can be used.
pub fn of_file(path: &Path) -> Result<RootCertStore, TrustError> {
    let wrong = |why: &dyn ToString| TrustError::File { path: path.into(), why: why.to_string() };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))? {
        let certificate = certificate.map_err(|error| wrong(&error))?;
        // A bundle may hold a few that this library does not take; the others count.
        drop(roots.add(certificate));
    }
    match roots.is_empty() {
        true => Err(wrong(&"there is no usable certificate in it")),
        false => Ok(roots),
    }
}

/// The certificates that the system trusts: those in `$SSL_CERT_FILE`, else its own list.
///
/// # Errors
/// [`TrustError`] when there are none.
pub fn of_the_system() -> Result<RootCertStore, TrustError> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let usual = || SYSTEM_BUNDLES.iter().map(PathBuf::from).find(|path| path.exists());
    of_file(&named.or_else(usual).ok_or(TrustError::NoList)?)
}
