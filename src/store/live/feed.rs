//! Sources of live streams: the rows of a spirit above a number, in the order of their numbers. Events are numbered by
//! their sequences, changes by their change numbers.

use std::fmt;
use std::sync::Arc;

use super::LiveStreams;
use super::hub::Topic;
use super::shared_reads::SharedReads;
use crate::domain::Time;
use crate::domain::change::EventChange;
use crate::domain::event::{Event, View};
use crate::domain::filter::QueryHash;
use crate::domain::ids::SpiritId;
use crate::store::pg::error::StoreError;

/// A row that a stream sends.
pub trait StreamRow: Clone + fmt::Debug + Send + Sync + Unpin + 'static {
    /// Returns the bytes of its long values.
    fn text_bytes(&self) -> usize;
}

impl StreamRow for Event {
    fn text_bytes(&self) -> usize {
        Self::text_bytes(self)
    }
}

impl StreamRow for EventChange {
    fn text_bytes(&self) -> usize {
        Self::text_bytes(self)
    }
}

/// A page of new rows of a spirit.
#[derive(Debug)]
pub struct LivePage<R> {
    /// The rows in the order of their numbers.
    pub rows: Vec<R>,
    /// Highest number that was examined for the page, whether or not its row matched a filter.
    pub scanned: i64,
    /// Whether the page reached the spirit's last number.
    pub is_last: bool,
    /// Whether no rows follow the last page, because the spirit is soft-deleted.
    pub is_final: bool,
    /// When the first row was committed, if its delivery is measured.
    pub(super) committed_at: Option<Time>,
    /// The number of rows of this length that a page has room for.
    pub(super) next_size: usize,
}

/// Identifies the feeds that have the same pages.
pub(super) type FeedId = (QueryHash, View);

/// The source of a live stream.
pub(super) trait Feed: Send + Sync + 'static {
    type Row: StreamRow;
    const TOPIC: Topic;

    fn spirit_id(&self) -> SpiritId;

    fn id(&self) -> FeedId;

    /// Returns the number of a row.
    fn number(row: &Self::Row) -> i64;

    /// Reads the page of at most `size` rows above a number.
    fn page(
        &self,
        streams: &LiveStreams,
        after: i64,
        size: usize,
    ) -> impl Future<Output = Result<LivePage<Self::Row>, StoreError>> + Send;

    /// Returns the reads that streams of such rows share.
    fn shared_reads(streams: &LiveStreams) -> &SharedReads<Self::Row>;
}

impl<R: StreamRow> LivePage<R> {
    /// Returns the beginning of the page with this number of rows, the last of which has the number `scanned`.
    pub(super) fn cut(self: Arc<Self>, rows: usize, scanned: i64) -> Arc<Self> {
        Arc::new(Self {
            rows: self.rows[..rows].to_vec(),
            scanned,
            ..*self
        })
    }
}
