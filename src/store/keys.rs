//! API keys: created and revoked by an operator, looked up by the service.
//!
//! Look-ups have a connection of their own, so that callers who try many keys do not delay other reads.

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

/// Connections for look-ups, and for everything else.
const KEY_CONNECTIONS: u32 = 1;
/// Look-ups that one statement answers at most.
const BATCH_MAX: usize = 256;
/// Capacity of the queue of look-ups; further callers wait.
const LOOK_UPS_MAX: usize = 1_024;

/// Time limit of a look-up. Others queue behind it, so a connection that does not answer is dropped.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// A key to be created.
#[derive(Clone, Debug)]
pub struct NewKey {
    pub digest: KeyDigest,
    pub name: String,
    pub role: Role,
    /// The spirits that the key is limited to; `None` = no limit.
    pub spirit_ids: Option<Vec<SpiritId>>,
    pub expires_in: Option<Duration>,
}

/// A key as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub digest: KeyDigest,
    pub name: String,
    pub role: Role,
    pub scope: SpiritScope,
    pub expires_at: Option<Time>,
    pub revoked_at: Option<Time>,
    pub created_at: Time,
    /// Whether the key is neither revoked nor expired, by the database's clock.
    pub is_live: bool,
}

const KEY_COLUMNS: &str = "prefix, secret_sha256, name, role, spirit_ids, expires_at, revoked_at, created_at,
    revoked_at is null and coalesce(expires_at > now(), true) as is_live";

#[derive(Clone, FromRow)]
struct KeyRow {
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

impl TryFrom<KeyRow> for Key {
    type Error = StoreError;

    fn try_from(row: KeyRow) -> Result<Self, StoreError> {
        let unreadable = |column| StoreError::Bug(format!("{column} of key {} cannot be read", row.prefix));
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
    /// For everything but look-ups by callers, so that known keys are checked in time whatever callers present.
    checks: ConnectionPool,
    look_ups: mpsc::Sender<LookUp>,
    look_up_pool: ConnectionPool,
}

/// A look-up by prefix.
struct LookUp {
    prefix: String,
    reply: oneshot::Sender<Result<Option<Key>, StoreError>>,
}

impl ApiKeys {
    /// Opens two connections of its own, so that callers who try many keys delay no other read. Needs a Tokio
    /// runtime; its task ends with the last clone.
    pub(super) fn open(connector: &Connector, acquire_timeout: Duration) -> Self {
        let pool = || ConnectionPool::new(connector.clone(), KEY_CONNECTIONS, acquire_timeout, None);
        let look_up_pool = pool();
        let (look_ups, mut queue) = mpsc::channel(LOOK_UPS_MAX);
        let connection = look_up_pool.clone();
        tokio::spawn(keep_running("key look-up", async move || {
            let mut batch = Vec::with_capacity(BATCH_MAX);
            while queue.recv_many(&mut batch, BATCH_MAX).await > 0 {
                look_up(&connection, std::mem::take(&mut batch)).await;
            }
        }));
        Self {
            checks: pool(),
            look_ups,
            look_up_pool,
        }
    }

    pub(super) async fn close(&self) {
        self.checks.close().await;
        self.look_up_pool.close().await;
    }

    /// Stores a key.
    pub async fn create(&self, new: NewKey) -> Result<Key, StoreError> {
        let spirit_ids: Option<Vec<Uuid>> = new.spirit_ids.map(|ids| ids.iter().map(|id| id.0).collect());
        let statement = sqlx::query_as::<_, KeyRow>(INSERT)
            .bind(new.digest.prefix)
            .bind(new.digest.sha256)
            .bind(new.name)
            .bind(new.role.name())
            .bind(spirit_ids)
            .bind(new.expires_in.map(|time| time.as_secs_f64()));
        self.checks.one(statement).await?.try_into()
    }

    /// Returns every key, revoked and expired ones included, oldest first.
    pub async fn list(&self) -> Result<Vec<Key>, StoreError> {
        let statement = sqlx::query_as::<_, KeyRow>(LIST);
        let rows = self.checks.all(statement).await?;
        rows.into_iter().map(Key::try_from).collect()
    }

    /// Revokes a key for good. A revoked key keeps its time of revocation. Returns `None` if there is no such key.
    pub async fn revoke(&self, prefix: &str) -> Result<Option<Key>, StoreError> {
        let statement = sqlx::query_as::<_, KeyRow>(REVOKE).bind(prefix);
        let row = self.checks.optional(statement).await?;
        row.map(Key::try_from).transpose()
    }

    /// Returns the key with this prefix, live or not. Concurrent look-ups share a statement.
    pub async fn find(&self, prefix: &str) -> Result<Option<Key>, StoreError> {
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

    /// Returns those of the prefixes whose keys are neither revoked nor expired.
    pub async fn live(&self, prefixes: &[String]) -> Result<HashSet<String>, StoreError> {
        let statement = sqlx::query_as::<_, (String,)>(LIVE).bind(prefixes);
        let rows = within_time_limit(self.checks.all(statement)).await?;
        Ok(rows.into_iter().map(|(prefix,)| prefix).collect())
    }

    /// Returns whether a key was ever created.
    pub async fn any_exists(&self) -> Result<bool, StoreError> {
        let (made,) = within_time_limit(self.checks.one(sqlx::query_as::<_, (bool,)>(KEY_EXISTS))).await?;
        Ok(made)
    }
}

/// Reads the keys of a batch with one statement and answers its callers.
async fn look_up(pool: &ConnectionPool, mut batch: Vec<LookUp>) {
    batch.retain(|look_up| !look_up.reply.is_closed());
    let prefixes: Vec<&str> = batch.iter().map(|look_up| look_up.prefix.as_str()).collect();
    if prefixes.is_empty() {
        return;
    }
    let statement = sqlx::query_as::<_, KeyRow>(FIND).bind(prefixes);
    let rows = within_time_limit(pool.all(statement)).await;
    let mut found: HashMap<String, KeyRow> = HashMap::new();
    let failed = match rows {
        Ok(rows) => {
            found.extend(rows.into_iter().map(|row| (row.prefix.clone(), row)));
            None
        }
        Err(error) => Some(error),
    };
    for LookUp { prefix, reply } in batch {
        let answer = match &failed {
            Some(error) => Err(error.clone()),
            None => found.get(&prefix).cloned().map(Key::try_from).transpose(),
        };
        if reply.send(answer).is_err() {
            tracing::trace!("the caller of a key look-up has gone");
        }
    }
}

async fn within_time_limit<T>(look_up: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let late = |_| StoreError::Unavailable("a key was not looked up in time".to_owned());
    timeout(LOOK_UP_TIMEOUT, look_up).await.map_err(late)?
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
