//! `tail`: prints events as they are stored, and resumes when the server is available again.

use std::process::ExitCode;

use clap::Args;

use super::client::AddrArgs;
use super::follow::{Source, Start, follow};
use super::print::Form;
use super::spirits::{UnknownName, resolve};
use crate::config::BadSettings;
use crate::grpc::pb::EventFilter;

#[derive(Args, Debug)]
pub(super) struct TailArgs {
    /// Spirit to watch, by name or id
    #[arg(long, value_name = "NAME|ID")]
    spirit: String,

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

    /// Only events of this type; can be repeated
    #[arg(long = "type", value_name = "TYPE")]
    event_types: Vec<String>,

    /// Only events of this role; can be repeated
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,

    /// Print a JSON object a line instead of text
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    addr: AddrArgs,
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
    let channel = args.addr.connect().await?;
    let source = Source::Events {
        spirit_id: resolve(channel.clone(), &args.spirit, UnknownName::Refuse).await?,
        session_id: args.session,
        filter: Box::new(EventFilter {
            event_types: args.event_types,
            roles: args.roles,
            ..EventFilter::default()
        }),
    };
    follow(channel, source, start, Form::new(args.json), true).await
}
