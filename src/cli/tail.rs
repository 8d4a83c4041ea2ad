//! `tail`: prints events as they are stored, and resumes when the server is available again.

use std::process::ExitCode;

use clap::Args;

use super::call::{CallArgs, OwnerArgs};
use super::filter::FilterArgs;
use super::follow::{Source, Start, follow};
use super::print::Form;
use crate::config::BadSettings;

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  elephantasm-events tail --spirit Fern --session tomatoes --last 3 | head -n 2
  elephantasm-events tail --spirit Fern --from-beginning --type message.in --json | head -n 1")]
pub(super) struct TailArgs {
    #[command(flatten)]
    owner: OwnerArgs,

    /// Session to follow: its last events in replay order, then new ones
    #[arg(long, value_name = "ID", allow_negative_numbers = true)]
    session: Option<String>,

    /// Start after this position: the `sequence` of an event, or with --session its `cursor` in --json
    #[arg(long, value_name = "SEQUENCE|CURSOR", conflicts_with_all = ["last", "from_beginning"])]
    after: Option<String>,

    /// Start with this number of last events of the session [default: 10]
    #[arg(long, value_name = "COUNT", requires = "session", conflicts_with = "from_beginning", value_parser = clap::value_parser!(i32).range(1..))]
    last: Option<i32>,

    /// Start with the first event; without it a spirit is watched from now on
    #[arg(long)]
    from_beginning: bool,

    #[command(flatten)]
    filter: FilterArgs,

    /// Print long contents in full
    #[arg(long)]
    full: bool,

    #[command(flatten)]
    call: CallArgs,
}

/// Default of `--last`.
const LAST_DEFAULT: i32 = 10;

impl TailArgs {
    fn start(&self) -> Result<Start, BadSettings> {
        Ok(match (&self.after, &self.session) {
            (Some(cursor), Some(_)) => Start::Cursor(cursor.clone()),
            (Some(sequence), None) => match sequence.parse() {
                Ok(sequence @ 0..) => Start::Sequence(sequence),
                _ => {
                    return Err(BadSettings(format!(
                        "--after {sequence} is not a sequence; a cursor needs --session"
                    )));
                }
            },
            (None, _) if self.from_beginning => Start::Beginning,
            (None, Some(_)) => Start::Last(self.last.unwrap_or(LAST_DEFAULT)),
            (None, None) => Start::Now,
        })
    }
}

pub(super) async fn run(args: TailArgs) -> anyhow::Result<ExitCode> {
    let start = args.start()?;
    let (channel, spirit_id) = args.owner.connect(&args.call).await?;
    let form = Form::new(args.call.json, args.full);
    let source = Source::Events {
        spirit_id,
        session_id: args.session,
        filter: Box::new(args.filter.filter(false)),
        content_bytes_max: form.content_bytes_max(),
    };
    follow(channel, source, start, form, true).await
}
