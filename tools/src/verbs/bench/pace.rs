//! When each request of a steady load is due, and whose turn that is.
//!
//! A thread sleeps until then and lets the client go. A runtime's timers would not do: tokio's are
//! good to a millisecond or two, which is longer than most answers take, and would be measured as if
//! the node had been late.

use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

/// So many requests a second, from a moment on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) began: Instant,
    pub(super) rate: u64,
}

/// A client's part of a load: of as many requests as there are clients, one.
#[derive(Debug)]
pub(super) struct Turns(Arc<Semaphore>);

impl Pace {
    /// When request `number` is due.
    pub(super) fn due(self, number: u64) -> Instant {
        self.began + Duration::from_nanos(number * 1_000_000_000 / self.rate)
    }

    /// Gives `clients` their turns, one after the other, until `requests` were due.
    pub(super) fn share(self, requests: u64, clients: u64) -> Vec<Turns> {
        let turns: Vec<_> = (0..clients).map(|_| Turns(Arc::new(Semaphore::new(0)))).collect();
        let clients: Vec<_> = turns.iter().map(|turns| Arc::downgrade(&turns.0)).collect();
        thread::spawn(move || self.call(requests, &clients));
        turns
    }

    /// Ends when a client has gone: then the load has failed.
    #[allow(clippy::disallowed_methods, reason = "what is waited for is time")]
    fn call(self, requests: u64, clients: &[Weak<Semaphore>]) {
        for (number, client) in (0..requests).zip(clients.iter().cycle()) {
            thread::sleep(self.due(number).saturating_duration_since(Instant::now()));
            let Some(client) = client.upgrade() else { return };
            client.add_permits(1);
        }
    }
}

impl Turns {
    /// Waits until the client's next request is due. One that was not waited for is not lost.
    pub(super) async fn next(&self) {
        self.0.acquire().await.expect("nobody closes it").forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_client_has_its_turns_and_none_before_it_is_due() {
        let pace = Pace { began: Instant::now(), rate: 1_000 };
        let turns = pace.share(10, 4);
        for number in 0..10_u64 {
            turns[number as usize % 4].next().await;
            assert!(Instant::now() >= pace.due(number));
        }
        let left = turns.iter().map(|turns| turns.0.available_permits());
        assert_eq!(left.sum::<usize>(), 0);
    }
}
