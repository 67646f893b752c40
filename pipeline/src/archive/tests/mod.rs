//! Tests of the archive as a whole: events into files and back, and crashes at every step.

mod crashes;
mod erasing;
mod faulty;
mod golden;
#[cfg(feature = "full")]
mod moto;
mod rows;
#[cfg(feature = "full")]
mod s3;
