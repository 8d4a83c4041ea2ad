//! Exports sessions as transcripts, a line for each session. A session is in memory as a whole.

use std::io::Write as _;

use serde_json::{Map, Value};
use tonic::Status;

use super::super::client::strong;
use super::super::printable::{escape_json, printable};
use super::super::record::map_of;
use super::super::retry::retried;
use super::{Export, Stop};
use crate::formats;
use crate::formats::export::to_openai;
use crate::formats::json::Json;
use crate::grpc::pb::stream_session_events_response::Item;
use crate::grpc::pb::{self, StreamSessionEventsRequest};
use crate::grpc::time_of;

/// Converts a session: its id, its `meta` and its events in replay order.
pub(super) type Convert = fn(&str, &Map<String, Value>, &[formats::Event]) -> Json;

/// Returns the chat messages of a session.
pub(super) fn openai(session_id: &str, _meta: &Map<String, Value>, events: &[formats::Event]) -> Json {
    let mut conversation = to_openai(events);
    if let Json::Object(fields) = &mut conversation {
        fields.set("id", Json::String(session_id.to_owned()));
    }
    conversation
}

impl Export {
    /// Writes the session, or all sessions of the spirit that have live events, most recently active first.
    pub(super) async fn write_transcripts(&mut self, convert: Convert) -> Result<(), Stop> {
        if let Some(session_id) = self.session_id.clone() {
            let session = self.session(session_id).await?;
            return match session {
                Some(session) => self.write_transcript(&session, convert).await,
                None => Ok(()),
            };
        }
        // The token after a page of one session is the position to continue from.
        let mut request = self.sessions_request(1);
        request.page_token = self.cursor.clone().unwrap_or_default();
        loop {
            let page = self.sessions_page(&request).await?;
            for session in &page.sessions {
                self.write_transcript(session, convert).await?;
            }
            if page.next_page_token.is_empty() {
                return Ok(());
            }
            self.cursor = Some(page.next_page_token.clone());
            request.page_token = page.next_page_token;
        }
    }

    async fn write_transcript(&mut self, session: &pb::Session, convert: Convert) -> Result<(), Stop> {
        let events = retried(async || self.replay(&session.session_id).await).await?;
        let meta = session.meta.as_ref().map(map_of).unwrap_or_default();
        let transcript = convert(&session.session_id, &meta, &events).to_string();
        escape_json(&mut self.output, &transcript)?;
        writeln!(self.output)?;
        self.events_written += u64::try_from(events.len()).unwrap_or(u64::MAX);
        self.sessions_written += 1;
        if !self.is_quiet && self.progress.is_due() {
            let text = format!("exported sessions {}", self.sessions_written);
            self.progress
                .show(&text, &format!(", last {}", printable(&session.session_id)));
        }
        Ok(())
    }

    /// Returns the live events of a session.
    async fn replay(&self, session_id: &str) -> Result<Vec<formats::Event>, Status> {
        let request = StreamSessionEventsRequest {
            spirit_id: self.spirit_id.clone(),
            session_id: session_id.to_owned(),
            ..StreamSessionEventsRequest::default()
        };
        let mut events = self.events.clone();
        let mut stream = events.stream_session_events(strong(request)).await?.into_inner();
        let mut replayed = Vec::new();
        while let Some(response) = stream.message().await? {
            if let Some(Item::Event(event)) = response.item {
                replayed.push(transcript_event(event));
            }
        }
        Ok(replayed)
    }
}

fn transcript_event(event: pb::Event) -> formats::Event {
    formats::Event {
        meta: event.meta.as_ref().map(map_of).unwrap_or_default(),
        occurred_at: event.occurred_at.and_then(time_of),
        event_type: event.event_type.unwrap_or_default(),
        role: event.role,
        author: event.author,
        session_id: event.session_id,
        content: event.content.unwrap_or_default(),
        is_time_assumed: false,
        dedupe_key: event.dedupe_key,
    }
}
