//! Bodies in every coding, and in none of them.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

use super::client::Ask;
use super::rig::{KEY, Rig, Setup, batch, ids, track};

fn gzip(text: impl AsRef<[u8]>) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_ref()).unwrap();
    encoder.finish().unwrap()
}

fn coded(coding: &str, body: Vec<u8>) -> Ask {
    Ask::post("/v1/track", body).key(KEY).header("content-encoding", coding)
}

#[tokio::test]
async fn gzip_deflate_and_zstd_are_understood() {
    let rig = Rig::new().await;
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
    zlib.write_all(track("c-deflate").as_bytes()).unwrap();
    rig.ask(coded("deflate", zlib.finish().unwrap())).await.is_ok();
    rig.ask(coded("gzip", gzip(track("a-gzip")))).await.is_ok();
    rig.ask(coded("x-gzip", gzip(track("b-x-gzip")))).await.is_ok();
    let zstd = zstd::stream::encode_all(track("e-zstd").as_bytes(), 3).unwrap();
    rig.ask(coded("zstd", zstd)).await.is_ok();
    rig.ask(coded("identity", track("d-identity").into())).await.is_ok();
    let stored = rig.raw().await;
    assert_eq!(ids(&stored), ["a-gzip", "b-x-gzip", "c-deflate", "d-identity", "e-zstd"]);
}

#[tokio::test]
async fn gzip_is_told_by_its_bytes_whatever_the_header_says() {
    let rig = Rig::new().await;
    rig.ask(coded("zstd", gzip(track("m")))).await.is_ok();
    rig.post("/v1/track", gzip(track("n"))).await.is_ok();
    assert_eq!(ids(&rig.raw().await), ["m", "n"]);
}

#[tokio::test]
async fn codings_that_are_not_spoken_and_layers_of_them_are_415() {
    let rig = Rig::new().await;
    for coding in ["br", "gzip, gzip", "compress", "aws-chunked"] {
        rig.ask(coded(coding, track("m").into())).await.refuses(415, "unsupported_encoding");
    }
    let nested = gzip(gzip(track("m")));
    assert_eq!(rig.ask(coded("gzip", nested)).await.status, 400, "one layer is undone");
    assert_eq!(rig.counts().await, (0, 0));
}

#[tokio::test]
async fn a_body_that_swells_over_the_limit_is_413_and_costs_no_more_memory() {
    let rig = Setup::new().change_source(|source| source.decoded_bytes_max = 1 << 20).start().await;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let blanks = vec![b' '; 1 << 20];
    for _ in 0..200 {
        encoder.write_all(&blanks).unwrap();
    }
    let bomb = encoder.finish().unwrap();
    assert!(bomb.len() < 1 << 20, "it is taken as sent");
    rig.ask(coded("gzip", bomb)).await.refuses(413, "too_large");
    rig.still_serves().await;
}

#[tokio::test]
async fn a_large_compressed_batch_is_stored_whole() {
    let rig = Rig::new().await;
    let events: Vec<_> = (0..10_000).map(|number| track(&format!("m{number}"))).collect();
    let body = gzip(batch(&events, ""));
    rig.ask(Ask::post("/v1/batch", body).key(KEY)).await.is_ok();
    assert_eq!(rig.counts().await, (10_000, 0));
}

#[tokio::test]
async fn damaged_bodies_are_400_and_counted_and_not_quarantined() {
    let rig = Rig::new().await;
    let whole = gzip(track("m"));
    for end in [2, 5, 10, 20, whole.len() - 8, whole.len() - 1] {
        rig.ask(coded("gzip", whole[..end].to_vec())).await.refuses(400, "invalid_json");
    }
    assert_eq!(rig.counts().await, (0, 0));
    let line = r#"tracklog_gateway_bodies_unreadable_total{code="invalid_json"} 6"#;
    assert!(rig.metrics().contains(line), "{}", rig.metrics());
}
