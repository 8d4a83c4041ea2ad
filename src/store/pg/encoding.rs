//! Checks the encoding of a database.

use super::pool::ConnectionPool;
use super::startup_error::StartupError;

const ENCODING: &str = "select current_setting('server_encoding')";
/// The only encoding that stores every character. A database in SQL_ASCII stores bytes without a check.
const NEEDED: &str = "UTF8";

/// Checks that the database stores text in UTF8.
pub(super) async fn check_encoding(pool: &ConnectionPool) -> Result<(), StartupError> {
    let (encoding,): (String,) = pool.one(sqlx::query_as(ENCODING)).await?;
    if encoding == NEEDED {
        Ok(())
    } else {
        Err(StartupError::Encoding(encoding))
    }
}
