//! Message content that consists of parts: text, images, files.

use super::json::{Fields, Json};

/// Types of parts whose text is content.
const TEXT_TYPES: [&str; 6] = [
    "text",
    "input_text",
    "output_text",
    "summary_text",
    "reasoning_text",
    "refusal",
];
/// Stands between the texts of two parts.
const SEPARATOR: &str = "\n";
/// The field of a part in `meta.parts` whose text is in the content: the number of its bytes there.
const TEXT_BYTES: &str = "text_bytes";

/// Content as text, and its parts unless it is a single text.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Flat {
    pub(super) text: String,
    /// The parts in order. One whose text is in the content has `text_bytes` instead.
    pub(super) parts: Option<Json>,
}

/// Separates the text of content from its other parts. The texts of several parts are joined by line breaks.
pub(super) fn flatten(content: Json) -> Flat {
    match content {
        Json::Null => Flat::default(),
        Json::String(text) => Flat { text, parts: None },
        Json::Array(items) => flatten_items(items),
        part => flatten_items(vec![part]),
    }
}

fn flatten_items(items: Vec<Json>) -> Flat {
    let mut texts: Vec<String> = Vec::new();
    let mut parts = Vec::new();
    let mut is_plain = items.len() == 1;
    for item in items {
        let mut item = match item {
            Json::String(text) => Json::Object(Fields::from([
                ("type", Json::text("text")),
                ("text", Json::String(text)),
            ])),
            item => item,
        };
        match take_text(&mut item) {
            Some(text) => {
                is_plain &= has_only_type(&item);
                set_text_bytes(&mut item, text.len());
                texts.push(text);
            }
            None => is_plain = false,
        }
        parts.push(item);
    }
    Flat {
        text: texts.join(SEPARATOR),
        parts: (!is_plain && !parts.is_empty()).then_some(Json::Array(parts)),
    }
}

/// Removes and returns the text of a part of a text type.
fn take_text(part: &mut Json) -> Option<String> {
    let Json::Object(fields) = part else {
        return None;
    };
    let part_type = fields.str("type")?;
    if !TEXT_TYPES.contains(&part_type) {
        return None;
    }
    let name = if part_type == "refusal" { "refusal" } else { "text" };
    fields.take_text(name)
}

fn has_only_type(part: &Json) -> bool {
    let Some(fields) = part.as_object() else {
        return false;
    };
    let is_plain = fields.str("type") != Some("refusal");
    is_plain
        && fields
            .iter()
            .all(|(name, value)| name == "type" || value.is_empty())
}

fn set_text_bytes(part: &mut Json, bytes: usize) {
    if let Json::Object(fields) = part {
        fields.set(TEXT_BYTES, Json::Number(bytes.to_string()));
    }
}

/// Restores the content that [`flatten`] separated. If the text was edited since, it becomes the first part.
pub(super) fn restore(text: &str, parts: Option<&Json>) -> Json {
    let Some(parts) = parts.and_then(Json::as_array) else {
        return Json::text(text);
    };
    restore_exactly(text, parts).unwrap_or_else(|| {
        let others = parts
            .iter()
            .filter(|part| part.get(TEXT_BYTES).is_none())
            .cloned();
        let first = Fields::from([("type", Json::text("text")), ("text", Json::text(text))]);
        Json::Array(std::iter::once(Json::Object(first)).chain(others).collect())
    })
}

fn restore_exactly(text: &str, parts: &[Json]) -> Option<Json> {
    let mut rest = Some(text);
    let mut restored = Vec::with_capacity(parts.len());
    for part in parts {
        let mut part = part.clone();
        if let Json::Object(fields) = &mut part
            && let Some(Json::Number(bytes)) = fields.take(TEXT_BYTES)
        {
            let (text, after) = rest?.split_at_checked(bytes.parse().ok()?)?;
            rest = match after {
                "" => None,
                after => Some(after.strip_prefix(SEPARATOR)?),
            };
            let name = if fields.str("type") == Some("refusal") {
                "refusal"
            } else {
                "text"
            };
            fields.set(name, Json::text(text));
        }
        restored.push(part);
    }
    rest.is_none_or(str::is_empty).then_some(Json::Array(restored))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Json {
        Json::parse(text).expect("valid")
    }

    #[test]
    fn content_is_flattened_and_restored() {
        for (content, text, has_parts) in [
            (r#""hi""#, "hi", false),
            (r#"[{"type":"text","text":"hi"}]"#, "hi", false),
            (
                r#"[{"type":"output_text","text":"hi","annotations":[]}]"#,
                "hi",
                false,
            ),
            (
                r#"[{"type":"text","text":"ä"},{"type":"text","text":""},{"type":"text","text":"\n"}]"#,
                "ä\n\n\n",
                true,
            ),
            (
                r#"[{"type":"image","source":{"path":"a.png"}},{"type":"text","text":"see"}]"#,
                "see",
                true,
            ),
            (r#"[{"type":"refusal","refusal":"no"}]"#, "no", true),
            ("[7]", "", true),
        ] {
            let flat = flatten(json(content));
            assert_eq!(
                (flat.text.as_str(), flat.parts.is_some()),
                (text, has_parts),
                "{content}"
            );
            if has_parts {
                assert_eq!(restore(&flat.text, flat.parts.as_ref()).to_string(), content);
            }
        }
    }

    #[test]
    fn edited_text_becomes_the_first_part() {
        let flat = flatten(json(r#"[{"type":"text","text":"abc"},{"type":"image"}]"#));
        let restored = restore("x", flat.parts.as_ref());
        assert_eq!(
            restored.to_string(),
            r#"[{"type":"text","text":"x"},{"type":"image"}]"#
        );
    }
}
