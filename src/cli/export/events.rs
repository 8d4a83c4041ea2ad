//! Exports events in the order of their sequences, up to the last one when the export began.

use tonic::Status;

use super::super::client::{Connection, strong};
use super::super::print::Form;
use super::super::retry::retried;
use super::{Export, Stop};
use crate::domain::limits::PAGE_SIZE_MAX;
use crate::grpc::pb::spirit_service_client::SpiritServiceClient;
use crate::grpc::pb::{
    EventFilter, EventOrder, EventView, GetSpiritRequest, ListEventsRequest, ListEventsResponse,
};

impl Export {
    /// Writes events as `replay --json` prints them, and then sessions.
    pub(super) async fn write_events(&mut self, connection: Connection) -> Result<(), Stop> {
        let after = self.cursor.as_deref().and_then(sequence).unwrap_or(0);
        let last = last_sequence(connection, &self.spirit_id).await?;
        self.write_pages(after, last).await?;
        match self.session_id.clone() {
            Some(session_id) => self.write_session(session_id).await,
            None => self.write_sessions(last).await,
        }
    }

    /// Writes the events with sequences above `after` and up to `last`.
    async fn write_pages(&mut self, after: i64, last: i64) -> Result<(), Stop> {
        let mut request = self.page_request(after);
        loop {
            let page = self.page(&request).await?;
            for event in page.events {
                let sequence = event.sequence; // above `after`
                if sequence > last {
                    return Ok(());
                }
                Form::Json.write(&mut self.output, event, None)?;
                self.cursor = Some(sequence.to_string());
                self.events_written += 1;
                self.show_progress((sequence - after).unsigned_abs(), (last - after).unsigned_abs());
            }
            if page.next_page_token.is_empty() {
                return Ok(());
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Returns the request for events with sequences above `after`.
    pub(super) fn page_request(&self, after: i64) -> ListEventsRequest {
        ListEventsRequest {
            spirit_id: self.spirit_id.clone(),
            session_id: self.session_id.clone(),
            filter: Some(EventFilter {
                include_deleted: self.include_deleted,
                ..EventFilter::default()
            }),
            page_size: PAGE_SIZE_MAX,
            order: EventOrder::Sequence.into(),
            view: EventView::Full.into(),
            after_sequence: Some(after),
            ..ListEventsRequest::default()
        }
    }

    pub(super) async fn page(&self, request: &ListEventsRequest) -> Result<ListEventsResponse, Status> {
        let page = retried(async || self.events.clone().list_events(strong(request.clone())).await);
        Ok(page.await?.into_inner())
    }
}

async fn last_sequence(connection: Connection, spirit_id: &str) -> Result<i64, Status> {
    let request = GetSpiritRequest {
        spirit_id: spirit_id.to_owned(),
        include_deleted: true,
    };
    let spirits = SpiritServiceClient::new(connection);
    let reply = retried(async || spirits.clone().get_spirit(strong(request.clone())).await).await?;
    Ok(reply.into_inner().spirit.map_or(0, |spirit| spirit.last_sequence))
}

/// Returns the sequence that a cursor is.
pub(super) fn sequence(cursor: &str) -> Option<i64> {
    cursor.parse().ok().filter(|sequence| *sequence >= 0)
}
