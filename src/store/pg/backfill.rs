//! Records the sessions of events that were stored before the table of sessions existed.
//!
//! Each spirit is one statement, so a start that is interrupted goes on where it ended. Instances that start at the same
//! time take turns, under the lock of migrations. Instances of earlier versions must have ended.

use const_format::formatcp;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

/// A new activity epoch. It comes from the clock, so that a spirit that is removed and made again has another one.
pub(in crate::store) const EPOCH_NOW: &str = "(extract(epoch from statement_timestamp()) * 1000000)::bigint";

/// Number of spirits that are looked up at once.
const SPIRITS: i64 = 1_000;

/// Finds the spirits whose sessions have not been recorded, by id.
pub(in crate::store) const SPIRITS_WITHOUT_SESSIONS: &str = "
    select id
    from spirits
    where activity_epoch is null
    and id > $1
    order by id
    limit $2";

/// Whether a spirit exists whose sessions have not been recorded.
pub(in crate::store) const IS_INCOMPLETE: &str = "
    select exists (select from spirits where activity_epoch is null)";

/// Records the sessions of a spirit.
pub(in crate::store) const RECORD_SESSIONS: &str = formatcp!(
    "with found as (
         select
             session_id,
             max(occurred_at) filter (where not is_deleted) as last_occurred_at,
             max(deleted_at) as last_deleted_at
         from events
         where spirit_id = $1
         group by session_id
     ),
     recorded as (
         insert into sessions (spirit_id, session_id, active_minute)
         select $1, session_id, date_trunc('minute', last_occurred_at, 'UTC')
         from found
         where session_id is not null
         on conflict do nothing
     )
     update spirits
     set activity_epoch = {EPOCH_NOW}, last_deleted_at = (select max(last_deleted_at) from found)
     where id = $1
     and activity_epoch is null"
);

/// Records the missing sessions of all spirits.
pub(super) async fn record_missing_sessions(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let mut after = Uuid::nil();
    let mut spirits: u64 = 0;
    loop {
        let missing: Vec<(Uuid,)> = sqlx::query_as(SPIRITS_WITHOUT_SESSIONS)
            .bind(after)
            .bind(SPIRITS)
            .fetch_all(&mut *connection)
            .await?;
        let Some((last,)) = missing.last() else { break };
        after = *last;
        if spirits == 0 {
            tracing::info!("recording the sessions of existing events; the start takes longer this time");
        }
        for (id,) in &missing {
            sqlx::query(RECORD_SESSIONS)
                .bind(id)
                .execute(&mut *connection)
                .await?;
            spirits += 1;
        }
        tracing::info!(spirits, "recorded the sessions of existing events");
    }
    Ok(())
}
