//! The RPCs of `PurgeService`. A handler converts the request, calls the store and converts the result.

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::auth::{editor, spirit_scope};
use super::consistency::consistency;
use super::context::Context;
use super::status::ApiError;
use super::{convert, pb};
use crate::store::{PurgeProgress, RunningPurge};

/// Implements `PurgeService`.
#[derive(Clone)]
pub struct PurgeApi(pub Context);

#[tonic::async_trait]
impl pb::purge_service_server::PurgeService for PurgeApi {
    type PurgeEventsStream = BoxStream<'static, Result<pb::PurgeEventsResponse, Status>>;

    async fn purge_events(
        &self,
        request: Request<pb::PurgeEventsRequest>,
    ) -> Result<Response<Self::PurgeEventsStream>, Status> {
        let caller = editor(&request);
        let scope = caller.scope.clone();
        let purge = convert::event_purge(request.into_inner(), caller)?;
        scope.check(purge.spirit_id)?;
        let running = self.0.store.purge.purge_events(purge).await?;
        let shutdown = self.0.shutdown.clone();
        Ok(Response::new(progress(
            running,
            shutdown,
            |purge_id, progress| pb::PurgeEventsResponse {
                purge_id,
                purged_count: progress.count,
                done: progress.is_done,
            },
        )))
    }

    type PurgeSpiritStream = BoxStream<'static, Result<pb::PurgeSpiritResponse, Status>>;

    async fn purge_spirit(
        &self,
        request: Request<pb::PurgeSpiritRequest>,
    ) -> Result<Response<Self::PurgeSpiritStream>, Status> {
        let caller = editor(&request);
        let scope = caller.scope.clone();
        let purge = convert::spirit_purge(request.into_inner(), caller)?;
        scope.check(purge.spirit_id)?;
        let running = self.0.store.purge.purge_spirit(purge).await?;
        let shutdown = self.0.shutdown.clone();
        Ok(Response::new(progress(
            running,
            shutdown,
            |purge_id, progress| pb::PurgeSpiritResponse {
                purge_id,
                purged_count: progress.count,
                done: progress.is_done,
            },
        )))
    }

    async fn list_purges(
        &self,
        request: Request<pb::ListPurgesRequest>,
    ) -> Result<Response<pb::ListPurgesResponse>, Status> {
        let scope = spirit_scope(&request);
        let mut reader = self.0.store.read(consistency(&request)?);
        let (query, hash) = convert::list_purges(request.into_inner(), &scope)?;
        let page = reader.list_purges(&query).await?;
        Ok(Response::new(convert::purge_page(page, hash)))
    }
}

/// Returns the stream of the progress of a purge. Dropping it ends the purge.
fn progress<M: Send + 'static>(
    purge: RunningPurge,
    shutdown: CancellationToken,
    message: fn(String, PurgeProgress) -> M,
) -> BoxStream<'static, Result<M, Status>> {
    let id = purge.id.map_or_else(String::new, |id| id.to_string());
    let items = stream::unfold(Some((purge, shutdown, id)), move |state| async move {
        let (mut purge, shutdown, id) = state?;
        let next = tokio::select! {
            next = purge.next() => next.map_err(Status::from),
            () = shutdown.cancelled() => Err(ApiError::ShuttingDown.into()),
        };
        Some(match next {
            Ok(progress) => {
                let item = message(id.clone(), progress);
                (Ok(item), (!progress.is_done).then_some((purge, shutdown, id)))
            }
            Err(status) => (Err(status), None),
        })
    });
    items.boxed()
}
