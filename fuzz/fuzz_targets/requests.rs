//! Fuzzes the conversion of requests from bytes.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| elephantasm_events::grpc::fuzzing::requests(bytes));
