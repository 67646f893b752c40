//! TLS of a client: whom it trusts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use crate::failure::Failure;

/// Where systems keep the certificates that they trust.
const SYSTEM_BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Trusts the certificates in this file, which may be a node's own.
pub(crate) fn trusting(file: &Path) -> Result<Arc<ClientConfig>, Failure> {
    let mut roots = RootCertStore::empty();
    let named = |error: &dyn std::fmt::Display| Failure::of(file.display(), error);
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| named(&error))? {
        let certificate = certificate.map_err(|error| named(&error))?;
        // A bundle may hold a few that this library does not take; the others count.
        drop(roots.add(certificate));
    }
    if roots.is_empty() {
        return Err(named(&"there is no usable certificate in it"));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(Failure::could_not_run)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Trusts whom the system trusts.
pub(crate) fn trusting_the_system() -> Result<Arc<ClientConfig>, Failure> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let usual = SYSTEM_BUNDLES.iter().map(PathBuf::from).find(|path| path.exists());
    match named.or(usual) {
        Some(file) => trusting(&file),
        None => Err(Failure::could_not_run("this system has no list of certificates: use --ca")),
    }
}
