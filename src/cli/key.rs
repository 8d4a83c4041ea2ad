//! `key`: creates, lists and revokes API keys, directly in the database.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{Args, Subcommand};
use serde_json::json;

use super::database::Database;
use super::output::{Listing, Row};
use super::printable::printable;
use super::record::Record;
use super::spirits::resolve_stored;
use super::table::Column;
use super::times;
use crate::config::{BadSettings, DatabaseArgs, LogArgs};
use crate::domain::Time;
use crate::domain::access::{Role, SpiritScope};
use crate::domain::key::{GeneratedKey, KEY_NAME_CHARS_MAX, KEY_SPIRITS_MAX, KeyDigest};
use crate::grpc::timestamp_of;
use crate::store::{ApiKey, Consistency, NewApiKey, Store};
use crate::telemetry;

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  elephantasm-events key create --name ops --role admin
  elephantasm-events key list")]
pub(super) struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Create a key and print it once; the first key turns authentication on for good
    Create(Box<CreateArgs>),
    /// List every key that was ever created, without its secret
    List(Box<ListArgs>),
    /// Revoke keys; servers refuse them within seconds
    Revoke(Box<RevokeArgs>),
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  elephantasm-events key create --name ops --role admin
  elephantasm-events key create --name fern --role writer --expires-in 90d")]
struct CreateArgs {
    /// Name of the key, for lists and logs
    #[arg(long, value_name = "NAME", value_parser = name)]
    name: String,

    /// Role of the key: a reader reads, a writer also stores and edits events and sessions, an admin also edits spirits
    #[arg(long, value_name = "ROLE", value_parser = PossibleValuesParser::new(Role::ALL.map(Role::name)).try_map(|name| Role::named(&name).ok_or("unknown")))]
    role: Role,

    /// Limit the key to this spirit, by name or id; can be repeated
    #[arg(long = "spirit", value_name = "NAME|ID")]
    spirits: Vec<String>,

    /// Let the key expire after this time, such as 45s, 30m, 12h or 90d
    #[arg(long, value_name = "TIME", value_parser = time_span)]
    expires_in: Option<Duration>,

    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  elephantasm-events key list
  elephantasm-events key list --json")]
struct ListArgs {
    /// Print a JSON object a line instead of a table
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  elephantasm-events key revoke \"$KEY\"
  elephantasm-events key revoke --all --json")]
struct RevokeArgs {
    /// Prefixes of the keys as `key list` shows them, ek_…
    #[arg(value_name = "PREFIX", required_unless_present = "all")]
    prefixes: Vec<String>,

    /// Revoke every key
    #[arg(long, conflicts_with = "prefixes")]
    all: bool,

    /// Print a JSON object a line instead of a table
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    log: LogArgs,
}

pub(super) async fn run(args: KeyArgs) -> anyhow::Result<ExitCode> {
    let (database, log) = match &args.command {
        KeyCommand::Create(args) => (&args.database, &args.log),
        KeyCommand::List(args) => (&args.database, &args.log),
        KeyCommand::Revoke(args) => (&args.database, &args.log),
    };
    telemetry::init(log)?;
    let opened = Database::join(database).await?;
    let store = opened.store(database);
    let done = async {
        // The first key may be created before the first server has run.
        store.migrate().await?;
        match &args.command {
            KeyCommand::Create(args) => create(&store, args).await,
            KeyCommand::List(args) => list(&store, args.json).await,
            KeyCommand::Revoke(args) if args.all => revoke_all(&store, args.json).await,
            KeyCommand::Revoke(args) => revoke(&store, &args.prefixes, args.json).await,
        }
    };
    let done = done.await;
    store.close().await;
    opened.close().await?;
    done.map(|()| ExitCode::SUCCESS)
}

async fn create(store: &Store, args: &CreateArgs) -> anyhow::Result<()> {
    if args.spirits.len() > KEY_SPIRITS_MAX {
        return Err(BadSettings(format!("--spirit can be given {KEY_SPIRITS_MAX} times")).into());
    }
    let mut reader = store.read(Consistency::Strong);
    let mut spirit_ids = Vec::new();
    for spirit in &args.spirits {
        let id = resolve_stored(&mut reader, spirit).await?;
        if !spirit_ids.contains(&id) {
            spirit_ids.push(id);
        }
    }
    let GeneratedKey { text, digest } =
        GeneratedKey::generate().context("the system has no randomness for a key")?;
    let new = NewApiKey {
        digest,
        name: args.name.clone(),
        role: args.role,
        spirit_ids: (!spirit_ids.is_empty()).then_some(spirit_ids),
        expires_in: args.expires_in,
    };
    let key = store.keys.create(new).await?;
    let (prefix, role, state) = (&key.digest.prefix, key.role.name(), state(&key));
    eprintln!("{prefix}  {role}  {state}  {}", printable(&key.name));
    eprintln!("the key, shown only once:");
    println!("{text}");
    Ok(())
}

async fn list(store: &Store, json: bool) -> anyhow::Result<()> {
    let mut listing = listing(json);
    for key in store.keys.list().await? {
        listing.add(key, row)?;
    }
    listing.finish()
}

/// Revokes the keys that exist. Fails at the end if any does not.
async fn revoke(store: &Store, prefixes: &[String], json: bool) -> anyhow::Result<()> {
    let mut unknown = Vec::new();
    let mut listing = listing(json);
    for prefix in prefixes {
        // A whole key is accepted as well as its prefix.
        let prefix = KeyDigest::of(prefix).map_or_else(|| prefix.clone(), |digest| digest.prefix);
        match store.keys.revoke(&prefix).await? {
            Some(key) => listing.add(key, row)?,
            None => unknown.push(printable(&prefix).into_owned()),
        }
    }
    listing.finish()?;
    if !unknown.is_empty() {
        let unknown = unknown.join(", ");
        bail!("there is no key with the prefix {unknown}; `key list` lists the keys");
    }
    Ok(())
}

async fn revoke_all(store: &Store, json: bool) -> anyhow::Result<()> {
    let keys = store.keys.list().await?;
    let prefixes: Vec<String> = keys.into_iter().map(|key| key.digest.prefix).collect();
    revoke(store, &prefixes, json).await
}

fn listing(json: bool) -> Listing {
    Listing::new(
        json,
        &[
            Column::Whole("PREFIX"),
            Column::Whole("ROLE"),
            Column::Whole("CREATED"),
            Column::Whole("STATE"),
            Column::Text("NAME"),
            Column::Text("SPIRITS"),
        ],
    )
}

fn row(key: &ApiKey) -> Row<6> {
    let spirits = match &key.scope {
        SpiritScope::All => "all spirits".to_owned(),
        listed => spirit_ids(listed).join(","),
    };
    Row {
        cells: [
            key.digest.prefix.clone(),
            key.role.name().to_owned(),
            format_time(key.created_at),
            state(key),
            key.name.clone(),
            spirits,
        ],
        is_dimmed: !key.is_live,
    }
}

fn state(key: &ApiKey) -> String {
    match (key.revoked_at, key.expires_at) {
        (Some(time), _) => format!("revoked {}", format_time(time)),
        (None, Some(time)) if key.is_live => format!("until {}", format_time(time)),
        (None, Some(time)) => format!("expired {}", format_time(time)),
        (None, None) => "live".to_owned(),
    }
}

fn spirit_ids(scope: &SpiritScope) -> Vec<String> {
    let ids = scope.spirit_ids().unwrap_or_default();
    ids.iter().map(ToString::to_string).collect()
}

/// The fields have the names of `GetAccessResponse` where it has them. Without `spirit_ids` a key is for all spirits.
impl From<ApiKey> for Record {
    fn from(key: ApiKey) -> Self {
        let time = |time: Option<Time>| times::json(time.map(timestamp_of));
        Self::of([
            ("key_prefix", Some(json!(key.digest.prefix))),
            ("name", Some(json!(key.name))),
            ("role", Some(json!(key.role.name()))),
            (
                "spirit_ids",
                key.scope.spirit_ids().map(|_| json!(spirit_ids(&key.scope))),
            ),
            ("is_live", Some(json!(key.is_live))),
            ("created_at", time(Some(key.created_at))),
            ("expires_at", time(key.expires_at)),
            ("revoked_at", time(key.revoked_at)),
        ])
    }
}

fn format_time(time: Time) -> String {
    times::seconds(Some(timestamp_of(time)))
}

fn name(text: &str) -> Result<String, String> {
    match text.chars().count() {
        1..=KEY_NAME_CHARS_MAX if !text.contains('\0') => Ok(text.to_owned()),
        _ => Err(format!("must have 1 to {KEY_NAME_CHARS_MAX} characters")),
    }
}

/// Parses a number of seconds, minutes, hours or days, up to a hundred years.
fn time_span(text: &str) -> Result<Duration, String> {
    const SECONDS_MAX: u64 = 100 * 366 * 86_400;
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => 0,
    };
    match number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(seconds))
    {
        Some(seconds @ 1..=SECONDS_MAX) => Ok(Duration::from_secs(seconds)),
        _ => Err("must be a number with a unit of s, m, h or d, such as 90d".to_owned()),
    }
}
