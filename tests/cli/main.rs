//! Tests of the binary as a process: flags, environment, output, signals and exit codes. Start reading at
//! [`harness`]; each other file covers one command or one promise.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

#[path = "../shared/certificates.rs"]
mod certificates;
#[path = "../shared/connections.rs"]
mod connections;
mod harness;

mod backup;
mod bench;
mod call_log;
mod cancelled_calls;
mod changes;
mod commands;
mod curl;
mod distribute;
mod drain;
mod durations;
mod examples;
mod export;
mod import;
mod import_elephantasm;
mod key;
mod killed_server;
mod load;
mod open_files;
mod private_postgres;
mod process;
mod purge;
mod replay;
mod resources;
mod rolling_restart;
mod secrets;
mod settings;
mod silent_connections;
mod supervised_postgres;
mod tail;
mod tls;
mod tour;
mod traces;
mod transcripts;
