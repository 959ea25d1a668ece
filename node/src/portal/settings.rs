//! What a domain's owner may set: how long mail is held, and what is told to whom.

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use holdfast_ledger::{
    Askers, Command, KvError, KvRead, NETWORKS_MAX, Policy, PolicyChange, Probation, query,
};
use holdfast_mail::{Domain, Network};
use tokio::time::Instant;

use super::Portal;
use super::door::{Fields, Posted, SignedIn};
use super::page::{Frame, Problem, render};
use crate::explain;

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// The longest that a span can be set to here, as by an operator.
const SPAN_MAX_MS: u64 = 400 * DAY_MS;

/// Oftener a server is not looked at, as by an operator.
const PROBE_MIN_MS: u64 = 10_000;

/// How long, and how often, it is looked whether this node has applied what was saved.
const APPLY_TIME_MAX: Duration = Duration::from_secs(2);
const APPLY_POLL: Duration = Duration::from_millis(20);

/// A choice of a list.
struct Choice {
    value: String,
    text: String,
    is_chosen: bool,
}

#[derive(Template)]
#[template(path = "settings.html")]
struct Page {
    frame: Frame,
    /// Where mail goes, in words.
    whither: String,
    hold: Vec<Choice>,
    delay: Vec<Choice>,
    probation: Vec<Choice>,
    probe: Vec<Choice>,
    yes: Vec<Choice>,
    no: Vec<Choice>,
    defer: bool,
    full_for_good: bool,
    anybody: bool,
    networks: String,
    said: &'static str,
}

#[derive(serde::Deserialize)]
pub(super) struct Said {
    #[serde(default)]
    done: String,
}

pub(super) async fn show(
    State(portal): State<Arc<Portal>>,
    who: SignedIn,
    Path(name): Path<String>,
    Query(said): Query<Said>,
) -> Result<Response, Problem> {
    let record = who.domain(&portal, &name)?;
    let view = portal.cluster.view();
    let policy = query::policy(&view, &record.name)?;
    let chosen = Chosen::of(&policy);
    let hold_max = hold_max(&view, &record.name)?;
    let offered = [DAY_MS, 5 * DAY_MS, 7 * DAY_MS, 14 * DAY_MS, 30 * DAY_MS, 0];
    let mut offered: Vec<u64> = offered
        .into_iter()
        .filter(|ms| is_within(*ms, hold_max))
        .collect();
    if !offered.contains(&hold_max) {
        offered.push(hold_max);
    }
    let (anybody, networks) = match query::askers(&view, &record.name)? {
        Askers::Anybody => (true, Vec::new()),
        Askers::Networks(networks) => (false, networks),
    };
    let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
    render(&Page {
        frame: Frame::of(&who, record.name.as_str(), "settings"),
        whither: explain::whither(&view, &record)?,
        hold: choices(
            &offered,
            chosen.hold,
            "without end, until the quota is full",
        ),
        delay: choices(
            &[HOUR_MS, 4 * HOUR_MS, DAY_MS, 2 * DAY_MS, 0],
            chosen.delay,
            "never",
        ),
        probation: choices(
            &[0, 600_000, HOUR_MS, DAY_MS, u64::MAX],
            chosen.probation,
            "no time: believe every refusal",
        ),
        probe: choices(
            &[MINUTE_MS, 5 * MINUTE_MS, 15 * MINUTE_MS, HOUR_MS],
            chosen.probe,
            "",
        ),
        yes: choices(
            &[HOUR_MS, 12 * HOUR_MS, DAY_MS, 7 * DAY_MS],
            chosen.yes,
            "no time: ask each time",
        ),
        no: choices(
            &[5 * MINUTE_MS, 30 * MINUTE_MS, HOUR_MS, DAY_MS],
            chosen.no,
            "no time: ask each time",
        ),
        defer: chosen.defer,
        full_for_good: chosen.full_for_good,
        anybody,
        networks: networks.join("\n"),
        said: if said.done == "yes" {
            "Saved. It holds on every node from now on, for mail that is held already too."
        } else {
            ""
        },
    })
}

/// The longest that the owner may have mail held, in milliseconds: what the plan gives, if there is one;
/// zero: without end.
fn hold_max(view: &dyn KvRead, domain: &Domain) -> Result<u64, KvError> {
    let Some((name, _)) = query::subscription(view, domain)? else {
        return Ok(0);
    };
    Ok(query::plan(view, &name)?.map_or(0, |plan| plan.hold_ms))
}

/// Zero is without end.
fn is_within(hold: u64, max: u64) -> bool {
    max == 0 || hold != 0 && hold <= max
}

/// What the form shows, and what comes back with it; times in milliseconds.
#[derive(PartialEq)]
struct Chosen {
    hold: u64,
    delay: u64,
    probation: u64,
    probe: u64,
    yes: u64,
    no: u64,
    defer: bool,
    full_for_good: bool,
}

impl Chosen {
    fn of(policy: &Policy) -> Self {
        let ms = |span: Option<Duration>| {
            span.map_or(0, |span| {
                u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
            })
        };
        Self {
            hold: ms(policy.hold),
            delay: ms(policy.delay),
            probation: match policy.probation {
                Probation::For(span) => ms(Some(span)),
                Probation::Endless => u64::MAX,
            },
            probe: ms(Some(policy.probe)),
            yes: ms(Some(policy.yes)),
            no: ms(Some(policy.no)),
            defer: policy.defer,
            full_for_good: policy.full_for_good,
        }
    }

    /// Only what is another than before: what somebody left as it was goes on to be the plan's.
    fn upon(&self, before: &Self) -> PolicyChange {
        let another = |new: u64, old: u64| (new != old).then_some(new);
        PolicyChange {
            hold_ms: another(self.hold, before.hold),
            delay_ms: another(self.delay, before.delay),
            probation_ms: another(self.probation, before.probation),
            probe_ms: another(self.probe, before.probe),
            yes_ms: another(self.yes, before.yes),
            no_ms: another(self.no, before.no),
            defer: (self.defer != before.defer).then_some(self.defer),
            full_for_good: (self.full_for_good != before.full_for_good)
                .then_some(self.full_for_good),
            ..PolicyChange::default()
        }
    }
}

/// `zero`: what no time at all means.
fn choices(offered: &[u64], chosen: u64, zero: &str) -> Vec<Choice> {
    let mut values = offered.to_vec();
    if !values.contains(&chosen) {
        values.insert(0, chosen);
    }
    let text = |ms: u64| match ms {
        0 => zero.to_owned(),
        u64::MAX => "until you decide".to_owned(),
        ms => explain_span(ms),
    };
    let choice = |ms: u64| Choice {
        value: ms.to_string(),
        text: text(ms),
        is_chosen: ms == chosen,
    };
    values.into_iter().map(choice).collect()
}

fn explain_span(ms: u64) -> String {
    match (ms / DAY_MS, ms / HOUR_MS) {
        (1, _) if ms == DAY_MS => "1 day".to_owned(),
        (days, _) if days > 0 && ms.is_multiple_of(DAY_MS) => format!("{days} days"),
        (_, 1) if ms == HOUR_MS => "1 hour".to_owned(),
        (_, hours) if hours > 0 && ms.is_multiple_of(HOUR_MS) => format!("{hours} hours"),
        _ => super::page::span(Duration::from_millis(ms)),
    }
}

pub(super) async fn change(
    State(portal): State<Arc<Portal>>,
    Path(name): Path<String>,
    posted: Posted,
) -> Result<Response, Problem> {
    let record = posted.who.domain(&portal, &name)?;
    let domain = record.name.clone();
    let person = posted.who.person();
    let fields = &posted.fields;
    let chosen = Chosen {
        hold: span(fields, "hold")?,
        delay: span(fields, "delay")?,
        probation: span(fields, "probation")?,
        probe: span(fields, "probe")?,
        yes: span(fields, "yes")?,
        no: span(fields, "no")?,
        defer: fields.get("up") == "defer",
        full_for_good: fields.get("full") == "never",
    };
    let askers = askers(fields)?;
    let view = portal.cluster.view();
    let change = chosen.upon(&Chosen::of(&query::policy(&view, &domain)?));
    let max = hold_max(&view, &domain)?;
    if change.hold_ms.is_some_and(|hold| !is_within(hold, max)) {
        let longest = explain_span(max);
        return Err(Problem::Wrong(format!(
            "your plan holds mail for {longest} at most"
        )));
    }
    if query::askers(&view, &domain)? != askers {
        let domain = domain.clone();
        let command = Command::SetAskers { domain, askers };
        portal.change(&person, command).await?;
    }
    if change != PolicyChange::default() {
        let command = Command::SetPolicy { domain, change };
        portal.change(&person, command).await?;
    }
    // This node may apply it a moment later, and the page is to show what was chosen.
    let until = Instant::now() + APPLY_TIME_MAX;
    while Instant::now() < until
        && Chosen::of(&query::policy(&portal.cluster.view(), &record.name)?) != chosen
    {
        tokio::time::sleep(APPLY_POLL).await;
    }
    Ok(Redirect::to(&format!("/d/{name}/settings?done=yes")).into_response())
}

fn span(fields: &Fields, name: &str) -> Result<u64, Problem> {
    let wrong = || Problem::Wrong(format!("{name} is not among the choices"));
    let ms: u64 = fields.get(name).parse().map_err(|_| wrong())?;
    let is_good = match name {
        "probe" => (PROBE_MIN_MS..=DAY_MS).contains(&ms),
        "probation" if ms == u64::MAX => true,
        _ => ms <= SPAN_MAX_MS,
    };
    is_good.then_some(ms).ok_or_else(wrong)
}

fn askers(fields: &Fields) -> Result<Askers, Problem> {
    if fields.get("askers") == "anybody" {
        return Ok(Askers::Anybody);
    }
    let networks = fields
        .get("networks")
        .split([',', '\n', ' '])
        .map(str::trim)
        .filter(|text| !text.is_empty())
        .map(|text| Network::parse(text).map_err(|why| Problem::Wrong(format!("{text:?}: {why}"))))
        .collect::<Result<Vec<_>, _>>()?;
    if networks.len() > NETWORKS_MAX {
        return Err(Problem::Wrong(format!("at most {NETWORKS_MAX} networks")));
    }
    Ok(Askers::Networks(networks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_as_it_was_is_not_set() {
        let before = Chosen::of(&Policy::default());
        let change = Chosen {
            hold: 30 * DAY_MS,
            ..Chosen::of(&Policy::default())
        };
        assert_eq!(before.upon(&before), PolicyChange::default());
        let only_hold = PolicyChange {
            hold_ms: Some(30 * DAY_MS),
            ..PolicyChange::default()
        };
        assert_eq!(change.upon(&before), only_hold);
    }

    #[test]
    fn mail_is_held_no_longer_than_the_plan_says() {
        for (hold, max, is_good) in [
            (0, 0, true),
            (30 * DAY_MS, 0, true),
            (5 * DAY_MS, 5 * DAY_MS, true),
            (7 * DAY_MS, 5 * DAY_MS, false),
            (0, 5 * DAY_MS, false),
        ] {
            assert_eq!(is_within(hold, max), is_good, "{hold} {max}");
        }
    }

    #[test]
    fn a_span_that_an_operator_set_is_offered_too() {
        let offered = choices(&[DAY_MS, 0], 90_000, "never");
        let texts: Vec<_> = offered.iter().map(|choice| choice.text.as_str()).collect();
        assert_eq!(texts, ["1 min", "1 day", "never"]);
        let chosen: Vec<_> = offered.iter().map(|choice| choice.is_chosen).collect();
        assert_eq!(chosen, [true, false, false]);
        assert_eq!(explain_span(30 * DAY_MS), "30 days");
        assert_eq!(explain_span(4 * HOUR_MS), "4 hours");
    }
}
