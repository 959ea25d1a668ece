//! Who did what with a domain and its mail.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, State};
use axum::response::Response;
use holdfast_ledger::query::{self, Audited};

use super::Portal;
use super::door::SignedIn;
use super::page::{Frame, Problem, count, render};

/// The latest that are shown.
const SHOWN_MAX: usize = 200;

struct Line {
    at: String,
    by: String,
    from: String,
    what: String,
}

#[derive(Template)]
#[template(path = "log.html")]
struct Page {
    frame: Frame,
    lines: Vec<Line>,
}

pub(super) async fn show(
    State(portal): State<Arc<Portal>>,
    who: SignedIn,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let record = who.domain(&portal, &name)?;
    let all = query::audit(&portal.cluster.view())?;
    let of = all
        .iter()
        .rev()
        .filter(|entry| entry.domain == record.name.as_str());
    render(&Page {
        frame: Frame::of(&who, record.name.as_str(), "log"),
        lines: of.take(SHOWN_MAX).map(line).collect(),
    })
}

fn line(entry: &Audited) -> Line {
    Line {
        at: entry.at.minute(),
        by: entry.by.clone(),
        from: entry.from.clone(),
        what: match entry.messages.len() {
            0 => entry.what.clone(),
            number => format!("{} {}", entry.what, count(number as u64, "message")),
        },
    }
}
