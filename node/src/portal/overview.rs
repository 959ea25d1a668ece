//! The state of a domain: one sentence that says what matters, and the button that one came for.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use holdfast_ledger::query::{self, Counts, DomainRecord, Reach};
use holdfast_ledger::{KvError, Policy};
use holdfast_mail::{Domain, Timestamp};

use super::Portal;
use super::door::{Posted, SignedIn};
use super::page::{Frame, Problem, bytes, count, render, span};
use crate::release::{NotStarted, Pending};
use crate::{explain, reach, replica};

/// How it is with a domain.
pub(super) struct Picture {
    pub(super) tone: Tone,
    /// Some words.
    pub(super) headline: String,
    /// The sentence that says what matters.
    pub(super) sentence: String,
    /// Messages that wait for delivery.
    pub(super) held: u64,
    /// Of all mail of the domain.
    pub(super) bytes: u64,
    pub(super) refused: usize,
    pub(super) aside: usize,
    pub(super) deleted: usize,
    /// Of the quota, in percent; none: there is none.
    pub(super) used: Option<u64>,
    pub(super) room: String,
    /// What the primary said last about what waits.
    pub(super) last_reply: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Waiting,
    Bad,
}

impl Tone {
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Waiting => "waiting",
            Self::Bad => "bad",
        }
    }
}

/// Messages of each state that are counted; beyond it "many" is all that matters.
const COUNTED_MAX: usize = 1_000;

pub(super) fn picture(portal: &Portal, record: &DomainRecord) -> Result<Picture, KvError> {
    let view = portal.cluster.view();
    let domain = &record.name;
    let policy = query::policy(&view, domain)?;
    let all = query::counts(&view, domain)?;
    let refused = query::refused(&view, domain, COUNTED_MAX)?;
    let aside = query::aside(&view, domain, None, COUNTED_MAX)?;
    let deleted = aside.iter().filter(|row| row.discard_at.is_some()).count();
    let oldest = query::held(&view, domain, None, 1)?.into_iter().next();
    // A message may be in two queues, for different recipients.
    let elsewhere = (refused.len() + aside.len()) as u64;
    let held = match &oldest {
        Some(_) => all.messages.saturating_sub(elsewhere).max(1),
        None => 0,
    };
    let primary = explain::whither(&view, record)?;
    let is_full = !policy.has_room(all.messages, all.bytes, 1);
    let kept = match refused.len() {
        0 => String::new(),
        1 => " Your server refused one message; it is kept for you to decide.".to_owned(),
        number => {
            format!(" Your server refused {number} messages; they are kept for you to decide.")
        }
    };
    let (tone, headline, sentence, last_reply) = match &oldest {
        None => {
            let reach = query::reach(&view, domain)?;
            let (tone, headline, text) = idle(&policy, reach.as_ref(), &primary, replica::now());
            let (headline, text) = (headline.to_owned(), format!("{text}{kept}"));
            (tone, headline, text, String::new())
        }
        Some(first) => {
            let now = query::now(&view)?;
            let envelope = query::envelope(&view, first.message)?;
            let waiting =
                envelope.map_or(Duration::ZERO, |envelope| now.since(envelope.received_at));
            let waiting = span(waiting);
            // Bytes are counted for all mail of the domain, whatever its state.
            let size = if kept.is_empty() && aside.is_empty() {
                format!(", {}", bytes(all.bytes))
            } else {
                String::new()
            };
            let then = if !policy.attended {
                let by_mx = query::route(&view, domain)?.by_mx;
                again(&policy, &primary, by_mx, &until_next(portal, domain))
            } else if let Some(here) = query::attended(&view, domain)?.filter(|a| now < a.until) {
                match policy.at_host {
                    true => format!("It is delivered to {primary} now."),
                    false => format!("It is delivered to {} now.", here.to),
                }
            } else if policy.at_host {
                format!("It is delivered to {primary}, in order, while you receive it.")
            } else {
                "It is delivered, in order, while you receive it here.".to_owned()
            };
            let reach = query::reach(&view, domain)?;
            let since = reach.filter(|reach| reach.down.is_some() && !policy.attended);
            let down = since.map_or_else(String::new, |reach| {
                format!(
                    "Your server has been down for {}. ",
                    span(replica::now().since(reach.since))
                )
            });
            let sentence = format!(
                "{down}{}{size}, safe on {}. The oldest has waited for {waiting}. {then}{kept}",
                count(held, "message"),
                portal.copies.of(first.seq),
            );
            let headline = format!("Holding {}", count(held, "message"));
            (Tone::Waiting, headline, sentence, first.last_reply.clone())
        }
    };
    let (tone, headline) = if is_full {
        (Tone::Bad, "Full".to_owned())
    } else {
        (tone, headline)
    };
    Ok(Picture {
        tone,
        headline,
        sentence,
        held,
        bytes: all.bytes,
        refused: refused.len(),
        aside: aside.len() - deleted,
        deleted,
        used: used(&policy, all),
        room: room(&policy, all),
        last_reply,
    })
}

/// When what waits is tried again, and what ends its waiting.
fn again(policy: &Policy, primary: &str, by_mx: bool, next: &str) -> String {
    let (tried, taken) = match by_mx {
        true => (
            "The mail exchangers that your MX records name before us are".to_owned(),
            "one of them takes mail",
        ),
        false => (format!("{primary} is"), "it takes mail"),
    };
    let call = match policy.atrn {
        true => " or you call for it (ATRN)",
        false => "",
    };
    format!(
        "{tried} tried again {next}, and all of it is delivered, in order, as soon as {taken}{call}."
    )
}

/// `in 23 s`, until the domain's primary is tried again.
pub(super) fn until_next(portal: &Portal, domain: &Domain) -> String {
    let now = replica::now();
    let wait = portal.copies.next_try(domain, now).map(|at| at.since(now));
    match wait {
        Some(wait) if wait >= Duration::from_secs(1) => format!("in {}", span(wait)),
        _ => "at any moment".to_owned(),
    }
}

/// How it is with a domain of which nothing waits.
fn idle(
    policy: &Policy,
    reach: Option<&Reach>,
    primary: &str,
    now: Timestamp,
) -> (Tone, &'static str, String) {
    let good = |text: String| (Tone::Good, "All delivered", text);
    if policy.attended {
        return good("Nothing waits. What arrives here is held until you receive it.".to_owned());
    }
    let Some(reach) = reach else {
        return good(format!(
            "Nothing waits. What arrives here is passed on to {primary} at once."
        ));
    };
    if reach.down.is_some() && policy.atrn {
        return good("Nothing waits. What arrives here is held until you call for it.".to_owned());
    }
    if reach.down.is_some() {
        let text = format!(
            "Your server has been down for {}. Nothing waits: what arrives here is held, and \
             delivered as soon as {primary} answers.",
            span(now.since(reach.since))
        );
        return (Tone::Waiting, "Your server is down", text);
    }
    good(if reach::puts_off(policy, reach, now) {
        format!(
            "Nothing waits. Your server is up, so senders who come here are asked to go there; who \
             keeps coming back is taken, and passed on to {primary} at once."
        )
    } else {
        format!(
            "Nothing waits. Your server is up, and what arrives here is passed on to {primary} at \
             once."
        )
    })
}

fn used(policy: &Policy, held: Counts) -> Option<u64> {
    let part = |of: Option<u64>, used: u64| of.map(|of| used.saturating_mul(100) / of.max(1));
    part(policy.quota_bytes, held.bytes)
        .max(part(policy.quota_messages, held.messages))
        .map(|percent| percent.min(100))
}

fn room(policy: &Policy, held: Counts) -> String {
    let parts: Vec<String> = [
        policy
            .quota_bytes
            .map(|quota| format!("{} of {}", bytes(held.bytes), bytes(quota))),
        policy
            .quota_messages
            .map(|quota| format!("{} of {}", held.messages, count(quota, "message"))),
    ]
    .into_iter()
    .flatten()
    .collect();
    parts.join(", ")
}

#[derive(Template)]
#[template(path = "overview.html")]
struct Page {
    frame: Frame,
    picture: Picture,
    /// Mail waits for somebody to sign in where it is to go.
    attended: bool,
    /// They do so from wherever they are, and it goes to their server.
    at_host: bool,
    says: Vec<String>,
    said: String,
}

/// The part that changes while one looks.
#[derive(Template)]
#[template(path = "picture.html")]
struct Part<'a> {
    picture: &'a Picture,
}

pub(super) fn part(portal: &Portal, record: &DomainRecord) -> Result<String, Problem> {
    let picture = picture(portal, record)?;
    let part = Part { picture: &picture };
    part.render().map_err(|e| Problem::Unable(e.to_string()))
}

#[derive(serde::Deserialize)]
pub(super) struct Said {
    #[serde(default)]
    done: String,
    #[serde(default)]
    n: u64,
}

impl Said {
    fn text(&self) -> String {
        match (self.done.as_str(), self.n) {
            ("started", 0) => "Nothing waits for delivery.".to_owned(),
            ("started", n) => format!("Delivery of {} was started.", count(n, "message")),
            ("under-way", _) => "Delivery was started a moment ago.".to_owned(),
            ("often", _) => "Delivery was asked for too often. Wait a minute.".to_owned(),
            _ => String::new(),
        }
    }
}

pub(super) async fn show(
    State(portal): State<Arc<Portal>>,
    who: SignedIn,
    Path(name): Path<String>,
    Query(said): Query<Said>,
) -> Result<Response, Problem> {
    let record = who.domain(&portal, &name)?;
    let policy = query::policy(&portal.cluster.view(), &record.name)?;
    render(&Page {
        frame: Frame::of(&who, record.name.as_str(), "overview"),
        picture: picture(&portal, &record)?,
        attended: policy.attended,
        at_host: policy.at_host,
        says: explain::sentences(&portal.cluster.view(), &record)?,
        said: said.text(),
    })
}

pub(super) async fn deliver(
    State(portal): State<Arc<Portal>>,
    Path(name): Path<String>,
    posted: Posted,
) -> Result<Response, Problem> {
    let record = posted.who.domain(&portal, &name)?;
    let said = match start(&portal, posted.who.client.0, record.name).await {
        Ok(Pending::Known(number)) => format!("done=started&n={number}"),
        Ok(Pending::Started | Pending::Uncounted) => "done=under-way".to_owned(),
        Err(NotStarted::TooOften) => "done=often".to_owned(),
        Err(why) => return Err(Problem::Unable(why.to_string())),
    };
    Ok(Redirect::to(&format!("/d/{name}?{said}")).into_response())
}

/// Starts delivery for somebody who may.
pub(super) async fn start(
    portal: &Portal,
    client: IpAddr,
    domain: Domain,
) -> Result<Pending, NotStarted> {
    let (cluster, release) = (&portal.cluster, &portal.release);
    release.order(cluster, client, domain, "portal").await
}

/// One line of the list of domains.
struct Line {
    name: Domain,
    picture: Picture,
}

#[derive(Template)]
#[template(path = "domains.html")]
struct List {
    frame: Frame,
    lines: Vec<Line>,
}

/// All domains of an account; if there is but one, that.
pub(super) async fn domains(
    State(portal): State<Arc<Portal>>,
    who: SignedIn,
) -> Result<Response, Problem> {
    let domains = &who.session.account.domains;
    if let [only] = domains.as_slice() {
        return Ok(Redirect::to(&format!("/d/{only}")).into_response());
    }
    let mut lines = Vec::new();
    for domain in domains {
        if let Some(record) = query::domain(&portal.cluster.view(), domain)? {
            lines.push(Line {
                name: domain.clone(),
                picture: picture(&portal, &record)?,
            });
        }
    }
    render(&List {
        frame: Frame::of(&who, "", ""),
        lines,
    })
}

#[cfg(test)]
mod tests {
    use holdfast_mail::NodeId;

    use super::*;

    #[test]
    fn a_server_that_is_down_is_told_of_although_nothing_waits() {
        let now = Timestamp(1_800_000_000_000);
        let up = Reach {
            down: None,
            since: Timestamp(now.0 - 8_040_000),
            at: now,
            node: NodeId(1),
        };
        let down = Reach {
            down: Some("refused".to_owned()),
            ..up.clone()
        };
        let relay = Policy::default();
        let (defer, attended, atrn) = (
            Policy {
                defer: true,
                ..relay
            },
            Policy {
                attended: true,
                ..relay
            },
            Policy {
                atrn: true,
                ..relay
            },
        );
        for (policy, reach, tone, said) in [
            (&relay, None, Tone::Good, "passed on to mx:25 at once"),
            (&relay, Some(&up), Tone::Good, "Your server is up, and what"),
            (
                &relay,
                Some(&down),
                Tone::Waiting,
                "has been down for 2 h 14 min.",
            ),
            (&defer, Some(&up), Tone::Good, "asked to go there"),
            (&defer, Some(&down), Tone::Waiting, "is held, and delivered"),
            (&atrn, Some(&down), Tone::Good, "until you call for it"),
            (&attended, Some(&down), Tone::Good, "until you receive it"),
        ] {
            let (found, headline, text) = idle(policy, reach, "mx:25", now);
            assert_eq!(found, tone, "{text}");
            assert!(text.contains(said), "{said}: {text}");
            assert_eq!(headline == "All delivered", tone == Tone::Good);
        }
    }

    #[test]
    fn what_waits_goes_as_soon_as_it_is_taken_or_called_for() {
        let policy = Policy::default();
        assert_eq!(
            again(&policy, "mx:25", false, "in 9 min"),
            "mx:25 is tried again in 9 min, and all of it is delivered, in order, as soon as it takes mail."
        );
        let atrn = Policy {
            atrn: true,
            ..policy
        };
        let told = again(&atrn, "mx:25", false, "in 9 min");
        assert!(
            told.ends_with("as soon as it takes mail or you call for it (ATRN)."),
            "{told}"
        );
        let told = again(&policy, "", true, "at any moment");
        assert!(
            told.starts_with("The mail exchangers that your MX records name before us are tried again at any moment,"),
            "{told}"
        );
    }

    #[test]
    fn a_quota_reads_as_its_fuller_part() {
        let mut policy = Policy::default();
        let held = Counts {
            messages: 3,
            bytes: 20_000_000,
        };
        assert_eq!(
            (used(&policy, held), room(&policy, held)),
            (None, String::new())
        );
        policy.quota_bytes = Some(100_000_000);
        policy.quota_messages = Some(10);
        assert_eq!(used(&policy, held), Some(30));
        assert_eq!(room(&policy, held), "20 MB of 100 MB, 3 of 10 messages");
        policy.quota_messages = Some(2);
        assert_eq!(used(&policy, held), Some(100));
    }
}
