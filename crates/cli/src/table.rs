//! Plain tables for people: columns as wide as they must be, the widest cut where the terminal ends.

use std::io::{IsTerminal, stdout};

/// A table with a heading.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

/// Columns are never cut below this.
const LEAST: usize = 8;
const GAP: usize = 2;

impl Table {
    pub(crate) fn new(heading: &[&str]) -> Self {
        Self { rows: vec![heading.iter().map(|h| h.to_uppercase()).collect()] }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        // What came over the network must not steer the terminal.
        let clean = |cell: String| cell.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        self.rows.push(cells.into_iter().map(clean).collect());
    }

    /// The table as text, at most `width` characters wide where that is possible.
    pub(crate) fn render(&self, width: Option<usize>) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let length = |cell: &String| cell.chars().count();
        let mut widths: Vec<usize> = (0..columns)
            .map(|c| self.rows.iter().filter_map(|row| row.get(c)).map(length).max().unwrap_or(0))
            .collect();
        let gaps = GAP * columns.saturating_sub(1);
        while let Some(width) = width.filter(|w| widths.iter().sum::<usize>() + gaps > *w) {
            let over = widths.iter().sum::<usize>() + gaps - width;
            let Some(widest) = widths.iter_mut().max_by_key(|w| **w).filter(|w| **w > LEAST) else { break };
            *widest -= over.min(*widest - LEAST).clamp(1, 4);
        }
        let mut text = String::new();
        for row in &self.rows {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{:<width$}", cut(cell, *width)))
                .collect();
            text.push_str(cells.join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

fn cut(cell: &str, width: usize) -> String {
    if cell.chars().count() <= width {
        return cell.to_string();
    }
    let mut short: String = cell.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// The width of the terminal; `None` if the output goes elsewhere, where nothing is cut.
pub(crate) fn terminal_width() -> Option<usize> {
    if !stdout().is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(stdout()).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_fits_the_terminal_by_cutting_its_widest_column() {
        let mut table = Table::new(&["fleet", "detail"]);
        table.row(vec!["logstash-mumbai".into(), "x".repeat(100)]);
        for line in table.render(Some(50)).lines() {
            assert!(line.chars().count() <= 50, "{line}");
        }
        assert!(table.render(None).contains(&"x".repeat(100)));
        assert!(!table.render(Some(10)).is_empty());
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let mut table = Table::new(&["a"]);
        table.row(vec!["\u{1b}[2Jevil".into()]);
        assert!(!table.render(None).contains('\u{1b}'));
    }
}
