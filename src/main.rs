//! The life of the process: parse, run the subcommand, say why it failed.

use std::process::ExitCode;

use clap::Parser as _;
use elephantasm_events::cli::{Cli, run};

fn main() -> ExitCode {
    run(Cli::parse())
}
