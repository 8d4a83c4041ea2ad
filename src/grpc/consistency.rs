//! How new a read has to be: the caller says it in metadata.

use tonic::Request;

use super::status::ApiError;
use crate::domain::invalid::Invalid;
use crate::store::Consistency;

const CONSISTENCY: &str = "x-consistency";
const STRONG: &str = "strong";
const EVENTUAL: &str = "eventual";

/// What the call's metadata asks for.
pub(super) fn consistency<T>(request: &Request<T>) -> Result<Consistency, ApiError> {
    let Some(asked) = request.metadata().get(CONSISTENCY) else {
        return Ok(Consistency::default());
    };
    match asked.to_str() {
        Ok(STRONG) => Ok(Consistency::Strong),
        Ok(EVENTUAL) => Ok(Consistency::Eventual),
        _ => {
            let rule = format_args!("must be {STRONG} or {EVENTUAL}, as metadata of the call");
            Err(Invalid::field(CONSISTENCY, rule).into())
        }
    }
}
