//! Compiles the service's protos and UmaDB's.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    compile(
        &["../../proto", "../../third_party"],
        &[
            "elephantasm/events/v1/events.proto",
            "elephantasm/events/v1/spirits.proto",
        ],
    )?;
    compile(&["proto"], &["umadb.proto"])
}

fn compile(includes: &[&str], protos: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    for include in includes {
        println!("cargo::rerun-if-changed={include}");
    }
    tonic_prost_build::configure()
        .generate_default_stubs(true)
        .extern_path(".google.rpc.Status", "::tonic_types::pb::Status")
        .compile_fds(protox::compile(protos, includes)?)?;
    Ok(())
}
