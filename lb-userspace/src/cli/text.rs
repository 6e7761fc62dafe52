//! How numbers, durations and tables look.

use std::fmt::Write;

/// What a cell's colour says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Good,
    Bad,
}

/// A piece of text and its tone.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
    right: bool,
}

impl Cell {
    /// Aligned to the left.
    pub(super) fn text(text: impl AsRef<str>) -> Self {
        Cell { text: printable(text.as_ref()), tone: Tone::Plain, right: false }
    }

    /// Aligned to the right.
    pub(super) fn number(text: impl AsRef<str>) -> Self {
        Cell { right: true, ..Cell::text(text) }
    }

    pub(super) fn tone(self, tone: Tone) -> Self {
        Cell { tone, ..self }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }

    /// Pads outside the colour, so that escape codes do not count as width.
    fn write(&self, width: usize, colour: bool, out: &mut String) {
        let padding = " ".repeat(width.saturating_sub(self.width()));
        if self.right {
            out.push_str(&padding);
        }
        match self.tone {
            Tone::Good if colour => out.extend(["\x1b[32m", &self.text, "\x1b[0m"]),
            Tone::Bad if colour => out.extend(["\x1b[31m", &self.text, "\x1b[0m"]),
            _ => out.push_str(&self.text),
        }
        if !self.right {
            out.push_str(&padding);
        }
    }
}

/// Lines of cells under each other: two blanks before each line and between columns.
pub(super) fn table(rows: &[Vec<Cell>], colour: bool) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(Cell::width).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, &width) in row.iter().zip(&widths) {
            line.push_str("  ");
            cell.write(width, colour, &mut line);
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Check details and names come from elsewhere; control characters in them could rewrite a terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// `1234567` as `1,234,567`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Decimal units, three digits: `98 B`, `98.0 kB`, `1.85 GB`.
pub(super) fn bytes(number: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if number < 1000 {
        return format!("{number} B");
    }
    let mut value = number as f64 / 1000.0;
    let mut unit = 0;
    // 999.5 would be written as 1000.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{} {}", three_digits(value), UNITS[unit])
}

/// How long a check took: `0.84 ms`, `12.3 ms`, `1.00 s`.
pub(super) fn check_duration(ms: f64) -> String {
    if ms < 999.5 { format!("{} ms", three_digits(ms)) } else { format!("{} s", three_digits(ms / 1000.0)) }
}

/// How long something has been so, in its two greatest units: `0.4 s`, `12 s`, `2 h 5 min`, `3 d 4 h`.
pub(super) fn age(ms: u64) -> String {
    let seconds = ms / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    if ms < 10_000 {
        format!("{seconds}.{} s", ms % 1000 / 100)
    } else if minutes == 0 {
        format!("{seconds} s")
    } else if hours == 0 {
        two_units(minutes, "min", seconds % 60, "s")
    } else if days == 0 {
        two_units(hours, "h", minutes % 60, "min")
    } else {
        two_units(days, "d", hours % 24, "h")
    }
}

/// How long a drain goes on, behind what it is: `, 4 min left`; nothing without an end.
pub(super) fn left(seconds: Option<u64>) -> String {
    seconds.map(|seconds| format!(", {} left", age(seconds.saturating_mul(1_000)))).unwrap_or_default()
}

/// `part` of `whole` in percent, one digit after the point; 0 of nothing is 0.
pub(super) fn percent(part: u64, whole: u64) -> String {
    let share = if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    format!("{:.1} %", share * 100.0)
}

/// At most `limit` characters, the last three of them dots when something was left out.
pub(super) fn shorten(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(limit.saturating_sub(3)).collect();
    short.push_str("...");
    short
}

fn two_units(great: u64, great_unit: &str, small: u64, small_unit: &str) -> String {
    let mut text = format!("{great} {great_unit}");
    if small > 0 {
        let _ = write!(text, " {small} {small_unit}");
    }
    text
}

fn three_digits(value: f64) -> String {
    let decimals = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grouped_by_thousands() {
        let cases = [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")];
        for (number, text) in cases {
            assert_eq!(count(number), text);
        }
    }

    #[test]
    fn bytes_keep_three_digits() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (98_000, "98.0 kB"),
            (999_999, "1.00 MB"),
            (1_852_345_678, "1.85 GB"),
            (u64::MAX, "18.4 EB"),
        ];
        for (number, text) in cases {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn check_durations_keep_three_digits() {
        let cases =
            [(0.0, "0.00 ms"), (0.84, "0.84 ms"), (12.3, "12.3 ms"), (500.0, "500 ms"), (1000.0, "1.00 s")];
        for (ms, text) in cases {
            assert_eq!(check_duration(ms), text);
        }
    }

    #[test]
    fn ages_show_their_two_greatest_units() {
        let cases = [
            (0, "0.0 s"),
            (400, "0.4 s"),
            (9_999, "9.9 s"),
            (59_999, "59 s"),
            (60_000, "1 min"),
            (61_000, "1 min 1 s"),
            (7_500_000, "2 h 5 min"),
            (273_900_000, "3 d 4 h"),
        ];
        for (ms, text) in cases {
            assert_eq!(age(ms), text);
        }
    }

    #[test]
    fn percent_of_nothing_is_nothing() {
        assert_eq!(percent(0, 0), "0.0 %");
        assert_eq!(percent(1, 3), "33.3 %");
    }

    #[test]
    fn long_text_is_shortened_to_the_limit() {
        assert_eq!(shorten("abcdef", 6), "abcdef");
        assert_eq!(shorten("abcdefg", 6), "abc...");
    }

    #[test]
    fn colour_does_not_move_columns() {
        let rows = [
            vec![Cell::text("up").tone(Tone::Good), Cell::number("1")],
            vec![Cell::text("down"), Cell::number("10")],
        ];
        assert_eq!(table(&rows, false), "  up     1\n  down  10\n");
        assert_eq!(table(&rows, true), "  \x1b[32mup\x1b[0m     1\n  down  10\n");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(table(&[vec![Cell::text("a\x1b[2Jb\n")]], false), "  a?[2Jb?\n");
    }
}
