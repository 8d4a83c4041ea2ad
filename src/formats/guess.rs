//! Names the format of a record that is neither an event nor a record of a transcript that can be converted.

use super::Format;
use super::json::{Fields, Json};

/// Number of keys that describe an object of an unknown format.
const KEYS_SHOWN: usize = 6;
const KEY_CHARS_SHOWN: usize = 40;
/// Formats by keys that an object of them has.
const BY_KEYS: [(&[&str], &str); 11] = [
    (&["resourceSpans"], "OpenTelemetry traces (OTLP)"),
    (&["resourceLogs"], "OpenTelemetry logs (OTLP)"),
    (&["resourceMetrics"], "OpenTelemetry metrics (OTLP)"),
    (&["traceId", "spanId"], "spans of traces"),
    (&["trace_id", "span_id"], "spans of traces"),
    (&["trajectory", "info"], "a SWE-agent trajectory"),
    (&["trajectory", "history"], "a SWE-agent trajectory"),
    (&["conversations"], "ShareGPT conversations"),
    (&["prompt", "completion"], "pairs of prompt and completion"),
    (&["run_type", "inputs"], "LangSmith runs"),
    (&["level", "msg"], "a log in JSON"),
];

/// Returns the format that a record looks like, `None` for an event and for JSON that is damaged.
pub(super) fn guess(record: &str) -> Option<String> {
    let record = record.trim_start();
    match Json::parse(record) {
        Ok(json) if json.get("event_type").is_some() => None, // an event with a fault
        Ok(json) => Some(of_json(&json)),
        Err(_) => of_text(record).map(str::to_owned),
    }
}

fn of_json(json: &Json) -> String {
    if let Some(format) = Format::detect(json) {
        let name = format.name();
        return format!("a transcript of the format {name}; --format {name} reads it");
    }
    match json {
        Json::Array(items) => items.first().map_or_else(|| "an empty array".to_owned(), of_json),
        Json::Object(fields) => of_object(fields),
        _ => "JSON values that are no objects".to_owned(),
    }
}

fn of_object(fields: &Fields) -> String {
    let has = |key: &&str| fields.get(key).is_some();
    if let Some((_, name)) = BY_KEYS.iter().find(|(keys, _)| keys.iter().all(has)) {
        return (*name).to_owned();
    }
    let shown = |(key, _): (&str, _)| key.chars().take(KEY_CHARS_SHOWN).collect();
    let keys: Vec<String> = fields.iter().map(shown).take(KEYS_SHOWN).collect();
    format!("JSON objects with the keys {}", keys.join(", "))
}

fn of_text(record: &str) -> Option<&'static str> {
    let line = record.lines().next().unwrap_or_default();
    let columns = |separator| line.split(separator).count();
    match record.as_bytes().first()? {
        b'{' | b'[' => None,
        b'<' => Some("XML or HTML"),
        _ if line.trim_end() == "---" => Some("YAML"),
        _ if columns(',') > 2 || columns('\t') > 2 || columns(';') > 2 => Some("CSV"),
        _ => Some("plain text"),
    }
}

#[cfg(test)]
mod tests {
    use super::guess;

    #[test]
    fn formats_that_cannot_be_converted_are_named() {
        for (record, expected) in [
            (r#"{"resourceSpans":[]}"#, "OpenTelemetry traces (OTLP)"),
            (r#"[{"trajectory":[],"info":{}}]"#, "a SWE-agent trajectory"),
            (r#"{"conversations":[]}"#, "ShareGPT conversations"),
            (r#"{"a":1,"b":2}"#, "JSON objects with the keys a, b"),
            ("7", "JSON values that are no objects"),
            ("<?xml version='1.0'?>", "XML or HTML"),
            ("time,role,text", "CSV"),
            ("---\na: 1", "YAML"),
            ("Hello there", "plain text"),
        ] {
            assert_eq!(guess(record).as_deref(), Some(expected), "{record}");
        }
        let long = guess(&format!(r#"{{"{}":1}}"#, "k".repeat(1_000))).unwrap_or_default();
        assert!(long.ends_with(&format!(" {}", "k".repeat(40))), "{long}");
        let codex = guess(r#"{"type":"event_msg","payload":{}}"#).unwrap_or_default();
        assert!(codex.contains("--format codex"), "{codex}");
        for record in [r#"{"a":"#, r#"{"event_type":"a","x":1}"#] {
            assert_eq!(guess(record), None);
        }
    }
}
