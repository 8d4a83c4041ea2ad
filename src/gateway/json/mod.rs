//! The JSON form of Protobuf messages, in both directions.

mod long_integers;
mod place;
mod read;
mod structs;
mod write;

use prost::{Message, Name};

use super::schema;
use crate::grpc::MessageError;

pub(super) use read::message_of_json;
pub(super) use write::{json_of_any, json_of_message};

/// Parses the JSON form of a message of the server's protos.
///
/// # Errors
/// When the text is not JSON, or a field is unknown or has a value of another type; the error names the field.
pub fn parse_message<M: Message + Name + Default>(json: &[u8]) -> Result<M, MessageError> {
    let name = M::full_name();
    let descriptor =
        schema::message(&name).ok_or_else(|| MessageError::Undecodable(format!("unknown message {name}")))?;
    let bytes = message_of_json(&descriptor, json)?;
    M::decode(bytes).map_err(|error| MessageError::Undecodable(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::schema::method;
    use crate::grpc::pb;

    fn create(json: &str) -> Result<pb::CreateEventRequest, MessageError> {
        parse_message(json.as_bytes())
    }

    #[test]
    fn every_kind_of_field_survives_a_round_trip() {
        let json = r#"{"spiritId":"s","occurredAt":"2026-01-02T03:04:05.678Z","meta":{"a":[1,-2.5,null,true,"x",{}],"b":1e+300},"importanceScore":0.5,"onDuplicate":"ON_DUPLICATE_REJECT","expectedLastSequence":"9223372036854775807","replyView":"EVENT_VIEW_BASIC"}"#;
        let request = create(json).expect("valid");
        assert_eq!(request.expected_last_sequence, Some(i64::MAX));
        assert_eq!(request.on_duplicate(), pb::OnDuplicate::Reject);
        let descriptor = &method("/elephantasm.events.v1.EventService/CreateEvent")
            .expect("a method")
            .request;
        let written = json_of_message(descriptor, &request.encode_to_vec()).expect("writable");
        assert_eq!(String::from_utf8(written).expect("UTF-8"), json);
    }

    #[test]
    fn names_of_both_forms_numbers_in_strings_and_nulls_are_accepted() {
        let json = r#"{"spirit_id":"s","content":null,"expected_last_sequence":7.0,"onDuplicate":2,"importanceScore":1,"meta":null}"#;
        let request = create(json).expect("valid");
        assert_eq!(request.spirit_id, "s");
        assert_eq!((request.content, request.meta), (None, None));
        assert_eq!(request.expected_last_sequence, Some(7));
        assert_eq!((request.on_duplicate, request.importance_score), (2, Some(1.0)));
    }

    #[test]
    fn a_field_that_is_refused_is_named_by_its_path() {
        for (json, path) in [
            (r#"{"spirit":"s"}"#, "spirit"),
            (r#"{"spiritId":1}"#, "spirit_id"),
            (r#"{"spiritId":["s"]}"#, "spirit_id"),
            (r#"{"spiritId":"s","spirit_id":"t"}"#, "spirit_id"),
            (r#"{"occurredAt":"yesterday"}"#, "occurred_at"),
            (r#"{"occurredAt":{"seconds":1}}"#, "occurred_at"),
            (r#"{"expectedLastSequence":1.5}"#, "expected_last_sequence"),
            (
                r#"{"expectedLastSequence":"9223372036854775808"}"#,
                "expected_last_sequence",
            ),
            (r#"{"onDuplicate":"REJECT"}"#, "on_duplicate"),
            (r#"{"meta":[]}"#, "meta"),
            (r#"{"meta":{"a":{"b":[0,9007199254740993]}}}"#, "meta.a.b[1]"),
            (r#"{"meta":{"a":{"b":1,"c":{"b":1},"b":2}}}"#, "meta.a.b"),
            (r#"{"meta":{"a":-9007199254740993}}"#, "meta.a"),
            (r#"{"meta":{"a":[111111111111111111111111111111]}}"#, "meta.a[0]"),
        ] {
            match create(json) {
                Err(MessageError::Field(refused, rule)) => {
                    assert_eq!(refused, path, "{json}");
                    assert!(rule.starts_with("must") || rule.starts_with("is not"), "{rule}");
                }
                other => panic!("{json}: {other:?}"),
            }
        }
    }

    #[test]
    fn text_that_is_not_an_object_is_undecodable() {
        for json in [
            "",
            "{",
            "[]",
            "{} {}",
            "null",
            "{\"content\":\u{1}}",
            "{\"content\":\"\\ud800\"}",
        ] {
            assert!(
                matches!(create(json), Err(MessageError::Undecodable(_))),
                "{json}"
            );
        }
    }

    #[test]
    fn requests_and_error_details_have_a_json_form() {
        for (path, method) in crate::gateway::schema::methods() {
            let unsupported = method
                .request
                .fields()
                .find(prost_reflect::FieldDescriptor::is_map);
            assert!(
                unsupported.is_none() || path.starts_with("/grpc."),
                "{path}: {unsupported:?}"
            );
        }
        let any = prost_reflect::prost_types::Any {
            type_url: "type.googleapis.com/google.rpc.ErrorInfo".to_owned(),
            value: tonic_types::pb::ErrorInfo {
                reason: "R".to_owned(),
                ..Default::default()
            }
            .encode_to_vec(),
        };
        assert_eq!(json_of_any(&any).expect("known").get(), r#"{"reason":"R"}"#);
    }
}
