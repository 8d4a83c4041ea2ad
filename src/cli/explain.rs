//! The text of errors that a server returns.

use std::error::Error as _;
use std::fmt::Write as _;

use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt as _};

use super::failure::{CommandError, Failure};
use super::printable::printable_lines;

/// Converts a status to text for people: code, message and cause, then every bad field and the other details, each on
/// a line of its own.
pub(super) fn explain(status: Status) -> anyhow::Error {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    let mut source = status.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    for (name, value) in details(&status.get_error_details()) {
        // Writing to a string cannot fail.
        let _written = write!(text, "\n  {name} {value}");
    }
    CommandError::new(Failure::from(&status), printable_lines(&text)).into()
}

/// Returns the details as names and values, in the order in which they are printed.
fn details(details: &ErrorDetails) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for violation in details.bad_request().iter().flat_map(|bad| &bad.field_violations) {
        found.push((violation.field.clone(), violation.description.clone()));
    }
    let mut add = |name: &str, value: String| found.push((format!("{name}:"), value));
    if let Some(info) = details.error_info() {
        add("reason", info.reason.clone());
        let mut metadata: Vec<_> = info.metadata.iter().collect();
        metadata.sort();
        for (name, value) in metadata {
            add(name, value.clone());
        }
    }
    if let Some(resource) = details.resource_info() {
        add(
            "resource",
            format!("{} {}", resource.resource_type, resource.resource_name),
        );
    }
    for violation in details
        .precondition_failure()
        .iter()
        .flat_map(|failure| &failure.violations)
    {
        add(
            "precondition",
            format!("{} {}", violation.subject, violation.description),
        );
    }
    for violation in details
        .quota_failure()
        .iter()
        .flat_map(|failure| &failure.violations)
    {
        add(
            "quota",
            format!("{} {}", violation.subject, violation.description),
        );
    }
    if let Some(delay) = details.retry_info().and_then(|retry| retry.retry_delay) {
        add("retry after", humantime::format_duration(delay).to_string());
    }
    if let Some(request) = details.request_info() {
        add("request id", request.request_id.clone());
    }
    for link in details.help().iter().flat_map(|help| &help.links) {
        add("help", format!("{} {}", link.description, link.url));
    }
    found
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::Code;

    use super::*;

    #[test]
    fn every_detail_has_a_line_without_control_characters() {
        let mut details = ErrorDetails::with_bad_request_violation("a.b", "must be \u{1b}[31mshort");
        details
            .set_error_info(
                "INVALID_FIELD",
                "events.elephantasm",
                [("max".to_owned(), "7".to_owned())],
            )
            .set_resource_info("spirit", "Ada", "", "")
            .set_retry_info(Some(Duration::from_millis(1_500)))
            .set_request_info("r1", "")
            .add_quota_failure_violation("key", "calls")
            .add_help_link("docs", "https://example.com");
        let status = Status::with_error_details(Code::InvalidArgument, "two\nlines", details);
        let error = explain(status);
        assert_eq!(
            error.to_string(),
            "InvalidArgument: two\nlines\n  a.b must be [31mshort\n  reason: INVALID_FIELD\n  max: 7\n  \
             resource: spirit Ada\n  quota: key calls\n  retry after: 1s 500ms\n  request id: r1\n  \
             help: docs https://example.com"
        );
        assert_eq!(Failure::of(&error), Failure::InvalidRequest);
        assert_eq!(Failure::of(&error.context("stopped")), Failure::InvalidRequest);
    }
}
