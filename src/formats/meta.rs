//! Keeps `meta` within the limits of the service.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use super::json::{Fields, Json};

/// Maximum bytes of `meta`, 4 KiB less than the service accepts by default.
const META_BYTES_MAX: usize = 60 * 1024;
/// Maximum depth of a field of `meta`, such that `meta.source` with it has the 24 levels that the service accepts.
const FIELD_LEVELS_MAX: usize = 22;
/// Number of fields of `source` that are moved before all of it is.
const MOVED_SINGLY_MAX: usize = 8;
/// Length from which base64 is omitted.
const PAYLOAD_BYTES_MIN: usize = 1024;
/// Bytes by which PostgreSQL may print a number with an exponent longer than it is written.
const EXPONENT_BYTES: usize = 330;
/// Names of fields that contain images, files and encrypted texts as base64.
const PAYLOAD_FIELDS: [&str; 9] = [
    "data",
    "url",
    "image_url",
    "file_data",
    "b64_json",
    "result",
    "encrypted_content",
    "signature",
    "path",
];

/// `meta` within the limits, and the values that were removed from it.
pub(super) struct Fitted {
    pub(super) meta: Fields,
    /// The values that exceed the limits, with their path.
    pub(super) moved: Vec<(String, Json)>,
    /// Number of base64 texts that were replaced by their length and hash.
    pub(super) payloads: usize,
}

/// Replaces base64 by its length and hash, then removes the deepest and the largest fields until the rest fits.
pub(super) fn fit(mut meta: Fields) -> Fitted {
    let mut payloads = 0;
    omit_payloads(&mut meta, &mut payloads);
    if meta.get("source").is_some_and(Json::is_empty) {
        meta.take("source");
    }
    let mut moved = Vec::new();
    loop {
        let fields = sizes(&meta, moved.len() < MOVED_SINGLY_MAX);
        let total: usize = fields.iter().map(|(_, bytes, _)| bytes).sum();
        let (mut candidates, is_too_large) = (fields.into_iter(), total > META_BYTES_MAX);
        let candidate = if is_too_large {
            candidates.max_by_key(|(_, bytes, _)| *bytes)
        } else {
            candidates.find(|(_, _, levels)| *levels > FIELD_LEVELS_MAX)
        };
        let Some((path, _, _)) = candidate else {
            break;
        };
        let (name, holder) = match path.1 {
            Some(name) => (name, meta.object("source")),
            None => (path.0.clone(), &mut meta),
        };
        if let Some(value) = holder.take(&name) {
            let path = if path.0 == name {
                name.clone()
            } else {
                format!("{}.{name}", path.0)
            };
            moved.push((
                clip_path(path),
                Json::Object(Fields::from([(name.as_str(), value)])),
            ));
        }
    }
    Fitted {
        meta,
        moved,
        payloads,
    }
}

/// The name of a field, and that of a field in it.
type Path = (String, Option<String>);

/// Returns path, bytes and depth of every field of `meta`, with `is_split` those of `source` singly.
fn sizes(meta: &Fields, is_split: bool) -> Vec<(Path, usize, usize)> {
    let mut sizes = Vec::new();
    for (name, value) in meta.iter() {
        match value.as_object() {
            Some(source) if is_split && name == "source" => {
                for (inner, value) in source.iter() {
                    let path = (name.to_owned(), Some(inner.to_owned()));
                    sizes.push((path, printed_bytes(inner, value), value.levels()));
                }
            }
            _ => sizes.push((
                (name.to_owned(), None),
                printed_bytes(name, value),
                value.levels(),
            )),
        }
    }
    sizes
}

/// Returns an upper bound of the bytes of a field as PostgreSQL prints it.
fn printed_bytes(name: &str, value: &Json) -> usize {
    name.len() * 2 + value.to_string().len() + exponents(value) * EXPONENT_BYTES + 8
}

fn exponents(value: &Json) -> usize {
    match value {
        Json::Number(text) => usize::from(text.contains(['e', 'E'])),
        Json::Array(items) => items.iter().map(exponents).sum(),
        Json::Object(fields) => fields.iter().map(|(_, value)| exponents(value)).sum(),
        _ => 0,
    }
}

/// Replaces long base64 by its length and hash, and counts it.
pub(super) fn omit_payloads(fields: &mut Fields, count: &mut usize) {
    for (name, value) in fields.values_mut() {
        match value {
            Json::String(text) if PAYLOAD_FIELDS.contains(&name) && is_base64(text) => {
                *count += 1;
                let hash = STANDARD.encode(Sha256::digest(text.as_bytes()));
                *text = format!("omitted: {} bytes, sha256-{hash}", text.len());
            }
            value => omit_inner(value, count),
        }
    }
}

fn omit_inner(value: &mut Json, count: &mut usize) {
    match value {
        Json::Object(fields) => omit_payloads(fields, count),
        Json::Array(items) => items.iter_mut().for_each(|item| omit_inner(item, count)),
        _ => {}
    }
}

/// Returns whether the text is long and base64, or a data URL with base64.
fn is_base64(text: &str) -> bool {
    let body = match text.strip_prefix("data:") {
        Some(url) => url.split_once(";base64,").map_or("", |(_, body)| body),
        None => text,
    };
    let is_digit =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'-' | b'_' | b'\n');
    body.len() >= PAYLOAD_BYTES_MIN && body.bytes().all(is_digit)
}

fn clip_path(path: String) -> String {
    if path.chars().count() <= 255 {
        path
    } else {
        path.chars().take(255).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_fields_are_moved_until_the_rest_fits() {
        let long = |bytes: usize| Json::text("x ".repeat(bytes / 2));
        let source = Fields::from([
            ("small", long(10)),
            ("large", long(50_000)),
            ("larger", long(59_000)),
        ]);
        let fitted = fit(Fields::from([
            ("source", Json::Object(source)),
            ("parts", long(5_000)),
        ]));
        let moved: Vec<&str> = fitted.moved.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(moved, ["source.larger"]);
        assert!(fitted.meta.get("source").expect("kept").get("large").is_some());
    }

    #[test]
    fn fields_that_are_nested_too_deeply_are_moved() {
        let nested = |levels: usize| {
            Json::parse(&format!("{}1{}", "[".repeat(levels), "]".repeat(levels))).expect("valid")
        };
        let source = Fields::from([("deep", nested(23)), ("flat", nested(22))]);
        let fitted = fit(Fields::from([("source", Json::Object(source))]));
        assert_eq!(fitted.moved.len(), 1);
        assert_eq!(Json::Object(fitted.meta).levels(), 24);
    }

    #[test]
    fn base64_is_replaced_by_its_length_and_hash() {
        let image = format!("data:image/png;base64,{}", "QUJD".repeat(500));
        let fields = Fields::from([
            ("url", Json::text(image)),
            ("text", Json::text("QUJD".repeat(500))),
        ]);
        let fitted = fit(Fields::from([("parts", Json::Array(vec![Json::Object(fields)]))]));
        assert_eq!(fitted.payloads, 1);
        let text = Json::Object(fitted.meta).to_string();
        assert!(
            text.contains("omitted: 2022 bytes, sha256-") && text.contains("QUJDQUJD"),
            "{text}"
        );
    }
}
