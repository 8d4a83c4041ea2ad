//! Replay: a session's events in replay order, page by page, read one page ahead.
//!
//! A replay holds a connection only while it reads a page. It is bounded by the spirit's
//! `last_sequence` when it began, so it is one consistent set without a long snapshot.

use tokio::sync::mpsc;

use super::events::{EventQuery, PageStart};
use super::{Store, StoreError};
use crate::domain::Time;
use crate::domain::cursor::ReplayPlace;
use crate::domain::event::{Event, Order, Position, View};
use crate::domain::filter::{Scope, start_of_year};

/// A replay that a reader wants.
#[derive(Clone, Debug)]
pub struct Replay {
    /// Names a session.
    pub scope: Scope,
    pub view: View,
    pub start: ReplayStart,
    /// Events at the most; `None` = all.
    pub limit: Option<u64>,
}

/// Where a replay starts.
#[derive(Clone, Copy, Debug)]
pub enum ReplayStart {
    /// At the first event.
    Beginning,
    /// Behind this place.
    After(ReplayPlace),
    /// At this `occurred_at`, inclusive.
    FromTime(Time),
    /// At the n-th event from the end, counted after the filter, n ≥ 1.
    LastN(i64),
}

/// Some events of a replay, in order, and its bound.
#[derive(Debug)]
pub struct ReplayPage {
    pub events: Vec<Event>,
    /// The spirit's `last_sequence` when the replay began.
    pub bound: i64,
}

/// Events in the first page: few, so that the first event comes soon.
const FIRST_PAGE_SIZE: usize = 50;
/// Events in each further page.
const PAGE_SIZE: usize = 500;
/// Bytes of content, meta and summaries at which a page ends early. A stalled stream costs two pages at the most.
const PAGE_BYTES: usize = 256 * 1024;

impl Store {
    /// Starts a replay, whose pages come through the channel; it ends after the last one or with an
    /// error. Work stops when the receiver is dropped.
    #[must_use]
    pub fn replay(&self, replay: Replay) -> mpsc::Receiver<Result<ReplayPage, StoreError>> {
        let (pages, receiver) = mpsc::channel(1);
        let store = self.clone();
        tokio::spawn(async move {
            if let Err(error) = store.run_replay(replay, &pages).await
                && pages.send(Err(error)).await.is_err()
            {
                tracing::debug!("the reader of a failed replay has gone");
            }
        });
        receiver
    }

    async fn run_replay(
        &self,
        replay: Replay,
        pages: &mpsc::Sender<Result<ReplayPage, StoreError>>,
    ) -> Result<(), StoreError> {
        let Some(bound) = self.last_sequence(replay.scope.spirit_id).await? else {
            return Ok(());
        };
        let mut position = self.replay_start(&replay, bound).await?;
        let mut left = replay.limit.unwrap_or(u64::MAX);
        let mut size = FIRST_PAGE_SIZE;
        while left > 0 {
            // Room first, then the read: nothing is read for a consumer that does not take it.
            let Ok(room) = pages.reserve().await else {
                return Ok(());
            };
            let page = self
                .list_events(&EventQuery {
                    scope: replay.scope.clone(),
                    order: Order::OldestFirst,
                    view: replay.view,
                    start: PageStart::After(position),
                    sequence_max: bound,
                    size: size.min(usize::try_from(left).unwrap_or(usize::MAX)),
                    bytes: PAGE_BYTES,
                })
                .await?;
            let Some(last) = page.events.last() else {
                return Ok(());
            };
            position = last.position();
            left -= page.events.len() as u64;
            size = PAGE_SIZE;
            room.send(Ok(ReplayPage {
                events: page.events,
                bound,
            }));
            if !page.more {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The position behind which the replay starts.
    async fn replay_start(&self, replay: &Replay, bound: i64) -> Result<Position, StoreError> {
        let before = |occurred_at| Position {
            occurred_at,
            sequence: 0,
        };
        Ok(match replay.start {
            ReplayStart::Beginning => before(start_of_year(1)),
            ReplayStart::After(place) => place.position,
            ReplayStart::FromTime(time) => before(time),
            ReplayStart::LastN(n) => match self.nth_from_end(&replay.scope, bound, n).await? {
                Some(first) => Position {
                    sequence: first.sequence - 1,
                    ..first
                },
                None => before(start_of_year(1)),
            },
        })
    }
}
