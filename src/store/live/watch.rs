//! Watch: sends the rows of a feed in the order of their numbers, then new rows as they are committed. A followed
//! replay ends with the same live part.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use super::LiveStreams;
use super::feed::{Feed, LivePage};
use super::hub::{Signal, Subscription};
use super::page::{LiveQuery, PAGE_SIZE};
use super::page_sender::{PagePermit, PageSender, Pages, StreamEnd, StreamPage};
use crate::domain::Time;
use crate::domain::event::{Event, View};
use crate::domain::filter::Selection;
use crate::domain::invalid::Invalid;
use crate::domain::refusal::Refusal;
use crate::store::pg::error::StoreError;

/// A request to watch a spirit.
#[derive(Clone, Debug)]
pub struct Watch {
    pub selection: Selection,
    pub view: View,
    pub start: WatchStart,
}

/// The start of a watch.
#[derive(Clone, Copy, Debug)]
pub enum WatchStart {
    /// Starts after this number.
    After(i64),
    /// Starts with the first event, or with the oldest change that is stored.
    Beginning,
    /// Starts with the next row that is committed.
    Now,
}

/// The live part of a stream: its position and its subscription.
pub(super) struct LiveTail<F> {
    feed: Arc<F>,
    subscription: Subscription,
    /// Highest number that was examined.
    scanned: i64,
    /// Number of rows to read in the next page.
    size: usize,
    /// Number of rows that may still be sent.
    left: u64,
    /// Whether `CaughtUp` was sent.
    caught_up: bool,
    /// Time of the last item.
    sent: Instant,
}

impl LiveStreams {
    /// Starts a watch. Returns the sequence after which it starts, and its pages. Dropping the pages stops it.
    ///
    /// # Errors
    /// `Refusal::SpiritNotFound` for an unknown spirit; `Refusal::Invalid` for a start beyond `last_sequence`.
    pub async fn watch(&self, watch: Watch) -> Result<(i64, Pages<Event>), StoreError> {
        let Watch {
            selection,
            view,
            start,
        } = watch;
        let spirit_id = selection.spirit_id;
        let live = self.tail(LiveQuery::new(selection, view));
        let last = self.reads.primary().last_sequence(spirit_id).await?;
        let last = last.ok_or(Refusal::SpiritNotFound(spirit_id))?;
        let scanned = match start {
            WatchStart::Now => last,
            WatchStart::Beginning => 0,
            WatchStart::After(sequence) => {
                check_start("after_sequence", sequence, "last_sequence", last)?;
                sequence
            }
        };
        Ok((scanned, self.watch_from(live, scanned)))
    }

    /// Starts to send the rows after this number.
    pub(super) fn watch_from<F: Feed>(&self, live: LiveTail<F>, number: i64) -> Pages<F::Row> {
        let streams = self.clone();
        let live = live.at(number, u64::MAX);
        Pages::spawn(self.settings.stall_limit, |sender| async move {
            streams.run_live(live, &sender).await
        })
    }

    /// Subscribes to the feed and returns the live part of a stream, positioned at the beginning.
    pub(super) fn tail<F: Feed>(&self, feed: F) -> LiveTail<F> {
        LiveTail {
            subscription: self.announcer.hub.subscribe(feed.spirit_id(), F::TOPIC),
            feed: Arc::new(feed),
            scanned: 0,
            size: PAGE_SIZE,
            left: u64::MAX,
            caught_up: false,
            sent: Instant::now(),
        }
    }

    /// Sends the rows after the position, then new rows as they are committed. Ends at the limit of rows, when no
    /// rows can follow, when the database does not answer, or when the client has gone away.
    pub(super) async fn run_live<F: Feed>(
        &self,
        mut live: LiveTail<F>,
        sender: &PageSender<F::Row>,
    ) -> StreamEnd {
        while live.left > 0 {
            live.subscription.mark_seen();
            let Some(permit) = sender.reserve().await? else {
                return Ok(());
            };
            let page = self.shared_live_page(&live.feed, live.scanned, live.size).await?;
            live.size = page.next_size;
            let page = live.within_limit(page);
            let (is_last, is_final) = (page.is_last, page.is_final);
            live.scanned = page.scanned;
            if !page.rows.is_empty() {
                if let Some(committed_at) = page.committed_at
                    && live.caught_up
                {
                    self.metrics
                        .live
                        .delivery_lag
                        .observe(seconds_since(committed_at));
                }
                live.send(permit, StreamPage::Live(page)).await?;
            } else if live.sent.elapsed() >= self.settings.heartbeat {
                // Reports progress to a client whose filter matches no rows.
                live.send(permit, StreamPage::Heartbeat(live.scanned)).await?;
            } else {
                drop(permit);
            }
            if !is_last || live.left == 0 {
                continue;
            }
            if is_final {
                return Err(Refusal::SpiritNotFound(live.feed.spirit_id()).into());
            }
            if !live.caught_up && !live.send_caught_up(sender).await? {
                return Ok(());
            }
            if !self.wait(&mut live, sender).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Waits for a signal to read and sends heartbeats. Returns false if the client has gone away.
    async fn wait<F: Feed>(
        &self,
        live: &mut LiveTail<F>,
        sender: &PageSender<F::Row>,
    ) -> Result<bool, StoreError> {
        loop {
            let heartbeat = tokio::time::sleep_until(live.sent + self.settings.heartbeat);
            tokio::select! {
                signal = live.subscription.changed() => return match signal {
                    Signal::Read => Ok(true),
                    Signal::End => Err(StoreError::Unavailable("the database does not answer".to_owned())),
                },
                () = sender.closed() => return Ok(false),
                () = heartbeat => {}
            }
            let Some(permit) = sender.reserve().await? else {
                return Ok(false);
            };
            live.send(permit, StreamPage::Heartbeat(live.scanned)).await?;
        }
    }
}

/// Returns the seconds since this time; zero if the database's clock is ahead of this host's.
fn seconds_since(time: Time) -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::from(time));
    since.unwrap_or_default().as_secs_f64()
}

impl<F: Feed> LiveTail<F> {
    /// Sets the number after which it continues, and how many rows may still be sent.
    pub(super) fn at(self, scanned: i64, left: u64) -> Self {
        Self {
            // A forged cursor must not start a scan of negative sequences.
            scanned: scanned.max(0),
            left,
            sent: Instant::now(),
            ..self
        }
    }

    /// Sends `CaughtUp`, unless the limit of rows is reached. Returns false if the client has gone away.
    pub(super) async fn send_caught_up(&mut self, sender: &PageSender<F::Row>) -> Result<bool, StoreError> {
        self.caught_up = true;
        if self.left > 0 {
            let Some(permit) = sender.reserve().await? else {
                return Ok(false);
            };
            self.send(permit, StreamPage::CaughtUp(self.scanned)).await?;
        }
        Ok(true)
    }

    async fn send(
        &mut self,
        permit: PagePermit<'_, F::Row>,
        page: StreamPage<F::Row>,
    ) -> Result<(), StoreError> {
        permit.send(page).await?;
        self.sent = Instant::now();
        Ok(())
    }

    /// Cuts the page to the number of rows that may still be sent.
    fn within_limit(&mut self, page: Arc<LivePage<F::Row>>) -> Arc<LivePage<F::Row>> {
        let count = page.rows.len() as u64;
        if count <= self.left {
            self.left -= count;
            return page;
        }
        let keep = usize::try_from(self.left).unwrap_or(usize::MAX);
        self.left = 0;
        let scanned = page.rows[..keep].last().map_or(self.scanned, F::number);
        page.cut(keep, scanned)
    }
}

/// Checks that a stream starts at most after the spirit's last number. `field` and `last_field` are their names.
pub(super) fn check_start(field: &str, after: i64, last_field: &str, last: i64) -> Result<(), Refusal> {
    if after > last {
        let rule = format_args!("must be at most the spirit's {last_field} {last}, is {after}");
        return Err(Invalid::field(field, rule).into());
    }
    Ok(())
}
