//! Makes text from events and servers safe to print, so that it can neither send escape sequences to a
//! terminal nor reorder the displayed text.

use std::borrow::Cow;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// Removes control characters, line breaks included, and invisible characters that change the direction of text.
/// Tabs stay.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    if text.contains(is_unsafe) {
        Cow::Owned(text.chars().filter(|c| !is_unsafe(*c)).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// Like [`printable`], but keeps line breaks.
pub(super) fn printable_lines(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(printable).collect();
    lines.join("\n")
}

/// Like [`printable`], but with spaces in place of line breaks and tabs.
pub(super) fn one_line(text: &str) -> String {
    printable(&text.replace(['\n', '\t'], " ")).into_owned()
}

/// Writes a value as JSON in which unsafe characters are escaped, so that the value stays the same.
pub(super) fn write_json(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    value.serialize(&mut Serializer::with_formatter(out, EscapingFormatter))?;
    Ok(())
}

fn is_unsafe(c: char) -> bool {
    (c.is_control() && c != '\t') || is_format(c)
}

/// Returns true for bidirectional marks, embeddings, overrides and isolates, and for line and paragraph
/// separators.
fn is_format(c: char) -> bool {
    matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Compact JSON; serde_json itself escapes only the control characters below U+0020.
struct EscapingFormatter;

impl Formatter for EscapingFormatter {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        escape_json(writer, fragment)
    }
}

/// Writes JSON with its unsafe characters escaped, which are within strings.
pub(super) fn escape_json<W: ?Sized + Write>(writer: &mut W, json: &str) -> io::Result<()> {
    let mut rest = json;
    while let Some(at) = rest.find(is_unsafe) {
        let (safe, found) = rest.split_at(at);
        writer.write_all(safe.as_bytes())?;
        let mut after = found.chars();
        if let Some(c) = after.next() {
            write!(writer, "\\u{:04x}", u32::from(c))?; // all unsafe characters are below U+10000
        }
        rest = after.as_str();
    }
    writer.write_all(rest.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_characters_are_removed_from_text() {
        for (text, expected) in [
            ("plain ünïcode 🐘\twith a tab", "plain ünïcode 🐘\twith a tab"),
            ("\u{1b}[31mred\u{1b}[0m", "[31mred[0m"),
            ("\u{9b}2J", "2J"),
            ("a\r\nb", "ab"),
            ("abc\u{202e}def\u{2066}\u{200f}", "abcdef"),
            ("\u{7f}\0", ""),
        ] {
            assert_eq!(printable(text), expected, "{text:?}");
        }
        assert_eq!(printable_lines("a\u{1b}\n\nb\r"), "a\n\nb");
        assert_eq!(one_line("a\u{1b}\r\n\tb"), "a  b");
    }

    #[test]
    fn json_is_written_without_unsafe_characters_and_parses_to_the_same_value() {
        let value = "\u{9b}31m \u{202e}txt \u{2028} \u{1b} \" \\ 🐘";
        let mut out = Vec::new();
        write_json(&mut out, &value).unwrap_or_else(|error| panic!("{error}"));
        let text = String::from_utf8(out).unwrap_or_else(|error| panic!("{error}"));
        assert!(!text.contains(is_unsafe), "{text}");
        assert_eq!(serde_json::from_str::<String>(&text).ok().as_deref(), Some(value));
    }
}
