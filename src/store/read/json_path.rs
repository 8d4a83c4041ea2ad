//! Checks SQL/JSON paths of callers.

use const_format::formatcp;

use super::Reader;
use crate::domain::json_path::{PathRule, check_printed};
use crate::store::pg::error::StoreError;

/// Maximum bytes of a path as PostgreSQL prints it. It writes numbers out, so that 1e131071 has as many digits.
const PRINTED_BYTES_MAX: usize = 16 * 1024;

impl Reader {
    /// Checks that PostgreSQL can parse the path and that it keeps the rules of [`check_printed`]. Returns the rule that
    /// it breaks, as text for people.
    pub async fn check_json_path(&mut self, path: &str) -> Result<Result<(), String>, StoreError> {
        let statement = sqlx::query_as::<_, (Option<String>,)>(CHECK_JSON_PATH).bind(path);
        let broken = match self.one(statement).await {
            Ok((printed,)) => match printed.as_deref().map_or(Err(PathRule::Digits), check_printed) {
                Ok(()) => return Ok(Ok(())),
                Err(rule) => rule.to_string(),
            },
            Err(StoreError::BadValue(reason)) => format!("must be a SQL/JSON path: {reason}"),
            Err(error) => return Err(error),
        };
        Ok(Err(broken))
    }
}

pub(in crate::store) const CHECK_JSON_PATH: &str = formatcp!(
    "select case when octet_length(printed) <= {PRINTED_BYTES_MAX} then printed end as printed
     from (select ($1::text)::jsonpath::text as printed) as path"
);
