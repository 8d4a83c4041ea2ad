//! `import`: stores events from JSON in the order of files and lines. It can be repeated without storing anything twice.
//!
//! A reader for each source ([`reader`]) unpacks it ([`text`]), splits it into records ([`split`]) and parses them
//! ([`line`], [`transcript`]). [`upload`] sends the events and [`tally`] counts what became of them.

mod fault;
mod ingest;
mod keys;
mod line;
mod meta;
mod reader;
mod repair;
mod scan;
mod sources;
mod split;
mod tally;
mod text;
mod time;
mod transcript;
mod upload;

use std::process::ExitCode;

use chrono::{DateTime, SubsecRound as _, Utc};
use clap::Args;

use self::ingest::Ingest;
use self::line::Leniency;
use self::reader::Readers;
use self::tally::Tally;
use self::transcript::{FormatArg, TranscriptOptions};
use self::upload::{Target, Upload};
use super::client::AddrArgs;
use super::spirits::{UnknownName, resolve};
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

    #[command(flatten)]
    addr: AddrArgs,
}

/// Fractional digits of a second in stored times.
const MICROSECOND_DIGITS: u16 = 6;

pub(super) async fn run(args: ImportArgs) -> anyhow::Result<ExitCode> {
    let found = sources::find(&args.files, args.source)?;
    let progress = tally::progress(&found.sources);
    let mut tally = Tally::new(&found.sources, progress.clone(), args.dry_run);
    if let Some(first) = found.passed_over.first() {
        tally.note(&match found.passed_over.len() {
            1 => format!("1 file of another kind is not read: {first}"),
            count => format!("{count} files of other kinds are not read, such as {first}"),
        });
    }
    let (spirit_id, target) = if args.dry_run {
        let known = parse_uuid(&args.spirit).map(|id| id.to_string());
        (known.unwrap_or_default(), Target::DryRun(Limits::default()))
    } else {
        let connection = args.addr.connect().await?;
        let spirit_id = resolve(connection.clone(), &args.spirit, UnknownName::Create).await?;
        (spirit_id, Target::Server(Box::new(Ingest::new(connection))))
    };
    let leniency = Leniency {
        repair: args.repair,
        assume_utc: args.assume_utc,
    };
    let transcripts = TranscriptOptions {
        format: args.format,
        session: args.session,
        start: args
            .start_time
            .unwrap_or_else(Utc::now)
            .trunc_subsecs(MICROSECOND_DIGITS),
        strict: args.strict,
    };
    let readers = Readers::new(found.sources, spirit_id.clone(), leniency, transcripts, progress);
    let result = Upload::new(readers, spirit_id.clone(), &mut tally, target)
        .run()
        .await;
    tally.finish();
    let scope = if args.dry_run {
        "dry run".to_owned()
    } else {
        format!("spirit {spirit_id}")
    };
    println!("{scope}: {}", tally.summary());
    result?;
    Ok(if tally.is_complete() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn start_time(text: &str) -> Result<DateTime<Utc>, chrono::ParseError> {
    DateTime::parse_from_rfc3339(text).map(DateTime::from)
}
