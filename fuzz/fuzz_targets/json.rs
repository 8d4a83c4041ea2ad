//! Fuzzes the conversion of requests from JSON, as Connect sends them.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| elephantasm_events::gateway::fuzzing::json(bytes));
