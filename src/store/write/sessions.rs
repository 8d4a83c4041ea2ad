//! Sets title, owner and meta of sessions.

use sqlx::types::chrono::{DateTime, Utc};

use super::EventWriter;
use crate::domain::edit::{SessionEdit, SessionTarget, check_revision};
use crate::domain::meta::Meta;
use crate::domain::refusal::Refusal;
use crate::domain::session::{Session, SessionFields};
use crate::domain::spirit::fold_name;
use crate::store::pg::error::StoreError;

/// Sets the fields of a session at revision `$8`, or creates its row if the spirit is live. Returns a row if the session was
/// written. The spirit's row cannot be removed before the session is committed.
pub(in crate::store) const UPDATE_SESSION: &str = "
    insert into sessions (spirit_id, session_id, title, title_folded, owner, meta, revision, updated_at)
    select spirits.id, $2, $3, $4, $5, $6::jsonb, 1, now()
    from spirits
    where spirits.id = $1
    and (spirits.deleted_at is null or $7)
    for key share
    on conflict (spirit_id, session_id) do update
    set title = excluded.title,
        title_folded = excluded.title_folded,
        owner = excluded.owner,
        meta = excluded.meta,
        revision = sessions.revision + 1,
        updated_at = excluded.updated_at
    where sessions.revision = $8
    returning meta::text, revision, updated_at";

impl EventWriter {
    /// Edits a session and returns it as edited, with the counts and times from before the edit. Nothing is read after the
    /// commit, since a read that fails would hide that the edit took effect.
    pub async fn edit_session(
        &self,
        target: &SessionTarget,
        edit: &SessionEdit,
    ) -> Result<Session, StoreError> {
        let SessionTarget {
            spirit_id,
            session_id,
            expected_revision,
        } = target;
        loop {
            let mut reader = self.reads.primary();
            let stored = reader.get_session(*spirit_id, session_id).await?;
            if stored.is_none() && reader.get_spirit(*spirit_id, false).await?.is_none() {
                return Err(Refusal::SpiritNotFound(*spirit_id).into());
            }
            let exists = stored.is_some();
            let session = stored.unwrap_or_else(|| Session::empty(*spirit_id, session_id.clone()));
            check_revision(*expected_revision, session.revision)?;
            let Some(fields) = edit.apply(&session).map_err(Refusal::from)? else {
                return Ok(session);
            };
            if let Some(edited) = self.update_session_row(session, fields, exists).await? {
                return Ok(edited);
            }
        }
    }

    /// Updates the session; returns `None` if its revision has changed since it was read, or if its spirit is gone.
    async fn update_session_row(
        &self,
        read: Session,
        fields: SessionFields,
        exists: bool,
    ) -> Result<Option<Session>, StoreError> {
        let SessionFields { title, owner, meta } = fields;
        let statement = sqlx::query_as::<_, (Option<String>, i64, DateTime<Utc>)>(UPDATE_SESSION)
            .bind(read.spirit_id.0)
            .bind(read.session_id.as_str())
            .bind(title.as_deref())
            .bind(title.as_deref().map(fold_name))
            .bind(owner.as_deref())
            .bind(meta.as_ref().map(Meta::as_json))
            .bind(exists)
            .bind(read.revision);
        let row = self.pool.optional(statement).await?;
        Ok(row.map(|(meta, revision, updated_at)| Session {
            title,
            owner,
            meta: meta.map(Meta::from_json),
            revision,
            updated_at: Some(updated_at),
            ..read
        }))
    }
}
