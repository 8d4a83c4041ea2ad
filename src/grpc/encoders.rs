//! Encoders of the reply streams: the messages of each RPC, and the position in them at which a client can resume.

use std::time::SystemTime;

use super::streams::StreamEncoder;
use super::{convert, pb};
use crate::domain::change::EventChange;
use crate::domain::cursor::{Phase, SessionStreamPosition, encode};
use crate::domain::event::{Event, Position};
use crate::domain::filter::{QueryHash, start_of_year};
use crate::store::ReplayStart;
use pb::stream_session_events_response::Item as SessionItem;
use pb::watch_changes_response::Item as ChangeItem;
use pb::watch_events_response::Item as WatchItem;

/// Encodes messages of `StreamSessionEvents`, each with a cursor.
pub struct SessionEncoder {
    hash: QueryHash,
    /// The position of the last message; before the first message, the position to resume from, if any.
    last: Option<SessionStreamPosition>,
    /// A position before the first event that the stream may send.
    start: Position,
}

impl SessionEncoder {
    /// Creates the encoder of a replay with this query hash and start.
    pub(super) fn new(hash: QueryHash, start: ReplayStart) -> Self {
        let (last, occurred_at, sequence) = match start {
            ReplayStart::After(position) => (Some(position), start_of_year(1), 0),
            ReplayStart::AfterSequence(sequence) => (None, start_of_year(1), sequence),
            ReplayStart::FromTime(time) => (None, time, 0),
            ReplayStart::Beginning | ReplayStart::LastN(_) => (None, start_of_year(1), 0),
        };
        Self {
            hash,
            last,
            start: Position {
                occurred_at,
                sequence,
            },
        }
    }

    fn message(
        &mut self,
        position: SessionStreamPosition,
        item: SessionItem,
    ) -> pb::StreamSessionEventsResponse {
        self.last = Some(position);
        pb::StreamSessionEventsResponse {
            cursor: encode(self.hash, &position),
            item: Some(item),
        }
    }

    /// Returns the live position after the last event sent, with every event up to the sequence `scanned`
    /// examined.
    fn live_position(&self, scanned: i64) -> SessionStreamPosition {
        SessionStreamPosition {
            phase: Phase::Live,
            position: self.last.map_or(self.start, |last| last.position),
            bound: scanned,
        }
    }
}

impl StreamEncoder for SessionEncoder {
    type Row = Event;
    type Message = pb::StreamSessionEventsResponse;

    fn row(&mut self, event: Event, bound: Option<i64>) -> Self::Message {
        let position = SessionStreamPosition {
            phase: bound.map_or(Phase::Live, |_| Phase::Replay),
            position: event.position(),
            bound: bound.unwrap_or(event.sequence),
        };
        self.message(position, SessionItem::Event(convert::event(event)))
    }

    fn caught_up(&mut self, scanned: i64) -> Self::Message {
        let position = self.live_position(scanned);
        self.message(position, SessionItem::CaughtUp(pb::CaughtUp {}))
    }

    fn heartbeat(&mut self, scanned: i64) -> Self::Message {
        let position = self.live_position(scanned);
        self.message(position, SessionItem::Heartbeat(heartbeat()))
    }

    fn resume(&self) -> Option<(&'static str, String)> {
        let last = self.last?;
        Some(("cursor", encode(self.hash, &last)))
    }
}

/// Encodes messages of `WatchEvents`, each with a sequence.
pub struct WatchEncoder {
    /// Every event up to this sequence was examined.
    sequence: i64,
}

impl WatchEncoder {
    /// Creates the encoder of a watch that starts after this sequence.
    pub(super) fn new(sequence: i64) -> Self {
        Self { sequence }
    }

    fn message(&mut self, sequence: i64, item: WatchItem) -> pb::WatchEventsResponse {
        self.sequence = sequence;
        pb::WatchEventsResponse {
            sequence,
            item: Some(item),
        }
    }
}

impl StreamEncoder for WatchEncoder {
    type Row = Event;
    type Message = pb::WatchEventsResponse;

    fn row(&mut self, event: Event, _bound: Option<i64>) -> Self::Message {
        self.message(event.sequence, WatchItem::Event(convert::event(event)))
    }

    fn caught_up(&mut self, scanned: i64) -> Self::Message {
        self.message(scanned, WatchItem::CaughtUp(pb::CaughtUp {}))
    }

    fn heartbeat(&mut self, scanned: i64) -> Self::Message {
        self.message(scanned, WatchItem::Heartbeat(heartbeat()))
    }

    fn resume(&self) -> Option<(&'static str, String)> {
        Some(("sequence", self.sequence.to_string()))
    }
}

/// Encodes messages of `WatchChanges`, each with a change number.
pub struct ChangeEncoder {
    /// Every change up to this one was sent.
    change: i64,
}

impl ChangeEncoder {
    /// Creates the encoder of a watch that starts after this change.
    pub(super) fn new(change: i64) -> Self {
        Self { change }
    }

    fn message(&mut self, change: i64, item: ChangeItem) -> pb::WatchChangesResponse {
        self.change = change;
        pb::WatchChangesResponse {
            last_change: change,
            item: Some(item),
        }
    }
}

impl StreamEncoder for ChangeEncoder {
    type Row = EventChange;
    type Message = pb::WatchChangesResponse;

    fn row(&mut self, change: EventChange, _bound: Option<i64>) -> Self::Message {
        self.message(change.change, ChangeItem::Change(convert::change(change)))
    }

    fn caught_up(&mut self, scanned: i64) -> Self::Message {
        self.message(scanned, ChangeItem::CaughtUp(pb::CaughtUp {}))
    }

    fn heartbeat(&mut self, scanned: i64) -> Self::Message {
        self.message(scanned, ChangeItem::Heartbeat(heartbeat()))
    }

    fn resume(&self) -> Option<(&'static str, String)> {
        Some(("change", self.change.to_string()))
    }
}

fn heartbeat() -> pb::Heartbeat {
    pb::Heartbeat {
        server_time: Some(SystemTime::now().into()),
    }
}
