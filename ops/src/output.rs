//! How answers look: tables for people, JSON with a named schema for programs.
//!
//! Standard output carries data only; progress and prose go to standard error.

use std::io::{self, Write};
use std::time::Duration;

use comfy_table::{CellAlignment, Table};
use serde_json::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Table,
    Json,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    format: Format,
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    pub(crate) fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// One line of data.
    pub(crate) fn line(self, text: impl AsRef<str>) -> io::Result<()> {
        let mut out = io::stdout().lock();
        let written = out
            .write_all(text.as_ref().as_bytes())
            .and_then(|()| out.write_all(b"\n"))
            .and_then(|()| out.flush());
        match written {
            // The reader has seen enough, as `head` does: nothing failed.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => written,
        }
    }

    /// One JSON object on one line, with the name and version of its schema in front.
    pub(crate) fn json(self, schema: &str, value: &Value) -> io::Result<()> {
        self.line(with_schema(schema, value))
    }

    pub(crate) fn table(self, table: &Table) -> io::Result<()> {
        self.line(table.trim_fmt())
    }
}

fn with_schema(schema: &str, value: &Value) -> String {
    // The writer of JSON escapes only the controls below a space: the others steer terminals too.
    let mut rest = String::new();
    for c in value.to_string().chars() {
        if steers(c) {
            rest.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            rest.push(c);
        }
    }
    let rest = rest.strip_prefix('{').unwrap_or(&rest);
    let comma = if rest == "}" { "" } else { "," };
    format!("{{\"schema\":\"holdfast.{schema}\"{comma}{rest}")
}

/// An empty table with a header; the columns named in `numbers` are aligned to the right.
pub(crate) fn table(header: &[&str], numbers: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_header(header);
    for (at, name) in header.iter().enumerate() {
        if let Some(column) = table.column_mut(at) {
            column.set_padding((0, 2));
            if numbers.contains(name) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table
}

/// `41.2 MB`: decimal units, as disks and mail limits are sold.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut value = count as f64;
    let mut unit = 0;
    // 999.95 would be printed as 1000.0.
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `2h14m`: the two largest units.
pub(crate) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => "0s".to_owned(),
        1..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// The time by the clock of the node that answered, in milliseconds: this machine's may be wrong,
/// and a sandbox's is moved on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now(pub(crate) u64);

impl Now {
    /// `2h14m` since then; 0s if it is yet to come.
    pub(crate) fn age(self, since_ms: u64) -> String {
        span(Duration::from_millis(self.0.saturating_sub(since_ms)))
    }

    /// `2h14m` until then; 0s if it is over.
    pub(crate) fn until(self, at_ms: u64) -> String {
        span(Duration::from_millis(at_ms.saturating_sub(self.0)))
    }

    /// `12:34:56 UTC`.
    pub(crate) fn clock(self) -> String {
        let seconds = self.0 / 1000;
        let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
        format!("{hours:02}:{minutes:02}:{:02} UTC", seconds % 60)
    }

    pub(crate) fn is_past(self, at_ms: u64) -> bool {
        at_ms <= self.0
    }
}

/// RFC 3339 in UTC, for programs; `null` if the number is no time.
pub(crate) fn rfc3339(ms: u64) -> Option<String> {
    let time = jiff::Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()?;
    Some(time.to_string())
}

/// `1 message`, `2 messages`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// The text in lines of at most so many columns, broken between words.
pub(crate) fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        let line = &mut lines[last];
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= columns {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// A line of at most so many columns.
pub(crate) fn cut(line: &str, columns: usize) -> String {
    if line.chars().count() <= columns {
        return line.to_owned();
    }
    let kept = line.chars().take(columns.saturating_sub(1));
    kept.chain(['…']).collect()
}

/// Text from elsewhere, such as a primary's reply: shown without what could steer a terminal.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if steers(c) { ' ' } else { c })
        .collect()
}

/// Controls, and marks that turn the direction of writing: a sender could make one address look
/// like another.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (999_999, "1.0 MB"),
            (41_200_000, "41.2 MB"),
            (u64::MAX, "18446.7 PB"),
        ];
        for (number, text) in cases {
            assert_eq!(bytes(number), text);
        }
        let cases = [
            (0, "0s"),
            (59, "59s"),
            (61, "1m01s"),
            (8040, "2h14m"),
            (90_000, "1d01h"),
        ];
        for (number, text) in cases {
            assert_eq!(span(Duration::from_secs(number)), text);
        }
        assert_eq!(count(1, "message"), "1 message");
        assert_eq!(count(0, "message"), "0 messages");
    }

    #[test]
    fn text_is_fitted_to_a_screen() {
        assert_eq!(wrapped("a bb  ccc dddd", 6), ["a bb", "ccc", "dddd"]);
        assert_eq!(wrapped("", 6), [""]);
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abcd", 3), "ab…");
    }

    #[test]
    fn json_begins_with_its_schema() {
        assert_eq!(
            with_schema("domain/v1", &serde_json::json!({"name": "a"})),
            r#"{"schema":"holdfast.domain/v1","name":"a"}"#
        );
        assert_eq!(
            with_schema("domain/v1", &serde_json::json!({})),
            r#"{"schema":"holdfast.domain/v1"}"#
        );
    }

    #[test]
    fn times_for_programs_are_rfc_3339() {
        assert_eq!(
            rfc3339(1_709_210_096_789).as_deref(),
            Some("2024-02-29T12:34:56.789Z")
        );
        assert_eq!(rfc3339(u64::MAX), None);
    }

    #[test]
    fn a_reply_cannot_steer_the_terminal() {
        assert_eq!(plain("550 \x1b[2Jno\r\n"), "550  [2Jno  ");
        assert_eq!(plain("a\u{9b}2J\u{202e}b"), "a 2J b");
        let value = serde_json::json!({"reply": "\x1b[2J\u{9b}2J\u{202e}é"});
        let line = with_schema("mail/v1", &value);
        assert!(line.ends_with(r#"{"reply":"\u001b[2J\u009b2J\u202eé"}"#.trim_start_matches('{')));
        assert!(!line.chars().any(steers), "{line}");
    }

    #[test]
    fn a_table_is_plain_columns() {
        let mut table = table(&["NAME", "HELD"], &["HELD"]);
        table.add_row(vec!["a", "3"]);
        table.add_row(vec!["example.org", "1200"]);
        assert_eq!(
            table.trim_fmt(),
            "NAME         HELD\na               3\nexample.org  1200"
        );
    }
}
