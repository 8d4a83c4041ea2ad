//! Watching: a spirit's new events in sequence order, then whatever is committed.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::mpsc::Permit;
use tokio::time::Instant;

use super::LiveStreams;
use super::hub::{Signal, Subscription};
use super::page::{LivePage, LiveQuery};
use super::page_sender::{PageSender, Pages, StreamEnd, StreamPage};
use crate::domain::Time;
use crate::domain::event::View;
use crate::domain::filter::Selection;
use crate::domain::invalid::Invalid;
use crate::domain::refusal::Refusal;
use crate::store::pg::error::StoreError;

/// A watch that a reader wants.
#[derive(Clone, Debug)]
pub struct Watch {
    pub selection: Selection,
    pub view: View,
    pub start: WatchStart,
}

/// Where a watch starts.
#[derive(Clone, Copy, Debug)]
pub enum WatchStart {
    /// After this sequence.
    After(i64),
    /// At what is committed from now on.
    Now,
}

/// The live part of a stream: where it is, and what it is told.
pub(super) struct LiveTail {
    query: Arc<LiveQuery>,
    subscription: Subscription,
    /// Everything up to here was looked at.
    scanned: i64,
    /// Events that may still be sent.
    left: u64,
    /// Whether it has said that it caught up.
    caught_up: bool,
    /// When something was last sent.
    sent: Instant,
}

impl LiveStreams {
    /// Starts a watch; the sequence behind which it starts is fixed when this returns.
    ///
    /// # Errors
    /// NOT_FOUND for an unknown spirit; `Refusal::Invalid` for a start behind its end.
    pub async fn watch(&self, watch: Watch) -> Result<(i64, Pages), StoreError> {
        let Watch {
            selection,
            view,
            start,
        } = watch;
        let spirit_id = selection.spirit_id;
        let live = self.tail(selection, view);
        let last = self.reads.primary().last_sequence(spirit_id).await?;
        let last = last.ok_or(Refusal::SpiritNotFound(spirit_id))?;
        let scanned = match start {
            WatchStart::Now => last,
            WatchStart::After(sequence) if sequence > last => {
                let rule = format_args!("must be at most the spirit's last_sequence {last}, is {sequence}");
                return Err(Refusal::from(Invalid::field("after_sequence", rule)).into());
            }
            WatchStart::After(sequence) => sequence,
        };
        let streams = self.clone();
        let live = live.at(scanned, u64::MAX);
        let pages = Pages::of(self.settings.stall_limit, |outlet| async move {
            streams.run_live(live, &outlet).await
        });
        Ok((scanned, pages))
    }

    /// The live part of a stream, subscribed, at the beginning.
    pub(super) fn tail(&self, selection: Selection, view: View) -> LiveTail {
        LiveTail {
            subscription: self.announcer.hub.subscribe(selection.spirit_id),
            query: Arc::new(LiveQuery::new(selection, view)),
            scanned: 0,
            left: u64::MAX,
            caught_up: false,
            sent: Instant::now(),
        }
    }

    /// Sends what is behind the position and goes on with what is committed, until the limit, the
    /// spirit's end, a loss or the reader's going.
    pub(super) async fn run_live(&self, mut live: LiveTail, outlet: &PageSender) -> StreamEnd {
        while live.left > 0 {
            live.subscription.note();
            let Some(room) = outlet.room().await? else {
                return Ok(());
            };
            let page = self.shared_live_page(&live.query, live.scanned).await?;
            let page = live.within_limit(page);
            let (is_last, is_deleted) = (page.is_last, page.is_deleted);
            live.scanned = page.scanned;
            if let Some(first) = page.events.first() {
                if live.caught_up {
                    self.metrics
                        .live
                        .delivery_lag
                        .observe(seconds_since(first.created_at));
                }
                live.send(room, StreamPage::Live(page));
            } else if live.sent.elapsed() >= self.settings.heartbeat {
                // A reader whose filter hides everything learns how far it got, too.
                live.send(room, StreamPage::Heartbeat(live.scanned));
            } else {
                drop(room);
            }
            if !is_last || live.left == 0 {
                continue;
            }
            if is_deleted {
                return Err(Refusal::SpiritNotFound(live.query.selection.spirit_id).into());
            }
            if !live.caught_up && !live.say_caught_up(outlet).await? {
                return Ok(());
            }
            if !self.wait(&mut live, outlet).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Waits until a look is worth while, with heartbeats; false when the reader has gone.
    async fn wait(&self, live: &mut LiveTail, outlet: &PageSender) -> Result<bool, StoreError> {
        loop {
            let heartbeat = tokio::time::sleep_until(live.sent + self.settings.heartbeat);
            tokio::select! {
                signal = live.subscription.changed() => return match signal {
                    Signal::Look => Ok(true),
                    Signal::Lost => Err(StoreError::Unavailable("the database is away".to_owned())),
                },
                () = outlet.closed() => return Ok(false),
                () = heartbeat => {}
            }
            let Some(room) = outlet.room().await? else {
                return Ok(false);
            };
            live.send(room, StreamPage::Heartbeat(live.scanned));
        }
    }
}

/// Zero where the database's clock goes ahead of this one.
fn seconds_since(time: Time) -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::from(time));
    since.unwrap_or_default().as_secs_f64()
}

impl LiveTail {
    /// Goes on behind this sequence, with so many events still to send.
    pub(super) fn at(self, scanned: i64, left: u64) -> Self {
        Self {
            // A made-up cursor must not cost a scan of all numbers below the first.
            scanned: scanned.max(0),
            left,
            sent: Instant::now(),
            ..self
        }
    }

    /// Says that everything up to here was sent, unless nothing more may be; false when the reader has
    /// gone.
    pub(super) async fn say_caught_up(&mut self, outlet: &PageSender) -> Result<bool, StoreError> {
        self.caught_up = true;
        if self.left > 0 {
            let Some(room) = outlet.room().await? else {
                return Ok(false);
            };
            self.send(room, StreamPage::CaughtUp(self.scanned));
        }
        Ok(true)
    }

    fn send(&mut self, room: Permit<'_, StreamPage>, page: StreamPage) {
        room.send(page);
        self.sent = Instant::now();
    }

    /// As much of the page as may still be sent.
    fn within_limit(&mut self, page: Arc<LivePage>) -> Arc<LivePage> {
        let count = page.events.len() as u64;
        if count <= self.left {
            self.left -= count;
            return page;
        }
        let keep = usize::try_from(self.left).unwrap_or(usize::MAX);
        let events = page.events[..keep].to_vec();
        self.left = 0;
        Arc::new(LivePage {
            scanned: events.last().map_or(self.scanned, |last| last.sequence),
            events,
            ..*page
        })
    }
}
