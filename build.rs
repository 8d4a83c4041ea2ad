//! Compiles the protos into one Rust module and one descriptor set, which includes comments for reflection.
//! Uses protox, so protoc is not required.

use std::{env, path::PathBuf};

const PROTOS: [&str; 5] = [
    "elephantasm/events/v1/access.proto",
    "elephantasm/events/v1/events.proto",
    "elephantasm/events/v1/purges.proto",
    "elephantasm/events/v1/sessions.proto",
    "elephantasm/events/v1/spirits.proto",
];
const INCLUDES: [&str; 2] = ["proto", "third_party"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // With any rerun-if line cargo no longer watches the whole package, so every input is listed.
    for input in INCLUDES.iter().chain(&["migrations", "build.rs"]) {
        println!("cargo::rerun-if-changed={input}");
    }
    let mut compiler = protox::Compiler::new(INCLUDES)?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(PROTOS)?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    std::fs::write(
        out.join("events_descriptor.bin"),
        compiler.encode_file_descriptor_set(),
    )?;
    let mut config = prost_build::Config::new();
    config.enable_type_names();
    tonic_prost_build::configure()
        .extern_path(".google.rpc.Status", "::tonic_types::pb::Status")
        .codec_path("crate::grpc::codec::BoundedCodec")
        .compile_fds_with_config(compiler.file_descriptor_set(), config)?;
    Ok(())
}
