//! TLS of a client: whom it trusts.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use tracklog_server::trust::{self, TrustError};

use crate::failure::Failure;

/// Trusts the certificates in this file, which may be a node's own.
pub(crate) fn trusting(file: &Path) -> Result<Arc<ClientConfig>, Failure> {
    config(trust::of_file(file).map_err(Failure::could_not_run)?)
}

/// Trusts whom the system trusts.
pub(crate) fn trusting_the_system() -> Result<Arc<ClientConfig>, Failure> {
    config(trust::of_the_system().map_err(|error| match error {
        TrustError::NoList => Failure::could_not_run(format!("{error}, or --ca")),
        error => Failure::could_not_run(error),
    })?)
}

fn config(roots: RootCertStore) -> Result<Arc<ClientConfig>, Failure> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(Failure::could_not_run)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
