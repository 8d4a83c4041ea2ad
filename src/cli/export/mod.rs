//! `export`: writes the events of a spirit or of a session as JSON lines, which `import` restores, or as transcripts.
//!
//! [`events`] reads events by sequence, then sessions ([`sessions`]). [`transcripts`] reads session by session. Both write
//! to an [`Output`] and advance a cursor, so that an export that ends early can be continued.

mod events;
mod output;
mod sessions;
mod transcripts;

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use tonic::Status;

use self::output::Output;
use super::call::{event_client, session_client};
use super::client::{AddrArgs, Connection, explain};
use super::progress::{Progress, styled};
use super::spirits::{UnknownName, resolve_patiently};
use super::stop;
use crate::config::BadSettings;
use crate::formats::export::to_atif;
use crate::grpc::pb::event_service_client::EventServiceClient;
use crate::grpc::pb::session_service_client::SessionServiceClient;

const EXAMPLES: &str = "\
Examples:
  elephantasm-events export --spirit Fern --include-deleted --output ~/fern.jsonl.gz
  elephantasm-events export --spirit Fern --session tomatoes --format openai";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct ExportArgs {
    /// Spirit to export, by name or id
    #[arg(long, value_name = "NAME|ID")]
    spirit: String,

    /// Export this session only
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    session: Option<String>,

    /// Format of the output
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: FormatArg,

    /// Export soft-deleted events too, which `import` deletes again
    #[arg(long)]
    include_deleted: bool,

    /// Continue after the position that an export has printed which ended early; it is appended to the file of --output
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,

    /// File to write, packed if its name ends in .gz or .zst [default: standard output]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,

    #[command(flatten)]
    addr: AddrArgs,
}

/// The format of an export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum FormatArg {
    /// Events and sessions, a JSON object a line, for `import`
    #[default]
    Jsonl,
    /// A trajectory in the Agent Trajectory Interchange Format for each session, a line each
    Atif,
    /// The OpenAI chat messages of each session, a line each
    Openai,
}

/// The reason why an export ended early.
enum Stop {
    Server(Status),
    Output(io::Error),
}

impl From<Status> for Stop {
    fn from(status: Status) -> Self {
        Self::Server(status)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// An export under way.
struct Export {
    events: EventServiceClient<Connection>,
    sessions: SessionServiceClient<Connection>,
    spirit_id: String,
    session_id: Option<String>,
    include_deleted: bool,
    /// The position after what was written.
    cursor: Option<String>,
    output: Output,
    progress: Progress,
    /// Whether the output goes to a terminal, where progress would disturb it.
    is_quiet: bool,
    events_written: u64,
    sessions_written: u64,
}

pub(super) async fn run(args: ExportArgs) -> anyhow::Result<ExitCode> {
    check(&args)?;
    let connection = args.addr.connect().await?;
    let spirit_id = resolve_patiently(connection.clone(), &args.spirit, UnknownName::Refuse).await?;
    let mut export = Export {
        events: event_client(connection.clone()),
        sessions: session_client(connection.clone()),
        spirit_id,
        session_id: args.session,
        include_deleted: args.include_deleted,
        output: Output::open(args.output.as_deref(), args.after.is_some())?,
        cursor: args.after,
        progress: Progress::new(styled(
            ProgressBar::new_spinner(),
            "{msg} {bar:20} {percent}%, {eta} left",
        )),
        is_quiet: args.output.is_none() && io::stdout().is_terminal(),
        events_written: 0,
        sessions_written: 0,
    };
    let result = tokio::select! {
        result = export.write(args.format, connection) => result.map_err(Some),
        requested = stop::requested() => {
            requested.context("cannot wait for signals")?;
            Err(None)
        }
    };
    export.finish(result)
}

fn check(args: &ExportArgs) -> Result<(), BadSettings> {
    let is_transcript = args.format != FormatArg::Jsonl;
    if is_transcript && args.include_deleted {
        let text = "--include-deleted needs --format jsonl: transcripts have no mark of deletion";
        return Err(BadSettings(text.to_owned()));
    }
    if is_transcript && args.after.is_some() && args.session.is_some() {
        let text = "--after has no effect on the transcript of one session, which is written as a whole";
        return Err(BadSettings(text.to_owned()));
    }
    if let Some(cursor) = args.after.as_ref().filter(|_| !is_transcript)
        && events::sequence(cursor).is_none()
    {
        return Err(BadSettings(format!("--after must be a sequence, is {cursor}")));
    }
    Ok(())
}

impl Export {
    async fn write(&mut self, format: FormatArg, connection: Connection) -> Result<(), Stop> {
        match format {
            FormatArg::Jsonl => self.write_events(connection).await,
            FormatArg::Atif => self.write_transcripts(to_atif).await,
            FormatArg::Openai => self.write_transcripts(transcripts::openai).await,
        }
    }

    /// Completes the output and reports. `result` is `Err(None)` if the export was stopped by a signal.
    fn finish(self, result: Result<(), Option<Stop>>) -> anyhow::Result<ExitCode> {
        self.progress.bar().finish_and_clear();
        let finished = self.output.finish();
        let result = match (result, finished) {
            (Ok(()), Err(error)) => Err(Some(Stop::Output(error))),
            (result, _) => result,
        };
        let early = match result {
            Err(Some(Stop::Output(error))) if error.kind() == io::ErrorKind::BrokenPipe => {
                return Ok(ExitCode::SUCCESS);
            }
            Err(Some(Stop::Output(error))) => return Err(error).context("cannot write"),
            Ok(()) => None,
            Err(None) => Some(anyhow::anyhow!("the export was stopped")),
            Err(Some(Stop::Server(status))) => Some(explain(status).context("the export ended early")),
        };
        eprintln!(
            "exported events {}, sessions {}; {:.1} s, {:.0} events/s",
            self.events_written,
            self.sessions_written,
            self.progress.elapsed().as_secs_f64(),
            self.progress.rate(self.events_written),
        );
        let Some(error) = early else {
            return Ok(ExitCode::SUCCESS);
        };
        if let Some(cursor) = self.cursor {
            eprintln!("continue with --after {cursor}");
        }
        Err(error)
    }

    /// Shows the progress, of which `done` of `total` is read.
    fn show_progress(&mut self, done: u64, total: u64) {
        if self.is_quiet || !self.progress.is_due() {
            return;
        }
        let bar = self.progress.bar();
        bar.set_length(total);
        bar.set_position(done);
        let text = format!(
            "exported events {}, {:.0} events/s",
            self.events_written,
            self.progress.rate(self.events_written)
        );
        let more = format!("; {} % read", done * 100 / total.max(1));
        self.progress.show(&text, &more);
    }
}
