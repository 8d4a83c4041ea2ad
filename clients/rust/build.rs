//! Generates the client's stubs. protox compiles the protos, so protoc is not required.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let includes = ["../../proto", "../../third_party"];
    for include in includes {
        println!("cargo::rerun-if-changed={include}");
    }
    let protos = ["events", "spirits"].map(|name| format!("elephantasm/events/v1/{name}.proto"));
    tonic_prost_build::configure()
        .build_server(false)
        .extern_path(".google.rpc.Status", "::tonic_types::pb::Status")
        .compile_fds(protox::compile(protos, includes)?)?;
    Ok(())
}
