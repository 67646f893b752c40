//! The engine through its public interface, on real files and on the simulated disk.

mod conformance;
mod dedupe;
mod dropping;
mod embedded;
mod erased;
mod faults;
mod folders;
mod golden;
mod killed;
mod relays;
mod rig;
mod settled;
mod times;
mod verify;
mod without_checkpoints;
