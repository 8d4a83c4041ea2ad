//! Builds statuses with error details, within the size that clients accept.

use std::collections::HashMap;
use std::time::Duration;

use http::HeaderMap;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

/// `ErrorInfo.domain` of every error.
const DOMAIN: &str = "events.elephantasm";
/// Maximum number of bad fields that an error lists.
const VIOLATIONS_MAX: usize = 20;
/// Maximum length of a field's path or rule in an error, in bytes.
const SHOWN_BYTES_MAX: usize = 240;
/// Maximum size of an error's metadata on the wire, names included; clients drop larger ones. Leaves room
/// below 6 KiB for the headers that the transport adds.
const METADATA_BYTES_MAX: usize = 6 * 1024 - 256;
/// Bytes that HTTP/2 counts for a header besides its name and value (RFC 9113, section 6.5.2).
const HEADER_OVERHEAD: usize = 32;
/// Delay before a client should retry after overload or a transient fault.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The trailer with the delay of `RetryInfo` in milliseconds, which the retry policy of a gRPC client obeys.
const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Builds a [`Status`] with `ErrorInfo` and further details.
pub(super) struct StatusBuilder {
    pub(super) code: Code,
    pub(super) message: String,
    /// The bad fields that the error lists.
    violations: Vec<FieldViolation>,
    /// The number of bad fields that the error does not list.
    omitted: usize,
    details: ErrorDetails,
}

impl StatusBuilder {
    /// Creates a status with this `ErrorInfo`.
    pub(super) fn new(
        code: Code,
        reason: &str,
        message: impl Into<String>,
        metadata: &[(&str, String)],
    ) -> Self {
        let metadata: HashMap<String, String> = metadata
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.clone()))
            .collect();
        let mut details = ErrorDetails::new();
        details.set_error_info(reason, DOMAIN, metadata);
        Self {
            code,
            message: message.into(),
            violations: Vec::new(),
            omitted: 0,
            details,
        }
    }

    /// Sets further details.
    pub(super) fn with(mut self, set: impl FnOnce(&mut ErrorDetails)) -> Self {
        set(&mut self.details);
        self
    }

    /// Adds the information that the client can retry after [`RETRY_AFTER`].
    pub(super) fn retry(self) -> Self {
        self.retry_after(RETRY_AFTER)
    }

    /// Adds the information that the client can retry after this delay.
    pub(super) fn retry_after(self, delay: Duration) -> Self {
        self.with(|details| {
            details.set_retry_info(Some(delay));
        })
    }

    /// Lists the first [`VIOLATIONS_MAX`] of these bad fields and counts the others.
    pub(super) fn violations(mut self, violations: impl ExactSizeIterator<Item = FieldViolation>) -> Self {
        self.omitted = violations.len().saturating_sub(VIOLATIONS_MAX);
        self.violations = violations.take(VIOLATIONS_MAX).collect();
        self
    }

    /// Adds an entry to the metadata of `ErrorInfo`.
    pub(super) fn add_metadata(&mut self, key: &str, value: impl Into<String>) {
        if let Some(info) = self.details.error_info() {
            let (reason, mut metadata) = (info.reason.clone(), info.metadata.clone());
            metadata.insert(key.to_owned(), value.into());
            self.details.set_error_info(reason, DOMAIN, metadata);
        }
    }

    /// Builds the status, shortened to the size that clients accept.
    pub(super) fn build(mut self) -> Status {
        loop {
            let status = self.status();
            if metadata_bytes(&status) <= METADATA_BYTES_MAX || !self.shorten() {
                return status;
            }
        }
    }

    fn status(&self) -> Status {
        let mut details = self.details.clone();
        if !self.violations.is_empty() {
            let mut violations = self.violations.clone();
            if self.omitted > 0 {
                let more = format!("{} more bad fields", self.omitted);
                violations.push(FieldViolation::new("…", more));
            }
            details.set_bad_request(violations);
        }
        let delay = details.retry_info().and_then(|info| info.retry_delay);
        let mut status = Status::with_error_details(self.code, self.message.clone(), details);
        if let Some(delay) = delay {
            let millis = u64::try_from(delay.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
            let value = MetadataValue::from(millis);
            status.metadata_mut().insert(RETRY_PUSHBACK, value);
        }
        status
    }

    /// Omits the least useful part: the last of several bad fields, then everything except the reason and a
    /// short message. Returns false if no part can be omitted.
    fn shorten(&mut self) -> bool {
        if self.violations.len() > 1 {
            self.violations.pop();
            self.omitted += 1;
            return true;
        }
        let Some(info) = self.details.error_info() else {
            return false;
        };
        if info.metadata.is_empty() && self.message.len() <= SHOWN_BYTES_MAX {
            return false;
        }
        let reason = info.reason.clone();
        self.details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
        self.message = truncated(&self.message);
        true
    }
}

/// Returns the size that the status adds to a reply's headers or trailers, as HTTP/2 counts it.
fn metadata_bytes(status: &Status) -> usize {
    let mut headers = HeaderMap::new();
    match status.add_header(&mut headers) {
        Ok(()) => headers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + HEADER_OVERHEAD)
            .sum(),
        Err(_) => usize::MAX,
    }
}

/// Returns the text, truncated to the length that an error may show.
pub(super) fn truncated(text: &str) -> String {
    text[..text.floor_char_boundary(SHOWN_BYTES_MAX)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_of_a_status_stays_within_bounds() {
        let long = "🐘".repeat(10_000);
        let metadata = [("dedupe_key", long.clone()), ("failed_indexes", long.clone())];
        let violation = FieldViolation::new(truncated(&long), truncated(&long));
        for (case, metadata) in [("without metadata", &metadata[..0]), ("with metadata", &metadata)] {
            let status = StatusBuilder::new(Code::Aborted, "REASON", long.clone(), metadata)
                .violations(vec![violation.clone(); 50].into_iter())
                .build();
            assert!(metadata_bytes(&status) <= METADATA_BYTES_MAX, "{case}");
            let info = status.get_details_error_info().expect("ErrorInfo stays");
            assert_eq!(
                (info.reason.as_str(), info.domain.as_str()),
                ("REASON", DOMAIN),
                "{case}"
            );
            assert!(
                long.starts_with(status.message()) && !status.message().is_empty(),
                "{case}"
            );
            let listed = status
                .get_details_bad_request()
                .expect("BadRequest stays")
                .field_violations;
            let omitted = 50 - (listed.len() - 1);
            let last = listed.last().expect("not empty");
            assert_eq!(last.description, format!("{omitted} more bad fields"), "{case}");
        }
    }
}
