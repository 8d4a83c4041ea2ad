//! Tables for people, as wide as the terminal.

use std::io;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement};
use terminal_size::{Width, terminal_size_of};

use super::printable::one_line;
use super::style::Palette;

/// A column and its heading.
#[derive(Clone, Copy, Debug)]
pub(super) enum Column {
    /// Values that are never cut, such as ids.
    Whole(&'static str),
    /// Numbers, aligned at the right.
    Number(&'static str),
    /// Text that is cut where the terminal is too narrow.
    Text(&'static str),
}

/// Spaces between two columns.
const GAP: u16 = 2;

/// Rows under a heading, each in one line.
pub(super) struct Table {
    columns: Vec<Column>,
    rows: Vec<comfy_table::Row>,
    /// For each row, whether it is dimmed.
    dimmed: Vec<bool>,
}

impl Table {
    pub(super) fn new(columns: &[Column]) -> Self {
        Self {
            columns: columns.to_vec(),
            rows: Vec::new(),
            dimmed: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, cells: &[String], is_dimmed: bool) {
        self.rows.push(row(cells.iter().map(|cell| one_line(cell))));
        self.dimmed.push(is_dimmed);
    }

    /// Returns the lines of the table for standard output; none if it has no rows.
    pub(super) fn lines(self) -> Vec<String> {
        let width = terminal_size_of(io::stdout()).map(|(Width(width), _)| width);
        self.render(width, Palette::of_stdout())
    }

    /// Without a width no text is cut.
    fn render(self, width: Option<u16>, palette: Palette) -> Vec<String> {
        if self.rows.is_empty() {
            return Vec::new();
        }
        let mut table = comfy_table::Table::new();
        table
            .load_style(NOTHING)
            .set_truncation_indicator("…")
            .set_header(row(self.columns.iter().map(|column| column.heading().to_owned())))
            .add_rows(self.rows)
            .set_content_arrangement(match width {
                Some(_) => ContentArrangement::Dynamic,
                None => ContentArrangement::Disabled,
            });
        if let Some(width) = width {
            table.set_width(width);
        }
        for (column, kind) in table.column_iter_mut().zip(&self.columns) {
            column.set_padding((0, GAP));
            if let Column::Number(_) = kind {
                column.set_cell_alignment(CellAlignment::Right);
            }
            if !matches!(kind, Column::Text(_)) {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        let mut dimmed = self.dimmed.into_iter();
        let lines = table.lines().enumerate().map(|(number, line)| {
            let line = line.trim_end();
            if number == 0 {
                palette.bold(line).to_string()
            } else if dimmed.next() == Some(true) {
                palette.dimmed(line).to_string()
            } else {
                line.to_owned()
            }
        });
        lines.collect()
    }
}

impl Column {
    fn heading(self) -> &'static str {
        match self {
            Self::Whole(heading) | Self::Number(heading) | Self::Text(heading) => heading,
        }
    }
}

/// Returns a row whose cells are cut after one line.
fn row(cells: impl Iterator<Item = String>) -> comfy_table::Row {
    let mut row: comfy_table::Row = cells.collect::<Vec<_>>().into();
    row.max_height(1);
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&[Column::Whole("ID"), Column::Number("N"), Column::Text("TITLE")]);
        table.add(
            &[
                "a-1".into(),
                "7".into(),
                "two\nlines \u{1b}[2J of a long title".into(),
            ],
            false,
        );
        table.add(&["a-22".into(), "12".into(), "gone".into()], true);
        table
    }

    #[test]
    fn a_row_is_a_line_and_only_text_is_cut_at_the_width() {
        assert_eq!(
            table().render(None, Palette::new(false)),
            [
                "ID     N  TITLE",
                "a-1    7  two lines [2J of a long title",
                "a-22  12  gone"
            ]
        );
        for width in 24..40 {
            let lines = table().render(Some(width), Palette::new(false));
            assert_eq!(lines.len(), 3, "{lines:?}");
            assert!(lines[1].starts_with("a-1    7  two"), "{lines:?}");
            assert!(
                lines.iter().all(|line| line.chars().count() <= width.into()),
                "{width}: {lines:?}"
            );
        }
        assert!(table().render(Some(24), Palette::new(false))[1].ends_with('…'));
    }

    #[test]
    fn headings_are_bold_and_deleted_rows_dimmed_where_there_are_colors() {
        let lines = table().render(None, Palette::new(true));
        assert_eq!(lines[0], "\u{1b}[1mID     N  TITLE\u{1b}[0m");
        assert!(!lines[1].contains('\u{1b}'), "{lines:?}");
        assert!(lines[2].starts_with("\u{1b}[2m"), "{lines:?}");
    }

    #[test]
    fn a_table_without_rows_has_no_lines() {
        assert!(Table::new(&[Column::Text("TITLE")]).lines().is_empty());
    }
}
