//! The archive in S3, as the program `moto_server` plays it: what a store over HTTP does otherwise
//! than one in memory, such as conditions on writes and lists by pages.
//!
//! `moto_server` is Python's package `moto[server]`: of `$TRACKLOG_MOTO_SERVER`, else of the path.
//! Where it is not there the tests say so, past the harness's capture.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use object_store::ObjectStore;
use tokio::runtime::{Builder, Runtime};
use tracklog_log::conformance::block_on;

use super::crashes::{Random, World};
use super::faulty::Fault;
use crate::archive::layout;
use crate::archive::store::{Created, Store, StoreError, cloud_by};

const PATIENCE: Duration = Duration::from_secs(60);

/// A server that ends with its test, and what its clients run on.
struct Moto {
    process: Child,
    port: u16,
    runtime: Runtime,
}

impl Moto {
    fn start() -> Option<Self> {
        let program = std::env::var_os("TRACKLOG_MOTO_SERVER");
        let program = program.unwrap_or_else(|| "moto_server".into());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        let Ok(process) = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
            let why = "SKIPPED an archive in S3: Python's package `moto[server]` is not installed";
            writeln!(io::stderr(), "{why}").expect("standard error is open");
            return None;
        };
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let moto = Self { process, port, runtime };
        moto.make_bucket();
        Some(moto)
    }

    /// Asks until the server is there.
    fn make_bucket(&self) {
        let began = Instant::now();
        let ask = || -> io::Result<String> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            let request = "PUT /events HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\
                           Content-Length: 0\r\n\r\n";
            stream.write_all(request.as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        loop {
            let answer = ask();
            if answer.as_ref().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{answer:?}");
            // Another's process tells nobody when it is there.
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    fn objects(&self, prefix: &str) -> Arc<dyn ObjectStore> {
        let settings = [
            ("aws_endpoint", &*format!("http://127.0.0.1:{}", self.port)),
            ("aws_allow_http", "true"),
            ("aws_access_key_id", "nobody"),
            ("aws_secret_access_key", "nothing"),
            ("aws_region", "us-east-1"),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        cloud_by(&format!("s3://events/{prefix}"), settings).unwrap()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        // It may have ended already, and that is fine.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

#[test]
fn an_archive_in_s3_is_written_verified_and_read_over_crashes_and_lost_replies() {
    let Some(moto) = Moto::start() else { return };
    let _entered = moto.runtime.enter();
    for seed in 0..3 {
        let mut world = World::over(moto.objects(&format!("archive-{seed}")));
        let mut random = Random(seed);
        for _ in 0..4 {
            world.write(10 + random.below(30));
            let life = random.below(1 << 40);
            world.live(move |at| match Random(life ^ (at << 20)).below(12) {
                0 => Fault::KilledBefore,
                1 => Fault::KilledAfter,
                2 => Fault::Refused,
                3 => Fault::ReplyLost,
                _ => Fault::None,
            });
        }
        world.write(1);
        assert!(world.live(|_| Fault::None), "seed {seed}");
        world.check();
    }
}

#[test]
fn s3_creates_once_and_lists_all_numbers() {
    let Some(moto) = Moto::start() else { return };
    let _entered = moto.runtime.enter();
    let store = Store::of(moto.objects("numbers"), "s3://events/numbers");
    let create = |number: u64, text: &str| {
        block_on(store.create(&layout::manifest(number), Bytes::copy_from_slice(text.as_bytes())))
    };
    assert_eq!(create(0, "one").unwrap(), Created::Ours);
    assert_eq!(create(0, "one").unwrap(), Created::Ours, "an answer may have been lost");
    assert_eq!(create(0, "another").unwrap(), Created::Taken);
    assert_eq!(block_on(store.get(&layout::manifest(0))).unwrap(), "one");
    let absent = block_on(store.get(&layout::manifest(7)));
    assert!(matches!(absent, Err(StoreError::NotFound { .. })), "{absent:?}");
    // A page of a list has a thousand.
    (1..1_050).for_each(|number| assert_eq!(create(number, "").unwrap(), Created::Ours));
    let numbers = |first| block_on(store.manifests(first)).unwrap();
    assert_eq!(numbers(0), (0..1_050).collect::<Vec<_>>());
    assert_eq!(numbers(1_020), (1_020..1_050).collect::<Vec<_>>());
}
