//! A caller of the closed loop: sends a call, waits for the reply, records it, and sends the next call.

use std::sync::Arc;

use tokio::time::Instant;
use tonic::{Code, Status};

use super::super::client::{Connection, REPLY_BYTES_MAX};
use super::replies;
use super::report::Tally;
use super::setup::{Data, OWNER, SESSION};
use super::{BenchArgs, Clock, Workload};
use crate::grpc::pb::event_service_client::EventServiceClient;
use crate::grpc::pb::session_service_client::SessionServiceClient;
use crate::grpc::pb::{
    BatchCreateEventsRequest, BatchMode, ListEventsRequest, ListSessionsRequest, SessionFilter,
    StreamSessionEventsRequest,
};

/// Number of creates and of gets among ten mixed calls; the rest are lists.
const MIXED: (usize, usize) = (6, 3);

pub(super) async fn run(
    channel: Connection,
    data: Arc<Data>,
    args: BenchArgs,
    clock: Clock,
) -> anyhow::Result<Tally> {
    let mut caller = Caller {
        events: EventServiceClient::new(channel.clone())
            .max_decoding_message_size(REPLY_BYTES_MAX)
            .max_encoding_message_size(REPLY_BYTES_MAX),
        channel,
        data,
        args,
    };
    let mut tally = Tally::new()?;
    loop {
        let sent = Instant::now();
        if sent >= clock.until {
            return Ok(tally);
        }
        let result = caller.call().await;
        let answered = Instant::now();
        if clock.counts(answered) {
            match result {
                Ok(events) => tally.answered(answered - sent, events),
                Err(status) => tally.refused(status.code()),
            }
        }
    }
}

struct Caller {
    events: EventServiceClient<Connection>,
    channel: Connection,
    data: Arc<Data>,
    args: BenchArgs,
}

impl Caller {
    /// Makes one call. Returns the number of events that it stored or returned.
    async fn call(&mut self) -> Result<usize, Status> {
        let workload = match self.args.workload {
            Workload::Mixed => match fastrand::usize(..10) {
                turn if turn < MIXED.0 => Workload::Create,
                turn if turn < MIXED.0 + MIXED.1 => Workload::Get,
                _ => Workload::List,
            },
            workload => workload,
        };
        match workload {
            Workload::Batch => self.batch().await,
            Workload::Get => self.get().await,
            Workload::Edit => self.edit().await,
            Workload::List => self.list().await,
            Workload::Replay => self.replay().await,
            Workload::Sessions => self.sessions().await,
            Workload::Create | Workload::Ingest | Workload::Mixed | Workload::Watch => self.create().await,
        }
    }

    async fn create(&mut self) -> Result<usize, Status> {
        let response = self.events.create_event(self.data.create()).await?.into_inner();
        complete(response.event.is_some()).map(|()| 1)
    }

    async fn batch(&mut self) -> Result<usize, Status> {
        let count = self.args.batch_items;
        let spirits = self.args.batch_spirits.unwrap_or(self.data.spirit_ids.len());
        let mode = if self.args.partial {
            BatchMode::Partial
        } else {
            BatchMode::Atomic
        };
        let request = BatchCreateEventsRequest {
            requests: self.data.batch(count, spirits),
            mode: mode.into(),
        };
        let response = self.events.batch_create_events(request).await?.into_inner();
        complete(response.results.len() == count).map(|()| count)
    }

    async fn get(&mut self) -> Result<usize, Status> {
        let response = self.events.get_event(self.data.get()).await?.into_inner();
        complete(response.event.is_some()).map(|()| 1)
    }

    async fn edit(&mut self) -> Result<usize, Status> {
        let response = self.events.update_event(self.data.edit()).await?.into_inner();
        complete(response.event.is_some()).map(|()| 1)
    }

    async fn list(&mut self) -> Result<usize, Status> {
        // A page token belongs to the first spirit.
        let spirit = if self.data.page_token.is_empty() {
            fastrand::usize(..self.data.spirit_ids.len())
        } else {
            0
        };
        let request = ListEventsRequest {
            spirit_id: self.data.spirit_ids[spirit].clone(),
            page_size: i32::try_from(self.args.page_size).unwrap_or(i32::MAX),
            page_token: self.data.page_token.clone(),
            ..ListEventsRequest::default()
        };
        let count = replies::list(self.channel.clone(), request).await?;
        complete(count > 0).map(|()| count)
    }

    async fn sessions(&mut self) -> Result<usize, Status> {
        let request = ListSessionsRequest {
            spirit_id: self.data.spirit_ids[0].clone(),
            page_size: i32::try_from(self.args.page_size).unwrap_or(i32::MAX),
            filter: self.args.owner.then(|| SessionFilter {
                owner: Some(OWNER.0.to_owned()),
                ..SessionFilter::default()
            }),
            ..ListSessionsRequest::default()
        };
        let mut sessions =
            SessionServiceClient::new(self.channel.clone()).max_decoding_message_size(REPLY_BYTES_MAX);
        let count = sessions.list_sessions(request).await?.into_inner().sessions.len();
        complete(count >= self.args.page_size.min(self.args.events).min(OWNER.1)).map(|()| count)
    }

    async fn replay(&mut self) -> Result<usize, Status> {
        let request = StreamSessionEventsRequest {
            spirit_id: self.data.spirit_ids[0].clone(),
            session_id: SESSION.to_owned(),
            ..StreamSessionEventsRequest::default()
        };
        let count = replies::replay(self.channel.clone(), request).await?;
        complete(count >= self.args.events).map(|()| count)
    }
}

/// Fails if a reply with status OK lacks the requested events.
fn complete(is_complete: bool) -> Result<(), Status> {
    if is_complete {
        Ok(())
    } else {
        Err(Status::new(Code::DataLoss, "the reply lacks requested events"))
    }
}
