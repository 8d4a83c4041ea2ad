//! Replay: sends a session's events in replay or sequence order, read one page ahead of the client.
//!
//! A replay holds a connection only while it reads a page. It covers sequences up to the spirit's
//! `last_sequence` at its start, the bound, so its events are one consistent set without a long-lived snapshot.
//! Bound and pages are read from one server; if the standby fails, further pages are read from the primary,
//! which has at least the same events.

use super::page::LiveQuery;
use super::page_sender::{PageSender, Pages, StreamEnd, StreamPage};
use super::watch::{LiveTail, check_start};
use super::{LiveStreams, PAGE_BYTES};
use crate::domain::Time;
use crate::domain::cursor::{Phase, SessionStreamPosition};
use crate::domain::event::{Event, Order, Position, View};
use crate::domain::filter::{Selection, start_of_year};
use crate::domain::refusal::Refusal;
use crate::store::pg::error::StoreError;
use crate::store::read::list_events::{EventPage, EventQuery, PageStart};
use crate::store::read::{Consistency, Reader};

/// A request to replay a session.
#[derive(Clone, Debug)]
pub struct Replay {
    /// Must name a session.
    pub selection: Selection,
    pub view: View,
    /// Replay order or sequence order.
    pub order: Order,
    pub start: ReplayStart,
    /// Maximum number of events; `None` = all.
    pub limit: Option<u64>,
    /// Whether new events follow the replay.
    pub follow: bool,
}

/// The start of a replay.
#[derive(Clone, Copy, Debug)]
pub enum ReplayStart {
    /// At the first event.
    Beginning,
    /// After this position.
    After(SessionStreamPosition),
    /// After this sequence, at most the spirit's `last_sequence`. In sequence order only.
    AfterSequence(i64),
    /// At this `occurred_at`, inclusive. In replay order only.
    FromTime(Time),
    /// At the n-th matching event from the end, n ≥ 1.
    LastN(i64),
}

/// Events in the first page: few, so that the first event arrives soon.
const FIRST_PAGE_SIZE: usize = 50;

impl LiveStreams {
    /// Starts a replay. With `follow`, new events follow and all reads use the primary. Dropping the pages stops
    /// it.
    ///
    /// # Errors
    /// With `follow`, `Refusal::SpiritNotFound` for an unknown spirit. Otherwise the replay of such a spirit is
    /// empty. `Refusal::Invalid` for a start beyond `last_sequence`.
    pub async fn replay(&self, replay: Replay, consistency: Consistency) -> Result<Pages<Event>, StoreError> {
        let spirit_id = replay.selection.spirit_id;
        let mut reader = if replay.follow {
            self.reads.primary()
        } else {
            self.reads.reader(consistency)
        };
        // Subscribe before reading the bound, so that no commit in between is missed.
        let live = replay
            .follow
            .then(|| self.tail(LiveQuery::new(replay.selection.clone(), replay.view)));
        let mut last = reader.last_sequence(spirit_id).await?;
        if last < Some(highest_sequence_seen(replay.start)) && reader.leave_standby() {
            last = reader.last_sequence(spirit_id).await?;
        }
        if last.is_none() && replay.follow {
            return Err(Refusal::SpiritNotFound(spirit_id).into());
        }
        if let (ReplayStart::AfterSequence(sequence), Some(last)) = (replay.start, last) {
            check_start("after_sequence", sequence, "last_sequence", last)?;
        }
        let streams = self.clone();
        Ok(Pages::spawn(self.settings.stall_limit, |sender| async move {
            match last {
                Some(last) => streams.run_replay(replay, reader, last, live, &sender).await,
                None => Ok(()),
            }
        }))
    }

    /// Sends the events of the replay and then, with `live`, new events.
    async fn run_replay(
        &self,
        replay: Replay,
        mut reader: Reader,
        last: i64,
        live: Option<LiveTail<LiveQuery>>,
        sender: &PageSender<Event>,
    ) -> StreamEnd {
        let mut left = replay.limit.unwrap_or(u64::MAX);
        let (bound, past_replay) = match (replay.start, &live) {
            // A cursor from the replay keeps the bound of that replay; a live cursor is past the replay.
            (ReplayStart::After(cursor), Some(_)) => (cursor.bound, cursor.phase == Phase::Live),
            _ => (last, false),
        };
        if !past_replay && !send_replay(&mut reader, &replay, bound, &mut left, sender).await? {
            return Ok(());
        }
        let Some(mut live) = live.map(|live| live.at(bound, left)) else {
            return Ok(());
        };
        // `CaughtUp` marks the change from replay order to sequence order, even if events were committed since.
        if !past_replay && !live.send_caught_up(sender).await? {
            return Ok(());
        }
        self.run_live(live, sender).await
    }
}

/// Sends the events up to the bound in the order of the replay. Returns false if the client has gone away.
async fn send_replay(
    reader: &mut Reader,
    replay: &Replay,
    bound: i64,
    left: &mut u64,
    sender: &PageSender<Event>,
) -> Result<bool, StoreError> {
    let mut position = replay_start(reader, replay, bound).await?;
    let mut size = FIRST_PAGE_SIZE;
    while *left > 0 {
        let Some(permit) = sender.reserve().await? else {
            return Ok(false);
        };
        let page = reader
            .list_events(&EventQuery {
                selection: replay.selection.clone(),
                order: replay.order,
                view: replay.view,
                start: PageStart::After(position),
                after_sequence: 0,
                sequence_max: bound,
                size: size.min(usize::try_from(*left).unwrap_or(usize::MAX)),
                bytes: PAGE_BYTES,
            })
            .await?;
        let EventPage {
            events,
            more,
            next_size,
        } = page;
        let Some(last) = events.last() else { break };
        position = last.position();
        *left -= events.len() as u64;
        size = next_size;
        permit.send(StreamPage::Replay { events, bound }).await?;
        if !more {
            break;
        }
    }
    Ok(true)
}

/// Returns the position after which the replay starts.
async fn replay_start(reader: &mut Reader, replay: &Replay, bound: i64) -> Result<Position, StoreError> {
    let before = |occurred_at| Position {
        occurred_at,
        sequence: 0,
    };
    let order = replay.order;
    Ok(match replay.start {
        ReplayStart::Beginning => before(start_of_year(1)),
        ReplayStart::AfterSequence(sequence) => Position {
            occurred_at: start_of_year(1),
            sequence,
        },
        ReplayStart::After(cursor) => cursor.position,
        ReplayStart::FromTime(time) => before(time),
        ReplayStart::LastN(n) => match reader.nth_from_end(&replay.selection, order, bound, n).await? {
            Some(first) => Position {
                sequence: first.sequence - 1,
                ..first
            },
            None => before(start_of_year(1)),
        },
    })
}

/// Returns the highest sequence that the client has received or passed; a standby that serves the replay must
/// have replayed it.
fn highest_sequence_seen(start: ReplayStart) -> i64 {
    match start {
        ReplayStart::After(cursor) => cursor.bound.max(cursor.position.sequence),
        ReplayStart::AfterSequence(sequence) => sequence,
        ReplayStart::Beginning | ReplayStart::FromTime(_) | ReplayStart::LastN(_) => 0,
    }
}
