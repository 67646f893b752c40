//! Waking those who wait for a commit, on the runtime that runs them.
//!
//! A commit may have a thousand callers. Woken one by one from a thread of the disk, each takes
//! the way that a runtime has for strangers: a shared queue with a lock, and often a system call
//! for a worker that sleeps. So an embedder spawns a few [`Relay`]s on the runtime whose tasks
//! wait. The journal cuts the list of wakers into as many shares as relays are idle, hands each
//! share over in one step, and wakes the relays alone; a relay wakes its share on its worker,
//! where that is cheap.
//!
//! Promises
//! - Each waker that [`Relays::wake`] takes is woken: at once, or by the relay that was handed it,
//!   when that relay is polled next or is dropped.
//! - A relay has one share at a time: a runtime that stands still holds back no more than that.
//!   What comes meanwhile goes to the others or is woken at once.
//! - Wakers run outside of the lock: they may do anything.
//!
//! Called by the journal (through what it publishes); a [`Relay`] is the embedder's to poll.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use smallvec::SmallVec;

use super::sync::Mutex;

/// A smaller share is not worth the detour.
const SHARE_MIN: usize = 16;

/// Wakes what a log's journal has to wake, on the runtime that it was spawned on. Ends when the
/// log is closed.
///
/// Spawn one for each worker thread of the runtime whose tasks append to the log or wait for it
/// to grow; [`Engine::relay`](crate::Engine::relay) makes them. It keeps no log open. A runtime
/// that stands still, since its tasks block, leaves those waiting whom its relays were about to
/// wake: at most one commit's callers.
#[derive(Debug)]
#[must_use = "a relay wakes nobody until it is spawned"]
pub struct Relay {
    relays: Arc<Relays>,
    seat: usize,
}

/// The relays of a log.
#[derive(Debug, Default)]
pub(crate) struct Relays(Mutex<Room>);

#[derive(Debug, Default)]
struct Room {
    seats: Vec<Seat>,
    closed: bool,
}

/// What a relay is doing.
#[derive(Debug)]
enum Seat {
    /// It is gone: the seat is free for another.
    Free,
    /// It was not polled yet, or is waking its share.
    Busy,
    /// It has nothing to do.
    Idle(Waker),
    /// It was handed these and is woken.
    Handed(Vec<Waker>),
}

impl Seat {
    fn hand(&mut self, share: Vec<Waker>) -> Waker {
        match std::mem::replace(self, Self::Handed(share)) {
            Self::Idle(relay) => relay,
            Self::Free | Self::Busy | Self::Handed(_) => {
                unreachable!("only the idle are handed any")
            }
        }
    }
}

impl Relays {
    /// A further relay.
    pub(crate) fn add(self: &Arc<Self>) -> Relay {
        let mut room = self.0.lock();
        let free = room.seats.iter().position(|seat| matches!(seat, Seat::Free));
        let seat = free.unwrap_or(room.seats.len());
        match free {
            Some(free) => room.seats[free] = Seat::Busy,
            None => room.seats.push(Seat::Busy),
        }
        Relay { relays: Arc::clone(self), seat }
    }

    /// Wakes them all: through the relays that are idle, else at once.
    pub(crate) fn wake(&self, mut wakers: Vec<Waker>) {
        if wakers.len() >= SHARE_MIN {
            wake_all(self.hand_out(&mut wakers));
        }
        wake_all(wakers);
    }

    /// Hands out `wakers` in equal shares, as far as relays are idle. Who calls wakes the relays.
    fn hand_out(&self, wakers: &mut Vec<Waker>) -> SmallVec<[Waker; 8]> {
        let mut room = self.0.lock();
        let idle = room.seats.iter().filter(|seat| matches!(seat, Seat::Idle(_))).count();
        let shares = idle.min(wakers.len() / SHARE_MIN);
        let idle = room.seats.iter_mut().filter(|seat| matches!(seat, Seat::Idle(_)));
        let shared_by = (1..=shares).rev();
        let hand = |(seat, sharers): (&mut Seat, usize)| {
            let rest = wakers.len() - wakers.len() / sharers;
            seat.hand(wakers.split_off(rest))
        };
        idle.zip(shared_by).map(hand).collect()
    }

    /// Ends the relays: nothing comes any more that is worth one.
    pub(crate) fn close(&self) {
        let mut room = self.0.lock();
        room.closed = true;
        let idle = room.seats.iter().filter_map(|seat| match seat {
            Seat::Idle(relay) => Some(relay.clone()),
            Seat::Free | Seat::Busy | Seat::Handed(_) => None,
        });
        let idle: SmallVec<[Waker; 8]> = idle.collect();
        drop(room);
        wake_all(idle);
    }
}

fn wake_all(wakers: impl IntoIterator<Item = Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

impl Relay {
    /// Wakes what it was handed, and says what it does from now on.
    fn turn_to(&self, now: Seat) {
        let before = std::mem::replace(&mut self.relays.0.lock().seats[self.seat], now);
        if let Seat::Handed(share) = before {
            wake_all(share);
        }
    }
}

impl Future for Relay {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.turn_to(Seat::Busy);
        let mut room = self.relays.0.lock();
        if room.closed {
            return Poll::Ready(());
        }
        room.seats[self.seat] = Seat::Idle(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.turn_to(Seat::Free);
    }
}
