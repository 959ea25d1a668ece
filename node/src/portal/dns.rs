//! What a customer has to say in the DNS, and what is found there.

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::{Path, State};
use axum::response::Response;
use holdfast_ledger::query::DomainRecord;
use holdfast_mail::checkup::{Finding, Weight};

use super::Portal;
use super::door::{Posted, SignedIn};
use super::page::{Frame, Problem, render};
use crate::recent::Recent;
use crate::zone::{self, Found};

/// A domain is not looked at again within this time: all nodes ask the DNS and the primary for it.
const CHECK_PERIOD: Duration = Duration::from_secs(10);

struct Check {
    /// `good`, `waiting` or `bad`, as the style says.
    kind: &'static str,
    word: &'static str,
    what: String,
    fix: String,
    is_ours: bool,
    /// Which nodes, where not all agree.
    nodes: String,
}

#[derive(Template)]
#[template(path = "dns.html")]
struct Page {
    frame: Frame,
    zone: String,
    rows: usize,
    is_checked: bool,
    verdict: &'static str,
    checks: Vec<Check>,
    silent: Vec<(String, String)>,
}

pub(super) async fn show(
    State(portal): State<Arc<Portal>>,
    who: SignedIn,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let record = who.domain(&portal, &name)?;
    page(&portal, &who, &record, None)
}

pub(super) async fn check(
    State(portal): State<Arc<Portal>>,
    Path(name): Path<String>,
    posted: Posted,
) -> Result<Response, Problem> {
    let record = posted.who.domain(&portal, &name)?;
    if !Recent::within(&portal.checks, record.name.clone(), CHECK_PERIOD, 1) {
        return Err(Problem::Wrong(
            "it was checked a moment ago; try again in ten seconds".to_owned(),
        ));
    }
    let found = zone::check(&portal.cluster, &record.name).await;
    page(&portal, &posted.who, &record, Some(found))
}

fn page(
    portal: &Portal,
    who: &SignedIn,
    record: &DomainRecord,
    found: Option<Found>,
) -> Result<Response, Problem> {
    let zone = zone::lines(&portal.cluster, record, 0)?;
    let is_checked = found.is_some();
    let (checks, silent) = found.map_or_else(Default::default, told);
    let verdict = match checks.iter().find(|check| !check.is_ours) {
        Some(Check { kind: "bad", .. }) => {
            "Something is wrong: mail may be lost to you or take the wrong way."
        }
        Some(Check {
            kind: "waiting", ..
        }) => "It works; something may go wrong.",
        Some(_) => "All that is yours is well.",
        None => "No node could look.",
    };
    render(&Page {
        frame: Frame::of(who, record.name.as_str(), "dns"),
        rows: zone.lines().count() + 1,
        zone,
        is_checked,
        verdict,
        checks,
        silent,
    })
}

fn told(found: Found) -> (Vec<Check>, Vec<(String, String)>) {
    let most = found.findings.values().map(Vec::len).max().unwrap_or(0);
    let check = |(finding, nodes): (Finding, Vec<String>)| {
        let (kind, word) = match finding.weight {
            Weight::Fault => ("bad", "Fault"),
            Weight::Warning => ("waiting", "Look"),
            Weight::Good => ("good", "OK"),
        };
        let is_ours = finding.is_ours();
        Check {
            kind,
            word,
            what: finding.what,
            // Customers have no command line here; the lines are on this page.
            fix: match is_ours {
                true => "nothing: your operator mends that".to_owned(),
                false => finding
                    .fix
                    .replace("the lines of `domain dns`", "the lines below"),
            },
            is_ours,
            nodes: match nodes.len() {
                len if len == most => String::new(),
                _ => nodes.join(", "),
            },
        }
    };
    (
        found.findings.into_iter().map(check).collect(),
        found.silent,
    )
}
