//! Admission: decides queued creates in memory, against the state of the database.
//!
//! The flush has locked every spirit of the items that it passes and has read their state under the locks, so a
//! decision is final. Items are decided in order: the checks of guards and of dedupe keys take the items before into
//! account.

use std::collections::HashMap;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::Time;
use super::event::{BatchMode, NewEvent, OnDuplicate};
use super::ids::{EventId, SpiritId};
use super::refusal::Refusal;

/// The state of a spirit that decides about its creates.
#[derive(Clone, Copy, Debug)]
pub struct SpiritState {
    pub is_deleted: bool,
    pub last_sequence: i64,
}

/// The event that holds a dedupe key.
#[derive(Clone, Debug)]
pub enum DedupeKeyHolder {
    /// A stored event.
    Stored {
        id: EventId,
        sequence: i64,
        identity: Identity,
    },
    /// An event of the current flush.
    New { event: Arc<NewEvent>, sequence: i64 },
}

/// The fields of a stored event by which a create with the same dedupe key counts as a repetition or as different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub event_type: String,
    pub content_sha256: [u8; 32],
    pub session_id: Option<String>,
    pub source_uri: Option<String>,
    pub occurred_at: Time,
}

/// The decision about one accepted item.
#[derive(Clone, Debug)]
pub enum Admitted {
    /// The event is stored under this sequence.
    New { event: Arc<NewEvent>, sequence: i64 },
    /// The dedupe key is taken, and the caller asked for the existing event.
    Duplicate {
        /// The existing event.
        id: EventId,
        spirit_id: SpiritId,
        sequence: i64,
        /// Whether the existing event differs from the item in a field of [`Identity`].
        different: bool,
    },
}

/// The decision about a request: a result for each item in order, or, for a refused atomic request, every failing
/// item with its index.
pub type Verdict = Result<Vec<Result<Admitted, Refusal>>, Vec<(usize, Refusal)>>;

/// State of the spirits, sessions and dedupe keys of a flush: as stored, plus the items decided so far.
#[derive(Debug, Default)]
pub struct FlushState {
    pub spirits: HashMap<SpiritId, SpiritState>,
    /// The last sequences of the sessions for which an item expects one; 0 if the session has no event.
    pub sessions: HashMap<(SpiritId, String), i64>,
    pub dedupe_keys: HashMap<(SpiritId, String), DedupeKeyHolder>,
}

impl FlushState {
    /// Decides one request. A refused atomic request does not change the state.
    pub fn admit(&mut self, items: &[Arc<NewEvent>], mode: BatchMode) -> Verdict {
        let mut draft = Draft {
            state: self,
            spirits: HashMap::new(),
            sessions: HashMap::new(),
            dedupe_keys: HashMap::new(),
        };
        let results: Vec<_> = items.iter().map(|item| draft.admit(item)).collect();
        if mode == BatchMode::Atomic && results.iter().any(Result::is_err) {
            return Err(draft.failures(results));
        }
        let Draft {
            spirits,
            sessions,
            dedupe_keys,
            ..
        } = draft;
        self.spirits.extend(spirits);
        self.sessions.extend(sessions);
        self.dedupe_keys.extend(dedupe_keys);
        Ok(results)
    }
}

/// The changes of one request on top of the state before it.
struct Draft<'s> {
    state: &'s FlushState,
    spirits: HashMap<SpiritId, SpiritState>,
    sessions: HashMap<(SpiritId, String), i64>,
    dedupe_keys: HashMap<(SpiritId, String), DedupeKeyHolder>,
}

impl Draft<'_> {
    fn admit(&mut self, event: &Arc<NewEvent>) -> Result<Admitted, Refusal> {
        let spirit = self.live_spirit(event.spirit_id)?;
        let key = event.dedupe_key.clone().map(|key| (event.spirit_id, key));
        if let Some(key) = &key
            && let Some(holder) = self
                .dedupe_keys
                .get(key)
                .or_else(|| self.state.dedupe_keys.get(key))
        {
            return holder.answer(event);
        }
        check_last_sequence(event.expected_last_sequence, spirit.last_sequence)?;
        let session = self.expected_session(event);
        if let Some((key, actual)) = &session {
            check_session_last_sequence(event.expected_session_last_sequence, &key.1, *actual)?;
        }

        let sequence = spirit.last_sequence + 1;
        let state = SpiritState {
            last_sequence: sequence,
            ..spirit
        };
        self.spirits.insert(event.spirit_id, state);
        if let Some((key, _)) = session {
            self.sessions.insert(key, sequence);
        }
        if let Some(key) = key {
            let event = Arc::clone(event);
            self.dedupe_keys
                .insert(key, DedupeKeyHolder::New { event, sequence });
        }
        Ok(Admitted::New {
            event: Arc::clone(event),
            sequence,
        })
    }

    fn live_spirit(&self, id: SpiritId) -> Result<SpiritState, Refusal> {
        let state = self.spirits.get(&id).or_else(|| self.state.spirits.get(&id));
        match state {
            Some(state) if !state.is_deleted => Ok(*state),
            _ => Err(Refusal::SpiritNotFound(id)),
        }
    }

    /// Returns the event's session and its last sequence, if an item of the flush expects one.
    fn expected_session(&self, event: &NewEvent) -> Option<((SpiritId, String), i64)> {
        if self.state.sessions.is_empty() {
            return None;
        }
        let key = (event.spirit_id, event.session_id.clone()?);
        let last_sequence = self
            .sessions
            .get(&key)
            .or_else(|| self.state.sessions.get(&key))?;
        let last_sequence = *last_sequence;
        Some((key, last_sequence))
    }

    /// Returns the failing items of a refused request. Events of the refused request are never stored, so no refusal
    /// names one of them as the existing event.
    fn failures(&self, results: Vec<Result<Admitted, Refusal>>) -> Vec<(usize, Refusal)> {
        let mut failures: Vec<_> = results
            .into_iter()
            .enumerate()
            .filter_map(|(index, result)| Some((index, result.err()?)))
            .collect();
        for (_, refusal) in &mut failures {
            if let Refusal::Duplicate { existing, .. } = refusal
                && self
                    .dedupe_keys
                    .values()
                    .any(|holder| Some(holder.id()) == *existing)
            {
                *existing = None;
            }
        }
        failures
    }
}

impl DedupeKeyHolder {
    fn id(&self) -> EventId {
        match self {
            Self::Stored { id, .. } => *id,
            Self::New { event, .. } => event.id,
        }
    }

    fn sequence(&self) -> i64 {
        match self {
            Self::Stored { sequence, .. } | Self::New { sequence, .. } => *sequence,
        }
    }

    fn answer(&self, event: &NewEvent) -> Result<Admitted, Refusal> {
        match event.on_duplicate {
            OnDuplicate::Reject => Err(Refusal::Duplicate {
                dedupe_key: event.dedupe_key.clone().unwrap_or_default(),
                existing: Some(self.id()),
                different: !self.is_same(event),
            }),
            OnDuplicate::ReturnExisting => Ok(Admitted::Duplicate {
                id: self.id(),
                spirit_id: event.spirit_id,
                sequence: self.sequence(),
                different: !self.is_same(event),
            }),
        }
    }

    /// Returns whether the event equals the holder in type, content, session and source, and in `occurred_at` if the
    /// caller gave one. An absent value differs from a present one.
    fn is_same(&self, event: &NewEvent) -> bool {
        match self {
            Self::Stored { identity, .. } => identity.matches(event),
            Self::New { event: holder, .. } => {
                holder.event_type == event.event_type
                    && holder.content == event.content
                    && holder.session_id == event.session_id
                    && holder.source_uri == event.source_uri
                    && (!event.occurred_at_given || holder.occurred_at == event.occurred_at)
            }
        }
    }
}

impl Identity {
    fn matches(&self, event: &NewEvent) -> bool {
        self.event_type == event.event_type
            && self.session_id == event.session_id
            && self.source_uri == event.source_uri
            && (!event.occurred_at_given || self.occurred_at == event.occurred_at)
            && self.content_sha256[..] == Sha256::digest(&event.content)[..]
    }
}

/// Fails if the caller expects a last sequence of the spirit other than the stored one.
pub fn check_last_sequence(expected: Option<i64>, actual: i64) -> Result<(), Refusal> {
    match expected {
        Some(expected) if expected != actual => Err(Refusal::SequenceMismatch { expected, actual }),
        _ => Ok(()),
    }
}

/// Fails if the caller expects a last sequence of the session other than the stored one.
pub fn check_session_last_sequence(
    expected: Option<i64>,
    session_id: &str,
    actual: i64,
) -> Result<(), Refusal> {
    match expected {
        Some(expected) if expected != actual => Err(Refusal::SessionSequenceMismatch {
            session_id: session_id.to_owned(),
            expected,
            actual,
        }),
        _ => Ok(()),
    }
}
