//! Replay: a session's events in replay order, page by page, read one page ahead.
//!
//! A replay holds a connection only while it reads a page. It is bounded by the spirit's
//! `last_sequence` when it began, so it is one consistent set without a long snapshot. Bound and pages come
//! from one server, or pages from the primary once that server fails: it knows more, never less.

use super::LiveStreams;
use super::page_sender::{PageSender, Pages, StreamEnd, StreamPage};
use super::watch::LiveTail;
use crate::domain::Time;
use crate::domain::cursor::{Phase, ReplayPlace};
use crate::domain::event::{Order, Position, View};
use crate::domain::filter::{Selection, start_of_year};
use crate::domain::refusal::Refusal;
use crate::store::pg::error::StoreError;
use crate::store::read::list_events::{EventPage, EventQuery, PageStart};
use crate::store::read::{Consistency, Reader};

/// A replay that a reader wants.
#[derive(Clone, Debug)]
pub struct Replay {
    /// Names a session.
    pub selection: Selection,
    pub view: View,
    pub start: ReplayStart,
    /// Events at the most; `None` = all.
    pub limit: Option<u64>,
    /// Whether to go on with what is committed after the replay.
    pub follow: bool,
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

/// Events in the first page: few, so that the first event comes soon.
const FIRST_PAGE_SIZE: usize = 50;
/// Events in each further page.
const PAGE_SIZE: usize = 500;
/// Bytes of content, meta and summaries at which a page ends early. A stalled stream costs two pages at the most.
const PAGE_BYTES: usize = 256 * 1024;

impl LiveStreams {
    /// Starts a replay, whose pages come one at a time; with `follow` it goes on live and is read where it is
    /// written. Work stops when the pages are dropped.
    ///
    /// # Errors
    /// With `follow`, NOT_FOUND for an unknown spirit.
    pub async fn replay(&self, replay: Replay, consistency: Consistency) -> Result<Pages, StoreError> {
        let spirit_id = replay.selection.spirit_id;
        let mut reader = if replay.follow {
            self.reads.primary()
        } else {
            self.reads.reader(consistency)
        };
        // Subscribed before the bound is read, so that nothing is committed unseen in between.
        let live = replay
            .follow
            .then(|| self.tail(replay.selection.clone(), replay.view));
        let mut last = reader.last_sequence(spirit_id).await?;
        if last < Some(seen(replay.start)) && reader.leave_standby() {
            last = reader.last_sequence(spirit_id).await?;
        }
        if last.is_none() && replay.follow {
            return Err(Refusal::SpiritNotFound(spirit_id).into());
        }
        let streams = self.clone();
        Ok(Pages::of(self.settings.stall_limit, |outlet| async move {
            match last {
                Some(last) => streams.run_replay(replay, reader, last, live, &outlet).await,
                None => Ok(()),
            }
        }))
    }

    async fn run_replay(
        &self,
        replay: Replay,
        mut reader: Reader,
        last: i64,
        live: Option<LiveTail>,
        outlet: &PageSender,
    ) -> StreamEnd {
        let mut left = replay.limit.unwrap_or(u64::MAX);
        let (bound, past_replay) = match (replay.start, &live) {
            // Back in the replay that the cursor is of, whose bound it keeps; or behind it.
            (ReplayStart::After(place), Some(_)) => (place.bound, place.phase == Phase::Live),
            _ => (last, false),
        };
        if !past_replay && !send_replay(&mut reader, &replay, bound, &mut left, outlet).await? {
            return Ok(());
        }
        let Some(mut live) = live.map(|live| live.at(bound, left)) else {
            return Ok(());
        };
        // The mark stands where the order changes, whatever was committed during the replay.
        if !past_replay && !live.say_caught_up(outlet).await? {
            return Ok(());
        }
        self.run_live(live, outlet).await
    }
}

/// Sends the events up to the bound in replay order; false when the reader has gone.
async fn send_replay(
    reader: &mut Reader,
    replay: &Replay,
    bound: i64,
    left: &mut u64,
    outlet: &PageSender,
) -> Result<bool, StoreError> {
    let mut position = replay_start(reader, replay, bound).await?;
    let mut size = FIRST_PAGE_SIZE;
    while *left > 0 {
        // Room first, then the read: nothing is read for a consumer that does not take it.
        let Some(room) = outlet.room().await? else {
            return Ok(false);
        };
        let page = reader
            .list_events(&EventQuery {
                selection: replay.selection.clone(),
                order: Order::OldestFirst,
                view: replay.view,
                start: PageStart::After(position),
                sequence_max: bound,
                size: size.min(usize::try_from(*left).unwrap_or(usize::MAX)),
                bytes: PAGE_BYTES,
            })
            .await?;
        let EventPage { events, more } = page;
        let Some(last) = events.last() else { break };
        position = last.position();
        *left -= events.len() as u64;
        size = PAGE_SIZE;
        room.send(StreamPage::Replay { events, bound });
        if !more {
            break;
        }
    }
    Ok(true)
}

/// The position behind which the replay starts.
async fn replay_start(reader: &mut Reader, replay: &Replay, bound: i64) -> Result<Position, StoreError> {
    let before = |occurred_at| Position {
        occurred_at,
        sequence: 0,
    };
    Ok(match replay.start {
        ReplayStart::Beginning => before(start_of_year(1)),
        ReplayStart::After(place) => place.position,
        ReplayStart::FromTime(time) => before(time),
        ReplayStart::LastN(n) => match reader.nth_from_end(&replay.selection, bound, n).await? {
            Some(first) => Position {
                sequence: first.sequence - 1,
                ..first
            },
            None => before(start_of_year(1)),
        },
    })
}

/// What a standby has to know of the spirit: it, and what the reader has seen of it.
fn seen(start: ReplayStart) -> i64 {
    match start {
        ReplayStart::After(place) => place.bound.max(place.position.sequence),
        ReplayStart::Beginning | ReplayStart::FromTime(_) | ReplayStart::LastN(_) => 0,
    }
}
