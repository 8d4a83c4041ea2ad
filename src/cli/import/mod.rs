//! `import`: stores events from JSON in the order of files and lines. It can be repeated without storing anything twice.
//!
//! A reader for each source ([`reader`]) unpacks it ([`text`]), splits it into records ([`split`]) and parses them
//! ([`line`], [`session`], [`transcript`]). [`upload`] sends the events and [`tally`] counts what became of them. With
//! `--watch`, [`watch`] does this again for each file that changes.

mod deletions;
pub(super) mod fault;
mod files;
mod ingest;
mod keys;
mod line;
mod listed;
mod meta;
mod reader;
mod repair;
mod scan;
mod session;
mod sources;
mod split;
mod summary;
mod tally;
mod target;
mod text;
mod time;
mod transcript;
mod upload;
mod watch;
mod watched;

use std::process::ExitCode;

use chrono::{DateTime, SubsecRound as _, Utc};
use clap::Args;
use indicatif::ProgressBar;
use tonic::Status;

pub(super) use self::meta::object as exact_object;

use self::ingest::Ingest;
use self::line::Leniency;
use self::reader::Readers;
use self::sources::{Absent, Source};
use self::tally::{Tally, TallyOptions};
use self::target::Target;
use self::transcript::{FormatArg, TranscriptOptions};
use self::upload::Upload;
use self::watch::Watch;
use self::watched::Watched;
use super::client::{AddrArgs, Connection, explain};
use super::output::{exit_code, print_record, print_text};
use super::spirits::{UnknownName, resolve_patiently};
use crate::domain::ids::parse_uuid;
use crate::domain::limits::Limits;

#[derive(Args, Debug)]
pub(super) struct ImportArgs {
    /// Files and folders with events as JSON, a line each or in an array, packed with gzip, zstd or not; `-` reads stdin
    #[arg(required = true, value_name = "FILE|FOLDER|-")]
    files: Vec<String>,

    /// Spirit that gets the events, by name or id; an unknown name is created
    #[arg(long, value_name = "NAME|ID")]
    spirit: String,

    /// Name of the file in the dedupe keys of events that bring none [default: its file name, or its path below the
    /// folder]
    #[arg(long, value_name = "NAME")]
    source: Option<String>,

    /// Format of the files
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: FormatArg,

    /// Session of all events of transcripts [default: the sessions of the transcripts]
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    session: Option<String>,

    /// Time of the first event of transcripts without times, such as 2026-03-01T09:00:00Z [default: now]
    #[arg(long, value_name = "TIME", value_parser = start_time)]
    start_time: Option<DateTime<Utc>>,

    /// Refuse records of transcripts whose type is unknown, instead of storing them as events of type `system`
    #[arg(long)]
    strict: bool,

    /// Replace half surrogate pairs and U+0000, which cannot be stored, by U+FFFD
    #[arg(long)]
    repair: bool,

    /// Read times without a time zone as UTC
    #[arg(long)]
    assume_utc: bool,

    /// Read and check everything, but store nothing and call no server
    #[arg(long)]
    dry_run: bool,

    /// Go on until SIGINT or SIGTERM: import what is appended to the files, and new files in the folders
    #[arg(long, conflicts_with = "dry_run")]
    watch: bool,

    /// Print the counts as a JSON object, with those of each file and the lines that are not stored
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    addr: AddrArgs,
}

/// Fractional digits of a second in stored times.
const MICROSECOND_DIGITS: u16 = 6;

pub(super) async fn run(args: ImportArgs) -> anyhow::Result<ExitCode> {
    if args.watch {
        let watch = Watch::new(args.files.clone(), args.source.clone())?;
        let mut importer = Importer::connect(&args, ProgressBar::hidden(), true).await?;
        importer.tally.note("watching; SIGINT or SIGTERM ends");
        let result = watch.run(&mut importer).await;
        return importer.report(result);
    }
    let found = sources::find(&args.files, args.source.clone(), Absent::Refuse)?;
    let progress = tally::progress(&found.sources);
    let mut importer = Importer::connect(&args, progress, found.sources.len() != 1).await?;
    if let Some(first) = found.passed_over.first() {
        importer.tally.note(&match found.passed_over.len() {
            1 => format!("1 file of another kind is not read: {first}"),
            count => format!("{count} files of other kinds are not read, such as {first}"),
        });
    }
    let result = importer.import(found.sources, None).await.map_err(stopped);
    importer.report(result)
}

/// Imports sources into one spirit.
struct Importer {
    /// The server; `None` in a dry run.
    connection: Option<Connection>,
    /// Empty in a dry run for a spirit that is given by its name.
    spirit_id: String,
    leniency: Leniency,
    transcripts: TranscriptOptions,
    progress: ProgressBar,
    tally: Tally,
    /// Whether the counts are printed as JSON.
    json: bool,
}

impl Importer {
    /// Connects and finds or creates the spirit.
    async fn connect(args: &ImportArgs, progress: ProgressBar, is_labelled: bool) -> anyhow::Result<Self> {
        let options = TallyOptions {
            dry_run: args.dry_run,
            lists_faults: args.json,
            is_labelled,
            format: args.format.name(),
        };
        let tally = Tally::new(progress.clone(), options);
        let (spirit_id, connection) = if args.dry_run {
            let known = parse_uuid(&args.spirit).map(|id| id.to_string());
            (known.unwrap_or_default(), None)
        } else {
            let connection = args.addr.connect().await?;
            let spirit_id = resolve_patiently(connection.clone(), &args.spirit, UnknownName::Create).await?;
            (spirit_id, Some(connection))
        };
        let start = args.start_time.unwrap_or_else(Utc::now);
        Ok(Self {
            connection,
            spirit_id,
            leniency: Leniency {
                repair: args.repair,
                assume_utc: args.assume_utc,
            },
            transcripts: TranscriptOptions {
                format: args.format,
                session: args.session.clone(),
                start: start.trunc_subsecs(MICROSECOND_DIGITS),
                strict: args.strict,
            },
            progress,
            tally,
            json: args.json,
        })
    }

    /// Imports sources in their order.
    async fn import(&mut self, sources: Vec<Source>, watched: Option<&mut Watched>) -> Result<(), Status> {
        self.tally.begin(&sources);
        let target = match &self.connection {
            Some(connection) => Target::Server(Box::new(Ingest::new(connection.clone()))),
            None => Target::DryRun(Limits::default()),
        };
        let readers = Readers::new(
            sources,
            self.spirit_id.clone(),
            self.leniency,
            self.transcripts.clone(),
            self.progress.clone(),
        );
        let upload = Upload::new(readers, self.spirit_id.clone(), &mut self.tally, target, watched);
        upload.run().await
    }

    /// Prints the counts. The exit code tells whether everything is stored.
    fn report(self, result: anyhow::Result<()>) -> anyhow::Result<ExitCode> {
        self.tally.finish();
        let is_complete = result.is_ok() && self.tally.is_complete();
        let summary = self.tally.summary();
        let spirit_id = (!self.spirit_id.is_empty()).then_some(self.spirit_id.as_str());
        let printed = if self.json {
            print_record(summary.record(spirit_id, is_complete), true)
        } else {
            let scope = match self.connection {
                None => "dry run".to_owned(),
                Some(_) => format!("spirit {}", self.spirit_id),
            };
            print_text(&format!("{scope}: {summary}"))
        };
        result?;
        exit_code(printed, is_complete)
    }
}

fn stopped(status: Status) -> anyhow::Error {
    explain(status).context("the import stopped; run it again, nothing is stored twice")
}

fn start_time(text: &str) -> Result<DateTime<Utc>, chrono::ParseError> {
    DateTime::parse_from_rfc3339(text).map(DateTime::from)
}
