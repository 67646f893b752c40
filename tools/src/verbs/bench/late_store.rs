//! A store of profiles that knows nobody and takes its time to say so.
//!
//! It speaks as much of Redis as the node's client asks for: requests are arrays of strings, `MGET` is
//! answered with as many nulls, all else with OK.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// The longest line, and the longest string, that a client sends.
const WORD_BYTES_MAX: usize = 1 << 10;
const WORDS_MAX: usize = 100_000;

/// The store. It ends when it is dropped.
pub(super) struct LateStore {
    port: u16,
    late_millis: Arc<AtomicU64>,
    task: AbortHandle,
}

impl LateStore {
    pub(super) async fn start(late: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let late_millis = u64::try_from(late.as_millis()).unwrap_or(u64::MAX);
        let late_millis = Arc::new(AtomicU64::new(late_millis));
        let late = Arc::clone(&late_millis);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let late = Arc::clone(&late);
                // A client that leaves ends its connection: nothing to tell.
                tokio::spawn(async move { drop(serve(stream, &late).await) });
            }
        });
        Ok(Self { port, late_millis, task: task.abort_handle() })
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// From the next request on it answers at once.
    pub(super) fn hurry(&self) {
        self.late_millis.store(0, Ordering::Relaxed);
    }
}

impl Drop for LateStore {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, late_millis: &AtomicU64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    loop {
        let words = read_count(&mut stream, b'*').await?.min(WORDS_MAX);
        let mut verb = Vec::new();
        for nth in 0..words {
            let word = read_word(&mut stream).await?;
            if nth == 0 {
                verb = word;
            }
        }
        let answer = if verb.eq_ignore_ascii_case(b"MGET") {
            tokio::time::sleep(Duration::from_millis(late_millis.load(Ordering::Relaxed))).await;
            format!("*{}\r\n{}", words - 1, "$-1\r\n".repeat(words - 1))
        } else {
            "+OK\r\n".to_owned()
        };
        stream.get_mut().write_all(answer.as_bytes()).await?;
    }
}

async fn read_word(stream: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    let length = read_count(stream, b'$').await?;
    if length > WORD_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut word = vec![0; length + 2];
    stream.read_exact(&mut word).await?;
    word.truncate(length);
    Ok(word)
}

/// The number of a line that begins with `mark`.
async fn read_count(stream: &mut BufReader<TcpStream>, mark: u8) -> io::Result<usize> {
    let mut line = Vec::new();
    (&mut *stream).take(WORD_BYTES_MAX as u64).read_until(b'\n', &mut line).await?;
    let count = line.strip_prefix(&[mark]).and_then(|rest| str::from_utf8(rest).ok());
    let count = count.and_then(|text| text.trim_end().parse().ok());
    count.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_knows_none_of_the_keys_that_it_is_asked_for() {
        let store = LateStore::start(Duration::ZERO).await.unwrap();
        let mut client = TcpStream::connect(("127.0.0.1", store.port)).await.unwrap();
        let asked = b"*1\r\n$4\r\nPING\r\n*3\r\n$4\r\nMGET\r\n$1\r\na\r\n$1\r\nb\r\n";
        client.write_all(asked).await.unwrap();
        let mut told = [0; 19];
        client.read_exact(&mut told).await.unwrap();
        assert_eq!(&told, b"+OK\r\n*2\r\n$-1\r\n$-1\r\n");
    }
}
