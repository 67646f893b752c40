//! What the gateway promises, through its public face.

mod http;
mod intake;
mod kept;
mod scan;
mod sending;
