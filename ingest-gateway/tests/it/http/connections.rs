//! Connections: how many, how long, and what a slow or rude client costs.

use std::time::Duration;

use serde_json::json;
use tokio::net::TcpStream;
use tracklog_ingest_gateway::GatewayConfig;
use tracklog_ingest_gateway::client_ip::TrustedProxies;

use super::client::{Ask, Client, PATIENCE, basic};
use super::rig::{KEY, Rig, Setup, ids, track, track_with};

async fn with(change: impl FnOnce(&mut GatewayConfig)) -> Rig {
    Setup::new().change(change).start().await
}

const SOON: Duration = Duration::from_millis(150);

#[tokio::test]
async fn a_head_that_does_not_end_is_closed_and_others_are_served() {
    let rig = with(|config| config.connections.head_timeout = SOON).await;
    let mut slow = Client::connect(rig.http()).await;
    slow.write("POST /v1/track HTTP/1.1\r\nhost: ").await;
    let mut silent = Client::connect(rig.http()).await;
    let mut dribbling = Client::connect(rig.http()).await;
    let dribble = async {
        // A byte now and then does not prolong the time for a head.
        while dribbling.try_write("G").await {
            tokio::time::sleep(SOON / 10).await;
        }
    };
    rig.still_serves().await;
    tokio::time::timeout(PATIENCE, dribble).await.expect("the dribbling client is cut off");
    assert!(slow.is_closed().await);
    assert!(silent.is_closed().await);
}

#[tokio::test]
async fn an_idle_connection_is_kept_for_its_time_and_then_closed() {
    let rig = with(|config| {
        config.connections.head_timeout = SOON;
        config.connections.idle_timeout = SOON * 6;
    })
    .await;
    let ask = Ask::get("/livez").bytes("keep-alive");
    let mut client = Client::connect(rig.http()).await;
    client.write(&ask).await;
    client.answer().await.unwrap().is_ok();
    tokio::time::sleep(SOON * 2).await;
    client.write(&ask).await;
    client.answer().await.expect("the idle time is not over").is_ok();
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_body_that_comes_too_slowly_is_408_and_closed() {
    let rig = with(|config| config.requests.body_grace = SOON).await;
    let mut client = Client::connect(rig.http()).await;
    let head = format!(
        "POST /v1/track HTTP/1.1\r\nhost: x\r\nauthorization: {}\r\ncontent-length: 100\r\n\r\n{{",
        basic(KEY)
    );
    client.write(head).await;
    client.answer().await.unwrap().refuses(408, "unavailable");
    assert!(client.is_closed().await);
    rig.still_serves().await;
}

#[tokio::test]
async fn chunks_without_end_are_cut_at_the_limit_of_time() {
    let rig = with(|config| config.requests.body_timeout = SOON).await;
    let mut client = Client::connect(rig.http()).await;
    let head = format!(
        "POST /v1/track HTTP/1.1\r\nhost: x\r\nauthorization: {}\r\n\
         transfer-encoding: chunked\r\n\r\n",
        basic(KEY)
    );
    client.write(head).await;
    let endless = async {
        while client.try_write("1\r\n \r\n").await {
            tokio::time::sleep(SOON / 20).await;
        }
    };
    tokio::time::timeout(PATIENCE, endless).await.expect("the connection is closed");
    rig.still_serves().await;
}

#[tokio::test]
async fn a_client_that_reads_no_answers_is_closed() {
    let rig = with(|config| config.connections.write_timeout = SOON).await;
    let mut client = Client::connect(rig.http()).await;
    let ask = Ask::get("/").bytes("keep-alive").repeat(200);
    let flood = async { while client.try_write(&ask).await {} };
    tokio::time::timeout(PATIENCE, flood).await.expect("the connection is closed");
    rig.still_serves().await;
}

/// Clients of one address that hold a connection each.
async fn hold(rig: &Rig, count: usize) -> Vec<Client<TcpStream>> {
    let mut held = Vec::new();
    for _ in 0..count {
        let mut client = Client::connect(rig.http()).await;
        client.write(Ask::get("/livez").bytes("keep-alive")).await;
        client.answer().await.unwrap().is_ok();
        held.push(client);
    }
    held
}

#[tokio::test]
async fn an_address_above_its_share_of_connections_is_answered_health_checks_alone() {
    let rig = with(|config| config.connections.address_connections_max = 2).await;
    let mut held = hold(&rig, 2).await;
    held[1].write(Ask::post("/v1/track", track("in")).key(KEY).bytes("keep-alive")).await;
    held[1].answer().await.unwrap().is_ok();
    let mut above = Client::connect(rig.http()).await;
    for health in ["/livez", "/health", "/readyz"] {
        above.write(Ask::get(health).bytes("keep-alive")).await;
        above.answer().await.unwrap().is_ok();
    }
    above.write(Ask::post("/v1/track", track("out")).key(KEY).bytes("keep-alive")).await;
    let answer = above.answer().await.expect("a word on why");
    answer.refuses(429, "overloaded");
    assert_eq!(answer.header("retry-after").as_deref(), Some("1"));
    assert_eq!(answer.header("connection").as_deref(), Some("close"));
    assert!(above.is_closed().await);
    let counted = r#"tracklog_gateway_connections_refused_total{reason="address"} 1"#;
    assert!(rig.metrics().contains(counted), "{}", rig.metrics());
    assert_eq!(ids(&rig.raw().await), ["in"]);
    // Who leaves makes room.
    held.clear();
    let again = async {
        let ask = Ask::post("/v1/track", track("again")).key(KEY);
        while rig.ask(ask.clone()).await.status != 200 {}
    };
    tokio::time::timeout(PATIENCE, again).await.expect("room is made");
}

#[tokio::test]
async fn twice_its_share_of_connections_is_all_that_an_address_can_hold() {
    let rig = with(|config| config.connections.address_connections_max = 2).await;
    let held = hold(&rig, 4).await;
    let mut refused = Client::connect(rig.http()).await;
    refused.try_write(Ask::get("/livez").bytes("close")).await;
    let answer = refused.answer().await.expect("a word on why");
    answer.refuses(429, "overloaded");
    assert_eq!(answer.header("retry-after").as_deref(), Some("1"));
    assert!(refused.is_closed().await);
    drop(held);
}

#[tokio::test]
async fn trusted_proxies_may_have_more_connections() {
    let rig = with(|config| {
        config.connections.address_connections_max = 1;
        config.trusted_proxies = TrustedProxies::new(vec!["127.0.0.0/8".parse().unwrap()]);
    })
    .await;
    for client in &mut hold(&rig, 5).await {
        client.write(Ask::get("/").bytes("keep-alive")).await;
        client.answer().await.unwrap().is_ok();
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let rig = Rig::new().await;
    let mut client = Client::connect(rig.http()).await;
    let mut bytes = Vec::new();
    for number in 0..20 {
        let id = format!("m{number:02}");
        bytes.extend(Ask::post("/v1/events", track(&id)).key(KEY).bytes("keep-alive"));
        bytes.extend(Ask::post("/v1/track", "{").key(KEY).bytes("keep-alive"));
    }
    client.write(bytes).await;
    for _ in 0..20 {
        assert_eq!(client.answer().await.unwrap().json()["results"][0]["status"], "stored");
        assert_eq!(client.answer().await.unwrap().status, 400);
    }
    assert_eq!(rig.counts().await, (20, 0));
}

#[tokio::test]
async fn http_1_0_is_served_and_closed() {
    let rig = Rig::new().await;
    let body = track("m");
    let request = format!(
        "POST /v1/track HTTP/1.0\r\nauthorization: {}\r\ncontent-length: {}\r\n\r\n{body}",
        basic(KEY),
        body.len()
    );
    let mut client = Client::connect(rig.http()).await;
    client.write(request).await;
    client.answer().await.unwrap().is_ok();
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_client_that_closes_its_half_still_gets_its_answer() {
    use tokio::io::AsyncWriteExt as _;
    let rig = Rig::new().await;
    rig.log.hold();
    let mut client = Client::connect(rig.http()).await;
    client.write(Ask::post("/v1/track", track("m")).key(KEY).bytes("keep-alive")).await;
    client.stream.shutdown().await.unwrap();
    rig.log.release();
    client.answer().await.expect("an answer").is_ok();
}

#[tokio::test]
async fn what_a_client_left_behind_is_stored_and_stops_nobody() {
    let rig = Rig::new().await;
    let mut client = Client::connect(rig.http()).await;
    client.write(Ask::post("/v1/track", track("m")).key(KEY).bytes("keep-alive")).await;
    let stored = async {
        while rig.counts().await.0 == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, stored).await.expect("it is stored");
    drop(client);
    let mut half = Client::connect(rig.http()).await;
    half.write(&Ask::post("/v1/track", track("n")).key(KEY).bytes("close")[..150]).await;
    drop(half);
    rig.still_serves().await;
    assert_eq!(ids(&rig.raw().await), ["m", "still"]);
}

#[tokio::test]
async fn the_client_address_is_the_peers_unless_a_trusted_proxy_names_another() {
    // As a server's SDK sends: the address of its user is in the context.
    let said = r#","channel":"server","context":{"ip":"192.0.2.55"}"#;
    let spoof = Ask::post("/v1/track", track_with("m", said))
        .key(KEY)
        .header("x-forwarded-for", "203.0.113.9, 198.51.100.7")
        .header("forwarded", "for=203.0.113.1")
        .header("cf-ipcountry", "XX")
        .header("accept-language", "de");
    let rig = Rig::new().await;
    rig.ask(spoof.clone()).await.is_ok();
    let line = rig.raw().await[0].to_string();
    assert!(line.contains("127.0.0.1") && line.contains("accept-language"), "{line}");
    for told in ["203.0.113", "198.51.100", "cf-ipcountry"] {
        assert!(!line.contains(told), "{told} was believed: {line}");
    }
    let nets = vec!["127.0.0.0/8".parse().unwrap(), "198.51.100.0/24".parse().unwrap()];
    let rig = with(|config| config.trusted_proxies = TrustedProxies::new(nets)).await;
    rig.ask(spoof).await.is_ok();
    let line = &rig.raw().await[0];
    let addresses = (&line["clientAddress"], &line["peerAddress"]);
    assert_eq!(addresses, (&json!("203.0.113.9"), &json!("127.0.0.1")));
    assert_eq!(line["context"]["ip"], "192.0.2.55");
    assert_eq!(line["headers"][1]["name"], "cf-ipcountry");
}
