//! Sends the events of the readers through an ingest stream and counts the outcomes in the order of the lines.
//!
//! An event is kept until it is answered. When the stream breaks off, a new one is opened and gets the unanswered events
//! again. Each has a dedupe key, given or derived, so that this stores nothing twice.

use std::collections::VecDeque;

use tokio::sync::OwnedSemaphorePermit;
use tonic::{Code, Status};

use super::super::retry::Retry;
use super::deletions::Deletions;
use super::fault::Position;
use super::ingest::{self, Answer};
use super::line::Parsed;
use super::reader::{Message, Readers};
use super::tally::{Outcome, Tally, Verdict};
use super::target::{Target, check, check_session};
use super::watched::{Digest, Watched};
use crate::grpc::pb::{CreateEventRequest, IngestEventsResponse, UpdateSessionRequest};

/// Lines that are not counted yet at which no more are taken from the readers.
const PENDING_MAX: usize = 4_096;

/// Stores the events of an import.
pub(super) struct Upload<'a> {
    readers: Readers,
    tally: &'a mut Tally,
    target: Target,
    /// Soft deletes of stored events; `None` in a dry run.
    deletions: Option<Deletions>,
    /// Events that earlier passes over watched files have stored.
    watched: Option<&'a mut Watched>,
    /// Lines that are not counted yet, oldest first.
    pending: VecDeque<Pending>,
    /// Number of lines that were counted, which is the number of the oldest pending one.
    counted: u64,
    /// Number of events that were sent on the current stream and are not answered.
    unanswered: usize,
    /// The status of an event that has to be sent again; then nothing new is sent.
    failing: Option<Status>,
    /// Failures since the oldest event was answered.
    retry: Retry,
}

struct Pending {
    source: usize,
    state: State,
}

enum State {
    /// An event without an answer.
    Event {
        at: Position,
        parsed: Box<Parsed>,
        /// The memory of the event, which is free again when it is dropped.
        _permit: OwnedSemaphorePermit,
        /// Whether it was sent on the current stream.
        sent: bool,
        /// Identifies the event among those of a watch.
        digest: Option<Digest>,
    },
    /// An event that is stored and not soft-deleted yet.
    Deleting(Position, Outcome, Option<Digest>),
    Counted(Position, Outcome, Option<Digest>),
    Broken(String),
    End,
}

impl<'a> Upload<'a> {
    pub(super) fn new(
        readers: Readers,
        spirit_id: String,
        tally: &'a mut Tally,
        target: Target,
        watched: Option<&'a mut Watched>,
    ) -> Self {
        let deletions = match &target {
            Target::Server(ingest) => Some(ingest.deletions(spirit_id)),
            Target::DryRun(_) => None,
        };
        Self {
            readers,
            tally,
            target,
            deletions,
            watched,
            pending: VecDeque::new(),
            counted: 0,
            unanswered: 0,
            failing: None,
            retry: Retry::default(),
        }
    }

    /// Runs until everything is read and answered.
    pub(super) async fn run(mut self) -> Result<(), Status> {
        self.resume().await?;
        let mut is_reading = true;
        loop {
            let takes_more = is_reading && self.failing.is_none() && self.pending.len() < PENDING_MAX;
            let is_deleting = self
                .deletions
                .as_ref()
                .is_some_and(|deletions| !deletions.is_empty());
            tokio::select! {
                message = self.readers.next(), if takes_more => match message {
                    Some((source, message)) => self.message(source, message).await?,
                    None => is_reading = false,
                },
                reply = self.target.reply(), if self.unanswered > 0 => self.replied(reply).await?,
                (line, result) = next_deletion(&mut self.deletions), if is_deleting => self.deleted(line, result)?,
                else => return Ok(()),
            }
            if let Some(status) = self.failing.take_if(|_| self.unanswered == 0) {
                self.back_off(status).await?;
                self.resume().await?;
            }
            self.settle();
        }
    }

    /// Takes a message of a reader. Of a watched file, faults that were reported are passed over.
    async fn message(&mut self, source: usize, message: Message) -> Result<(), Status> {
        let messages = match &mut self.watched {
            Some(watched) => watched.filter(source, message),
            None => vec![message],
        };
        for message in messages {
            match message {
                Message::Session(at, request) => self.session(source, at, *request).await?,
                Message::Skipped(kind) => self.tally.skipped(source, kind),
                Message::Format(name) => self.tally.format(source, name),
                Message::LooksLike(guess) => self.tally.looks_like(source, guess),
                Message::Bad(at, fault) => self.push(source, State::Counted(at, Outcome::Bad(fault), None)),
                Message::Broken(text) => self.push(source, State::Broken(text)),
                Message::End => self.push(source, State::End),
                Message::Event(at, parsed, permit) => self.event(source, at, parsed, permit),
            }
        }
        Ok(())
    }

    fn push(&mut self, source: usize, state: State) {
        self.pending.push_back(Pending { source, state });
    }

    /// Sends an event, unless an earlier pass over the file has stored it.
    fn event(&mut self, source: usize, at: Position, parsed: Box<Parsed>, permit: OwnedSemaphorePermit) {
        let digest = self.watched.is_some().then(|| Digest::of_event(&parsed));
        let is_known = |watched: &&mut Watched| digest.is_some_and(|digest| watched.has_stored(digest));
        if self.watched.as_ref().is_some_and(is_known) {
            self.tally.known(source);
            return;
        }
        let state = match &self.target {
            Target::DryRun(limits) => {
                self.tally.repaired(source, parsed.repaired);
                State::Counted(at, check(parsed.request, limits), None)
            }
            Target::Server(ingest) => {
                ingest.send(parsed.request.clone());
                self.unanswered += 1;
                State::Event {
                    at,
                    parsed,
                    _permit: permit,
                    sent: true,
                    digest,
                }
            }
        };
        self.push(source, state);
    }

    /// Sets title, owner or `meta` of a session.
    async fn session(
        &mut self,
        source: usize,
        at: Position,
        request: UpdateSessionRequest,
    ) -> Result<(), Status> {
        if let Target::DryRun(limits) = &self.target
            && let Err(fault) = check_session(request.clone(), limits)
        {
            self.push(source, State::Counted(at, Outcome::Bad(fault), None));
            return Ok(());
        }
        while let Target::Server(ingest) = &mut self.target {
            let Err(status) = ingest.update_session(request.clone()).await else {
                break;
            };
            if status.code() == Code::InvalidArgument {
                let outcome = Outcome::Bad(ingest::session_fault(&status));
                self.push(source, State::Counted(at, outcome, None));
                return Ok(());
            }
            self.back_off(status).await?;
        }
        self.retry.reset();
        self.tally.session(source);
        if let Some(watched) = &mut self.watched {
            watched.set_session(source, &request);
        }
        Ok(())
    }

    /// Returns whether a reply names a different event that differs in its time only, which a source without times does
    /// not have.
    async fn is_same_but_for_time(&mut self, response: &IngestEventsResponse) -> bool {
        let Some(event_id) = ingest::different_event(response) else {
            return false;
        };
        let first = self.pending.iter().find_map(|pending| match &pending.state {
            State::Event {
                parsed, sent: true, ..
            } => Some(parsed),
            _ => None,
        });
        match (first, &mut self.target) {
            (Some(parsed), Target::Server(ingest)) if parsed.is_time_assumed => {
                ingest.is_stored(event_id, &parsed.request).await
            }
            _ => false,
        }
    }

    /// Takes the reply to the oldest unanswered event, or the end of the stream.
    async fn replied(&mut self, reply: Result<IngestEventsResponse, Status>) -> Result<(), Status> {
        match reply {
            Ok(response) if self.is_same_but_for_time(&response).await => {
                self.retry.reset();
                self.answer_first(Some(Outcome::Duplicate), None);
            }
            Ok(response) => {
                let key = self.first_sent().and_then(|event| event.dedupe_key.as_deref());
                match ingest::answer(response, key) {
                    Answer::Final(outcome) => self.answer_first(Some(outcome), None),
                    Answer::Stored(outcome, event_id) => self.answer_first(Some(outcome), Some(event_id)),
                    Answer::Retry(status) => {
                        self.answer_first(None, None);
                        self.failing = Some(status);
                    }
                    Answer::Fatal(status) => return Err(status),
                }
            }
            Err(status) => {
                if let Some(fault) = ingest::message_fault(&status) {
                    self.answer_first(Some(Outcome::Bad(fault)), None);
                } else {
                    self.back_off(status).await?;
                }
                self.resume().await?;
            }
        }
        Ok(())
    }

    fn first_sent(&self) -> Option<&CreateEventRequest> {
        self.pending.iter().find_map(|pending| match &pending.state {
            State::Event {
                parsed, sent: true, ..
            } => Some(&parsed.request),
            _ => None,
        })
    }

    /// Records the outcome of the oldest event that was sent; without one the event is to be sent again. An event that
    /// is stored is soft-deleted if its line says so.
    fn answer_first(&mut self, outcome: Option<Outcome>, event_id: Option<String>) {
        self.unanswered = self.unanswered.saturating_sub(1);
        let mut is_oldest = true;
        for (line, pending) in (self.counted..).zip(&mut self.pending) {
            let State::Event {
                at,
                parsed,
                sent,
                digest,
                ..
            } = &mut pending.state
            else {
                continue;
            };
            if !std::mem::take(sent) {
                is_oldest = false;
                continue;
            }
            let Some(outcome) = outcome else { return };
            if !matches!(outcome, Outcome::Bad(_)) {
                self.tally.repaired(pending.source, parsed.repaired);
            }
            let digest = *digest;
            pending.state = match (event_id.filter(|_| parsed.is_deleted), &mut self.deletions) {
                (Some(event_id), Some(deletions)) => {
                    deletions.add(line, event_id);
                    State::Deleting(*at, outcome, digest)
                }
                _ => State::Counted(*at, outcome, digest),
            };
            if is_oldest {
                self.retry.reset();
            }
            return;
        }
    }

    /// Takes the result of a soft delete.
    fn deleted(&mut self, line: u64, result: Result<(), Status>) -> Result<(), Status> {
        result?;
        let index = usize::try_from(line - self.counted).unwrap_or(usize::MAX);
        if let Some(pending) = self.pending.get_mut(index) {
            let state = std::mem::replace(&mut pending.state, State::End);
            pending.state = match state {
                State::Deleting(at, outcome, digest) => State::Counted(at, outcome, digest),
                other => other,
            };
        }
        Ok(())
    }

    /// Waits before the next attempt. Fails if the status is final or the attempts are used up.
    async fn back_off(&mut self, status: Status) -> Result<(), Status> {
        let text = format!("{:?}: {}; trying again", status.code(), status.message());
        let pause = self.retry.pause(status)?;
        self.tally.note(&text);
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// Opens a new stream and sends the unanswered events on it.
    async fn resume(&mut self) -> Result<(), Status> {
        loop {
            let Target::Server(ingest) = &mut self.target else {
                return Ok(());
            };
            match ingest.open().await {
                Ok(()) => break,
                Err(status) => self.back_off(status).await?,
            }
        }
        self.failing = None;
        self.unanswered = 0;
        for pending in &mut self.pending {
            if let (State::Event { parsed, sent, .. }, Target::Server(ingest)) =
                (&mut pending.state, &self.target)
            {
                *sent = true;
                ingest.send(parsed.request.clone());
                self.unanswered += 1;
            }
        }
        Ok(())
    }

    /// Counts the lines before the first unanswered event.
    fn settle(&mut self) {
        while let Some(Pending { source, state }) = self
            .pending
            .pop_front_if(|pending| !matches!(pending.state, State::Event { .. } | State::Deleting(..)))
        {
            self.counted += 1;
            match state {
                State::Counted(at, outcome, digest) => {
                    if let Some(watched) = &mut self.watched {
                        watched.count(source, at, &outcome, digest);
                    }
                    if self.tally.count(source, at, outcome) == Verdict::Stop {
                        self.readers.leave(source);
                        if let Some(watched) = &mut self.watched {
                            watched.reject(source);
                        }
                    }
                }
                State::Broken(text) => {
                    if let Some(watched) = &mut self.watched {
                        watched.count_broken(source, &text);
                    }
                    self.tally.broken(source, &text);
                }
                State::End => self.tally.end(source),
                State::Event { .. } | State::Deleting(..) => {}
            }
        }
    }
}

/// Returns the next line whose event is soft-deleted. Cancel safe.
async fn next_deletion(deletions: &mut Option<Deletions>) -> (u64, Result<(), Status>) {
    match deletions {
        Some(deletions) => deletions.next().await,
        None => std::future::pending().await,
    }
}
