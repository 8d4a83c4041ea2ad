//! The memory of a watch: what its passes over the files have stored and reported. A file that has grown is read again
//! from its start, and only what is new is sent.

use std::collections::{HashMap, HashSet};

use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::fault::Position;
use super::line::Parsed;
use super::reader::Message;
use super::tally::Outcome;
use crate::grpc::pb::UpdateSessionRequest;

/// Identifies an event, a session or a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Digest(u128);

impl Digest {
    /// Identifies an event with all its fields.
    pub(super) fn of_event(parsed: &Parsed) -> Self {
        let mut bytes = parsed.request.encode_to_vec();
        bytes.push(parsed.is_deleted.into());
        Self::of(&bytes)
    }

    fn of(bytes: &[u8]) -> Self {
        let hash = Sha256::digest(bytes);
        Self(u128::from_be_bytes(std::array::from_fn(|i| hash[i])))
    }
}

/// The events and faults of a watch so far, and the state of its current pass.
#[derive(Default)]
pub(super) struct Watched {
    events: HashSet<Digest>,
    /// The last change of a session by the path of its source and its ordinal among the changes there.
    sessions: HashMap<(String, usize), Digest>,
    faults: HashSet<Digest>,
    sources: Vec<WatchedSource>,
}

/// A source of the current pass.
pub(super) struct WatchedSource {
    pub(super) path: String,
    /// Whether the file may be growing, so that its last record may be incomplete.
    pub(super) is_growing: bool,
    /// Whether the last record was a fault that is not reported while the file is growing.
    pub(super) has_loose_end: bool,
    /// Whether none of its first lines is an event.
    pub(super) is_rejected: bool,
    /// A fault that is the last record so far.
    held: Option<Message>,
    /// Number of changes of sessions so far.
    sessions: usize,
}

impl WatchedSource {
    pub(super) fn new(path: String, is_growing: bool) -> Self {
        Self {
            path,
            is_growing,
            has_loose_end: false,
            is_rejected: false,
            held: None,
            sessions: 0,
        }
    }
}

impl Watched {
    /// Begins a pass over these sources.
    pub(super) fn begin(&mut self, sources: Vec<WatchedSource>) {
        self.sources = sources;
    }

    /// Ends the pass and returns its sources.
    pub(super) fn end(&mut self) -> Vec<WatchedSource> {
        std::mem::take(&mut self.sources)
    }

    pub(super) fn has_stored(&self, event: Digest) -> bool {
        self.events.contains(&event)
    }

    /// Takes note of a line that is counted, and of its event.
    pub(super) fn count(&mut self, source: usize, at: Position, outcome: &Outcome, event: Option<Digest>) {
        if let Some(event) = event {
            self.events.insert(event);
        } else if let Outcome::Bad(fault) = outcome {
            let fault = self.fault(source, Some(at), &fault.text);
            self.faults.insert(fault);
        }
    }

    /// Takes note of a source that was reported as not readable.
    pub(super) fn count_broken(&mut self, source: usize, text: &str) {
        let fault = self.fault(source, None, text);
        self.faults.insert(fault);
    }

    /// Takes note of the last session of a source that [`filter`](Self::filter) returned.
    pub(super) fn set_session(&mut self, source: usize, request: &UpdateSessionRequest) {
        let state = &self.sources[source];
        let key = (state.path.clone(), state.sessions);
        self.sessions.insert(key, Digest::of(&request.encode_to_vec()));
    }

    pub(super) fn reject(&mut self, source: usize) {
        self.sources[source].is_rejected = true;
    }

    /// Returns the messages to handle at a message of a source. A fault is held until the next message, since the last
    /// record of a growing file may be incomplete. Faults and sessions of earlier passes are left out.
    pub(super) fn filter(&mut self, source: usize, message: Message) -> Vec<Message> {
        let state = &mut self.sources[source];
        let mut held = state.held.take();
        if matches!(message, Message::End) && state.is_growing && held.is_some() {
            state.has_loose_end = true;
            held = None;
        }
        let mut messages: Vec<Message> = held.into_iter().collect();
        match message {
            Message::Bad(..) | Message::Broken(_) => state.held = Some(message),
            Message::LooksLike(_) if state.is_growing => {}
            Message::Session(at, request) => {
                state.sessions += 1;
                let last = self.sessions.get(&(state.path.clone(), state.sessions));
                if last != Some(&Digest::of(&request.encode_to_vec())) {
                    messages.push(Message::Session(at, request));
                }
            }
            other => messages.push(other),
        }
        messages.retain(|message| match message {
            Message::Bad(at, fault) => !self.faults.contains(&self.fault(source, Some(*at), &fault.text)),
            Message::Broken(text) => !self.faults.contains(&self.fault(source, None, text)),
            _ => true,
        });
        messages
    }

    fn fault(&self, source: usize, at: Option<Position>, text: &str) -> Digest {
        let path = &self.sources[source].path;
        let line = at.map_or(0, |at| at.line);
        Digest::of(format!("{path}\0{line}\0{text}").as_bytes())
    }
}
