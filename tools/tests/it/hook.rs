//! An HTTP endpoint for tests that takes what is posted to it and answers as it is told.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What was posted.
#[derive(Clone, Debug)]
pub(crate) struct Posted {
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
    /// What it was answered.
    pub(crate) status: u16,
}

type Answers = Arc<Mutex<Box<dyn FnMut(&str) -> u16 + Send>>>;

/// The endpoint. It ends with the test's process.
pub(crate) struct Hook {
    address: SocketAddr,
    answers: Answers,
    posted: Receiver<Posted>,
}

impl Hook {
    /// One that answers a body with what `answer` says.
    pub(crate) fn new(answer: impl FnMut(&str) -> u16 + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let address = listener.local_addr().expect("it is bound");
        let answers: Answers = Arc::new(Mutex::new(Box::new(answer)));
        let (sender, posted) = mpsc::channel();
        let told = Arc::clone(&answers);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (told, sender) = (Arc::clone(&told), sender.clone());
                // A connection that breaks ends its thread.
                std::thread::spawn(move || drop(serve(&stream, &told, &sender)));
            }
        });
        Self { address, answers, posted }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// Answers otherwise from now on.
    pub(crate) fn answer(&self, answer: impl FnMut(&str) -> u16 + Send + 'static) {
        *self.answers.lock().expect("no holder of this lock panics") = Box::new(answer);
    }

    /// What is posted next.
    pub(crate) fn next(&self) -> Posted {
        self.posted.recv_timeout(Duration::from_secs(60)).expect("something is posted in time")
    }

    /// What was posted and not looked at yet.
    pub(crate) fn rest(&self) -> Vec<Posted> {
        self.posted.try_iter().collect()
    }
}

fn serve(stream: &TcpStream, answers: &Answers, sender: &Sender<Posted>) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut headers = BTreeMap::new();
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length").and_then(|it| it.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let body = String::from_utf8(body).map_err(io::Error::other)?;
        let status = (answers.lock().expect("no holder of this lock panics"))(&body);
        let posted = Posted { headers, body, status };
        // Nobody looks any more when the test is over.
        drop(sender.send(posted));
        let answer = format!("HTTP/1.1 {status} Told\r\nContent-Length: 0\r\n\r\n");
        (&*stream).write_all(answer.as_bytes())?;
    }
}
