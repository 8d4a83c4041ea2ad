//! API keys: created, listed and revoked by the operator, looked up and checked for the auth layer.
//!
//! Look-ups have a connection of their own, so that callers who try many keys do not delay other statements.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use const_format::formatcp;
use sqlx::FromRow;
use sqlx::types::chrono::{DateTime, Utc};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use uuid::Uuid;

use super::pg::error::{StoreError, unanswered};
use super::pg::pool::ConnectionPool;
use super::pg::session::Connector;
use crate::domain::Time;
use crate::domain::access::{Role, SpiritScope};
use crate::domain::ids::SpiritId;
use crate::domain::key::KeyDigest;
use crate::panics::keep_running;

/// Size of each of the two connection pools.
const KEY_CONNECTIONS: u32 = 1;
/// Maximum number of look-ups that one statement answers.
const BATCH_MAX: usize = 256;
/// Capacity of the queue of look-ups; further look-ups wait until it has room.
const LOOK_UPS_MAX: usize = 1_024;

/// Time limit of a statement that calls depend on. Other statements queue behind it, so one that is not answered
/// in time is given up.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// An API key to be created.
#[derive(Clone, Debug)]
pub struct NewApiKey {
    pub digest: KeyDigest,
    pub name: String,
    pub role: Role,
    /// The spirits that the key is limited to; `None` = no limit.
    pub spirit_ids: Option<Vec<SpiritId>>,
    /// Time until the key expires; `None` = it does not expire.
    pub expires_in: Option<Duration>,
}

/// A stored API key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    pub digest: KeyDigest,
    pub name: String,
    pub role: Role,
    pub scope: SpiritScope,
    pub expires_at: Option<Time>,
    pub revoked_at: Option<Time>,
    pub created_at: Time,
    /// Whether the key was neither revoked nor expired when it was read, by the database's clock.
    pub is_live: bool,
}

const KEY_COLUMNS: &str = "prefix, secret_sha256, name, role, spirit_ids, expires_at, revoked_at, created_at,
    revoked_at is null and coalesce(expires_at > now(), true) as is_live";

#[derive(Clone, FromRow)]
struct ApiKeyRow {
    prefix: String,
    secret_sha256: Vec<u8>,
    name: String,
    role: String,
    spirit_ids: Option<Vec<Uuid>>,
    expires_at: Option<DateTime<Utc>>,
    revoked_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    is_live: bool,
}

impl TryFrom<ApiKeyRow> for ApiKey {
    type Error = StoreError;

    fn try_from(row: ApiKeyRow) -> Result<Self, StoreError> {
        let unreadable = |column| StoreError::Bug(format!("{column} of API key {} is not valid", row.prefix));
        Ok(Self {
            role: Role::named(&row.role).ok_or_else(|| unreadable("role"))?,
            scope: match row.spirit_ids {
                None => SpiritScope::All,
                Some(ids) => SpiritScope::listed(ids.into_iter().map(SpiritId).collect()),
            },
            digest: KeyDigest {
                sha256: row
                    .secret_sha256
                    .try_into()
                    .map_err(|_| unreadable("secret_sha256"))?,
                prefix: row.prefix,
            },
            name: row.name,
            expires_at: row.expires_at,
            revoked_at: row.revoked_at,
            created_at: row.created_at,
            is_live: row.is_live,
        })
    }
}

/// The API keys in the database. Cheap to clone.
#[derive(Clone)]
pub struct ApiKeys {
    /// Runs every statement except look-ups, so that the checks of known keys do not queue behind look-ups.
    pool: ConnectionPool,
    look_up_pool: ConnectionPool,
    look_ups: mpsc::Sender<LookUp>,
}

/// A look-up by prefix, and the channel of its result.
struct LookUp {
    prefix: String,
    reply: oneshot::Sender<Result<Option<ApiKey>, StoreError>>,
}

impl ApiKeys {
    /// Creates the pools, which connect on first use, and starts the task that runs look-ups. The task ends with
    /// the last clone. Needs a Tokio runtime.
    pub(super) fn open(connector: &Connector, acquire_timeout: Duration) -> Self {
        let new_pool = || ConnectionPool::new(connector.clone(), KEY_CONNECTIONS, acquire_timeout, None);
        let look_up_pool = new_pool();
        let (look_ups, mut queue) = mpsc::channel(LOOK_UPS_MAX);
        let pool = look_up_pool.clone();
        tokio::spawn(keep_running("key look-up", async move || {
            let mut batch = Vec::with_capacity(BATCH_MAX);
            while queue.recv_many(&mut batch, BATCH_MAX).await > 0 {
                look_up(&pool, std::mem::take(&mut batch)).await;
            }
        }));
        Self {
            pool: new_pool(),
            look_up_pool,
            look_ups,
        }
    }

    /// Closes both pools.
    pub(super) async fn close(&self) {
        self.pool.close().await;
        self.look_up_pool.close().await;
    }

    /// Stores a key and returns it as stored.
    pub async fn create(&self, new: NewApiKey) -> Result<ApiKey, StoreError> {
        let spirit_ids: Option<Vec<Uuid>> = new.spirit_ids.map(|ids| ids.iter().map(|id| id.0).collect());
        let statement = sqlx::query_as::<_, ApiKeyRow>(INSERT)
            .bind(new.digest.prefix)
            .bind(new.digest.sha256)
            .bind(new.name)
            .bind(new.role.name())
            .bind(spirit_ids)
            .bind(new.expires_in.map(|time| time.as_secs_f64()));
        self.pool.one(statement).await?.try_into()
    }

    /// Returns every key, revoked and expired ones included, oldest first.
    pub async fn list(&self) -> Result<Vec<ApiKey>, StoreError> {
        let statement = sqlx::query_as::<_, ApiKeyRow>(LIST);
        let rows = self.pool.all(statement).await?;
        rows.into_iter().map(ApiKey::try_from).collect()
    }

    /// Revokes a key, which cannot be undone, and returns it. A key that is revoked already keeps its time of
    /// revocation. Returns `None` if no key has the prefix.
    pub async fn revoke(&self, prefix: &str) -> Result<Option<ApiKey>, StoreError> {
        let statement = sqlx::query_as::<_, ApiKeyRow>(REVOKE).bind(prefix);
        let row = self.pool.optional(statement).await?;
        row.map(ApiKey::try_from).transpose()
    }

    /// Returns the key with this prefix, revoked and expired ones included. Concurrent look-ups share a statement.
    pub async fn find(&self, prefix: &str) -> Result<Option<ApiKey>, StoreError> {
        let (reply, answer) = oneshot::channel();
        let look_up = LookUp {
            prefix: prefix.to_owned(),
            reply,
        };
        self.look_ups
            .send(look_up)
            .await
            .map_err(|_| StoreError::Closing)?;
        answer.await.map_err(unanswered)?
    }

    /// Returns the prefixes whose keys are neither revoked nor expired.
    pub async fn live(&self, prefixes: &[String]) -> Result<HashSet<String>, StoreError> {
        let statement = sqlx::query_as::<_, (String,)>(LIVE).bind(prefixes);
        let rows = within_time_limit(self.pool.all(statement)).await?;
        Ok(rows.into_iter().map(|(prefix,)| prefix).collect())
    }

    /// Returns whether a key was ever created; revoked and expired ones count.
    pub async fn any_exists(&self) -> Result<bool, StoreError> {
        let statement = sqlx::query_as::<_, (bool,)>(KEY_EXISTS);
        let (exists,) = within_time_limit(self.pool.one(statement)).await?;
        Ok(exists)
    }
}

/// Runs a batch of look-ups as one statement and sends each its result.
async fn look_up(pool: &ConnectionPool, mut batch: Vec<LookUp>) {
    batch.retain(|look_up| !look_up.reply.is_closed());
    let prefixes: Vec<&str> = batch.iter().map(|look_up| look_up.prefix.as_str()).collect();
    if prefixes.is_empty() {
        return;
    }
    let statement = sqlx::query_as::<_, ApiKeyRow>(FIND).bind(prefixes);
    let rows = within_time_limit(pool.all(statement)).await;
    let found: Result<HashMap<String, ApiKeyRow>, StoreError> =
        rows.map(|rows| rows.into_iter().map(|row| (row.prefix.clone(), row)).collect());
    for LookUp { prefix, reply } in batch {
        let result = match &found {
            Ok(found) => found.get(&prefix).cloned().map(ApiKey::try_from).transpose(),
            Err(error) => Err(error.clone()),
        };
        if reply.send(result).is_err() {
            tracing::trace!("the caller of a key look-up has gone away");
        }
    }
}

async fn within_time_limit<T>(
    statement: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let timed_out = |_| StoreError::Unavailable("API keys could not be read in time".to_owned());
    timeout(LOOK_UP_TIMEOUT, statement).await.map_err(timed_out)?
}

pub(super) const KEY_EXISTS: &str = "select exists (select from keys) as any_exists";

pub(super) const LIVE: &str = "
    select prefix
    from keys
    where prefix = any($1)
    and revoked_at is null
    and coalesce(expires_at > now(), true)";

pub(super) const INSERT: &str = formatcp!(
    "insert into keys (prefix, secret_sha256, name, role, spirit_ids, expires_at)
         values ($1, $2, $3, $4, $5, now() + make_interval(secs => $6))
         returning {KEY_COLUMNS}"
);

pub(super) const LIST: &str = formatcp!(
    "select {KEY_COLUMNS}
         from keys
         order by created_at, prefix"
);

pub(super) const REVOKE: &str = formatcp!(
    "update keys set
             revoked_at = coalesce(revoked_at, now())
         where prefix = $1
         returning {KEY_COLUMNS}"
);

pub(super) const FIND: &str = formatcp!(
    "select {KEY_COLUMNS}
         from keys
         where prefix = any($1)"
);
