//! An error as the client sees it, within the bytes that clients take.

use std::collections::HashMap;
use std::time::Duration;

use http::HeaderMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

/// `ErrorInfo.domain` of every error.
const DOMAIN: &str = "events.elephantasm";
/// Bad fields that one error lists.
const VIOLATIONS_MAX: usize = 20;
/// Bytes of a field's path or rule that an error shows.
const SHOWN_BYTES_MAX: usize = 240;
/// Bytes that the metadata of an error may have as it goes over the wire, the names included;
/// clients drop larger ones. Leaves room below 6 KiB for the headers that the transport adds.
const METADATA_BYTES_MAX: usize = 6 * 1024 - 256;
/// What HTTP/2 counts for a header besides its name and value (RFC 9113, section 6.5.2).
const HEADER_OVERHEAD: usize = 32;
/// After which a client may retry what was refused for load or for a passing fault.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// An error as the client sees it.
pub(super) struct Answer {
    pub(super) code: Code,
    pub(super) message: String,
    /// The bad fields that are listed.
    violations: Vec<FieldViolation>,
    /// How many more there are.
    left_out: usize,
    details: ErrorDetails,
}

impl Answer {
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
            left_out: 0,
            details,
        }
    }

    pub(super) fn with(mut self, set: impl FnOnce(&mut ErrorDetails)) -> Self {
        set(&mut self.details);
        self
    }

    pub(super) fn retry(self) -> Self {
        self.retry_after(RETRY_AFTER)
    }

    pub(super) fn retry_after(self, pause: Duration) -> Self {
        self.with(|details| {
            details.set_retry_info(Some(pause));
        })
    }

    /// Lists the first of these bad fields and says how many more there are.
    pub(super) fn listing(mut self, violations: impl ExactSizeIterator<Item = FieldViolation>) -> Self {
        self.left_out = violations.len().saturating_sub(VIOLATIONS_MAX);
        self.violations = violations.take(VIOLATIONS_MAX).collect();
        self
    }

    /// Adds to the metadata of `ErrorInfo`.
    pub(super) fn put(&mut self, key: &str, value: impl Into<String>) {
        if let Some(info) = self.details.error_info() {
            let (reason, mut metadata) = (info.reason.clone(), info.metadata.clone());
            metadata.insert(key.to_owned(), value.into());
            self.details.set_error_info(reason, DOMAIN, metadata);
        }
    }

    /// The status, with as much of the answer as clients take.
    pub(super) fn into_status(mut self) -> Status {
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
            if self.left_out > 0 {
                let more = format!("{} more bad fields", self.left_out);
                violations.push(FieldViolation::new("…", more));
            }
            details.set_bad_request(violations);
        }
        Status::with_error_details(self.code, self.message.clone(), details)
    }

    /// Leaves out what helps least: the last of several bad fields, then all that is not the reason
    /// or a message. Says whether there was something to leave out.
    fn shorten(&mut self) -> bool {
        if self.violations.len() > 1 {
            self.violations.pop();
            self.left_out += 1;
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
        self.message = shown(&self.message);
        true
    }
}

/// What the status adds to a reply's headers or trailers, as HTTP/2 counts it.
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

/// As much of the text as an error shows.
pub(super) fn shown(text: &str) -> String {
    text[..text.floor_char_boundary(SHOWN_BYTES_MAX)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_an_answer_holds_its_metadata_stays_within_bounds() {
        let long = "🐘".repeat(10_000);
        let metadata = [("dedupe_key", long.clone()), ("failed_indexes", long.clone())];
        let violation = FieldViolation::new(shown(&long), shown(&long));
        for (what, metadata) in [("without metadata", &metadata[..0]), ("with metadata", &metadata)] {
            let status = Answer::new(Code::Aborted, "REASON", long.clone(), metadata)
                .listing(vec![violation.clone(); 50].into_iter())
                .into_status();
            assert!(metadata_bytes(&status) <= METADATA_BYTES_MAX, "{what}");
            let info = status.get_details_error_info().expect("ErrorInfo stays");
            assert_eq!(
                (info.reason.as_str(), info.domain.as_str()),
                ("REASON", DOMAIN),
                "{what}"
            );
            assert!(
                long.starts_with(status.message()) && !status.message().is_empty(),
                "{what}"
            );
            let listed = status
                .get_details_bad_request()
                .expect("BadRequest stays")
                .field_violations;
            let left_out = 50 - (listed.len() - 1);
            let last = listed.last().expect("not empty");
            assert_eq!(last.description, format!("{left_out} more bad fields"), "{what}");
        }
    }
}
