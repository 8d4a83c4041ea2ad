//! Soft-deletes the events of lines that are marked as deleted, a few at the same time.

use std::collections::VecDeque;

use futures_util::StreamExt as _;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use tonic::{Code, Status};

use super::super::client::Connection;
use super::super::retry::retried;
use crate::grpc::pb::SoftDeleteEventRequest;
use crate::grpc::pb::event_service_client::EventServiceClient;

/// Number of calls at the same time. They wait for the lock of one spirit.
const CALLS_MAX: usize = 8;

type Client = EventServiceClient<Connection>;

/// The soft deletes that have not ended, each with the number of its line.
pub(super) struct Deletions {
    events: Client,
    spirit_id: String,
    waiting: VecDeque<(u64, String)>,
    running: FuturesUnordered<LocalBoxFuture<'static, (u64, Result<(), Status>)>>,
}

impl Deletions {
    pub(super) fn new(events: Client, spirit_id: String) -> Self {
        Self {
            events,
            spirit_id,
            waiting: VecDeque::new(),
            running: FuturesUnordered::new(),
        }
    }

    /// Adds the event of a line.
    pub(super) fn add(&mut self, line: u64, event_id: String) {
        self.waiting.push_back((line, event_id));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Returns the next line whose event is deleted, or the error; waits forever if there is none. Cancel safe.
    pub(super) async fn next(&mut self) -> (u64, Result<(), Status>) {
        while self.running.len() < CALLS_MAX
            && let Some((line, event_id)) = self.waiting.pop_front()
        {
            let (events, spirit_id) = (self.events.clone(), self.spirit_id.clone());
            self.running.push(Box::pin(async move {
                (line, delete(events, spirit_id, event_id).await)
            }));
        }
        match self.running.next().await {
            Some(ended) => ended,
            None => std::future::pending().await,
        }
    }
}

/// Soft-deletes an event. One that was purged in the meantime counts as deleted.
async fn delete(events: Client, spirit_id: String, event_id: String) -> Result<(), Status> {
    let request = SoftDeleteEventRequest {
        event_id,
        spirit_id: Some(spirit_id),
        ..SoftDeleteEventRequest::default()
    };
    let deleted = retried(async || events.clone().soft_delete_event(request.clone()).await).await;
    match deleted {
        Err(status) if status.code() != Code::NotFound => Err(status),
        _ => Ok(()),
    }
}
