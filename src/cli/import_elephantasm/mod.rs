//! `import-elephantasm`: moves the spirits and events of the Python backend, database to database.
//!
//! [`convert`] decides what becomes of a row, [`report`] counts it. The rows are read in one snapshot, spirit by spirit, and
//! stored in transactions of some hundred events. Rows that are stored already are passed over.

mod convert;
mod report;

use std::collections::HashSet;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use futures_util::TryStreamExt as _;
use secrecy::SecretString;
use uuid::Uuid;

use self::convert::Converted;
use self::report::Report;
use super::database::{Database, connect_options};
use super::output::exit_code;
use crate::config::{DatabaseArgs, EventLimitArgs, LogArgs};
use crate::domain::event::Event;
use crate::domain::ids::SpiritId;
use crate::domain::limits::Limits;
use crate::store::{EventMover, LegacyDatabase, LegacyEvent, SpiritState, Store};
use crate::telemetry;

const EXAMPLES: &str = "\
Examples:
  elephantasm-events import-elephantasm --from \"$OLD_DATABASE_URL\"
  ELEPHANTASM_DATABASE_URL=\"$OLD_DATABASE_URL\" elephantasm-events import-elephantasm";

/// Number and bytes of events at which they are stored.
const BATCH_EVENTS: usize = 1_000;
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of the texts of an event beside content and `meta`, and of the spaces in `meta`, for which a row is still read.
const OTHER_TEXT_BYTES: usize = 256 * 1024;

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct ImportElephantasmArgs {
    /// Database of the Python backend, as postgres://user:password@host/database?sslmode=…
    #[arg(
        long,
        env = "ELEPHANTASM_DATABASE_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    from: SecretString,

    #[command(flatten)]
    limits: EventLimitArgs,
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    log: LogArgs,
}

pub(super) async fn run(args: ImportElephantasmArgs) -> anyhow::Result<ExitCode> {
    telemetry::init(&args.log)?;
    let from = connect_options("--from", &args.from)?;
    let opened = Database::join(&args.database).await?;
    let store = opened.store(&args.database);
    let limits = Limits {
        content_bytes_max: usize::try_from(args.limits.max_content_bytes)?,
        meta_bytes_max: usize::try_from(args.limits.max_meta_bytes)?,
    };
    let moved = async {
        store.migrate().await?;
        let source = LegacyDatabase::connect(from).await;
        move_all(source.context("--from")?, &store, limits).await
    };
    let moved = moved.await;
    store.close().await;
    opened.close().await?;
    moved
}

/// Moves everything and prints the report, also if the move ends early.
async fn move_all(mut source: LegacyDatabase, store: &Store, limits: Limits) -> anyhow::Result<ExitCode> {
    let passed_over = source.check_schema().await.context("--from")?;
    let mut moving = Move {
        mover: store.mover(),
        limits,
        report: Report::new(source.event_count().await?, passed_over),
        left_out: HashSet::new(),
    };
    let result = moving.run(&mut source).await;
    let printed = moving.report.print();
    result.context("the move ended early; run it again, nothing is stored twice")?;
    exit_code(printed, moving.report.is_complete())
}

/// A move under way.
struct Move {
    mover: EventMover,
    limits: Limits,
    report: Report,
    /// Spirits whose events are not moved.
    left_out: HashSet<Uuid>,
}

/// Events of one spirit that are stored together.
#[derive(Default)]
struct Batch {
    spirit_id: Uuid,
    events: Vec<Converted<Event>>,
    bytes: usize,
}

impl Move {
    async fn run(&mut self, source: &mut LegacyDatabase) -> anyhow::Result<()> {
        let mut spirits = source.spirits();
        while let Some(row) = spirits.try_next().await.context("--from")? {
            let id = row.id;
            let spirit = match convert::spirit(row, &self.limits) {
                Ok(converted) => converted,
                Err(fault) => {
                    self.left_out.insert(id);
                    self.report.leave_out_spirit(id, fault);
                    continue;
                }
            };
            let state = self.mover.store_spirit(spirit.row).await?;
            if state == SpiritState::Purged {
                self.left_out.insert(id);
            }
            self.report.count_spirit(id, state, &spirit.changes);
        }
        drop(spirits);
        self.events(source).await
    }

    async fn events(&mut self, source: &mut LegacyDatabase) -> anyhow::Result<()> {
        let bytes_max = self.limits.content_bytes_max + 2 * self.limits.meta_bytes_max + OTHER_TEXT_BYTES;
        let mut rows = source.events(i64::try_from(bytes_max)?);
        let mut batch = Batch::default();
        while let Some(row) = rows.try_next().await.context("--from")? {
            if self.left_out.contains(&row.spirit_id) {
                self.report.count_event_of_left_out_spirit();
                continue;
            }
            if !batch.takes(&row) {
                self.store(std::mem::take(&mut batch)).await?;
            }
            batch.spirit_id = row.spirit_id;
            batch.bytes += usize::try_from(row.bytes).unwrap_or(0);
            let id = row.id;
            match convert::event(row, &self.limits) {
                Ok(converted) => batch.events.push(converted),
                Err(fault) => self.report.leave_out_event(id, fault),
            }
        }
        self.store(batch).await
    }

    async fn store(&mut self, batch: Batch) -> anyhow::Result<()> {
        if batch.events.is_empty() {
            return Ok(());
        }
        let (events, changes): (Vec<_>, Vec<_>) = batch
            .events
            .into_iter()
            .map(|converted| {
                let id = converted.row.id;
                let is_deleted = converted.row.deleted_at.is_some();
                (converted.row, (id, is_deleted, converted.changes))
            })
            .unzip();
        let moved = self.mover.store_events(SpiritId(batch.spirit_id), events).await?;
        self.report.count_events(&moved, changes);
        Ok(())
    }
}

impl Batch {
    /// Returns whether the event can be stored together with those of the batch.
    fn takes(&self, row: &LegacyEvent) -> bool {
        self.events.is_empty()
            || (self.spirit_id == row.spirit_id
                && self.events.len() < BATCH_EVENTS
                && self.bytes < BATCH_BYTES)
    }
}
