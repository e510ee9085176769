//! Tables for people: columns as wide as their widest cell, numbers to the right, two blanks between.

/// A table under construction.
#[derive(Debug, Clone, Default)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

/// Which side of a column its cells keep to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

impl Table {
    /// A table with these headings. One that begins with `>` is a column of numbers.
    pub fn new(headings: &[&str]) -> Self {
        let column = |heading: &&str| match heading.strip_prefix('>') {
            Some(heading) => (heading.to_owned(), Align::Right),
            None => ((*heading).to_owned(), Align::Left),
        };
        Self { columns: headings.iter().map(column).collect(), rows: Vec::new() }
    }

    /// Adds a row: one cell per heading.
    pub fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells.into_iter().map(printable).collect());
    }

    /// The text, headings first, every line ended.
    pub fn render(&self) -> String {
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(index, (heading, _))| {
                let cells = self.rows.iter().filter_map(|row| row.get(index)).map(|cell| width(cell));
                cells.chain([width(heading)]).max().unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        let headings: Vec<String> = self.columns.iter().map(|(heading, _)| heading.clone()).collect();
        for row in std::iter::once(&headings).chain(&self.rows) {
            let mut line = String::new();
            for ((cell, (_, align)), column_width) in row.iter().zip(&self.columns).zip(&widths) {
                let blanks = " ".repeat(column_width - width(cell));
                match align {
                    Align::Left => line.extend([cell.as_str(), &blanks, "  "]),
                    Align::Right => line.extend([blanks.as_str(), cell, "  "]),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A share of 0 to 1 as per cent. Never rounded up to 100%: one failure in a million shows.
pub fn percent(share: Option<f64>) -> String {
    match share {
        None => "-".to_owned(),
        Some(share) if share >= 1.0 => "100.00%".to_owned(),
        Some(share) => format!("{:.2}%", (share * 10_000.0).floor() / 100.0),
    }
}

/// Milliseconds with as many digits as they are worth.
pub fn milliseconds(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value < 9.95 => format!("{value:.1}ms"),
        Some(value) if value < 9999.5 => format!("{value:.0}ms"),
        Some(value) => format!("{:.1}s", value / 1000.0),
    }
}

/// Something per second.
pub fn rate(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"))
}

/// A time span in its two largest units.
pub fn span(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) if seconds < 10 => format!("{seconds}.{}s", milliseconds % 1000 / 100),
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m{:02}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h{minutes:02}m"),
        (days, hours, _) => format!("{days}d{hours:02}h"),
    }
}

/// Text of another program, as one line.
pub fn one_line(text: &str) -> String {
    printable(text.to_owned())
}

/// What another program wrote may hold escape sequences that would take over a terminal.
pub fn printable(cell: String) -> String {
    if cell.chars().any(char::is_control) {
        return cell.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect();
    }
    cell
}

fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align() {
        let mut table = Table::new(&["NAME", ">RPS", "MTLS"]);
        table.row(vec!["reviews".into(), "7.0".into(), "√".into()]);
        table.row(vec!["a".into(), "1234.5".into(), String::new()]);
        assert_eq!(table.render(), "NAME        RPS  MTLS\nreviews     7.0  √\na        1234.5\n");
    }

    #[test]
    fn cells_cannot_take_over_the_terminal() {
        let mut table = Table::new(&["NAME"]);
        table.row(vec!["a\u{1b}[2Jb\n".into()]);
        assert_eq!(table.render(), "NAME\na\u{fffd}[2Jb\u{fffd}\n");
    }

    #[test]
    fn figures_for_people() {
        assert_eq!(percent(Some(1.0)), "100.00%");
        assert_eq!(percent(Some(0.999_999)), "99.99%");
        assert_eq!(percent(None), "-");
        assert_eq!([0.34, 12.3, 12_345.0].map(|value| milliseconds(Some(value))), ["0.3ms", "12ms", "12.3s"]);
        assert_eq!([450, 59_000, 61_000, 3_600_000, 90_000_000].map(span), ["0.4s", "59s", "1m01s", "1h00m", "1d01h"]);
    }
}
