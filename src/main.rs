//! The binary: parses the command line and runs the subcommand.

use std::process::ExitCode;

use clap::Parser as _;
use elephantasm_events::cli::{Cli, run};

/// Returns freed memory to the system within seconds. glibc's allocator kept it for good after a burst.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    run(Cli::parse())
}
