//! Sends the events of the readers through an ingest stream and counts the outcomes in the order of the lines.
//!
//! An event is kept until it is answered. When the stream breaks off, a new one is opened and gets the unanswered events
//! again. Each has a dedupe key, given or derived, so that this stores nothing twice.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tonic::{Code, Status};
use uuid::Uuid;

use super::super::client::explain;
use super::fault::Position;
use super::ingest::{self, Answer, Ingest};
use super::line::Parsed;
use super::reader::{Message, Readers};
use super::tally::{Outcome, Tally, Verdict};
use crate::domain::limits::Limits;
use crate::formats::SessionUpdate;
use crate::grpc::check_create;
use crate::grpc::pb::{CreateEventRequest, IngestEventsResponse};

/// Lines that are not counted yet at which no more are taken from the readers.
const PENDING_MAX: usize = 4_096;
/// Attempts at the oldest event while the server is unavailable, overloaded or too slow.
const ATTEMPTS_MAX: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Stores the events of an import.
pub(super) struct Upload<'a> {
    readers: Readers,
    spirit_id: String,
    tally: &'a mut Tally,
    target: Target,
    /// Lines that are not counted yet, oldest first.
    pending: VecDeque<Pending>,
    /// Number of events that were sent on the current stream and are not answered.
    unanswered: usize,
    /// The status of an event that has to be sent again; then nothing new is sent.
    failing: Option<Status>,
    /// Failures since the oldest event was answered.
    failures: u32,
}

/// The place to which events go.
pub(super) enum Target {
    Server(Box<Ingest>),
    /// Nowhere: events are checked against the default limits.
    DryRun(Limits),
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
    },
    Counted(Position, Outcome),
    Broken(String),
    End,
}

impl<'a> Upload<'a> {
    pub(super) fn new(readers: Readers, spirit_id: String, tally: &'a mut Tally, target: Target) -> Self {
        Self {
            readers,
            spirit_id,
            tally,
            target,
            pending: VecDeque::new(),
            unanswered: 0,
            failing: None,
            failures: 0,
        }
    }

    /// Runs until everything is read and answered.
    pub(super) async fn run(mut self) -> anyhow::Result<()> {
        self.resume().await?;
        let mut is_reading = true;
        loop {
            let takes_more = is_reading && self.failing.is_none() && self.pending.len() < PENDING_MAX;
            tokio::select! {
                message = self.readers.next(), if takes_more => match message {
                    Some((source, Message::Session(at, update))) => self.session(source, at, update).await?,
                    Some((_, Message::Skipped(kind))) => self.tally.skipped(kind),
                    Some((_, Message::Format(name))) => self.tally.format(name),
                    Some((source, message)) => self.take(source, message),
                    None => is_reading = false,
                },
                reply = self.target.reply(), if self.unanswered > 0 => self.replied(reply).await?,
                else => return Ok(()),
            }
            if let Some(status) = self.failing.take_if(|_| self.unanswered == 0) {
                self.back_off(status).await?;
                self.resume().await?;
            }
            self.settle();
        }
    }

    fn take(&mut self, source: usize, message: Message) {
        let state = match message {
            Message::Bad(at, fault) => State::Counted(at, Outcome::Bad(fault)),
            Message::Broken(text) => State::Broken(text),
            Message::End => State::End,
            Message::Session(..) | Message::Skipped(_) | Message::Format(_) => return, // are not in the order of events
            Message::Event(at, parsed, permit) => match &self.target {
                Target::DryRun(limits) => {
                    self.tally.repaired(parsed.repaired);
                    State::Counted(at, check(parsed.request, limits))
                }
                Target::Server(ingest) => {
                    ingest.send(parsed.request.clone());
                    self.unanswered += 1;
                    State::Event {
                        at,
                        parsed,
                        _permit: permit,
                        sent: true,
                    }
                }
            },
        };
        self.pending.push_back(Pending { source, state });
    }

    /// Sets the title or `meta` of a session.
    async fn session(&mut self, source: usize, at: Position, update: SessionUpdate) -> anyhow::Result<()> {
        while let Target::Server(ingest) = &mut self.target {
            let Err(status) = ingest
                .update_session(self.spirit_id.clone(), update.clone())
                .await
            else {
                break;
            };
            if status.code() == Code::InvalidArgument {
                let state = State::Counted(at, Outcome::Bad(ingest::session_fault(&status)));
                self.pending.push_back(Pending { source, state });
                return Ok(());
            }
            self.back_off(status).await?;
        }
        self.failures = 0;
        self.tally.session(source);
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
    async fn replied(&mut self, reply: Result<IngestEventsResponse, Status>) -> anyhow::Result<()> {
        match reply {
            Ok(response) if self.is_same_but_for_time(&response).await => {
                self.failures = 0;
                self.answer_first(Some(Outcome::Duplicate));
            }
            Ok(response) => {
                let key = self.first_sent().and_then(|event| event.dedupe_key.as_deref());
                match ingest::answer(response, key) {
                    Answer::Final(outcome) => self.answer_first(Some(outcome)),
                    Answer::Retry(status) => {
                        self.answer_first(None);
                        self.failing = Some(status);
                    }
                    Answer::Fatal(status) => return Err(stopped(status)),
                }
            }
            Err(status) => {
                if let Some(fault) = ingest::message_fault(&status) {
                    self.answer_first(Some(Outcome::Bad(fault)));
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

    /// Records the outcome of the oldest event that was sent; without one the event is to be sent again.
    fn answer_first(&mut self, outcome: Option<Outcome>) {
        self.unanswered = self.unanswered.saturating_sub(1);
        let mut is_oldest = true;
        for pending in &mut self.pending {
            let State::Event { at, parsed, sent, .. } = &mut pending.state else {
                continue;
            };
            if !std::mem::take(sent) {
                is_oldest = false;
                continue;
            }
            let Some(outcome) = outcome else { return };
            if !matches!(outcome, Outcome::Bad(_)) {
                self.tally.repaired(parsed.repaired);
            }
            pending.state = State::Counted(*at, outcome);
            if is_oldest {
                self.failures = 0;
            }
            return;
        }
    }

    /// Waits before the next attempt. Fails if the status is final or the attempts are used up.
    async fn back_off(&mut self, status: Status) -> anyhow::Result<()> {
        self.failures += 1;
        if !ingest::is_transient(&status) || self.failures == ATTEMPTS_MAX {
            return Err(stopped(status));
        }
        self.tally.note(&format!(
            "{:?}: {}; trying again",
            status.code(),
            status.message()
        ));
        tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(self.failures - 1)).await;
        Ok(())
    }

    /// Opens a new stream and sends the unanswered events on it.
    async fn resume(&mut self) -> anyhow::Result<()> {
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
            .pop_front_if(|pending| !matches!(pending.state, State::Event { .. }))
        {
            match state {
                State::Counted(at, outcome) => {
                    if self.tally.count(source, at, outcome) == Verdict::Stop {
                        self.readers.leave(source);
                    }
                }
                State::Broken(text) => self.tally.broken(source, &text),
                State::End => self.tally.end(source),
                State::Event { .. } => {}
            }
        }
    }
}

impl Target {
    /// Returns the next reply of the server. Cancel safe.
    async fn reply(&mut self) -> Result<IngestEventsResponse, Status> {
        match self {
            Self::Server(ingest) => ingest.reply().await,
            Self::DryRun(_) => std::future::pending().await,
        }
    }
}

/// Returns the outcome of an event in a dry run.
fn check(mut request: CreateEventRequest, limits: &Limits) -> Outcome {
    if request.spirit_id.is_empty() {
        request.spirit_id = Uuid::nil().to_string(); // of a spirit that has a name only
    }
    match check_create(request, limits) {
        Ok(()) => Outcome::Created,
        Err(invalid) => Outcome::Bad(ingest::bad_fields(
            invalid
                .0
                .into_iter()
                .map(|violation| (violation.field, violation.description)),
        )),
    }
}

fn stopped(status: Status) -> anyhow::Error {
    explain(status).context("the import stopped; run it again, nothing is stored twice")
}
