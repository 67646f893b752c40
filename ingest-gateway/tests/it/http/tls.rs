//! TLS: served with what the files hold, and with new ones when they change.

use std::fs;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::client::{Ask, Client};
use super::rig::{KEY, Rig, track};

pub(crate) async fn connect(rig: &Rig, alpn: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
    let certificate = CertificateDer::from_pem_file(rig.folder.path().join("cert.pem")).unwrap();
    connect_trusting(rig, alpn, certificate).await
}

async fn connect_trusting(
    rig: &Rig,
    alpn: &[&str],
    certificate: CertificateDer<'static>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(rig.https()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

#[tokio::test]
async fn events_come_in_over_tls_and_settings_say_so() {
    let rig = Rig::new().await;
    let mut client = Client::over(connect(&rig, &["http/1.1"]).await.unwrap());
    client.write(Ask::post("/v1/track", track("m")).key(KEY).bytes("keep-alive")).await;
    client.answer().await.unwrap().is_ok();
    client.write(Ask::get("/v1/projects/tl_key-of-the-shop/settings").bytes("close")).await;
    let settings = client.answer().await.unwrap().json();
    assert_eq!(settings["integrations"]["Segment.io"]["protocol"], "https");
    assert_eq!(rig.counts().await, (1, 0));
}

#[tokio::test]
async fn a_changed_certificate_is_served_to_new_connections_and_keeps_old_ones() {
    let rig = Rig::new().await;
    let path = rig.folder.path().join("cert.pem");
    let old_certificate = CertificateDer::from_pem_file(&path).unwrap();
    let mut old = Client::over(connect(&rig, &[]).await.unwrap());
    let new = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    fs::write(&path, new.cert.pem()).unwrap();
    assert!(rig.running.reload_certificate().is_err(), "the key is still the old one's");
    assert!(connect_trusting(&rig, &[], old_certificate.clone()).await.is_ok());
    fs::write(rig.folder.path().join("key.pem"), new.signing_key.serialize_pem()).unwrap();
    assert!(rig.running.reload_certificate().unwrap());
    assert!(connect(&rig, &[]).await.is_ok(), "the new one is served");
    assert!(connect_trusting(&rig, &[], old_certificate).await.is_err());
    old.write(Ask::get("/livez").bytes("close")).await;
    old.answer().await.unwrap().is_ok();
}

#[tokio::test]
async fn plain_bytes_on_the_tls_port_harm_nobody() {
    let rig = Rig::new().await;
    let mut plain = Client::connect(rig.https()).await;
    plain.try_write(Ask::get("/livez").bytes("close")).await;
    assert!(plain.answer().await.is_none());
    let counted = "tracklog_gateway_tls_handshakes_failed_total 1";
    assert!(rig.metrics().contains(counted), "{}", rig.metrics());
    assert!(connect(&rig, &[]).await.is_ok());
}
