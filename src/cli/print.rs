//! Prints events and changes as text for people or as JSON lines for programs.

use std::io::{self, Write};

use super::printable::printable;
use super::record::{Record, kind_name};
use super::style::Palette;
use super::times;
use crate::grpc::pb::{Event, EventChange};

/// The longest content that is printed in full, in lines and in bytes, unless all of it is wanted.
const FOLD_LINES: usize = 20;
const FOLD_BYTES: i32 = 2_000;

/// The format of printed events and changes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    Text {
        palette: Palette,
        /// Whether long contents are cut.
        is_folded: bool,
    },
    Json,
}

impl Form {
    /// Returns the format for `--json` and `--full`.
    pub(super) fn new(json: bool, full: bool) -> Self {
        if json {
            return Self::Json;
        }
        Self::Text {
            palette: Palette::of_stdout(),
            is_folded: !full,
        }
    }

    /// Returns the length of contents to request.
    pub(super) fn content_bytes_max(self) -> Option<i32> {
        match self {
            Self::Text { is_folded: true, .. } => Some(FOLD_BYTES),
            Self::Text { .. } | Self::Json => None,
        }
    }

    /// Writes one event. JSON includes the cursor if there is one.
    pub(super) fn write(self, out: &mut impl Write, event: Event, cursor: Option<&str>) -> io::Result<()> {
        match self {
            Self::Text { palette, is_folded } => write_event(out, &event, palette, is_folded),
            Self::Json => {
                let record = Record::from(event);
                match cursor {
                    Some(cursor) => record.with("cursor", cursor).write_json(out),
                    None => record.write_json(out),
                }
            }
        }
    }

    /// Writes one change.
    pub(super) fn write_change(self, out: &mut impl Write, change: EventChange) -> io::Result<()> {
        match self {
            Self::Text { palette, .. } => write_change(out, &change, palette),
            Self::Json => Record::from(change).write_json(out),
        }
    }
}

/// Writes time, sequence, type, role and session on one line and the content below it, indented.
fn write_event(out: &mut impl Write, event: &Event, palette: Palette, is_folded: bool) -> io::Result<()> {
    writeln!(
        out,
        "{}  #{}  {}  {}  {}{}",
        palette.dimmed(times::millis(event.occurred_at)),
        event.sequence,
        palette.event(event.event_type(), printable(event.event_type())),
        printable(event.role.as_deref().unwrap_or("-")),
        printable(event.session_id.as_deref().unwrap_or("-")),
        if event.is_deleted { "  deleted" } else { "" },
    )?;
    let content = event.content();
    let shown = if is_folded { first_lines(content) } else { content };
    for line in shown.lines() {
        writeln!(out, "    {}", printable(line))?;
    }
    let length = event.content_bytes.and_then(|bytes| usize::try_from(bytes).ok());
    let left = length.unwrap_or(content.len()).saturating_sub(shown.len());
    if left > 0 {
        let note = format!("… {left} more bytes; --full prints them");
        writeln!(out, "    {}", palette.dimmed(note))?;
    }
    Ok(())
}

/// Returns the lines that are printed of a long content. A last line break alone is not cut off.
fn first_lines(content: &str) -> &str {
    match content.match_indices('\n').nth(FOLD_LINES - 1) {
        Some((end, _)) if end + 1 < content.len() => &content[..=end],
        _ => content,
    }
}

/// Writes time, number, kind, events, fields and key on one line.
fn write_change(out: &mut impl Write, change: &EventChange, palette: Palette) -> io::Result<()> {
    let events = match change.event_ids.as_slice() {
        [event_id] => event_id.clone(),
        event_ids => format!("{} events", event_ids.len()),
    };
    let by = match change.changed_by.as_str() {
        "" => String::new(),
        prefix => format!("  by {}", printable(prefix)),
    };
    writeln!(
        out,
        "{}  {}  {}  {}  {}{by}",
        palette.dimmed(times::millis(change.changed_at)),
        change.change,
        palette.bold(kind_name(change)),
        printable(&events),
        printable(&change.fields.join(", ")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(event: &Event, is_colored: bool, is_folded: bool) -> String {
        let mut out = Vec::new();
        write_event(&mut out, event, Palette::new(is_colored), is_folded).expect("a Vec takes everything");
        String::from_utf8(out).expect("UTF-8")
    }

    fn event(content: &str) -> Event {
        Event {
            sequence: 7,
            event_type: Some("error".to_owned()),
            session_id: Some("s\u{1b}[2J".to_owned()),
            content: Some(content.to_owned()),
            is_deleted: true,
            ..Event::default()
        }
    }

    #[test]
    fn the_type_has_its_color_and_the_text_of_the_event_has_none() {
        let plain = "-  #7  error  -  s[2J  deleted\n    a[31mb\n";
        let event = event("a\u{1b}[31mb");
        assert_eq!(text(&event, false, true), plain);
        let colored = text(&event, true, true);
        assert!(colored.contains("\u{1b}[31merror\u{1b}[0m"), "{colored:?}");
        assert!(colored.ends_with("    a[31mb\n"), "{colored:?}");
    }

    #[test]
    fn long_content_is_folded_unless_all_of_it_is_wanted() {
        let lines = "line\n".repeat(FOLD_LINES + 2);
        let folded = text(&event(&lines), false, true);
        assert_eq!(folded.matches("    line\n").count(), FOLD_LINES);
        assert!(
            folded.ends_with("    … 10 more bytes; --full prints them\n"),
            "{folded}"
        );
        assert_eq!(text(&event(&lines), false, false).lines().count(), FOLD_LINES + 3);
        let just_fits = "line\n".repeat(FOLD_LINES);
        assert!(!text(&event(&just_fits), false, true).contains("more bytes"));
        let cut = Event {
            content_bytes: Some(5_000),
            ..event("abc")
        };
        assert!(text(&cut, false, true).ends_with("    abc\n    … 4997 more bytes; --full prints them\n"));
    }
}
