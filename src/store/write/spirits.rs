//! Creates spirits.

use const_format::formatcp;

use super::EventWriter;
use crate::domain::spirit::{NewSpirit, Spirit, fold_name};
use crate::store::pg::backfill::EPOCH_NOW;
use crate::store::pg::error::StoreError;
use crate::store::pg::rows::{SPIRIT_COLUMNS, SpiritRow, age_micros};

pub(in crate::store) const INSERT_SPIRIT: &str = formatcp!(
    "insert into spirits (
         id, name_folded, name, description, meta, activity_epoch, retention_max_age, retention_deleted_max_age,
         retention_history_max_age
     )
     values ($1, $2, $3, $4, $5::jsonb, {EPOCH_NOW}, $6, $7, $8)
     returning {SPIRIT_COLUMNS}"
);

impl EventWriter {
    /// Stores a spirit and returns it as stored.
    pub async fn create_spirit(&self, new: NewSpirit) -> Result<Spirit, StoreError> {
        let statement = sqlx::query_as::<_, SpiritRow>(INSERT_SPIRIT)
            .bind(new.id.0)
            .bind(fold_name(&new.name))
            .bind(new.name)
            .bind(new.description)
            .bind(new.meta.as_json())
            .bind(age_micros(new.retention.max_age))
            .bind(age_micros(new.retention.deleted_max_age))
            .bind(age_micros(new.retention.history_max_age));
        let row = self.pool.one(statement).await?;
        Ok(row.into())
    }
}
