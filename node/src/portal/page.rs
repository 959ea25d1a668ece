//! What pages have in common: their frame, their errors, and how numbers read.

use std::time::Duration;

use askama::Template;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use holdfast_ledger::KvError;

use super::door::SignedIn;
use crate::accounts::NotSignedIn;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("live.js");

/// Browsers may keep it: its address changes with it.
const FOR_EVER: &str = "public, max-age=31536000, immutable";

/// The frame around a page.
pub(super) struct Frame {
    /// Who is signed in; empty: nobody.
    pub(super) who: String,
    /// What forms bring back.
    pub(super) key: String,
    /// The domain that the page is about; empty: none.
    pub(super) domain: String,
    /// The part of it, for the marked tab.
    pub(super) tab: &'static str,
    /// Changes when style or script do.
    pub(super) version: String,
}

impl Frame {
    pub(super) fn of(who: &SignedIn, domain: &str, tab: &'static str) -> Self {
        Self {
            who: who.session.account.name.clone(),
            key: who.session.form_key.clone(),
            domain: domain.to_owned(),
            tab,
            ..Self::of_nobody()
        }
    }

    pub(super) fn of_nobody() -> Self {
        Self {
            who: String::new(),
            key: String::new(),
            domain: String::new(),
            tab: "",
            version: version(),
        }
    }
}

fn version() -> String {
    let hash = blake3::hash([STYLE, SCRIPT].concat().as_bytes());
    hash.to_hex().chars().take(12).collect()
}

pub(super) fn render(template: &impl Template) -> Result<Response, Problem> {
    let text = template
        .render()
        .map_err(|error| Problem::Unable(error.to_string()))?;
    Ok(Html(text).into_response())
}

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage {
    frame: Frame,
    title: &'static str,
    text: String,
}

/// Why a page is not what was asked for.
#[derive(Debug)]
pub(super) enum Problem {
    NotSignedIn,
    NotFound,
    /// The form is not of a page of ours, or of a session that has ended.
    Foreign,
    /// They change something again and again.
    TooOften,
    /// What was asked cannot be done.
    Wrong(String),
    /// It could be done, but not now.
    Unable(String),
}

impl From<KvError> for Problem {
    fn from(error: KvError) -> Self {
        tracing::error!("the portal cannot read the state: {error}");
        Self::Unable("this node cannot read its state".to_owned())
    }
}

impl From<NotSignedIn> for Problem {
    fn from(error: NotSignedIn) -> Self {
        match error {
            NotSignedIn::Unable(why) => Self::Unable(why),
            NotSignedIn::TooOften => Self::TooOften,
            // They are signed in: what they were asked for besides is wrong.
            NotSignedIn::Wrong => Self::Wrong(
                "the current password or code is wrong, or there were too many tries: then wait a quarter of an hour"
                    .to_owned(),
            ),
        }
    }
}

impl Problem {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::NotSignedIn => StatusCode::UNAUTHORIZED,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Foreign => StatusCode::FORBIDDEN,
            Self::TooOften => StatusCode::TOO_MANY_REQUESTS,
            Self::Wrong(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Unable(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    pub(super) fn text(&self) -> String {
        match self {
            Self::NotSignedIn => "Sign in first.".to_owned(),
            Self::NotFound => "There is no such page, or it is not yours to see.".to_owned(),
            Self::Foreign => "The form had expired, or was not from here. Nothing was changed. \
                              Go back, reload the page and try again."
                .to_owned(),
            Self::TooOften => {
                "Nothing was changed: that is too much at once. Wait a minute and try again."
                    .to_owned()
            }
            // Refusals say so too.
            Self::Wrong(why) => {
                let why = why.replacen("; nothing was changed", "", 1);
                format!("Nothing was changed: {why}.")
            }
            Self::Unable(why) => {
                format!("This cannot be done now: {why}. Held mail is safe. Try again in a moment.")
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        if matches!(self, Self::NotSignedIn) {
            return Redirect::to("/sign-in").into_response();
        }
        let page = ProblemPage {
            frame: Frame::of_nobody(),
            title: match self {
                Self::NotFound => "Not found",
                Self::Unable(_) => "Not now",
                _ => "That did not work",
            },
            text: self.text(),
        };
        match page.render() {
            Ok(text) => (self.status(), Html(text)).into_response(),
            Err(_) => (self.status(), page.text).into_response(),
        }
    }
}

pub(super) async fn not_found() -> Problem {
    Problem::NotFound
}

pub(super) async fn style() -> impl IntoResponse {
    (
        [
            (header::CONTENT_TYPE, "text/css; charset=utf-8"),
            (header::CACHE_CONTROL, FOR_EVER),
        ],
        STYLE,
    )
}

pub(super) async fn script() -> impl IntoResponse {
    (
        [
            (header::CONTENT_TYPE, "text/javascript; charset=utf-8"),
            (header::CACHE_CONTROL, FOR_EVER),
        ],
        SCRIPT,
    )
}

/// `1 message`, `2,031 messages`.
pub(super) fn count(number: u64, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{} {noun}{ending}", grouped(number))
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `999 B`, `1.2 kB`, `41 MB`.
pub(super) fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if number < 1000 {
        return format!("{number} B");
    }
    let mut value = number as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if value < 9.95 {
        format!("{value:.1} {}", UNITS[unit])
    } else {
        format!("{value:.0} {}", UNITS[unit])
    }
}

/// `2 h 14 min`: the two largest units.
pub(super) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let units = [(86_400, "d"), (3600, "h"), (60, "min"), (1, "s")];
    let largest = units
        .iter()
        .position(|(size, _)| seconds >= *size)
        .unwrap_or(3);
    let (size, name) = units[largest];
    let whole = format!("{} {name}", seconds / size);
    match units.get(largest + 1) {
        Some((next, next_name)) if seconds % size / next > 0 && largest < 2 => {
            format!("{whole} {} {next_name}", seconds % size / next)
        }
        _ => whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_nothing_was_changed_is_said_once() {
        for (problem, text) in [
            (
                Problem::from(NotSignedIn::Wrong),
                "Nothing was changed: the current password or code is wrong, or there were too many tries: then wait a \
                 quarter of an hour.",
            ),
            (
                Problem::from(NotSignedIn::TooOften),
                "Nothing was changed: that is too much at once. Wait a minute and try again.",
            ),
            (
                Problem::Wrong(
                    "there is no such plan; nothing was changed; see `plan list`".into(),
                ),
                "Nothing was changed: there is no such plan; see `plan list`.",
            ),
        ] {
            assert_eq!(problem.text(), text);
        }
    }

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!(count(1, "message"), "1 message");
        assert_eq!(count(0, "message"), "0 messages");
        assert_eq!(count(1_234_567, "message"), "1,234,567 messages");
        for (number, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (9_960, "10 kB"),
            (41_000_000, "41 MB"),
            (999_600, "1.0 MB"),
            (u64::MAX, "18447 PB"),
        ] {
            assert_eq!(bytes(number), text);
        }
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (61, "1 min"),
            (8040, "2 h 14 min"),
            (7200, "2 h"),
            (180_000, "2 d 2 h"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }
}
