//! `completions`: prints the completions of a shell.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _};
use clap_complete::{Shell, generate};

use super::Cli;
use super::output::Output;

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  source <(elephantasm-events completions bash)
  elephantasm-events completions fish > \"$HOME/elephantasm-events.fish\"")]
pub(super) struct CompletionsArgs {
    /// Shell that reads the completions
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run(args: CompletionsArgs) -> anyhow::Result<ExitCode> {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    // Into memory first, since the generators panic at an output that is closed.
    let mut script = Vec::new();
    generate(args.shell, &mut command, name, &mut script);
    let mut out = Output::new();
    out.write(|out| out.write_all(&script))?;
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}
