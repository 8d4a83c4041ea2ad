//! `BatchCreateEvents` between its request and its reply: which items are stored, what became of each.

use std::collections::HashMap;

use super::event_service::EventApi;
use super::status::ApiError;
use super::{convert, pb};
use crate::domain::access::SpiritScope;
use crate::domain::event::{BatchMode, Created, Event, NewEvent};
use crate::domain::ids::{EventId, SpiritId};
use crate::domain::refusal::Refusal;
use crate::store::{Consistency, StoreError};

type ItemResult = Result<Created, ApiError>;

/// A batch's items, told apart.
#[derive(Default)]
struct Sorted {
    /// Those that go to the store.
    good: Vec<NewEvent>,
    /// In request order; absent for those.
    results: Vec<Option<ItemResult>>,
    /// The spirits that items of an atomic batch named and their caller does not know of, by index.
    hidden: HashMap<usize, SpiritId>,
}

impl EventApi {
    pub(super) async fn create_batch(
        &self,
        batch: convert::Batch,
        scope: &SpiritScope,
    ) -> Result<Vec<pb::BatchCreateEventsResult>, ApiError> {
        let convert::Batch { mode, items } = batch;
        let mut sorted = Sorted::default();
        for item in items {
            match item {
                Ok(event) => sorted.add(event, mode, scope),
                Err(invalid) => sorted.results.push(Some(Err(invalid.into()))),
            }
        }
        let results = self.store_sorted(sorted, mode).await?;
        let duplicates = self.duplicates(&results).await?;
        Ok(results
            .into_iter()
            .map(|result| convert::batch_result(result, &duplicates))
            .collect())
    }

    async fn store_sorted(&self, sorted: Sorted, mode: BatchMode) -> Result<Vec<ItemResult>, ApiError> {
        let Sorted {
            good,
            mut results,
            hidden,
        } = sorted;
        let stored = if good.is_empty() && mode == BatchMode::Partial {
            Vec::new()
        } else {
            let stored = self.0.store.write.create_batch(good, mode).await;
            stored.map_err(|error| naming(error, &hidden))?
        };
        let mut stored = stored.into_iter();
        for result in results.iter_mut().filter(|result| result.is_none()) {
            *result = stored.next().map(|stored| stored.map_err(ApiError::from));
        }
        Ok(results.into_iter().flatten().collect())
    }

    /// The events that the results name as duplicates, in the BASIC view.
    async fn duplicates(&self, results: &[ItemResult]) -> Result<HashMap<EventId, Event>, ApiError> {
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
        let events = self
            .0
            .store
            .read(Consistency::Strong)
            .get_events_basic(&ids, &spirit_ids)
            .await?;
        Ok(events.into_iter().map(|event| (event.id, event)).collect())
    }
}

impl Sorted {
    fn add(&mut self, mut event: NewEvent, mode: BatchMode, scope: &SpiritScope) {
        if let Err(refusal) = scope.check(event.spirit_id) {
            if mode == BatchMode::Partial {
                self.results.push(Some(Err(refusal.into())));
                return;
            }
            // Its refusal is to stand among those of the other items, and the spirit is to be left alone.
            let named = std::mem::replace(&mut event.spirit_id, SpiritId::NONE);
            self.hidden.insert(self.good.len(), named);
        }
        self.good.push(event);
        self.results.push(None);
    }
}

/// The refusal of an atomic batch with the spirits that its items named.
fn naming(error: StoreError, hidden: &HashMap<usize, SpiritId>) -> StoreError {
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
