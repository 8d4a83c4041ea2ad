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
    /// Number of flushes that did not store the job because one of its spirits was locked.
    pub(super) lock_misses: u32,
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
    /// The items were decided in parts, each with the indexes of its items in the request.
    Split(Vec<(Vec<usize>, JobResult)>),
}

/// The channel of a job's result.
#[derive(Debug)]
enum Reply {
    /// Answers the caller and then returns the permit.
    Whole(oneshot::Sender<Answer>, QueuePermit),
    /// Contributes the result of some items, given by their indexes in the request, to the answer.
    Part(Arc<Mutex<Parts>>, Vec<usize>),
}

/// The partial answer to a request whose items are stored in parts.
#[derive(Debug)]
struct Parts {
    results: Vec<(Vec<usize>, JobResult)>,
    /// Number of items without a result.
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
            lock_misses: 0,
            reply: Reply::Whole(sender, permit),
        };
        (job, receiver)
    }

    /// Returns whether the job has an event of the spirit.
    pub(super) fn involves(&self, spirit_id: SpiritId) -> bool {
        self.items.iter().any(|item| item.spirit_id == spirit_id)
    }

    /// Returns whether the job has events of several spirits.
    pub(super) fn has_several_spirits(&self) -> bool {
        let mut spirit_ids = self.items.iter().map(|item| item.spirit_id);
        let first = spirit_ids.next();
        spirit_ids.any(|spirit_id| Some(spirit_id) != first)
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
        let count = self.items.len();
        self.divide_by(count, |index, _| index)
    }

    /// Splits the job by groups of items, numbered below `count`; `group` returns the group of an item, given with
    /// its position. The items of a group keep their order, and the caller is answered after the last job. A job
    /// that is not divisible or has a single group is returned unchanged.
    pub(super) fn divide_by(self, count: usize, group: impl Fn(usize, &NewEvent) -> usize) -> Vec<Self> {
        let items = self.items.iter().enumerate();
        let groups: Vec<usize> = items.map(|(position, item)| group(position, item)).collect();
        if !self.is_divisible() || groups.iter().all(|group| *group == groups[0]) {
            return vec![self];
        }
        let Self {
            items,
            mode,
            span,
            lock_misses,
            reply,
        } = self;
        let (parts, indexes) = match reply {
            Reply::Part(parts, indexes) => (parts, indexes),
            Reply::Whole(sender, permit) => {
                let parts = Parts {
                    results: Vec::new(),
                    missing: items.len(),
                    caller: Some((sender, permit)),
                };
                (Arc::new(Mutex::new(parts)), (0..items.len()).collect())
            }
        };
        let mut members: Vec<(Vec<Arc<NewEvent>>, Vec<usize>)> = vec![(Vec::new(), Vec::new()); count];
        for ((item, index), group) in items.into_iter().zip(indexes).zip(groups) {
            members[group].0.push(item);
            members[group].1.push(index);
        }
        let members = members.into_iter().filter(|(items, _)| !items.is_empty());
        let job = |(items, indexes)| Self {
            items,
            mode,
            span: span.clone(),
            lock_misses,
            reply: Reply::Part(Arc::clone(&parts), indexes),
        };
        members.map(job).collect()
    }

    /// Sends the result to the caller.
    pub(super) fn answer(self, result: JobResult) {
        let Self { items, reply, .. } = self;
        drop(items); // so that the caller becomes the only owner of the stored events
        match reply {
            Reply::Whole(caller, _permit) => send(caller, Answer::Whole(result)),
            Reply::Part(parts, indexes) => parts.lock().put(indexes, result),
        }
    }
}

impl Parts {
    /// Records the result of some items; answers the caller if no other result is missing.
    fn put(&mut self, indexes: Vec<usize>, result: JobResult) {
        self.missing -= indexes.len();
        self.results.push((indexes, result));
        if self.missing == 0
            && let Some((caller, _permit)) = self.caller.take()
        {
            send(caller, Answer::Split(std::mem::take(&mut self.results)));
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
            Self::Split(parts) => match common_failure(&parts) {
                Some(error) => Err(error),
                None => Ok(part_results(parts)),
            },
        }
    }
}

/// Returns the error of a request of which no part was decided. It is not an error in the data of the items, which
/// each item reports by itself.
fn common_failure(parts: &[(Vec<usize>, JobResult)]) -> Option<StoreError> {
    let failed = |(_, result): &(_, JobResult)| matches!(result, Err(error) if !error.is_of_statement());
    if !parts.iter().all(failed) {
        return None;
    }
    parts
        .first()
        .and_then(|(_, result)| result.as_ref().err().cloned())
}

/// Returns the results of the items in the order of the request.
fn part_results(parts: Vec<(Vec<usize>, JobResult)>) -> Vec<Result<Created, StoreError>> {
    let mut items: Vec<(usize, Result<Created, StoreError>)> = Vec::new();
    for (indexes, result) in parts {
        match result.and_then(item_results) {
            Ok(results) => items.extend(indexes.into_iter().zip(results)),
            Err(error) => items.extend(indexes.into_iter().map(|index| (index, Err(error.clone())))),
        }
    }
    items.sort_unstable_by_key(|(index, _)| *index);
    items.into_iter().map(|(_, result)| result).collect()
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
