//! The engine through its public interface, on real files and on the simulated disk.

mod conformance;
mod rig;
mod verify;
