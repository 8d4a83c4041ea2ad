//! A request on its way into the database, and the way back to its caller.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tracing::Span;

use super::queue::QueuePermit;
use crate::domain::Time;
use crate::domain::admission::{Admitted, Verdict};
use crate::domain::event::{BatchMode, Created, NewEvent};
use crate::domain::ids::SpiritId;
use crate::store::pg::error::StoreError;
use crate::store::pg::spans;

/// One request; its items permit one fate where `mode` is atomic.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) items: Vec<Arc<NewEvent>>,
    pub(super) mode: BatchMode,
    /// Of the caller's call.
    pub(super) span: Span,
    reply: Reply,
}

/// What was decided about a job, committed.
#[derive(Clone, Debug)]
pub(super) struct Decided {
    pub(super) verdict: Verdict,
    /// `created_at` of what was stored.
    pub(super) now: Time,
}

type Outcome = Result<Decided, StoreError>;

/// What a caller gets.
#[derive(Debug)]
pub(super) enum Answer {
    Whole(Outcome),
    /// The items were stored apart: one outcome for each, in their order.
    Split(Vec<Outcome>),
}

#[derive(Debug)]
enum Reply {
    /// To the caller, with the permit that is given back then.
    Whole(oneshot::Sender<Answer>, QueuePermit),
    /// One item's place in the answer to the caller.
    Part(Arc<Mutex<Parts>>, usize),
}

/// The answer to a request whose items are stored apart, as far as it is there.
#[derive(Debug)]
struct Parts {
    outcomes: Vec<Option<Outcome>>,
    missing: usize,
    /// Taken with the last outcome.
    caller: Option<(oneshot::Sender<Answer>, QueuePermit)>,
}

impl Job {
    pub(super) fn new(
        items: Vec<NewEvent>,
        mode: BatchMode,
        permit: QueuePermit,
    ) -> (Self, oneshot::Receiver<Answer>) {
        let (sender, answer) = oneshot::channel();
        let job = Self {
            items: items.into_iter().map(Arc::new).collect(),
            mode,
            span: spans::current(),
            reply: Reply::Whole(sender, permit),
        };
        (job, answer)
    }

    pub(super) fn concerns(&self, spirit_id: SpiritId) -> bool {
        self.items.iter().any(|item| item.spirit_id == spirit_id)
    }

    /// Whether nobody waits for it any more.
    pub(super) fn is_abandoned(&self) -> bool {
        match &self.reply {
            Reply::Whole(caller, _) => caller.is_closed(),
            Reply::Part(parts, _) => {
                let parts = lock(parts);
                parts.caller.as_ref().is_none_or(|(caller, _)| caller.is_closed())
            }
        }
    }

    /// Whether its items may be stored apart.
    pub(super) fn is_divisible(&self) -> bool {
        self.mode == BatchMode::Partial && self.items.len() > 1
    }

    /// A job for each item; once all are answered, the caller is. Itself, where it must not be divided.
    pub(super) fn divide(self) -> Vec<Self> {
        let divisible = self.is_divisible();
        let Self {
            items,
            mode,
            span,
            reply,
        } = self;
        let (sender, permit) = match reply {
            Reply::Whole(sender, permit) if divisible => (sender, permit),
            reply => {
                return vec![Self {
                    items,
                    mode,
                    span,
                    reply,
                }];
            }
        };
        let parts = Arc::new(Mutex::new(Parts {
            outcomes: items.iter().map(|_| None).collect(),
            missing: items.len(),
            caller: Some((sender, permit)),
        }));
        let part = |(index, item)| Self {
            items: vec![item],
            mode,
            span: span.clone(),
            reply: Reply::Part(Arc::clone(&parts), index),
        };
        items.into_iter().enumerate().map(part).collect()
    }

    pub(super) fn answer(self, outcome: Outcome) {
        let Self { items, reply, .. } = self;
        drop(items); // so that the caller becomes the only owner of what was stored
        match reply {
            Reply::Whole(caller, _permit) => send(caller, Answer::Whole(outcome)),
            Reply::Part(parts, index) => lock(&parts).put(index, outcome),
        }
    }
}

impl Answer {
    /// Returns a result for each event, in order; an error if the request failed as a whole.
    pub(super) fn into_results(self) -> Result<Vec<Result<Created, StoreError>>, StoreError> {
        match self {
            Self::Whole(decided) => decided.and_then(batch_results),
            Self::Split(outcomes) => {
                let results = |decided: Outcome| match decided.and_then(batch_results) {
                    Ok(results) => results,
                    Err(error) => vec![Err(error)],
                };
                Ok(outcomes.into_iter().flat_map(results).collect())
            }
        }
    }
}

fn batch_results(decided: Decided) -> Result<Vec<Result<Created, StoreError>>, StoreError> {
    let Decided { verdict, now } = decided;
    let results = verdict.map_err(StoreError::BatchRefused)?;
    Ok(results
        .into_iter()
        .map(|result| Ok(created(result?, now)))
        .collect())
}

fn created(admitted: Admitted, now: Time) -> Created {
    match admitted {
        Admitted::New { event, sequence } => {
            Created::New(Box::new(Arc::unwrap_or_clone(event).stored(sequence, now)))
        }
        Admitted::Duplicate {
            id,
            spirit_id,
            sequence,
            different,
        } => Created::Duplicate {
            id,
            spirit_id,
            sequence,
            different,
        },
    }
}

impl Parts {
    fn put(&mut self, index: usize, outcome: Outcome) {
        self.outcomes[index] = Some(outcome);
        self.missing -= 1;
        if self.missing == 0
            && let Some((caller, _permit)) = self.caller.take()
        {
            let outcomes = std::mem::take(&mut self.outcomes);
            send(caller, Answer::Split(outcomes.into_iter().flatten().collect()));
        }
    }
}

fn lock(parts: &Mutex<Parts>) -> MutexGuard<'_, Parts> {
    // Jobs are answered one after another; a poisoned lock only means that one of them was not.
    parts.lock().unwrap_or_else(PoisonError::into_inner)
}

fn send(caller: oneshot::Sender<Answer>, answer: Answer) {
    if caller.send(answer).is_err() {
        tracing::debug!("the caller of a flushed request has gone");
    }
}
