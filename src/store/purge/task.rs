//! A purge in its task: the steps for each selection, in order.

use std::sync::Arc;

use sqlx::FromRow;
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use super::statements::{FINISH, REMOVE_SPIRIT};
use super::step::{Request, lock, purge_page, remove_changes, remove_empty_sessions, remove_sessions};
use super::walk::{Scope, Walk};
use super::walk_statements::{WALK_OWNER, WALKED_ROWS_MAX};
use super::{Purger, pause_after};
use crate::domain::filter::start_of_year;
use crate::domain::ids::SpiritId;
use crate::domain::purge::{PurgeSelection, Selected};
use crate::store::live::Topic;
use crate::store::pg::error::StoreError;
use crate::store::pg::transaction::optional;

/// Number of sessions that a step reads, each up to the maximum of events.
const SESSIONS_PER_STEP: usize = 10;

/// The state of a purge in its task.
pub(super) struct Task {
    pub(super) purger: Purger,
    pub(super) spirit_id: SpiritId,
    pub(super) selection: PurgeSelection,
    pub(super) request: Arc<Request>,
    pub(super) count: watch::Sender<i64>,
}

#[derive(FromRow)]
struct OwnerRow {
    walked: i64,
    last_session_id: Option<String>,
    session_ids: Vec<String>,
}

impl Task {
    /// Purges the selected events up to a sequence, and finishes the purge.
    pub(super) async fn purge_selected(&self, selected: Selected, bound: i64) -> Result<(), StoreError> {
        let walk = |scope| Walk::new(self.spirit_id, scope, bound);
        let sequences = |author, created_until| Scope::Sequences {
            author,
            created_until,
        };
        match selected {
            Selected::EventIds(ids) => {
                let ids = ids.into_iter().map(|id| id.0).collect();
                self.walk(walk(Scope::Ids(ids))).await?;
            }
            Selected::Session(session_id) => {
                self.walk(walk(Scope::Sessions(vec![session_id.clone()]))).await?;
                self.remove_session(session_id).await?;
            }
            Selected::SessionOwner(owner) => self.purge_owner(owner, bound).await?,
            Selected::CreatedUntil(until) => self.walk(walk(sequences(None, Some(until)))).await?,
            Selected::DeletedUntil(until) => self.walk(walk(Scope::Deleted { until })).await?,
            Selected::Author(author) => self.walk(walk(sequences(Some(author), None))).await?,
            Selected::All => {
                self.walk(walk(sequences(None, None))).await?;
                self.remove_empty_sessions(None).await?;
            }
        }
        self.finish().await
    }

    /// Purges the events of the sessions of an owner, and those of the sessions that have no event.
    async fn purge_owner(&self, owner: String, bound: i64) -> Result<(), StoreError> {
        let mut after = String::new();
        loop {
            let statement = sqlx::query_as::<_, OwnerRow>(WALK_OWNER)
                .bind(self.spirit_id.0)
                .bind(&after)
                .bind(&owner);
            let page = self.purger.pool.one(statement).await?;
            for session_ids in page.session_ids.chunks(SESSIONS_PER_STEP) {
                let scope = Scope::Sessions(session_ids.to_vec());
                self.walk(Walk::new(self.spirit_id, scope, bound)).await?;
            }
            match page.last_session_id {
                Some(last) if page.walked >= WALKED_ROWS_MAX => after = last,
                _ => break,
            }
            self.check_wanted()?;
        }
        self.remove_empty_sessions(Some(owner)).await
    }

    /// Purges the events of a walk step by step.
    async fn walk(&self, mut walk: Walk) -> Result<(), StoreError> {
        while !walk.is_done() {
            self.check_wanted()?;
            let (started, request) = (Instant::now(), Arc::clone(&self.request));
            let step = self.purger.transaction(self.spirit_id, move |session| {
                Box::pin(async move {
                    let purged = purge_page(session, &request, &mut walk).await?;
                    Ok((walk, purged))
                })
            });
            let (walked, purged) = step.await?;
            walk = walked;
            if !self.request.is_dry_run {
                self.purger
                    .record(self.spirit_id, self.selection, purged, started.elapsed());
            }
            self.count.send_modify(|count| *count += purged.count);
            self.purger.pause(pause_after(started.elapsed())).await;
        }
        Ok(())
    }

    /// Removes the session if it has no event.
    async fn remove_session(&self, session_id: String) -> Result<(), StoreError> {
        if self.request.is_dry_run {
            return Ok(());
        }
        let spirit_id = self.spirit_id;
        let removed = self.purger.transaction(self.spirit_id, move |session| {
            Box::pin(async move {
                lock(session, spirit_id, false).await?;
                remove_sessions(session, spirit_id, &[session_id]).await
            })
        });
        removed.await
    }

    /// Removes the sessions that have no event, of an owner or all.
    async fn remove_empty_sessions(&self, owner: Option<String>) -> Result<(), StoreError> {
        if self.request.is_dry_run {
            return Ok(());
        }
        let (spirit_id, must_be_deleted) = (self.spirit_id, self.request.of_deleted_spirit);
        let mut next = Some(String::new());
        while let Some(after) = next {
            self.check_wanted()?;
            let (started, owner) = (Instant::now(), owner.clone());
            let removed = self.purger.transaction(self.spirit_id, move |session| {
                Box::pin(async move {
                    lock(session, spirit_id, must_be_deleted).await?;
                    remove_empty_sessions(session, spirit_id, &after, owner.as_deref()).await
                })
            });
            next = removed.await?;
            self.purger.pause(pause_after(started.elapsed())).await;
        }
        Ok(())
    }

    /// Purges all events, sessions and changes of a spirit and the spirit itself. Starts over if the spirit got new ones
    /// because it was restored for a while.
    pub(super) async fn purge_spirit(&self) -> Result<(), StoreError> {
        let scope = Scope::Sequences {
            author: None,
            created_until: None,
        };
        loop {
            self.walk(Walk::new(self.spirit_id, scope.clone(), i64::MAX))
                .await?;
            self.remove_empty_sessions(None).await?;
            self.remove_changes().await?;
            if self.remove_spirit().await? {
                self.purger.announcer.announce(&[self.spirit_id], Topic::Events);
                self.purger.announcer.announce(&[self.spirit_id], Topic::Changes);
                return Ok(());
            }
        }
    }

    /// Removes all changes of a spirit.
    async fn remove_changes(&self) -> Result<(), StoreError> {
        let spirit_id = self.spirit_id;
        let mut next = Some(0);
        while let Some(after) = next {
            self.check_wanted()?;
            let started = Instant::now();
            let removed = self.purger.transaction(self.spirit_id, move |session| {
                Box::pin(async move {
                    lock(session, spirit_id, true).await?;
                    remove_changes(session, spirit_id, after, start_of_year(10_000)).await
                })
            });
            next = removed.await?;
            self.purger.pause(pause_after(started.elapsed())).await;
        }
        Ok(())
    }

    /// Removes the spirit and finishes the purge. Returns false if something of the spirit is left.
    async fn remove_spirit(&self) -> Result<bool, StoreError> {
        let (spirit_id, purge_id) = (self.spirit_id, self.request.purge_id);
        let removed = self.purger.transaction(self.spirit_id, move |session| {
            Box::pin(async move {
                lock(session, spirit_id, true).await?;
                let statement = sqlx::query_as::<_, (Uuid,)>(REMOVE_SPIRIT).bind(spirit_id.0);
                let is_removed = optional(session, statement).await?.is_some();
                if is_removed {
                    let statement = sqlx::query_as::<_, ()>(FINISH).bind(spirit_id.0).bind(purge_id);
                    optional(session, statement).await?;
                }
                Ok(is_removed)
            })
        });
        removed.await
    }

    /// Marks the purge as complete.
    async fn finish(&self) -> Result<(), StoreError> {
        let Some(purge_id) = self.request.purge_id else {
            return Ok(());
        };
        let statement = sqlx::query_as::<_, ()>(FINISH)
            .bind(self.spirit_id.0)
            .bind(purge_id);
        self.purger.pool.all(statement).await?;
        Ok(())
    }

    /// Fails if nobody waits for the purge any more.
    fn check_wanted(&self) -> Result<(), StoreError> {
        if self.purger.closing.is_cancelled() || self.count.is_closed() {
            return Err(StoreError::Closing);
        }
        Ok(())
    }
}
