//! Inserts events with `COPY` in binary format. It costs PostgreSQL less per event than a statement with
//! parameters, but one more round trip, so it is for large flushes.

use tracing::Instrument as _;

use crate::domain::Time;
use crate::domain::event::NewEvent;
use crate::store::pg::session::PgSession;
use crate::store::pg::spans;

/// Number of events from which a flush inserts them with `COPY`. Below it, the additional round trips cost more
/// than `COPY` saves.
pub(super) const COPY_EVENTS_MIN: usize = 128;

/// Bytes of rows that are sent at once. PostgreSQL inserts them while the next ones are encoded.
const CHUNK_BYTES: usize = 128 * 1024;

pub(in crate::store) const COPY_EVENTS: &str = "
    copy events (
        id, spirit_id, sequence, event_type, meta_summary, content, occurred_at, session_id,
        role, author, meta, source_uri, dedupe_key, importance_score
    )
    from stdin (format binary)";

/// Inserts the events, each with its sequence, in the open transaction of the session. After an error, or if the
/// future is dropped, the session must not be used again.
pub(super) async fn copy_events(
    session: &mut PgSession,
    events: &[(&NewEvent, i64)],
) -> Result<(), sqlx::Error> {
    let copied = async {
        let mut copy = session.connection().copy_in_raw(COPY_EVENTS).await?;
        let mut rows = Rows::start();
        for (event, sequence) in events {
            rows.add(event, *sequence)?;
            if rows.0.len() >= CHUNK_BYTES {
                copy.send(rows.0.as_slice()).await?;
                rows.0.clear();
            }
        }
        rows.end();
        copy.send(rows.0.as_slice()).await?;
        copy.finish().await?;
        Ok(())
    };
    copied.instrument(spans::statement(COPY_EVENTS)).await
}

/// Rows in the binary format of `COPY`: a header, for each row the number of its fields and then each field after
/// its length, and a trailer.
struct Rows(Vec<u8>);

impl Rows {
    /// Signature, flags, and length of the header's extension.
    const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
    const TRAILER: i16 = -1;
    const NULL: i32 = -1;
    /// Number of columns of [`COPY_EVENTS`].
    const FIELDS: i16 = 14;
    /// Version of the binary format of `jsonb`, which precedes the text of the value.
    const JSONB_VERSION: u8 = 1;

    fn start() -> Self {
        let mut rows = Vec::with_capacity(2 * CHUNK_BYTES);
        rows.extend_from_slice(Self::HEADER);
        Self(rows)
    }

    fn add(&mut self, event: &NewEvent, sequence: i64) -> Result<(), sqlx::Error> {
        self.0.extend_from_slice(&Self::FIELDS.to_be_bytes());
        self.field(event.id.0.as_bytes())?;
        self.field(event.spirit_id.0.as_bytes())?;
        self.field(&sequence.to_be_bytes())?;
        self.field(event.event_type.as_bytes())?;
        self.optional(event.meta_summary.as_deref())?;
        self.field(event.content.as_bytes())?;
        self.field(&postgres_time(event.occurred_at).to_be_bytes())?;
        self.optional(event.session_id.as_deref())?;
        self.optional(event.role.as_deref())?;
        self.optional(event.author.as_deref())?;
        self.json(event.meta.as_json())?;
        self.optional(event.source_uri.as_deref())?;
        self.optional(event.dedupe_key.as_deref())?;
        match event.importance_score {
            Some(score) => self.field(&score.to_be_bytes()),
            None => self.null(),
        }
    }

    fn field(&mut self, value: &[u8]) -> Result<(), sqlx::Error> {
        self.length(value.len())?;
        self.0.extend_from_slice(value);
        Ok(())
    }

    fn json(&mut self, text: &str) -> Result<(), sqlx::Error> {
        self.length(1 + text.len())?;
        self.0.push(Self::JSONB_VERSION);
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }

    fn optional(&mut self, value: Option<&str>) -> Result<(), sqlx::Error> {
        match value {
            Some(value) => self.field(value.as_bytes()),
            None => self.null(),
        }
    }

    #[allow(clippy::unnecessary_wraps)] // like the other fields
    fn null(&mut self) -> Result<(), sqlx::Error> {
        self.0.extend_from_slice(&Self::NULL.to_be_bytes());
        Ok(())
    }

    fn length(&mut self, bytes: usize) -> Result<(), sqlx::Error> {
        let bytes = i32::try_from(bytes).map_err(|error| sqlx::Error::Encode(error.into()))?;
        self.0.extend_from_slice(&bytes.to_be_bytes());
        Ok(())
    }

    /// Adds the trailer.
    fn end(&mut self) {
        self.0.extend_from_slice(&Self::TRAILER.to_be_bytes());
    }
}

/// Returns the time in PostgreSQL's form: microseconds since the year 2000.
fn postgres_time(time: Time) -> i64 {
    const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;
    time.timestamp_micros() - POSTGRES_EPOCH_MICROS
}
