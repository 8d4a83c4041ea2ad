//! Arguments of the statements that insert events: one array per column.

use sqlx::Arguments as _;
use sqlx::error::BoxDynError;
use sqlx::postgres::PgArguments;

use crate::domain::event::NewEvent;

/// Adds an array for each column of the events. The third array has the number that is paired with each
/// event: its sequence, or its ordinal among the new events of its spirit.
pub(super) fn add_events(
    arguments: &mut PgArguments,
    events: &[(&NewEvent, i64)],
) -> Result<(), BoxDynError> {
    fn column<'a, T>(events: &[(&'a NewEvent, i64)], field: impl Fn(&'a NewEvent) -> T) -> Vec<T> {
        events.iter().map(|(event, _)| field(event)).collect()
    }
    arguments.add(column(events, |event| event.id.0))?;
    arguments.add(column(events, |event| event.spirit_id.0))?;
    arguments.add(events.iter().map(|(_, number)| *number).collect::<Vec<i64>>())?;
    arguments.add(column(events, |event| event.event_type.as_str()))?;
    arguments.add(column(events, |event| event.meta_summary.as_deref()))?;
    arguments.add(column(events, |event| event.content.as_str()))?;
    arguments.add(column(events, |event| event.occurred_at))?;
    arguments.add(column(events, |event| event.session_id.as_deref()))?;
    arguments.add(column(events, |event| event.role.as_deref()))?;
    arguments.add(column(events, |event| event.author.as_deref()))?;
    arguments.add(column(events, |event| event.meta.as_json()))?;
    arguments.add(column(events, |event| event.source_uri.as_deref()))?;
    arguments.add(column(events, |event| event.dedupe_key.as_deref()))?;
    arguments.add(column(events, |event| event.importance_score))
}
