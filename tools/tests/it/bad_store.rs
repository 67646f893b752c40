//! What stands between a node and its object store on a bad day: a proxy that refuses, delays, cuts
//! answers, and loses those to what it handed on.
//!
//! What becomes of a request is a function of the seed, its method and path, and how often that was
//! asked; after [`IN_A_ROW_MAX`] faults in a row it goes through, so whoever tries again gets on.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// No answer of the store takes longer.
const PATIENCE: Duration = Duration::from_secs(60);
const HEAD_BYTES_MAX: usize = 64 << 10;
const IN_A_ROW_MAX: u32 = 3;
const LATE: Duration = Duration::from_millis(200);

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    Good,
    /// It is answered 500, or 503, and not handed on.
    Refused(u16),
    Late,
    /// It is handed on, and the connection ends without an answer.
    AnswerLost,
    AnswerCut,
}

/// The proxy. It ends with its test's process.
pub(crate) struct BadStore {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

/// What came by.
#[derive(Default)]
struct Seen {
    seed: u64,
    /// By method and path: how often it came, and how many faults in a row that were.
    asked: BTreeMap<String, (u64, u32)>,
    /// How many requests had which fate.
    fates: BTreeMap<Fate, u64>,
    /// Creations whose answer was lost, and those of which the store then said that the object is
    /// there already.
    lost: BTreeMap<String, bool>,
}

impl Seen {
    fn fate(&mut self, what: &str) -> Fate {
        let (count, in_a_row) = self.asked.entry(what.to_owned()).or_default();
        *count += 1;
        let hash = crc32fast::hash(format!("{}{what}{count}", self.seed).as_bytes());
        let fate = match hash % 24 {
            _ if *in_a_row >= IN_A_ROW_MAX => Fate::Good,
            0..2 => Fate::Refused(500),
            2..4 => Fate::Refused(503),
            4..6 => Fate::Late,
            6..10 => Fate::AnswerLost,
            10 => Fate::AnswerCut,
            _ => Fate::Good,
        };
        *in_a_row = if matches!(fate, Fate::Good | Fate::Late) { 0 } else { *in_a_row + 1 };
        *self.fates.entry(fate).or_default() += 1;
        fate
    }
}

impl BadStore {
    /// In front of the store at this address.
    pub(crate) fn before(store: SocketAddr, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Seen { seed, ..Seen::default() }));
        let shared = Arc::clone(&seen);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let seen = Arc::clone(&shared);
                // A node that is killed leaves: nothing to tell.
                std::thread::spawn(move || drop(pass(client, store, &seen)));
            }
        });
        Self { address, seen }
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many requests had each fate.
    pub(crate) fn fates(&self) -> BTreeMap<Fate, u64> {
        self.seen.lock().unwrap().fates.clone()
    }

    /// How many creations were said to be there already, when they were tried again since the answer
    /// was lost.
    pub(crate) fn found_there(&self) -> usize {
        self.seen.lock().unwrap().lost.values().filter(|found| **found).count()
    }
}

/// One request of a connection, which ends behind it.
fn pass(mut client: TcpStream, store: SocketAddr, seen: &Mutex<Seen>) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    let Some(request) = read_request(&mut client)? else { return Ok(()) };
    let what = request.what();
    let fate = seen.lock().unwrap().fate(&what);
    if let Fate::Refused(status) = fate {
        let answer =
            format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return client.write_all(answer.as_bytes());
    }
    let answer = request.ask(store)?;
    let creates = what.starts_with("PUT ");
    let mut told = seen.lock().unwrap();
    if creates && fate == Fate::AnswerLost && answer.starts_with(b"HTTP/1.1 200") {
        told.lost.entry(what).or_default();
    } else if answer.starts_with(b"HTTP/1.1 412")
        && let Some(found) = told.lost.get_mut(&what)
    {
        *found = true;
    }
    drop(told);
    match fate {
        Fate::AnswerLost => return client.shutdown(Shutdown::Both),
        Fate::AnswerCut => client.write_all(&answer[..answer.len() * 2 / 3])?,
        Fate::Late => {
            std::thread::park_timeout(LATE);
            client.write_all(&answer)?;
        }
        Fate::Good | Fate::Refused(_) => client.write_all(&answer)?,
    }
    client.shutdown(Shutdown::Both)
}

/// A whole request.
struct Request {
    head: String,
    body: Vec<u8>,
}

fn read_request(client: &mut TcpStream) -> io::Result<Option<Request>> {
    let mut read = Vec::new();
    let head_end = loop {
        if let Some(at) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        let mut piece = [0; 4096];
        match client.read(&mut piece)? {
            0 => return Ok(None),
            count => read.extend_from_slice(&piece[..count]),
        }
        assert!(read.len() < HEAD_BYTES_MAX, "a head has an end");
    };
    let mut body = read.split_off(head_end);
    let head = String::from_utf8(read).map_err(io::Error::other)?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok()).flatten()
    });
    let had = body.len();
    body.resize(length.unwrap_or(0), 0);
    client.read_exact(&mut body[had..])?;
    Ok(Some(Request { head, body }))
}

impl Request {
    /// Its method, and its target.
    fn what(&self) -> String {
        let line = self.head.lines().next().unwrap_or_default();
        line.rsplit_once(' ').map_or(line, |(what, _)| what).to_owned()
    }

    /// The store's whole answer.
    fn ask(&self, store: SocketAddr) -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(store)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let lines = self.head.trim_end().lines();
        let kept = lines.filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
        let head: String = kept.map(|line| format!("{line}\r\n")).collect();
        stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes())?;
        stream.write_all(&self.body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    }
}
