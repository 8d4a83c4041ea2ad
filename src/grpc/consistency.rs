//! The consistency of a read, which the caller chooses by the metadata `x-consistency`.

use tonic::Request;

use crate::domain::invalid::Invalid;
use crate::store::Consistency;

const CONSISTENCY: &str = "x-consistency";
const STRONG: &str = "strong";
const EVENTUAL: &str = "eventual";

/// Reads the consistency from the call's metadata. Returns the default if the metadata is absent.
pub(super) fn consistency<T>(request: &Request<T>) -> Result<Consistency, Invalid> {
    let Some(value) = request.metadata().get(CONSISTENCY) else {
        return Ok(Consistency::default());
    };
    match value.to_str() {
        Ok(STRONG) => Ok(Consistency::Strong),
        Ok(EVENTUAL) => Ok(Consistency::Eventual),
        _ => {
            let rule = format_args!("must be {STRONG} or {EVENTUAL}, as metadata of the call");
            Err(Invalid::field(CONSISTENCY, rule))
        }
    }
}
