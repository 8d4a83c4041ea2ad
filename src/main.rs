//! The binary: parses the command line and runs the subcommand.

use std::process::ExitCode;

use clap::Parser as _;
use elephantasm_events::cli::{Cli, run};

fn main() -> ExitCode {
    run(Cli::parse())
}
