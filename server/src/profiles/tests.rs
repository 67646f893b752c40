//! Real servers, on ports and in folders of their own; where they are not installed the tests say so.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tracklog_log::Pending;
use tracklog_log::conformance::block_on;
use tracklog_log::memory::{MemoryLog, MemoryOptions};
use tracklog_log::{Domain, Log};
use tracklog_pipeline::enrich::profile::external::ExternalProfile;
use tracklog_pipeline::enrich::{Enricher, Enrichment};
use tracklog_pipeline::stage::Time;
use tracklog_pipeline::state::{MemoryStore, State, StateOptions};
use tracklog_protocol::TimeMicros;
use tracklog_protocol::event::{EventBuilder, EventParts, EventView};

use super::client;
use crate::clock;
use crate::config::{Flags, ProfileSettings, Settings};
use crate::node::Node;
use crate::replay::{Query, Replay, Step};

/// A server starts, and a client finds it again, within this time, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that ends with its test.
struct Server {
    process: Child,
    port: u16,
}

impl Server {
    fn kill(&mut self) {
        self.process.kill().expect("it was started here");
        self.process.wait().expect("and ends");
    }

    /// It takes connections, and answers nobody until it is told to.
    fn freeze(&self) {
        signal(&self.process, "STOP");
    }

    fn thaw(&self) {
        signal(&self.process, "CONT");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already, and that is fine.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Past the harness's capture, which shows only what tests that fail print.
fn say(what: &str) {
    writeln!(io::stderr(), "{what}").expect("standard error is open");
}

/// To the process and all that it started.
fn signal(process: &Child, name: &str) {
    let group = format!("-{}", process.id());
    let sent = Command::new("kill").args(["-s", name, "--", &group]).status();
    assert!(sent.expect("there is a kill").success());
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Tries until it works; the last word where it never does.
fn eventually<T, E: std::fmt::Debug>(what: &str, mut attempt: impl FnMut() -> Result<T, E>) -> T {
    let began = Instant::now();
    loop {
        match attempt() {
            Ok(done) => return done,
            Err(error) if began.elapsed() > PATIENCE => panic!("{what}: {error:?}"),
            // Somebody else's process tells nobody when it is there.
            Err(_) => std::thread::park_timeout(Duration::from_millis(20)),
        }
    }
}

/// A node's enricher over `settings`, asked for one user and one group at a time.
struct Desk {
    runtime: Runtime,
    state: State<MemoryLog>,
    profile: ExternalProfile,
}

struct NodeTime;

impl Time for NodeTime {
    fn now(&self) -> TimeMicros {
        clock::now()
    }

    fn pause(&self, span: Duration) -> Pending<'static, ()> {
        Box::pin(tokio::time::sleep(span))
    }
}

impl Desk {
    fn new(settings: &str) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        // Nothing is known for longer than a look.
        let settings: ProfileSettings =
            toml::from_str(&format!("{settings}\ncache_ttl = \"0s\"")).unwrap();
        let store = client(&settings).unwrap().unwrap();
        let options = settings.external_options(false);
        let profile = ExternalProfile::new(store, options, Arc::new(NodeTime), clock::nanos);
        let memory = MemoryOptions { clock: Arc::new(clock::now), budget_bytes: 1 << 20 };
        let log = Arc::new(MemoryLog::new(memory));
        let state = block_on(async {
            log.open(Domain::WHOLE).await.unwrap();
            State::open(log, Arc::new(MemoryStore::new()), StateOptions::default()).await.unwrap()
        });
        Self { runtime, state, profile }
    }

    /// Traits of the user and of the group; else the failure that the event would name.
    fn look(&self, user: &str, group: &str) -> Result<[Option<String>; 2], String> {
        let parts = EventParts {
            message_id: "m",
            user_id: Some(user).filter(|id| !id.is_empty()),
            group_id: Some(group).filter(|id| !id.is_empty()),
            ..EventParts::default()
        };
        let mut builder = EventBuilder::new();
        let event = EventView::of(builder.build(&parts)).unwrap();
        let mut state = block_on(self.state.begin(self.state.partition())).unwrap();
        if let Some(fetching) = self.profile.prepare(&mut std::iter::once(event), &mut state) {
            self.runtime.block_on(fetching);
        }
        let mut found = Enrichment::default();
        let looked = self.profile.enrich(&event, &mut state, &mut found);
        looked.map_err(|failure| failure.to_string())?;
        let seen = found.profile.unwrap_or_default();
        Ok([seen.user_traits, seen.group_traits].map(|it| it.map(|text| text.to_string())))
    }

    fn user(&self, user: &str) -> Result<Option<String>, String> {
        self.look(user, "").map(|[user, _]| user)
    }

    /// Asks until the breaker opens, and says how the last failure was told.
    fn until_it_opens(&self) -> String {
        let mut told = String::new();
        while !self.profile.breaker().0 {
            told = self.user("alice").expect_err("it does not answer");
        }
        let refused = self.user("alice").unwrap_err();
        assert!(refused.contains("is not asked for a while"), "{refused}");
        told
    }

    /// What the user has once the store answers again.
    fn when_it_is_back(&self) -> Option<String> {
        let traits = eventually("the store is back", || self.user("alice"));
        assert!(!self.profile.breaker().0, "and the breaker closed");
        traits
    }
}

const PRO: &str = r#"{"plan":"pro"}"#;

// Redis.

fn redis(port: u16) -> Option<Server> {
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
    command.args(["--appendonly", "no"]).process_group(0);
    match command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
        Ok(process) => Some(Server { process, port }),
        Err(error) => {
            say(&format!("SKIPPED profiles in Redis: there is no redis-server: {error}"));
            None
        }
    }
}

fn fill_redis(port: u16, commands: &[&[&str]]) {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
    let mut connection = eventually("Redis starts", || client.get_connection());
    for words in commands {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.exec(&mut connection).unwrap();
    }
}

fn redis_settings(port: u16, more: &str) -> String {
    format!(
        "store = \"redis\"\nurl = \"redis://127.0.0.1:{port}\"\ntimeout = \"2s\"\n\
         user_key = \"user:{{id}}\"\n{more}"
    )
}

#[test]
fn redis_has_profiles_as_json_in_one_round_trip() {
    let Some(server) = redis(free_port()) else { return };
    let set = [
        &["SET", "user:alice", PRO][..],
        &["SET", "group:acme", r#"{"seats": 5}"#],
        &["SET", "user:broken", "no JSON"],
        &["LPUSH", "user:list", "x"],
        &["SET", "user:bytes", "\u{fffd}"],
    ];
    fill_redis(server.port, &set);
    let desk = Desk::new(&redis_settings(server.port, "group_key = \"group:{id}\""));
    let seats = Some(r#"{"seats": 5}"#.to_owned());
    assert_eq!(desk.look("alice", "acme"), Ok([Some(PRO.to_owned()), seats]));
    assert_eq!(desk.profile.counters().answered.count(), 1);
    assert_eq!(desk.look("bob", "none"), Ok([None, None]));
    assert!(desk.user("broken").unwrap_err().contains("no JSON object"));
    assert_eq!(desk.user("list"), Ok(None), "MGET says of other types that nothing is there");
}

#[test]
fn redis_has_profiles_as_hashes_and_a_value_of_another_type_fails_its_user_alone() {
    let Some(server) = redis(free_port()) else { return };
    let set = [&["HSET", "user:alice", "plan", "pro", "age", "31"][..], &["SET", "user:text", "x"]];
    fill_redis(server.port, &set);
    let desk = Desk::new(&redis_settings(server.port, "layout = \"hash\""));
    assert_eq!(desk.user("alice"), Ok(Some(r#"{"age":"31","plan":"pro"}"#.to_owned())));
    assert_eq!(desk.user("bob"), Ok(None));
    assert!(desk.user("text").unwrap_err().contains("no hash of texts"));
    assert_eq!(desk.profile.breaker(), (false, 0));
    assert_eq!(desk.look("alice", "acme").unwrap()[1], None, "groups have no key here");
}

#[test]
fn redis_may_die_and_come_back() {
    let port = free_port();
    let Some(mut server) = redis(port) else { return };
    fill_redis(port, &[&["SET", "user:alice", PRO]]);
    let desk = Desk::new(&redis_settings(port, ""));
    assert_eq!(desk.user("alice"), Ok(Some(PRO.to_owned())));
    server.kill();
    let told = desk.until_it_opens();
    assert!(told.starts_with("redis: "), "{told}");
    let _server = redis(port).unwrap();
    fill_redis(port, &[&["SET", "user:alice", PRO]]);
    assert_eq!(desk.when_it_is_back().as_deref(), Some(PRO));
}

#[test]
fn redis_that_hangs_is_given_up_and_asked_again_when_it_answers() {
    let Some(server) = redis(free_port()) else { return };
    fill_redis(server.port, &[&["SET", "user:alice", PRO]]);
    let desk = Desk::new(&redis_settings(server.port, "").replace("\"2s\"", "\"100ms\""));
    eventually("it answers", || desk.user("alice"));
    server.freeze();
    let told = desk.until_it_opens();
    assert_eq!(told, "redis did not answer within 100 ms");
    server.thaw();
    assert_eq!(desk.when_it_is_back().as_deref(), Some(PRO));
}

#[test]
fn a_node_s_events_get_profiles_from_redis_and_its_metrics_tell_how_often_it_was_asked() {
    let Some(server) = redis(free_port()) else { return };
    fill_redis(server.port, &[&["SET", "user:alice", PRO]]);
    let folder = TempDir::new().unwrap();
    let config = folder.path().join("tracklog.toml");
    let text =
        format!("slot_bytes = \"16 MiB\"\n[enrich.profile]\n{}", redis_settings(server.port, ""));
    fs::write(&config, text).unwrap();
    let flags = Flags {
        config: Some(config),
        data: Some(folder.path().join("data")),
        http: Some("127.0.0.1:0".to_owned()),
        https: Some("off".to_owned()),
        ..Flags::default()
    };
    let settings = Settings::load(&flags, []).unwrap();
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let node = runtime.block_on(Node::start(&settings)).unwrap();
    let events = r#"{"type":"identify","anonymousId":"d","userId":"alice","traits":{"plan":"x"}}
                    {"type":"track","event":"Bought","anonymousId":"d"}"#;
    let target = format!("/v1/events?writeKey={}", node.default_key().text);
    let answer = ask(node.http().unwrap(), &format!("POST {target}"), events);
    assert_eq!(answer.matches("stored").count(), 2, "{answer}");
    let lines = eventually("both are enriched", || {
        let lines = runtime.block_on(enriched(&node));
        if lines.lines().count() == 2 { Ok(lines) } else { Err(lines) }
    });
    assert_eq!(lines.matches(r#""traits":{"plan":"pro"}"#).count(), 2, "{lines}");
    assert_eq!(lines.matches("profile@1/redis").count(), 2, "{lines}");
    let metrics = ask(node.http().unwrap(), "GET /metrics", "");
    for line in [
        "tracklog_profile_store_requests_total{store=\"redis\",result=\"answered\"} 1",
        "tracklog_profile_store_breaker_open{store=\"redis\"} 0",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    runtime.block_on(node.stop());
}

/// The whole answer to a request.
fn ask(address: SocketAddr, what: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    let head =
        format!("{what} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}");
    stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

async fn enriched(node: &Node) -> String {
    let topic = node.log().topic("enriched").unwrap();
    let mut replay = Replay::open(node.log(), topic, Query::default()).await.unwrap();
    let mut lines = Vec::new();
    while replay.next(&mut lines).await.unwrap() == Step::More {}
    String::from_utf8(lines).unwrap()
}

// PostgreSQL.

/// The programs of the newest PostgreSQL here.
fn postgres_programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<_> = versions.map(|version| version.path().join("bin")).collect();
    folders.sort();
    folders.into_iter().rev().find(|folder| folder.join("initdb").exists())
}

/// As whom PostgreSQL runs, which refuses to be root.
fn unprivileged(program: &Path) -> Command {
    let id = |flag| Command::new("id").args([flag, "postgres"]).output().unwrap();
    let number = |flag| String::from_utf8(id(flag).stdout).unwrap().trim().parse::<u32>();
    let is_root = fs::metadata("/proc/self").is_ok_and(|own| {
        use std::os::unix::fs::MetadataExt as _;
        own.uid() == 0
    });
    let mut command = Command::new(program);
    if is_root {
        command.uid(number("-u").unwrap()).gid(number("-g").unwrap());
    }
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// A cluster in a folder of its own.
struct Cluster {
    programs: PathBuf,
    folder: TempDir,
    port: u16,
}

impl Cluster {
    fn new() -> Option<Self> {
        let Some(programs) = postgres_programs() else {
            say("SKIPPED profiles in PostgreSQL: it is not installed");
            return None;
        };
        let folder = TempDir::new().unwrap();
        // Everybody may go in: who initialises it is another user.
        let open = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o777);
        fs::set_permissions(folder.path(), open).unwrap();
        let cluster = Self { programs, folder, port: free_port() };
        let made = unprivileged(&cluster.programs.join("initdb"))
            .args(["--auth", "trust", "--username", "tracklog", "--no-sync", "-D"])
            .arg(cluster.data())
            .status();
        assert!(made.unwrap().success(), "a cluster is made");
        Some(cluster)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn start(&self) -> Server {
        let mut command = unprivileged(&self.programs.join("postgres"));
        command.arg("-D").arg(self.data()).args(["-p", &self.port.to_string()]);
        command.args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-k"]);
        command.arg(self.folder.path()).process_group(0);
        let process = command.spawn().unwrap();
        Server { process, port: self.port }
    }

    /// After one that was killed: as long as a process of that one is left, a new one ends at once.
    fn start_again(&self) -> Server {
        let mut server = self.start();
        eventually("PostgreSQL starts again", || {
            if server.process.try_wait().unwrap().is_some() {
                server = self.start();
            }
            self.try_to_run("")
        });
        server
    }

    fn url(&self) -> String {
        format!("postgres://tracklog@127.0.0.1:{}/postgres", self.port)
    }

    fn run(&self, statements: &str) {
        eventually("PostgreSQL starts", || self.try_to_run(statements));
    }

    fn try_to_run(&self, statements: &str) -> Result<(), tokio_postgres::Error> {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (client, connection) =
                tokio_postgres::connect(&self.url(), tokio_postgres::NoTls).await?;
            let driving = tokio::spawn(connection);
            let ran = client.batch_execute(statements).await;
            drop(client);
            driving.await.unwrap().and(ran)
        })
    }

    fn settings(&self, more: &str) -> String {
        format!("store = \"postgres\"\nurl = \"{}\"\ntimeout = \"5s\"\n{more}", self.url())
    }
}

const USERS: &str = "user_query = \"SELECT id, traits FROM users WHERE id = ANY($1)\"";
const TABLE: &str = "DROP TABLE IF EXISTS users; CREATE TABLE users (id text PRIMARY KEY, traits jsonb); \
                     INSERT INTO users VALUES ('alice', '{\"plan\": \"pro\"}'), ('bob', NULL);";
const STORED: &str = r#"{"plan": "pro"}"#;

#[test]
fn postgres_has_profiles_of_users_and_groups_in_one_round_trip() {
    let Some(cluster) = Cluster::new() else { return };
    let _server = cluster.start();
    cluster.run(TABLE);
    cluster.run(
        "CREATE TABLE groups (number int, name text, seats int); \
                 INSERT INTO groups VALUES (7, 'acme', 5);",
    );
    let groups = "group_query = \"SELECT number::text, json_build_object('seats', seats) FROM groups \
                  WHERE number::text = ANY($1)\"";
    let desk = Desk::new(&cluster.settings(&[USERS, groups].join("\n")));
    let seats = Some(r#"{"seats" : 5}"#.to_owned());
    assert_eq!(desk.look("alice", "7"), Ok([Some(STORED.to_owned()), seats]));
    assert_eq!(desk.profile.counters().answered.count(), 1);
    assert_eq!(desk.look("bob", "8"), Ok([None, None]), "a row without traits, and no row");
}

#[test]
fn a_query_that_gives_something_else_is_told_with_the_event() {
    let Some(cluster) = Cluster::new() else { return };
    let _server = cluster.start();
    cluster.run(TABLE);
    for (query, told) in [
        ("SELECT 7, traits FROM users WHERE id = ANY($1)", "its ids are of type int4"),
        ("SELECT id FROM users WHERE id = ANY($1)", "it gives 1 columns"),
        ("SELECT id, 7 FROM users WHERE id = ANY($1)", "its traits are of type int4"),
        (
            "SELECT id, traits FROM nobody WHERE id = ANY($1)",
            "relation \\\"nobody\\\" does not exist",
        ),
    ] {
        let desk = Desk::new(&cluster.settings(&format!("user_query = \"{query}\"")));
        let failure = desk.user("alice").unwrap_err();
        assert!(failure.contains(&told.replace('\\', "")), "{query}: {failure}");
    }
    let text = "user_query = \"SELECT id, 'no JSON' FROM users WHERE id = ANY($1)\"";
    let failure = Desk::new(&cluster.settings(text)).user("alice").unwrap_err();
    assert!(failure.contains("no JSON object"), "{failure}");
}

#[test]
fn postgres_may_die_and_come_back() {
    let Some(cluster) = Cluster::new() else { return };
    let mut server = cluster.start();
    cluster.run(TABLE);
    let desk = Desk::new(&cluster.settings(USERS));
    assert_eq!(desk.user("alice"), Ok(Some(STORED.to_owned())));
    signal(&server.process, "KILL");
    server.process.wait().unwrap();
    let told = desk.until_it_opens();
    assert!(told.starts_with("postgres: "), "{told}");
    let _server = cluster.start_again();
    assert_eq!(desk.when_it_is_back().as_deref(), Some(STORED));
}

#[test]
fn postgres_that_is_slow_is_given_up_and_asked_again_when_it_answers() {
    let Some(cluster) = Cluster::new() else { return };
    let _server = cluster.start();
    cluster.run(TABLE);
    cluster.run("CREATE TABLE slowness (seconds float); INSERT INTO slowness VALUES (0);");
    let slow = "user_query = \"SELECT id, traits FROM users, slowness, pg_sleep(seconds) \
                WHERE id = ANY($1)\"";
    let desk = Desk::new(&cluster.settings(slow).replace("\"5s\"", "\"300ms\""));
    eventually("it answers", || desk.user("alice"));
    cluster.run("UPDATE slowness SET seconds = 3");
    let told = desk.until_it_opens();
    assert_eq!(told, "postgres did not answer within 300 ms");
    cluster.run("UPDATE slowness SET seconds = 0");
    assert_eq!(desk.when_it_is_back().as_deref(), Some(STORED));
}
