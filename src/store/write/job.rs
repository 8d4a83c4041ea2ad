//! A create request in the write queue, and the channel of its result.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tracing::Span;

use super::queue::QueuePermit;
use crate::domain::Time;
use crate::domain::admission::{Admitted, Verdict};
use crate::domain::event::{BatchMode, Created, NewEvent};
use crate::domain::ids::SpiritId;
use crate::store::pg::error::StoreError;
use crate::store::pg::spans;

/// A queued request to create events. If `mode` is atomic, all its items are stored or none.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) items: Vec<Arc<NewEvent>>,
    pub(super) mode: BatchMode,
    /// The span of the call.
    pub(super) span: Span,
    reply: Reply,
}

/// The committed decision on a job.
#[derive(Clone, Debug)]
pub(super) struct Decision {
    pub(super) verdict: Verdict,
    /// `created_at` of the stored events.
    pub(super) now: Time,
}

type JobResult = Result<Decision, StoreError>;

/// The answer to a request.
#[derive(Debug)]
pub(super) enum Answer {
    /// The items were decided together.
    Whole(JobResult),
    /// The items were stored one by one; holds a result for each item, in their order.
    Split(Vec<JobResult>),
}

/// The channel of a job's result.
#[derive(Debug)]
enum Reply {
    /// Answers the caller and then returns the permit.
    Whole(oneshot::Sender<Answer>, QueuePermit),
    /// Contributes the result of one item, given by index, to the answer.
    Part(Arc<Mutex<Parts>>, usize),
}

/// The partial answer to a request whose items are stored one by one.
#[derive(Debug)]
struct Parts {
    results: Vec<Option<JobResult>>,
    /// Number of results that are still missing.
    missing: usize,
    /// Taken when the last result arrives.
    caller: Option<(oneshot::Sender<Answer>, QueuePermit)>,
}

impl Job {
    /// Creates a job for a request, and the receiver of its answer.
    pub(super) fn new(
        items: Vec<NewEvent>,
        mode: BatchMode,
        permit: QueuePermit,
    ) -> (Self, oneshot::Receiver<Answer>) {
        let (sender, receiver) = oneshot::channel();
        let job = Self {
            items: items.into_iter().map(Arc::new).collect(),
            mode,
            span: spans::current(),
            reply: Reply::Whole(sender, permit),
        };
        (job, receiver)
    }

    /// Returns whether the job has an event of the spirit.
    pub(super) fn involves(&self, spirit_id: SpiritId) -> bool {
        self.items.iter().any(|item| item.spirit_id == spirit_id)
    }

    /// Returns whether the caller no longer waits for the answer.
    pub(super) fn is_abandoned(&self) -> bool {
        match &self.reply {
            Reply::Whole(caller, _) => caller.is_closed(),
            Reply::Part(parts, _) => {
                let parts = parts.lock();
                parts.caller.as_ref().is_none_or(|(caller, _)| caller.is_closed())
            }
        }
    }

    /// Returns whether the job has several items that may be stored one by one.
    pub(super) fn is_divisible(&self) -> bool {
        self.mode == BatchMode::Partial && self.items.len() > 1
    }

    /// Splits the job into one job per item; the caller is answered after the last of them. A job that is not
    /// divisible is returned unchanged.
    pub(super) fn divide(self) -> Vec<Self> {
        let is_divisible = self.is_divisible();
        let Self {
            items,
            mode,
            span,
            reply,
        } = self;
        let (sender, permit) = match reply {
            Reply::Whole(sender, permit) if is_divisible => (sender, permit),
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
            results: items.iter().map(|_| None).collect(),
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

    /// Sends the result to the caller.
    pub(super) fn answer(self, result: JobResult) {
        let Self { items, reply, .. } = self;
        drop(items); // so that the caller becomes the only owner of the stored events
        match reply {
            Reply::Whole(caller, _permit) => send(caller, Answer::Whole(result)),
            Reply::Part(parts, index) => parts.lock().put(index, result),
        }
    }
}

impl Parts {
    /// Records the result of an item; answers the caller if it is the last one.
    fn put(&mut self, index: usize, result: JobResult) {
        self.results[index] = Some(result);
        self.missing -= 1;
        if self.missing == 0
            && let Some((caller, _permit)) = self.caller.take()
        {
            let results = std::mem::take(&mut self.results);
            send(caller, Answer::Split(results.into_iter().flatten().collect()));
        }
    }
}

fn send(caller: oneshot::Sender<Answer>, answer: Answer) {
    if caller.send(answer).is_err() {
        tracing::debug!("the caller of a flushed request has gone away");
    }
}

impl Answer {
    /// Returns a result for each item, in order, or an error if the request failed as a whole.
    pub(super) fn into_results(self) -> Result<Vec<Result<Created, StoreError>>, StoreError> {
        match self {
            Self::Whole(result) => result.and_then(item_results),
            Self::Split(results) => {
                let flatten = |result: JobResult| match result.and_then(item_results) {
                    Ok(results) => results,
                    Err(error) => vec![Err(error)],
                };
                Ok(results.into_iter().flat_map(flatten).collect())
            }
        }
    }
}

fn item_results(decision: Decision) -> Result<Vec<Result<Created, StoreError>>, StoreError> {
    let Decision { verdict, now } = decision;
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
