//! The binary as its users see it: a process with flags, an environment, output and an exit code.
//! Start at [`harness`]; there is a file for each command or promise.

#![allow(clippy::unwrap_used)] // a test ends where something unexpected happens

#[path = "../shared/certificates.rs"]
mod certificates;
#[path = "../shared/connections.rs"]
mod connections;
mod harness;

mod backup;
mod bench;
mod call_log;
mod cancelled_calls;
mod commands;
mod drain;
mod durations;
mod import;
mod key;
mod killed_server;
mod private_postgres;
mod process;
mod replay;
mod rolling_restart;
mod settings;
mod silent_connections;
mod tail;
mod tls;
mod traces;
