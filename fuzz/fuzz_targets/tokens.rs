//! Fuzzes the decoding of page tokens and cursors.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| elephantasm_events::grpc::fuzzing::tokens(bytes));
