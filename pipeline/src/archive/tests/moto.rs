//! The program `moto_server`, which plays S3: Python's package `moto[server]`, of
//! `$TRACKLOG_MOTO_SERVER`, else of the path. Where it is not there the tests say so, past the
//! harness's capture. For the tests of this room, and of the command that has all rooms.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// A server with a bucket, which ends with its test.
pub(super) struct Moto {
    process: Child,
    port: u16,
}

impl Moto {
    pub(super) fn start() -> Option<Self> {
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
        let moto = Self { process, port };
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

    /// The bucket below `prefix`.
    pub(super) fn url(&self, prefix: &str) -> String {
        format!("s3://events/{prefix}")
    }

    /// By which clients find it, as environment variables in lower case.
    pub(super) fn settings(&self) -> [(String, String); 5] {
        let settings = [
            ("aws_endpoint", &*format!("http://127.0.0.1:{}", self.port)),
            ("aws_allow_http", "true"),
            ("aws_access_key_id", "nobody"),
            ("aws_secret_access_key", "nothing"),
            ("aws_region", "us-east-1"),
        ];
        settings.map(|(name, value)| (name.to_owned(), value.to_owned()))
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        // It may have ended already, and that is fine.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
