//! Hostile but legal use: no caller can take the memory, the keys or the reads of the others.
//!
//! The server runs as a process of its own, so that its resident memory can be measured. [`support`] starts it and
//! speaks plain HTTP/2; each other file covers one resource.

#![allow(clippy::unwrap_used)] // a test fails where something unexpected happens
#![allow(clippy::cast_precision_loss, clippy::float_cmp)] // samples of metrics are whole numbers in f64

#[path = "../shared/harness.rs"]
mod harness;
mod support;

mod decoding;
mod keys;
mod protocol;
mod replies;
mod soak;
mod spirits;
mod watchers;
