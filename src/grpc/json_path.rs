//! Checks the SQL/JSON path of a filter with PostgreSQL, before the call reads events.

use super::status::ApiError;
use crate::domain::filter::META_MATCHES;
use crate::domain::invalid::{Invalid, Violation};
use crate::store::Reader;

/// Returns the converted request if PostgreSQL accepts the path in its filter; otherwise all violations of the request,
/// those that the conversion has found included. `path` is that of [`unchecked_path`](super::convert::unchecked_path).
pub(super) async fn with_checked_path<T, E>(
    reader: &mut Reader,
    path: Option<String>,
    converted: Result<T, E>,
) -> Result<T, ApiError>
where
    ApiError: From<E>,
{
    let converted = converted.map_err(ApiError::from);
    let Some(path) = path else { return converted };
    let violation = match reader.check_json_path(&path).await {
        Ok(Ok(())) => return converted,
        Ok(Err(rule)) => Violation {
            field: META_MATCHES.to_owned(),
            description: rule,
        },
        Err(error) => return converted.and(Err(error.into())),
    };
    let mut violations = match converted {
        Err(ApiError::Invalid(Invalid(violations))) => violations,
        Ok(_) | Err(_) => Vec::new(),
    };
    violations.push(violation);
    Err(Invalid(violations).into())
}
