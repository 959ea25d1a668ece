//! What is on the screen: no terminal, no clock, no node.

use holdfast_proto::admin::StatusReply;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::Paragraph;

use super::rates::Rates;
use crate::output::{self, Now};
use crate::status;

/// Below the last line of data.
const KEYS: &str = "q quit  space pause  ↑↓ PgUp PgDn domains";

#[derive(Default)]
pub(super) struct Screen {
    status: StatusReply,
    rates: Rates,
    /// Why the last question was not answered: what is shown is old.
    error: Option<String>,
    is_paused: bool,
    /// Domains above the first that is shown.
    above: usize,
}

impl Screen {
    pub(super) fn show(&mut self, asked: Result<StatusReply, String>) {
        match asked {
            Ok(status) => {
                self.rates.add(&status);
                self.status = status;
                self.error = None;
                self.scroll(0);
            }
            Err(why) => self.error = Some(why),
        }
    }

    pub(super) fn is_paused(&self) -> bool {
        self.is_paused
    }

    pub(super) fn pause(&mut self) {
        self.is_paused = !self.is_paused;
    }

    pub(super) fn scroll(&mut self, by: isize) {
        let last = self.status.domains.len().saturating_sub(1);
        self.above = self.above.saturating_add_signed(by).min(last);
    }

    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let width = usize::from(frame.area().width);
        let top = self.top(width);
        let rows = u16::try_from(top.lines.len()).unwrap_or(u16::MAX);
        let areas = Layout::vertical([
            Constraint::Length(rows),
            Constraint::Fill(1),
            Constraint::Length(1),
        ])
        .split(frame.area());
        let (above, below, keys) = (areas[0], areas[1], areas[2]);
        frame.render_widget(Paragraph::new(top), above);
        let domains = self.domains(width, usize::from(below.height));
        frame.render_widget(Paragraph::new(domains), below);
        frame.render_widget(Paragraph::new(self.keys(width)), keys);
    }

    /// Health, rates and nodes.
    fn top(&self, width: usize) -> Text<'static> {
        let status = &self.status;
        let mut lines: Vec<Line<'static>> = Vec::new();
        let health = if status::is_healthy(status) {
            Color::Green
        } else {
            Color::Red
        };
        for line in output::wrapped(&output::plain(&status.health), width) {
            lines.push(Line::styled(line, bold(health)));
        }
        if let Some(error) = &self.error {
            let text = output::plain(&format!("No answer, this is old: {error}"));
            for line in output::wrapped(&text, width) {
                lines.push(Line::styled(line, bold(Color::Yellow)));
            }
        }
        let leader = match status::leader(status) {
            Some(node) => format!("Leader {} (term {})", node.name, status.term),
            None => format!("No leader is known (term {})", status.term),
        };
        let total = self.rates.total();
        let rate = |rate: Option<f64>| per_second(rate);
        lines.push(Line::raw(output::cut(
            &format!(
                "{leader}. Accepted {}/s, delivered {}/s.",
                rate(total.map(|total| total.accepted)),
                rate(total.map(|total| total.delivered)),
            ),
            width,
        )));
        lines.push(Line::raw(""));
        let columns = [
            "NODE", "REGION", "ROLE", "STATE", "LAG", "RTT", "HELD", "FREE", "IN/S", "OUT/S",
        ];
        let numbers = ["LAG", "RTT", "HELD", "FREE", "IN/S", "OUT/S"];
        let mut table = output::table(&columns, &numbers);
        for node in &status.nodes {
            let known = |text: String| {
                if node.reachable { text } else { "-".to_owned() }
            };
            let rate = self.rates.of(node.id);
            table.add_row(vec![
                node.name.clone(),
                node.region.clone(),
                node.role.clone(),
                status::state(node),
                known(node.lag.to_string()),
                known(status::rtt(node.rtt_micros)),
                known(node.held.to_string()),
                known(status::disk(node)),
                known(per_second(rate.map(|rate| rate.accepted))),
                known(per_second(rate.map(|rate| rate.delivered))),
            ]);
        }
        for (row, line) in (0..).zip(status::table_lines(&table, width)) {
            let node = usize::checked_sub(row, 1).and_then(|at| status.nodes.get(at));
            lines.push(match node {
                None => heading(line),
                Some(node) if node.reachable => Line::raw(line),
                Some(_) => Line::styled(line, Color::Red),
            });
        }
        lines.push(Line::raw(""));
        lines.into()
    }

    /// Domains with held mail, as many as there are rows for.
    fn domains(&self, width: usize, height: usize) -> Text<'static> {
        let status = &self.status;
        if status.held_messages == 0 {
            return Line::raw("Nothing is held.").into();
        }
        let held = output::count(status.held_messages, "message");
        let held = format!("Held: {held}, {}.", output::bytes(status.held_bytes));
        let mut lines = vec![Line::raw(output::cut(&held, width))];
        let table = status::table_lines(&status::domains(status), width);
        let mut rows = table.into_iter();
        lines.extend(rows.next().map(heading));
        lines.extend(rows.skip(self.above).map(Line::raw));
        lines.truncate(height);
        lines.into()
    }

    fn keys(&self, width: usize) -> Line<'static> {
        let now = Now(self.status.now_ms).clock();
        let paused = if self.is_paused { "  PAUSED" } else { "" };
        let right = format!("{paused}  {now}");
        let room = width.saturating_sub(right.chars().count());
        let keys = output::cut(KEYS, room);
        Line::styled(format!("{keys:<room$}{right}"), bold(Color::Cyan))
    }
}

fn bold(color: Color) -> Style {
    Style::new().fg(color).add_modifier(Modifier::BOLD)
}

fn heading(line: String) -> Line<'static> {
    Line::styled(line, Modifier::BOLD)
}

fn per_second(rate: Option<f64>) -> String {
    match rate {
        None => "-".to_owned(),
        Some(rate) if rate < 100.0 => format!("{rate:.1}"),
        Some(rate) => format!("{rate:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use holdfast_proto::admin::{DomainStatus, NodeStatus};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn status(now_ms: u64, accepted: u64, domains: usize) -> StatusReply {
        let node = |id: u64, region: &str, role: &str| NodeStatus {
            id,
            name: format!("n{id}"),
            region: region.into(),
            role: role.into(),
            reachable: true,
            rtt_micros: (id - 1) * 40_500,
            held: 318,
            disk_free_bytes: 71,
            disk_total_bytes: 100,
            accepted: accepted * id,
            delivered: accepted / 2,
            ..NodeStatus::default()
        };
        let domain = |n: usize| DomainStatus {
            domain: format!("customer{n}.example"),
            messages: 159,
            bytes: 20_600_000,
            oldest_ms: now_ms - 8_040_000,
            lease_node: 2,
            next_try_ms: now_ms + 2000,
            last_reply: "451 4.7.1 come back\u{9b}2J in five minutes, please".into(),
            ..DomainStatus::default()
        };
        StatusReply {
            cluster_id: "7671".into(),
            quorum: true,
            leader: 1,
            term: 4,
            now_ms,
            nodes: vec![
                node(1, "eu", "leader"),
                node(2, "us", "voter"),
                NodeStatus {
                    reachable: false,
                    ..node(3, "ap", "voter")
                },
            ],
            health: "Degraded: n3 not answering. No further node may fail; add or bring back one. One region has a majority.".into(),
            held_messages: domains as u64 * 159,
            held_bytes: 41_200_000,
            domains: (1..=domains).map(domain).collect(),
            ..StatusReply::default()
        }
    }

    /// The screen's rows, without the spaces at their ends.
    fn drawn(screen: &Screen, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let row = |row: &[ratatui::buffer::Cell]| -> String {
            let text: String = row.iter().map(ratatui::buffer::Cell::symbol).collect();
            text.trim_end().to_owned()
        };
        buffer
            .content()
            .chunks(usize::from(width))
            .map(row)
            .collect()
    }

    #[test]
    fn eighty_columns_and_twenty_four_lines_hold_it() {
        let mut screen = Screen::default();
        screen.show(Ok(status(1_709_210_096_000, 100, 2)));
        screen.show(Ok(status(1_709_210_098_000, 125, 2)));
        let rows = drawn(&screen, 80, 24);
        assert_eq!(
            rows[..13].join("\n"),
            "\
Degraded: n3 not answering. No further node may fail; add or bring back one. One
region has a majority.
Leader n1 (term 4). Accepted 37.5/s, delivered 12.0/s.

NODE  REGION  ROLE    STATE        LAG    RTT  HELD  FREE  IN/S  OUT/S
n1    eu      leader  ready          0      -   318   71%  12.5    6.0
n2    us      voter   ready          0  40 ms   318   71%  25.0    6.0
n3    ap      voter   unreachable    -      -     -     -     -      -

Held: 318 messages, 41.2 MB.
DOMAIN             HELD    BYTES  OLDEST  BY  NEXT  LAST REPLY
customer1.example   159  20.6 MB   2h14m  n2    2s  451 4.7.1 come back 2J in f…
customer2.example   159  20.6 MB   2h14m  n2    2s  451 4.7.1 come back 2J in f…"
        );
        assert!(rows[13..23].iter().all(String::is_empty));
        assert_eq!(
            rows[23],
            "q quit  space pause  ↑↓ PgUp PgDn domains                           12:34:58 UTC"
        );
    }

    #[test]
    fn more_domains_than_rows_are_scrolled_and_never_past_the_last() {
        let mut screen = Screen::default();
        screen.show(Ok(status(1_709_210_096_000, 0, 20)));
        assert!(drawn(&screen, 80, 24)[11].starts_with("customer1.example"));
        screen.scroll(5);
        let rows = drawn(&screen, 80, 24);
        assert!(rows[10].starts_with("DOMAIN"));
        assert!(rows[11].starts_with("customer6.example"));
        screen.scroll(1000);
        assert!(drawn(&screen, 80, 24)[11].starts_with("customer20.example"));
        // Fewer than before, meanwhile.
        screen.show(Ok(status(1_709_210_097_000, 0, 1)));
        assert!(drawn(&screen, 80, 24)[11].starts_with("customer1.example"));
    }

    #[test]
    fn what_is_old_is_marked_as_old() {
        let mut screen = Screen::default();
        screen.show(Ok(status(1_709_210_096_000, 0, 0)));
        screen.show(Err("no node answers".to_owned()));
        screen.pause();
        let rows = drawn(&screen, 80, 24);
        assert_eq!(rows[2], "No answer, this is old: no node answers");
        assert!(rows.iter().any(|row| row == "Nothing is held."));
        assert!(rows[23].ends_with("PAUSED  12:34:56 UTC"), "{}", rows[23]);
    }

    #[test]
    fn a_screen_of_any_size_is_drawn() {
        let mut screen = Screen::default();
        screen.show(Ok(status(1_709_210_096_000, 0, 3)));
        for (width, height) in [(1, 1), (10, 3), (40, 12), (200, 60)] {
            assert_eq!(drawn(&screen, width, height).len(), usize::from(height));
        }
    }
}
