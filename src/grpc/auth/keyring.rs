//! The keys in use, known without asking the database at each call.
//!
//! A key is looked up when it is first used. From then on one statement a second asks which of the keys in
//! use are still live; one that is not ends its calls and streams. Until a first key was made, everybody may
//! do everything; the same tick finds that key, and from then on there is no way back.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::Utc;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::limits::{Allowance, KeyLimits};
use crate::domain::Time;
use crate::domain::access::{Role, SpiritScope};
use crate::domain::key::KeyDigest;
use crate::grpc::status::ApiError;
use crate::panics::keep_running;
use crate::store::{Key, Store, StoreError};

/// Between two looks at whether the keys in use are live, and at whether there is a first key.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// A key that was not seen live for longer is looked up again when it is used.
const TRUSTED_FOR: Duration = Duration::from_secs(5);
/// A key that nobody used for longer is forgotten until its next use.
const KEPT_FOR: Duration = Duration::from_secs(60);

const SCHEME: &str = "Bearer ";

/// What this process knows of keys. Cheap to clone.
#[derive(Clone)]
pub struct Keyring(Arc<Shared>);

struct Shared {
    store: Store,
    limits: KeyLimits,
    /// Whether a key was ever made; never unset.
    is_keyed: AtomicBool,
    /// Everybody, as long as no key was made.
    anybody: Arc<Session>,
    /// Keys in use by prefix.
    sessions: Mutex<HashMap<String, Arc<Session>>>,
}

/// A key in use.
pub(super) struct Session {
    /// Of the key; absent when it stands for everybody.
    pub(super) name: Option<Arc<str>>,
    pub(super) role: Role,
    pub(super) scope: SpiritScope,
    pub(super) limits: Allowance,
    mark: Option<KeyDigest>,
    expires_at: Option<Time>,
    times: Mutex<Times>,
    /// Cancelled when the key is no longer live.
    ended: CancellationToken,
}

#[derive(Clone, Copy)]
struct Times {
    /// When it was last known to be live.
    checked: Instant,
    used: Instant,
}

/// Whose call it is.
pub(super) enum Known {
    Session(Arc<Session>),
    /// The database has to say.
    Ask(KeyDigest),
}

impl Keyring {
    /// Knows nothing yet, and lets everybody do everything until [`learn`](Self::learn) was called.
    #[must_use]
    pub fn new(store: Store, limits: KeyLimits) -> Self {
        Self(Arc::new(Shared {
            store,
            limits,
            is_keyed: AtomicBool::new(false),
            anybody: Arc::new(Session::anybody(limits)),
            sessions: Mutex::default(),
        }))
    }

    /// Asks whether a key was ever made.
    pub async fn learn(&self) -> Result<bool, StoreError> {
        if !self.is_keyed() && self.0.store.keys.any_exists().await? {
            self.0.is_keyed.store(true, Ordering::Release);
            self.0.anybody.ended.cancel();
            tracing::info!("a key was made: from now on every call needs one");
        }
        Ok(self.is_keyed())
    }

    /// Keeps up with what happens to keys.
    pub async fn keep(self) {
        keep_running("keyring", async move || {
            loop {
                sleep(CHECK_INTERVAL).await;
                if let Err(error) = self.check().await {
                    tracing::debug!(%error, "keys could not be checked");
                }
            }
        })
        .await;
    }

    /// Whose call this is, as far as that is known here.
    pub(super) fn known(&self, headers: &HeaderMap) -> Result<Known, ApiError> {
        if !self.is_keyed() {
            return Ok(Known::Session(Arc::clone(&self.0.anybody)));
        }
        let mark = presented(headers)?;
        let session = self.sessions().get(&mark.prefix).cloned();
        match session {
            Some(session) if !session.has_secret_of(&mark) => Err(ApiError::InvalidKey),
            Some(session) if session.is_trusted() => Ok(Known::Session(session)),
            _ => Ok(Known::Ask(mark)),
        }
    }

    /// Asks the database for a key.
    pub(super) async fn look_up(&self, mark: &KeyDigest) -> Result<Arc<Session>, ApiError> {
        let asked = Instant::now();
        let key = self.0.store.keys.find(&mark.prefix).await?;
        match key {
            Some(key) if key.is_live && key.digest.has_secret_of(&mark.sha256) => {
                Ok(self.remember(key, asked))
            }
            _ => Err(ApiError::InvalidKey),
        }
    }

    fn remember(&self, key: Key, asked: Instant) -> Arc<Session> {
        let mut sessions = self.sessions();
        // One that is there already has the key's streams and what is left of its limits.
        let session = sessions
            .entry(key.digest.prefix.clone())
            .or_insert_with(|| Arc::new(Session::of(key, self.0.limits)));
        session.times().checked = asked;
        Arc::clone(session)
    }

    async fn check(&self) -> Result<(), StoreError> {
        if !self.learn().await? {
            return Ok(());
        }
        let prefixes: Vec<String> = {
            let mut sessions = self.sessions();
            sessions.retain(|_, session| Arc::strong_count(session) > 1 || !session.is_idle());
            sessions.keys().cloned().collect()
        };
        if prefixes.is_empty() {
            return Ok(());
        }
        let asked = Instant::now();
        let live = self.0.store.keys.live(&prefixes).await?;
        let mut sessions = self.sessions();
        for prefix in prefixes {
            if !live.contains(&prefix) {
                if let Some(session) = sessions.remove(&prefix) {
                    session.ended.cancel();
                }
            } else if let Some(session) = sessions.get(&prefix) {
                session.times().checked = asked;
            }
        }
        Ok(())
    }

    fn is_keyed(&self) -> bool {
        self.0.is_keyed.load(Ordering::Acquire)
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<String, Arc<Session>>> {
        // Every change under the lock is a single step, so a poisoned one is still whole.
        self.0.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    fn anybody(limits: KeyLimits) -> Self {
        Self {
            name: None,
            role: Role::Admin,
            scope: SpiritScope::All,
            limits: Allowance::new(limits),
            mark: None,
            expires_at: None,
            times: Mutex::new(Times::now()),
            ended: CancellationToken::new(),
        }
    }

    fn of(key: Key, limits: KeyLimits) -> Self {
        Self {
            name: Some(key.name.into()),
            role: key.role,
            scope: key.scope,
            mark: Some(key.digest),
            expires_at: key.expires_at,
            ..Self::anybody(limits)
        }
    }

    /// Returns when the caller must end, with the reason.
    pub(super) async fn ended(&self) -> ApiError {
        self.ended.cancelled().await;
        if self.mark.is_some() {
            ApiError::InvalidKey
        } else {
            ApiError::MissingKey
        }
    }

    fn has_secret_of(&self, shown: &KeyDigest) -> bool {
        self.mark
            .as_ref()
            .is_some_and(|mark| mark.has_secret_of(&shown.sha256))
    }

    /// Whether it can be used without asking; takes note that it is.
    fn is_trusted(&self) -> bool {
        let now = Instant::now();
        let mut times = self.times();
        times.used = now;
        now.duration_since(times.checked) < TRUSTED_FOR
            && !self.ended.is_cancelled()
            && self.expires_at.is_none_or(|time| time > Utc::now())
    }

    fn is_idle(&self) -> bool {
        self.times().used.elapsed() > KEPT_FOR
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Times {
    fn now() -> Self {
        let now = Instant::now();
        Self {
            checked: now,
            used: now,
        }
    }
}

/// The key that a call shows.
fn presented(headers: &HeaderMap) -> Result<KeyDigest, ApiError> {
    let shown = headers.get(AUTHORIZATION).ok_or(ApiError::MissingKey)?;
    let key = shown.to_str().ok().and_then(|shown| {
        let (scheme, key) = shown.split_at_checked(SCHEME.len())?;
        KeyDigest::of(key.trim()).filter(|_| scheme.eq_ignore_ascii_case(SCHEME))
    });
    key.ok_or(ApiError::InvalidKey)
}
