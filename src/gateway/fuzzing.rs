//! Entry point of the fuzz target for requests in JSON. A unit test runs it on the corpus.

use prost_reflect::DynamicMessage;

use super::json::{json_of_message, message_of_json};
use super::schema;

/// Reads the bytes as the JSON of every type of request. Asserts that an accepted request is a valid message, and that the
/// JSON of this message is accepted as the same message.
pub fn connect(bytes: &[u8]) {
    for (path, method) in schema::methods() {
        let Ok(message) = message_of_json(&method.request, bytes) else {
            continue;
        };
        let Ok(decoded) = DynamicMessage::decode(method.request.clone(), message.clone()) else {
            continue; // too many levels
        };
        let Ok(json) = json_of_message(&method.request, &message) else {
            continue; // a time or a number that JSON does not have
        };
        let again = message_of_json(&method.request, &json)
            .unwrap_or_else(|error| panic!("{path}: {error}: {}", String::from_utf8_lossy(&json)));
        let again = DynamicMessage::decode(method.request.clone(), again).expect("it was decoded before");
        assert_eq!(again, decoded, "{path}");
    }
}
