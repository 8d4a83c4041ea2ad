//! A cache of the API keys in use, so that a call needs no query.
//!
//! A key is looked up in the database on first use. One statement per second then checks which of the cached
//! keys are live, that is, neither revoked nor expired; the streams of a key that is not live are ended.
//! Before the first key is created, every caller may do everything. The same task detects the first key; from
//! then on every call needs a key, even if all keys are revoked.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use chrono::Utc;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::limits::KeyLimiter;
use crate::config::KeyLimits;
use crate::domain::Time;
use crate::domain::access::{Access, Role, SpiritScope};
use crate::domain::key::KeyDigest;
use crate::grpc::status::ApiError;
use crate::panics::keep_running;
use crate::store::{ApiKey, Store, StoreError, Tenant};

/// Interval of the checks for revoked keys and for the first key.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Time since the last successful check after which a cached key is looked up again on use.
const TRUSTED_FOR: Duration = Duration::from_secs(5);
/// Time since the last use after which a key is evicted from the cache.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// Delay of a refused key for each refused key that waits already, and the longest delay. A caller with a wrong key
/// does not notice it; callers who try many keys get some hundred answers a second in all.
const REFUSAL_DELAY: Duration = Duration::from_millis(2);
const REFUSAL_DELAY_MAX: Duration = Duration::from_secs(1);

const SCHEME: &str = "Bearer ";

/// A cache of API keys. Cheap to clone.
#[derive(Clone)]
pub struct Keyring(Arc<Shared>);

struct Shared {
    store: Store,
    limits: KeyLimits,
    /// Whether a key was ever created. Once true, it stays true.
    is_keyed: AtomicBool,
    /// Used for every call until the first key is created.
    anonymous: Arc<CachedKey>,
    /// The cached keys by prefix.
    keys: Mutex<HashMap<String, Arc<CachedKey>>>,
    /// Calls with a refused key whose answer is delayed.
    refusals: AtomicU32,
}

/// A cached key, with its limits on this server.
pub(super) struct CachedKey {
    /// `None` for anonymous callers.
    pub(super) name: Option<Arc<str>>,
    pub(super) role: Role,
    pub(super) scope: SpiritScope,
    pub(super) limiter: KeyLimiter,
    /// `None` for anonymous callers.
    digest: Option<KeyDigest>,
    expires_at: Option<Time>,
    times: Mutex<Times>,
    /// Cancelled when the key is no longer live.
    revoked: CancellationToken,
}

/// The times of a key's last check and last use.
#[derive(Clone, Copy)]
struct Times {
    /// Start of the last query that returned the key as live.
    checked: Instant,
    used: Instant,
}

/// The result of a look-up in the cache.
pub(super) enum Lookup {
    /// The key is cached and was checked recently.
    Hit(Arc<CachedKey>),
    /// The key must be looked up in the database.
    Miss(KeyDigest),
}

impl Keyring {
    /// Creates an empty cache. Every caller may do everything until
    /// [`detect_first_key`](Self::detect_first_key) finds a key.
    #[must_use]
    pub fn new(store: Store, limits: KeyLimits) -> Self {
        Self(Arc::new(Shared {
            store,
            limits,
            is_keyed: AtomicBool::new(false),
            anonymous: Arc::new(CachedKey::anonymous(limits)),
            keys: Mutex::default(),
            refusals: AtomicU32::new(0),
        }))
    }

    /// Returns whether a key was ever created. Queries the database until that is the case.
    pub async fn detect_first_key(&self) -> Result<bool, StoreError> {
        if !self.is_keyed() && self.0.store.keys.any_exists().await? {
            self.0.is_keyed.store(true, Ordering::Release);
            self.0.anonymous.revoked.cancel();
            tracing::info!("an API key exists: from now on every call needs one");
        }
        Ok(self.is_keyed())
    }

    /// Checks the cached keys, and for the first key, every second. Never returns.
    pub async fn run(self) {
        keep_running("keyring", async move || {
            loop {
                sleep(CHECK_INTERVAL).await;
                if let Err(error) = self.check().await {
                    tracing::debug!(%error, "API keys could not be checked");
                }
            }
        })
        .await;
    }

    /// Looks up the key of a call in the cache.
    pub(super) fn cached(&self, headers: &HeaderMap) -> Result<Lookup, ApiError> {
        if !self.is_keyed() {
            return Ok(Lookup::Hit(Arc::clone(&self.0.anonymous)));
        }
        let digest = presented_key(headers)?;
        let key = self.0.keys.lock().get(&digest.prefix).cloned();
        match key {
            Some(key) if !key.has_secret_of(&digest) => Err(ApiError::InvalidKey),
            Some(key) if key.use_if_trusted() => Ok(Lookup::Hit(key)),
            _ => Ok(Lookup::Miss(digest)),
        }
    }

    /// Looks up a key in the database and caches it. Fails if the key is not live or its secret is wrong.
    pub(super) async fn look_up(&self, digest: &KeyDigest) -> Result<Arc<CachedKey>, ApiError> {
        let queried = Instant::now();
        let key = self.0.store.keys.find(&digest.prefix).await?;
        match key {
            Some(key) if key.is_live && key.digest.has_secret_of(&digest.sha256) => {
                Ok(self.insert(key, queried))
            }
            _ => Err(ApiError::InvalidKey),
        }
    }

    /// Delays the answer to a call with a refused key, the longer the more such calls there are.
    pub(super) async fn delay_refusal(&self) {
        let refusal = Refusal::start(&self.0.refusals);
        sleep((REFUSAL_DELAY * refusal.earlier).min(REFUSAL_DELAY_MAX)).await;
    }

    fn insert(&self, key: ApiKey, queried: Instant) -> Arc<CachedKey> {
        let mut keys = self.0.keys.lock();
        // An existing entry is kept, because it counts the key's calls and streams and can end the streams.
        let key = keys
            .entry(key.digest.prefix.clone())
            .or_insert_with(|| Arc::new(CachedKey::new(key, self.0.limits)));
        key.times.lock().checked = queried;
        Arc::clone(key)
    }

    /// Evicts idle keys, and ends the streams of keys that are no longer live.
    async fn check(&self) -> Result<(), StoreError> {
        if !self.detect_first_key().await? {
            return Ok(());
        }
        let prefixes: Vec<String> = {
            let mut keys = self.0.keys.lock();
            keys.retain(|_, key| Arc::strong_count(key) > 1 || !key.is_idle());
            keys.keys().cloned().collect()
        };
        if prefixes.is_empty() {
            return Ok(());
        }
        let queried = Instant::now();
        let live = self.0.store.keys.live(&prefixes).await?;
        let mut keys = self.0.keys.lock();
        for prefix in prefixes {
            if !live.contains(&prefix) {
                if let Some(key) = keys.remove(&prefix) {
                    key.revoked.cancel();
                }
            } else if let Some(key) = keys.get(&prefix) {
                key.times.lock().checked = queried;
            }
        }
        Ok(())
    }

    /// Returns whether an API key is known to have been created, so that every call needs a key.
    #[must_use]
    pub fn is_keyed(&self) -> bool {
        self.0.is_keyed.load(Ordering::Acquire)
    }
}

impl CachedKey {
    fn anonymous(limits: KeyLimits) -> Self {
        let now = Instant::now();
        Self {
            name: None,
            role: Role::Admin,
            scope: SpiritScope::All,
            limiter: KeyLimiter::new(limits),
            digest: None,
            expires_at: None,
            times: Mutex::new(Times {
                checked: now,
                used: now,
            }),
            revoked: CancellationToken::new(),
        }
    }

    fn new(key: ApiKey, limits: KeyLimits) -> Self {
        Self {
            name: Some(key.name.into()),
            role: key.role,
            scope: key.scope,
            digest: Some(key.digest),
            expires_at: key.expires_at,
            ..Self::anonymous(limits)
        }
    }

    /// Waits until the key is no longer live. Returns the error for the end of its streams.
    pub(super) async fn revoked(&self) -> ApiError {
        self.revoked.cancelled().await;
        if self.digest.is_some() {
            ApiError::InvalidKey
        } else {
            ApiError::MissingKey
        }
    }

    /// Returns what a caller with the key may do.
    pub(super) fn access(&self) -> Access {
        Access {
            role: self.role,
            scope: self.scope.clone(),
            key_prefix: self.digest.as_ref().map(|digest| digest.prefix.clone()),
            expires_at: self.expires_at,
        }
    }

    /// Returns the tenant on whose behalf calls with the key read the database.
    pub(super) fn tenant(&self) -> Tenant {
        let mut hasher = DefaultHasher::new();
        self.digest
            .as_ref()
            .map(|digest| &digest.prefix)
            .hash(&mut hasher);
        Tenant(hasher.finish())
    }

    /// Returns the token that is cancelled when the key is no longer live.
    pub(super) fn end(&self) -> CancellationToken {
        self.revoked.clone()
    }

    fn has_secret_of(&self, presented: &KeyDigest) -> bool {
        self.digest
            .as_ref()
            .is_some_and(|digest| digest.has_secret_of(&presented.sha256))
    }

    /// Records a use of the key. Returns whether the key can be used without a new look-up.
    fn use_if_trusted(&self) -> bool {
        let now = Instant::now();
        let mut times = self.times.lock();
        times.used = now;
        now.duration_since(times.checked) < TRUSTED_FOR
            && !self.revoked.is_cancelled()
            && self.expires_at.is_none_or(|time| time > Utc::now())
    }

    fn is_idle(&self) -> bool {
        self.times.lock().used.elapsed() > KEPT_FOR
    }
}

/// A delayed answer; counted until it is dropped, because the caller may leave earlier.
struct Refusal<'c> {
    count: &'c AtomicU32,
    /// Delayed answers at the start of this one.
    earlier: u32,
}

impl<'c> Refusal<'c> {
    fn start(count: &'c AtomicU32) -> Self {
        let earlier = count.fetch_add(1, Ordering::Relaxed);
        Self { count, earlier }
    }
}

impl Drop for Refusal<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Reads the API key from the headers of a call.
fn presented_key(headers: &HeaderMap) -> Result<KeyDigest, ApiError> {
    let value = headers.get(AUTHORIZATION).ok_or(ApiError::MissingKey)?;
    let key = value.to_str().ok().and_then(|value| {
        let (scheme, key) = value.split_at_checked(SCHEME.len())?;
        KeyDigest::of(key.trim()).filter(|_| scheme.eq_ignore_ascii_case(SCHEME))
    });
    key.ok_or(ApiError::InvalidKey)
}
