//! Stores the items of a `BatchCreateEvents` call and collects their results.

use std::collections::HashMap;

use prost::Message as _;

use super::pb::batch_create_events_result::Result as Item;
use super::{convert, pb};
use crate::domain::access::SpiritScope;
use crate::domain::event::{BatchMode, Created, Event, NewEvent};
use crate::domain::ids::{EventId, SpiritId};
use crate::domain::limits::BATCH_REPLY_BYTES_MAX;
use crate::domain::refusal::Refusal;
use crate::store::{Consistency, Store, StoreError};

type ItemResult = Result<Created, StoreError>;

/// Stores a batch. Returns a result for each item, in request order, and at most [`BATCH_REPLY_BYTES_MAX`]. Fails if an
/// atomic batch is refused.
pub(super) async fn create(
    store: &Store,
    batch: convert::Batch,
    scope: &SpiritScope,
) -> Result<pb::BatchCreateEventsResponse, StoreError> {
    let convert::Batch { mode, items } = batch;
    let mut checked = CheckedBatch::default();
    for item in items {
        match item {
            Ok(event) => checked.add(event, mode, scope),
            Err(invalid) => checked.refuse(invalid.into()),
        }
    }
    let results = checked.store(store, mode).await?;
    let duplicates = duplicates(store, &results).await?;
    let results = results
        .into_iter()
        .map(|result| convert::batch_result(result, &duplicates))
        .collect();
    let mut response = pb::BatchCreateEventsResponse { results };
    if response.encoded_len() > BATCH_REPLY_BYTES_MAX {
        response.results.iter_mut().for_each(shorten_duplicate);
    }
    Ok(response)
}

/// Leaves the event of a duplicate with its identifiers. The texts of an event that was stored now are as long as in the
/// request, and a thousand errors fit, but the texts of a duplicate can be longer.
fn shorten_duplicate(result: &mut pb::BatchCreateEventsResult) {
    if let Some(Item::Created(created)) = &mut result.result
        && created.outcome() != pb::CreateOutcome::Created
        && let Some(event) = created.event.take()
    {
        created.event = Some(pb::Event {
            id: event.id,
            spirit_id: event.spirit_id,
            sequence: event.sequence,
            ..pb::Event::default()
        });
    }
}

/// The items of a batch, divided into those to store and those that are refused already.
#[derive(Default)]
struct CheckedBatch {
    /// The items to store.
    accepted: Vec<NewEvent>,
    /// The results of refused items, in request order; `None` for an item to store.
    results: Vec<Option<ItemResult>>,
    /// The spirits outside the caller's scope that items of an atomic batch name, by index in `accepted`.
    hidden: HashMap<usize, SpiritId>,
}

impl CheckedBatch {
    /// Adds an item to store. An item outside the scope is refused at once in a partial batch, and by the
    /// store in an atomic batch.
    fn add(&mut self, mut event: NewEvent, mode: BatchMode, scope: &SpiritScope) {
        if let Err(refusal) = scope.check(event.spirit_id) {
            if mode == BatchMode::Partial {
                self.refuse(refusal);
                return;
            }
            // The store refuses the item, and reports it together with the other failed items, without
            // locking the spirit that it names.
            let named = std::mem::replace(&mut event.spirit_id, SpiritId::NONE);
            self.hidden.insert(self.accepted.len(), named);
        }
        self.accepted.push(event);
        self.results.push(None);
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.results.push(Some(Err(refusal.into())));
    }

    async fn store(self, store: &Store, mode: BatchMode) -> Result<Vec<ItemResult>, StoreError> {
        let Self {
            accepted,
            results,
            hidden,
        } = self;
        let stored = if accepted.is_empty() && mode == BatchMode::Partial {
            Vec::new()
        } else {
            let stored = store.write.create_batch(accepted, mode).await;
            stored.map_err(|error| with_named_spirits(error, &hidden))?
        };
        let mut stored = stored.into_iter();
        Ok(results
            .into_iter()
            .filter_map(|result| result.or_else(|| stored.next()))
            .collect())
    }
}

/// Replaces [`SpiritId::NONE`] in the refusal of an atomic batch by the spirits that the items named.
fn with_named_spirits(error: StoreError, hidden: &HashMap<usize, SpiritId>) -> StoreError {
    let StoreError::BatchRefused(mut failures) = error else {
        return error;
    };
    for (index, refusal) in &mut failures {
        if let Some(named) = hidden.get(index) {
            *refusal = Refusal::SpiritNotFound(*named);
        }
    }
    StoreError::BatchRefused(failures)
}

/// Reads the events that the results name as duplicates, in the BASIC view.
async fn duplicates(store: &Store, results: &[ItemResult]) -> Result<HashMap<EventId, Event>, StoreError> {
    let (ids, spirit_ids): (Vec<_>, Vec<_>) = results
        .iter()
        .filter_map(|result| match result {
            Ok(Created::Duplicate { id, spirit_id, .. }) => Some((*id, *spirit_id)),
            _ => None,
        })
        .unzip();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let mut reader = store.read(Consistency::Strong);
    let events = reader.get_events_basic(&ids, &spirit_ids).await?;
    Ok(events.into_iter().map(|event| (event.id, event)).collect())
}
