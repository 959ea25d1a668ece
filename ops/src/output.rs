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
    let rest = value.to_string();
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

/// `2h14m` since a time of another node's clock; 0s if that clock is ahead of ours.
pub(crate) fn age(since_ms: u64) -> String {
    let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0);
    span(Duration::from_millis(now.saturating_sub(since_ms)))
}

/// `2h14m` until a time of another node's clock; 0s if it is over.
pub(crate) fn until(at_ms: u64) -> String {
    let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0);
    span(Duration::from_millis(at_ms.saturating_sub(now)))
}

pub(crate) fn is_past(at_ms: u64) -> bool {
    let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0);
    at_ms <= now
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

/// Text from elsewhere, such as a primary's reply: shown without what could steer a terminal.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
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
