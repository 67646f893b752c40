//! The primitives under the rooms where threads meet: the intake, what is published, the relays.
//!
//! Those rooms take them from here, by way of `super`, and no other way: so that their very files
//! compile a second time in `models`, on primitives whose every schedule is tried.

pub(crate) use std::sync::OnceLock;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, fence};

pub(crate) use parking_lot::{Condvar, Mutex, RwLock};
