//! Exports title, owner and `meta` of sessions, which events do not have.

use std::collections::BTreeSet;
use std::io::Write as _;

use serde_json::{Value, json};
use tonic::{Code, Status};

use super::super::client::strong;
use super::super::printable::write_json;
use super::super::record::{Record, map_of};
use super::super::retry::retried;
use super::{Export, Stop};
use crate::domain::limits::PAGE_SIZE_MAX;
use crate::grpc::pb::{
    EventView, GetSessionRequest, ListSessionsRequest, ListSessionsResponse, Session, SessionFilter,
};

impl Export {
    /// Writes the sessions of the spirit that have a title, an owner or `meta`. A session that becomes active while they
    /// are listed may be missed by the list; those of events after sequence `last` are read once more.
    pub(super) async fn write_sessions(&mut self, last: i64) -> Result<(), Stop> {
        let mut request = self.sessions_request(PAGE_SIZE_MAX);
        if let Some(filter) = &mut request.filter {
            filter.include_empty = true;
        }
        loop {
            let page = self.sessions_page(&request).await?;
            for session in &page.sessions {
                self.write_line(session)?;
            }
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        for session_id in self.sessions_after(last).await? {
            self.write_session(session_id).await?;
        }
        Ok(())
    }

    /// Writes a session if it has a title, an owner or `meta`.
    pub(super) async fn write_session(&mut self, session_id: String) -> Result<(), Stop> {
        let session = self.session(session_id).await?;
        Ok(session.map_or(Ok(()), |session| self.write_line(&session))?)
    }

    /// Returns a session if it exists.
    pub(super) async fn session(&self, session_id: String) -> Result<Option<Session>, Status> {
        let request = GetSessionRequest {
            spirit_id: self.spirit_id.clone(),
            session_id,
        };
        let reply = retried(async || self.sessions.clone().get_session(strong(request.clone())).await).await;
        match reply {
            Err(status) if status.code() == Code::NotFound => Ok(None),
            reply => Ok(reply?.into_inner().session),
        }
    }

    /// Returns the request for the sessions with live events.
    pub(super) fn sessions_request(&self, page_size: i32) -> ListSessionsRequest {
        ListSessionsRequest {
            spirit_id: self.spirit_id.clone(),
            page_size,
            filter: Some(SessionFilter::default()),
            with_counts: Some(false),
            ..ListSessionsRequest::default()
        }
    }

    pub(super) async fn sessions_page(
        &self,
        request: &ListSessionsRequest,
    ) -> Result<ListSessionsResponse, Status> {
        let page = retried(async || self.sessions.clone().list_sessions(strong(request.clone())).await);
        Ok(page.await?.into_inner())
    }

    /// Returns the sessions of the events that were stored after a sequence.
    async fn sessions_after(&self, last: i64) -> Result<BTreeSet<String>, Status> {
        let mut request = self.page_request(last);
        request.view = EventView::Basic.into();
        let mut sessions = BTreeSet::new();
        loop {
            let page = self.page(&request).await?;
            sessions.extend(page.events.into_iter().filter_map(|event| event.session_id));
            if page.next_page_token.is_empty() {
                return Ok(sessions);
            }
            request.page_token = page.next_page_token;
        }
    }

    fn write_line(&mut self, session: &Session) -> Result<(), std::io::Error> {
        if session.title.is_none() && session.owner.is_none() && session.meta.is_none() {
            return Ok(());
        }
        let fields = Record::of([
            ("session_id", Some(json!(session.session_id))),
            ("title", session.title.clone().map(Value::from)),
            ("owner", session.owner.clone().map(Value::from)),
            ("meta", session.meta.as_ref().map(map_of).map(Value::Object)),
        ]);
        write_json(&mut self.output, &json!({ "session": Value::from(fields) }))?;
        writeln!(self.output)?;
        self.sessions_written += 1;
        Ok(())
    }
}
