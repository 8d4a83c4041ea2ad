//! Entry point of the fuzz target for requests in JSON, as Connect sends them. A unit test runs it on the corpus.

use super::json::{json_of_message, message_of_json};
use super::schema;

/// Reads the bytes as the JSON of every type of request. Asserts that the message of an accepted request, written as
/// JSON, is accepted again as the same message.
pub fn json(bytes: &[u8]) {
    for (path, method) in schema::methods() {
        let Ok(message) = message_of_json(&method.request, bytes) else {
            continue;
        };
        let Ok(json) = json_of_message(&method.request, &message) else {
            continue; // too many levels, or a time or a number that JSON does not have
        };
        let again = message_of_json(&method.request, &json)
            .unwrap_or_else(|error| panic!("{path}: {error}: {}", String::from_utf8_lossy(&json)));
        let again = json_of_message(&method.request, &again).expect("it was written before");
        assert_eq!(
            String::from_utf8_lossy(&again),
            String::from_utf8_lossy(&json),
            "{path}"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    #[test]
    fn requests_of_the_corpus_are_refused_or_survive_a_round_trip() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/json");
        let mut count = 0;
        for file in fs::read_dir(corpus).expect("the corpus") {
            super::json(&fs::read(file.expect("a file").path()).expect("a file of the corpus"));
            count += 1;
        }
        assert!(count >= 5, "{count} files");
    }
}
