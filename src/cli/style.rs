//! Colours of printed text.

use std::fmt::{self, Display};
use std::io;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};

/// The colours of standard output: none if it is not a terminal, or if `NO_COLOR` is set. `CLICOLOR_FORCE` colours
/// other outputs too.
#[derive(Clone, Copy, Debug)]
pub(super) struct Palette {
    is_colored: bool,
}

impl Palette {
    pub(super) fn of_stdout() -> Self {
        Self {
            is_colored: AutoStream::choice(&io::stdout()) != ColorChoice::Never,
        }
    }

    #[cfg(test)]
    pub(super) const fn new(is_colored: bool) -> Self {
        Self { is_colored }
    }

    pub(super) fn bold<T: Display>(self, text: T) -> Painted<T> {
        self.paint(Style::new().bold(), text)
    }

    pub(super) fn dimmed<T: Display>(self, text: T) -> Painted<T> {
        self.paint(Style::new().dimmed(), text)
    }

    /// Colours a text by a type of events.
    pub(super) fn event<T: Display>(self, event_type: &str, text: T) -> Painted<T> {
        self.paint(style_of(event_type), text)
    }

    fn paint<T>(self, style: Style, text: T) -> Painted<T> {
        Painted {
            style: if self.is_colored { style } else { Style::new() },
            text,
        }
    }
}

/// Returns the style of a conventional event type, or bold for others.
fn style_of(event_type: &str) -> Style {
    let color = match event_type {
        "message.in" => AnsiColor::Cyan,
        "message.out" => AnsiColor::Green,
        "tool.call" => AnsiColor::Yellow,
        "tool.result" => AnsiColor::Blue,
        "system" => AnsiColor::Magenta,
        "error" => AnsiColor::Red,
        "thought" | "context.compaction" => return Style::new().dimmed(),
        _ => return Style::new().bold(),
    };
    color.on_default()
}

/// A text with its style.
pub(super) struct Painted<T> {
    style: Style,
    text: T,
}

impl<T: Display> Display for Painted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { style, text } = self;
        write!(f, "{style}{text}{style:#}")
    }
}
