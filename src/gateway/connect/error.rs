//! Connect's form of errors.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use http::{HeaderMap, StatusCode};
use prost::Message as _;
use serde::Serialize;
use serde_json::value::RawValue;
use tonic::{Code, Status};

use crate::gateway::json::json_of_any;

/// The end of a stream.
#[derive(Serialize)]
struct EndOfStream<'e> {
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorBody<'e>>,
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    metadata: serde_json::Map<String, serde_json::Value>,
}

#[derive(Serialize)]
struct ErrorBody<'e> {
    code: &'static str,
    message: &'e str,
    details: Vec<ErrorDetail>,
}

#[derive(Serialize)]
struct ErrorDetail {
    /// Full name of the message type.
    r#type: String,
    /// The encoded message in base64.
    value: String,
    /// The message as JSON, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    debug: Option<Box<RawValue>>,
}

impl<'e> From<&'e Status> for ErrorBody<'e> {
    fn from(status: &'e Status) -> Self {
        // The details on the wire are a google.rpc.Status.
        let details = tonic_types::pb::Status::decode(status.details())
            .unwrap_or_default()
            .details;
        Self {
            code: name_and_http_status(status.code()).0,
            message: status.message(),
            details: details
                .iter()
                .map(|detail| ErrorDetail {
                    r#type: detail.type_url.rsplit('/').next().unwrap_or_default().to_owned(),
                    value: BASE64_STANDARD_NO_PAD.encode(&detail.value),
                    debug: json_of_any(detail),
                })
                .collect(),
        }
    }
}

/// Returns the HTTP status and the body of the reply to a unary call that fails.
pub(super) fn unary_error(status: &Status) -> (StatusCode, String) {
    let (_, http_status) = name_and_http_status(status.code());
    (http_status, to_json(&ErrorBody::from(status)))
}

/// Returns the last message of a stream that ends with this status and these trailers.
pub(super) fn end_of_stream(status: &Status, trailers: &HeaderMap) -> String {
    let mut metadata = serde_json::Map::new();
    for name in trailers.keys().filter(|name| !name.as_str().starts_with("grpc-")) {
        let values = trailers.get_all(name).iter();
        let values = values.filter_map(|value| value.to_str().ok());
        metadata.insert(name.to_string(), values.collect());
    }
    to_json(&EndOfStream {
        error: (status.code() != Code::Ok).then(|| status.into()),
        metadata,
    })
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("texts and maps with text keys are JSON")
}

/// Returns Connect's name of a code and the HTTP status of a unary call that ends with it.
fn name_and_http_status(code: Code) -> (&'static str, StatusCode) {
    match code {
        Code::Cancelled => (
            "canceled",
            StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        ),
        Code::InvalidArgument => ("invalid_argument", StatusCode::BAD_REQUEST),
        Code::DeadlineExceeded => ("deadline_exceeded", StatusCode::GATEWAY_TIMEOUT),
        Code::NotFound => ("not_found", StatusCode::NOT_FOUND),
        Code::AlreadyExists => ("already_exists", StatusCode::CONFLICT),
        Code::PermissionDenied => ("permission_denied", StatusCode::FORBIDDEN),
        Code::ResourceExhausted => ("resource_exhausted", StatusCode::TOO_MANY_REQUESTS),
        Code::FailedPrecondition => ("failed_precondition", StatusCode::BAD_REQUEST),
        Code::Aborted => ("aborted", StatusCode::CONFLICT),
        Code::OutOfRange => ("out_of_range", StatusCode::BAD_REQUEST),
        Code::Unimplemented => ("unimplemented", StatusCode::NOT_IMPLEMENTED),
        Code::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR),
        Code::Unavailable => ("unavailable", StatusCode::SERVICE_UNAVAILABLE),
        Code::DataLoss => ("data_loss", StatusCode::INTERNAL_SERVER_ERROR),
        Code::Unauthenticated => ("unauthenticated", StatusCode::UNAUTHORIZED),
        Code::Ok | Code::Unknown => ("unknown", StatusCode::INTERNAL_SERVER_ERROR),
    }
}
