//! Edits of events and spirits.
//!
//! An edit reads the row, computes the new values and updates the row if its revision is unchanged; otherwise
//! it starts over, so concurrent merge patches all take effect. Each step is one statement, so a caller that
//! goes away leaves no edit half done; a soft delete or restore of an event is a transaction of [`super::deletions`].
//! Both record a change of the event.

use const_format::formatcp;

use super::EventWriter;
use crate::domain::edit::{EventEdit, EventTarget, SpiritEdit, SpiritFields, SpiritTarget, check_revision};
use crate::domain::event::Event;
use crate::domain::refusal::Refusal;
use crate::domain::spirit::{Spirit, fold_name};
use crate::store::live::Topic;
use crate::store::pg::error::StoreError;
use crate::store::pg::rows::{SPIRIT_COLUMNS, SpiritRow, age_micros};

pub(in crate::store) const UPDATE_SPIRIT: &str = formatcp!(
    "update spirits set
             name_folded = $3,
             name = $4,
             description = $5,
             meta = $6::jsonb,
             deleted_at = case when $7 then coalesce(deleted_at, clock.now) end,
             retention_max_age = $8,
             retention_deleted_max_age = $9,
             retention_history_max_age = $10,
             revision = revision + 1,
             updated_at = clock.now
         from (select now() as now) as clock
         where id = $1
         and revision = $2
         returning {SPIRIT_COLUMNS}"
);

impl EventWriter {
    /// Edits an event and returns it as edited.
    pub async fn edit_event(&self, target: EventTarget, edit: &EventEdit) -> Result<Event, StoreError> {
        loop {
            let Some(event) = self
                .reads
                .primary()
                .get_event(target.id, &target.scope, true)
                .await?
            else {
                return Err(Refusal::EventNotFound(target.id).into());
            };
            check_revision(target.expected_revision, event.revision)?;
            let Some(fields) = edit.apply(&event).map_err(Refusal::from)? else {
                return Ok(event);
            };
            let changed_by = target.changed_by.clone();
            let edited = if fields.is_deleted == event.deleted_at.is_some() {
                self.updates.update(event, fields, changed_by).await?
            } else {
                self.change_deletion(&event, fields, changed_by).await?
            };
            if let Some(edited) = edited {
                return Ok(edited);
            }
        }
    }

    /// Edits a spirit, returns it as edited and wakes its streams.
    pub async fn edit_spirit(&self, target: SpiritTarget, edit: &SpiritEdit) -> Result<Spirit, StoreError> {
        loop {
            let Some(spirit) = self.reads.primary().get_spirit(target.id, true).await? else {
                return Err(Refusal::SpiritNotFound(target.id).into());
            };
            check_revision(target.expected_revision, spirit.revision)?;
            let Some(fields) = edit.apply(&spirit).map_err(Refusal::from)? else {
                return Ok(spirit);
            };
            if let Some(edited) = self.update_spirit_row(&spirit, fields).await? {
                self.announcer.announce(&[edited.id], Topic::Events);
                return Ok(edited);
            }
        }
    }

    /// Updates the spirit; returns `None` if its revision has changed since it was read.
    async fn update_spirit_row(
        &self,
        read: &Spirit,
        fields: SpiritFields,
    ) -> Result<Option<Spirit>, StoreError> {
        let statement = sqlx::query_as::<_, SpiritRow>(UPDATE_SPIRIT)
            .bind(read.id.0)
            .bind(read.revision)
            .bind(fold_name(&fields.name))
            .bind(fields.name)
            .bind(fields.description)
            .bind(fields.meta.as_json())
            .bind(fields.is_deleted)
            .bind(age_micros(fields.retention.max_age))
            .bind(age_micros(fields.retention.deleted_max_age))
            .bind(age_micros(fields.retention.history_max_age));
        let _turn = self.pool.turn(read.id).await?;
        let row = self.pool.optional(statement).await?;
        Ok(row.map(Spirit::from))
    }
}
