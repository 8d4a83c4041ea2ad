//! Retention: purges what is older than spirits keep it, at intervals, on one instance at a time.
//!
//! Each step is a transaction that takes an advisory lock if it is free, so no database session has to be kept and a
//! pooler may be in between. A sweep that finds the lock taken at its start ends, since another instance is at work.

use std::time::Duration;

use sqlx::FromRow;
use sqlx::types::chrono::{DateTime, Utc};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::statements::{ADD_TO_RETENTION, RECORD_SCAN, RETENTION_BOUNDS, SPIRITS_WITH_RETENTION};
use super::step::{Purged, Request, lock, purge_page, remove_changes};
use super::walk::{Scope, Walk};
use super::{Purger, pause_after};
use crate::domain::ids::SpiritId;
use crate::domain::purge::{PurgeSelection, RETENTION_REQUESTER};
use crate::store::pg::error::{StoreError, chain};
use crate::store::pg::session::PgSession;
use crate::store::pg::transaction::{fetch_all, optional};

/// The pause before a step is tried again after one of another instance.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The times before which a spirit keeps nothing; `None` = it keeps everything.
#[derive(FromRow)]
struct BoundsRow {
    is_alone: bool,
    last_sequence: i64,
    created_until: Option<DateTime<Utc>>,
    deleted_until: Option<DateTime<Utc>>,
    changed_until: Option<DateTime<Utc>>,
    is_scan_due: bool,
}

/// The work of retention on one spirit, in this order.
enum Phase {
    /// Purges events by age. The walk ends after a page of younger events, unless a scan of all events is due.
    Events { walk: Option<Walk>, is_scan: bool },
    /// Purges soft-deleted events.
    Deleted { walk: Option<Walk> },
    /// Removes changes after this number.
    Changes { after: i64 },
}

/// The continuation after a step.
enum Next {
    Step(Phase),
    /// The same step again: another instance was in the middle of one.
    Retry(Phase),
    EndOfSpirit,
    /// Another instance works, and the sweep of this one has not begun.
    EndOfSweep,
}

impl Purger {
    /// Sweeps the spirits that have a retention, with this pause between sweeps. Runs until it is dropped.
    pub(in crate::store) async fn run_retention(&self, interval: Duration) {
        loop {
            match self.sweep().await {
                Ok(()) => self.metrics.purges.record_sweep(),
                Err(StoreError::Closing) => {}
                Err(error) => {
                    self.metrics.purges.retention_failures.inc();
                    tracing::warn!(error = chain(&error), "retention failed and is tried again later");
                }
            }
            sleep(interval).await;
        }
    }

    /// Applies the retention of every spirit once.
    async fn sweep(&self) -> Result<(), StoreError> {
        let mut after = Uuid::nil();
        loop {
            let statement = sqlx::query_as::<_, (Uuid,)>(SPIRITS_WITH_RETENTION).bind(after);
            let spirits = self.pool.all(statement).await?;
            let Some((last,)) = spirits.last() else {
                return Ok(());
            };
            after = *last;
            for (id,) in spirits {
                if !self.apply_retention(SpiritId(id)).await? {
                    return Ok(());
                }
            }
        }
    }

    /// Applies the retention of a spirit step by step. Returns whether the sweep goes on.
    async fn apply_retention(&self, spirit_id: SpiritId) -> Result<bool, StoreError> {
        let mut phase = Phase::Events {
            walk: None,
            is_scan: false,
        };
        loop {
            let started = Instant::now();
            let step = self.transaction(spirit_id, move |session| {
                Box::pin(step(session, spirit_id, phase))
            });
            let (next, purged) = step.await?;
            let elapsed = started.elapsed();
            let pause = match next {
                Next::Step(next) => {
                    self.record(spirit_id, PurgeSelection::Retention, purged, elapsed);
                    phase = next;
                    pause_after(elapsed)
                }
                Next::Retry(same) => {
                    phase = same;
                    RETRY_PAUSE
                }
                Next::EndOfSpirit => {
                    self.record(spirit_id, PurgeSelection::Retention, purged, elapsed);
                    return Ok(true);
                }
                Next::EndOfSweep => return Ok(false),
            };
            self.pause(pause).await;
        }
    }
}

/// Carries out a step with the current setting of the spirit.
async fn step(
    session: &mut PgSession,
    spirit_id: SpiritId,
    phase: Phase,
) -> Result<(Next, Purged), StoreError> {
    let statement = sqlx::query_as::<_, BoundsRow>(RETENTION_BOUNDS).bind(spirit_id.0);
    let Some(bounds) = optional(session, statement).await? else {
        return Ok((Next::EndOfSpirit, Purged::default()));
    };
    if !bounds.is_alone {
        // A sweep that has begun goes on after the other instance's step: if both gave way, neither might ever end.
        let next = match phase {
            Phase::Events { walk: None, .. } => Next::EndOfSweep,
            begun => Next::Retry(begun),
        };
        return Ok((next, Purged::default()));
    }
    match phase {
        Phase::Events { walk, is_scan } => {
            let Some(created_until) = bounds.created_until else {
                return Ok((Next::Step(Phase::Deleted { walk: None }), Purged::default()));
            };
            let is_scan = is_scan || walk.is_none() && bounds.is_scan_due;
            let scope = Scope::Sequences {
                author: None,
                created_until: Some(created_until),
            };
            let mut walk = walk.unwrap_or_else(|| Walk::new(spirit_id, scope.clone(), bounds.last_sequence));
            walk.scope = scope;
            purge_old(session, walk, is_scan).await
        }
        Phase::Deleted { walk } => {
            let Some(until) = bounds.deleted_until else {
                return Ok((Next::Step(Phase::Changes { after: 0 }), Purged::default()));
            };
            let scope = Scope::Deleted { until };
            let mut walk = walk.unwrap_or_else(|| Walk::new(spirit_id, scope.clone(), bounds.last_sequence));
            walk.scope = scope;
            let purged = purge(session, &mut walk).await?;
            let next = if walk.is_done() {
                Phase::Changes { after: 0 }
            } else {
                Phase::Deleted { walk: Some(walk) }
            };
            Ok((Next::Step(next), purged))
        }
        Phase::Changes { after } => {
            let last = match bounds.changed_until {
                Some(until) => {
                    lock(session, spirit_id, false).await?;
                    remove_changes(session, spirit_id, after, until).await?
                }
                None => None,
            };
            let next = last.map_or(Next::EndOfSpirit, |after| Next::Step(Phase::Changes { after }));
            Ok((next, Purged::default()))
        }
    }
}

/// Purges a page of old events. Most sweeps find young events at once, so a walk ends after a page of them; once a day it
/// goes on to the end, since `created_at` follows the order of sequences only roughly.
async fn purge_old(
    session: &mut PgSession,
    mut walk: Walk,
    is_scan: bool,
) -> Result<(Next, Purged), StoreError> {
    let spirit_id = walk.spirit_id;
    let purged = purge(session, &mut walk).await?;
    if walk.is_done() && is_scan {
        fetch_all(session, sqlx::query_as::<_, ()>(RECORD_SCAN).bind(spirit_id.0)).await?;
    }
    let next = if walk.is_done() || purged.passed_others && !is_scan {
        Phase::Deleted { walk: None }
    } else {
        Phase::Events {
            walk: Some(walk),
            is_scan,
        }
    };
    Ok((Next::Step(next), purged))
}

/// Purges a page and adds its events to the purge of the day.
async fn purge(session: &mut PgSession, walk: &mut Walk) -> Result<Purged, StoreError> {
    let request = Request {
        purge_id: None,
        changed_by: Some(RETENTION_REQUESTER.to_owned()),
        owner: None,
        of_deleted_spirit: false,
        is_dry_run: false,
    };
    let purged = purge_page(session, &request, walk).await?;
    if purged.count > 0 {
        let statement = sqlx::query_as::<_, ()>(ADD_TO_RETENTION)
            .bind(walk.spirit_id.0)
            .bind(purged.count)
            .bind(purged.lowest)
            .bind(purged.highest)
            .bind(Uuid::now_v7());
        fetch_all(session, statement).await?;
    }
    Ok(purged)
}
