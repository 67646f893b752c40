//! What the gateway promises, through its public face.

mod http;
mod intake;
mod scan;
mod sending;
