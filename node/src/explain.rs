//! What becomes of a domain's mail now, and why, in sentences.

use std::time::Duration;

use holdfast_ledger::query::{self, Attended, Counts, DomainRecord, Reach};
use holdfast_ledger::{
    Askers, Doubt, HOSTS_MAX, Health, KvError, KvRead, Policy, PolicyChange, Primary, Probation,
    doubt,
};
use holdfast_mail::{Domain, Timestamp};

use crate::reach;
use crate::replica;
use crate::span::span;

/// Instead of a primary: whoever the domain's MX records name before us.
pub const BY_MX: &str = "mx";

/// Refused messages that are counted; beyond it "many" is all that matters.
pub const REFUSED_MAX: usize = 10_000;

/// What becomes of a message for the domain.
///
/// # Errors
/// The state cannot be read.
pub fn sentences(view: &dyn KvRead, record: &DomainRecord) -> Result<Vec<String>, KvError> {
    let domain = &record.name;
    let now = query::now(view)?;
    let attended = query::attended(view, domain)?.filter(|attended| now < attended.until);
    let hosts = hosts(view, domain)?;
    let mut says = explain(&Sight {
        domain,
        primary: &whither(view, record)?,
        policy: &query::policy(view, domain)?,
        own: &query::own_policy(view, domain)?,
        plan: query::subscription(view, domain)?.as_ref(),
        health: &query::health(view, domain)?,
        held: with_hosts(query::counts(view, domain)?, query::below(view, domain)?.0),
        listed: query::recipients(view, domain, None, 1)?.len(),
        takes_anyone: query::known(view, domain, "")?.is_some_and(|known| known.takes),
        askers: &query::askers(view, domain)?,
        refused: query::refused(view, domain, REFUSED_MAX)?.len(),
        attended: attended.as_ref(),
        reach: query::reach(view, domain)?.as_ref(),
        now,
        clock: replica::now(),
    });
    says.extend(hosts);
    Ok(says)
}

/// What counts against the quota: hosts below the domain have none of their own.
fn with_hosts(domain: Counts, hosts: Counts) -> Counts {
    Counts {
        messages: domain.messages.saturating_add(hosts.messages),
        bytes: domain.bytes.saturating_add(hosts.bytes),
    }
}

/// What becomes of mail for hosts below the domain, where there is anything to say.
fn hosts(view: &dyn KvRead, domain: &Domain) -> Result<Option<String>, KvError> {
    let (held, hosts) = query::below(view, domain)?;
    let takes = query::route(view, domain)?.direct;
    let attended = query::policy(view, domain)?.attended;
    let rule = match (takes, attended) {
        (false, _) if hosts == 0 => return Ok(None),
        (false, _) => "refused; what is held still goes to the host it names".to_owned(),
        (true, true) => {
            "refused, because the domain's own mail goes out only while somebody is signed in"
                .to_owned()
        }
        (true, false) => format!(
            "taken, counted against the domain's quota, and goes to the host it names; {HOSTS_MAX} hosts at most hold mail at once"
        ),
    };
    let now = match hosts {
        0 => String::new(),
        _ => format!(
            "; now: {} messages, {} bytes for {hosts} of them",
            held.messages, held.bytes
        ),
    };
    Ok(Some(format!(
        "Mail for hosts below it (user@pc.{domain}) is {rule}{now}."
    )))
}

/// Where the domain's mail goes, in words.
///
/// # Errors
/// The state cannot be read.
pub fn whither(view: &dyn KvRead, record: &DomainRecord) -> Result<String, KvError> {
    Ok(if query::route(view, &record.name)?.by_mx {
        "the mail exchangers that its MX records name before us".to_owned()
    } else {
        primary_text(&record.primary)
    })
}

/// What an operator calls the domain's primary: `mx`, or its `host:port`.
///
/// # Errors
/// The state cannot be read.
pub fn primary_of(view: &dyn KvRead, record: &DomainRecord) -> Result<String, KvError> {
    Ok(match query::route(view, &record.name)?.by_mx {
        true => BY_MX.to_owned(),
        false => primary_text(&record.primary),
    })
}

/// `host:port`; an IPv6 address stands in brackets.
#[must_use]
pub fn primary_text(primary: &Primary) -> String {
    if primary.host.contains(':') {
        format!("[{}]:{}", primary.host, primary.port)
    } else {
        format!("{}:{}", primary.host, primary.port)
    }
}

/// Everything that a domain's mail depends on.
struct Sight<'a> {
    domain: &'a Domain,
    primary: &'a str,
    policy: &'a Policy,
    /// What of it was said for the domain itself.
    own: &'a PolicyChange,
    /// The plan it is on, with its extra steps.
    plan: Option<&'a (String, u32)>,
    health: &'a Health,
    /// Held and refused.
    held: Counts,
    refused: usize,
    askers: &'a Askers,
    /// Whether anybody is listed as a recipient.
    listed: usize,
    /// The primary takes mail for names that nobody has.
    takes_anyone: bool,
    /// Who is signed in where the mail goes.
    attended: Option<&'a Attended>,
    /// Whether the primary can be reached, once somebody has looked.
    reach: Option<&'a Reach>,
    /// The ledger's, which stands still while nothing happens.
    now: Timestamp,
    /// This node's, by which it answers senders.
    clock: Timestamp,
}

fn explain(sight: &Sight<'_>) -> Vec<String> {
    let mut says = vec![
        arrival(sight),
        primary(sight),
        recipients(sight),
        hold(sight),
        refusal(sight),
        delay(sight),
        asking(sight),
    ];
    says.extend(plan(sight));
    says
}

/// Which rule is in force: what was said for the domain goes before what its plan says.
fn plan(sight: &Sight<'_>) -> Option<String> {
    let (name, extra_steps) = sight.plan?;
    let steps = match extra_steps {
        0 => String::new(),
        1 => " with one extra step".to_owned(),
        number => format!(" with {number} extra steps"),
    };
    let PolicyChange {
        quota_bytes,
        quota_messages,
        hold_ms,
        full_for_good,
        probe_ms,
        ping,
        ..
    } = sight.own;
    let own = [
        quota_bytes.map(|_| "the quota of bytes"),
        quota_messages.map(|_| "the quota of messages"),
        hold_ms.map(|_| "how long mail is held"),
        full_for_good.map(|_| "what a sender is told when it is full"),
        probe_ms.map(|_| "how often its primary is looked at"),
        ping.map(|_| "whether that is pinged"),
    ];
    let own: Vec<_> = own.into_iter().flatten().collect();
    let rule = if own.is_empty() {
        "its quota, how long mail is held, what a sender is told when it is full and how its \
         primary is watched are the plan's"
            .to_owned()
    } else {
        let own = own.join(" and ");
        format!(
            "{own}: set for the domain itself, which goes before the plan; the rest is the plan's"
        )
    };
    Some(format!("It is on the plan {name}{steps}; {rule}."))
}

fn arrival(sight: &Sight<'_>) -> String {
    let Sight {
        domain,
        primary,
        policy,
        held,
        ..
    } = sight;
    let room = match (policy.quota_messages, policy.quota_bytes) {
        (None, None) => "there is no quota".to_owned(),
        (messages, bytes) => {
            let parts = [
                messages.map(|quota| format!("{} of {quota} messages", held.messages)),
                bytes.map(|quota| format!("{} of {quota} bytes", held.bytes)),
            ];
            let parts: Vec<_> = parts.into_iter().flatten().collect();
            format!("{} are used", parts.join(" and "))
        }
    };
    if !policy.has_room(held.messages, held.bytes, 1) {
        return if policy.full_for_good {
            format!(
                "A message for {domain} is refused with 552 now and goes back to its sender; {room}."
            )
        } else {
            format!(
                "A message for {domain} is put off with 452 now and its sender tries again; {room}."
            )
        };
    }
    let whom = if policy.verify && !sight.takes_anyone {
        format!("a recipient of {domain} whom its primary has")
    } else if !policy.verify && policy.listed_only && sight.listed > 0 {
        format!("a listed recipient of {domain}")
    } else {
        domain.to_string()
    };
    let reach = sight.reach;
    if reach.is_some_and(|reach| reach::puts_off(policy, reach, sight.clock)) {
        return format!(
            "A message for {whom} is put off with 451 now, since the primary is up, and its sender \
             tries that; {room}."
        );
    }
    let is_down = reach.is_some_and(|reach| reach.down.is_some());
    let then = match sight.attended {
        _ if !policy.attended && is_down && policy.atrn => {
            format!("held until {primary} can be reached, or somebody calls for it")
        }
        _ if !policy.attended && is_down => format!("held until {primary} can be reached"),
        _ if !policy.attended => format!("delivered to {primary}"),
        None => "held until somebody signs in to receive it".to_owned(),
        Some(attended) if policy.at_host => format!(
            "delivered to {primary}, while {} is signed in",
            attended.account
        ),
        Some(attended) => format!(
            "delivered to {}, where {} is signed in",
            attended.to, attended.account
        ),
    };
    format!("A message for {whom} is accepted now and {then}; {room}.")
}

fn primary(sight: &Sight<'_>) -> String {
    let Sight { policy, clock, .. } = sight;
    if policy.attended && policy.at_host {
        return format!(
            "{} is tried only while somebody is signed in.",
            sight.primary
        );
    }
    if policy.attended {
        return "Where mail goes is tried only while somebody is signed in there.".to_owned();
    }
    let state = match sight.reach {
        None => "Nobody has looked at the primary yet".to_owned(),
        Some(Reach {
            down: None, since, ..
        }) => format!("The primary has been up for {}", span(clock.since(*since))),
        Some(Reach {
            down: Some(why),
            since,
            ..
        }) => format!(
            "The primary has been down for {} ({})",
            span(clock.since(*since)),
            why.trim_end_matches("; mail is kept")
        ),
    };
    let then = if policy.defer {
        "while it is up, senders are asked to go there (451), and are believed when they come back \
         again and again"
    } else {
        "while it is up, mail that arrives here is passed on at once"
    };
    format!(
        "{state}; it is looked at every {}, and every few seconds while mail is held and it cannot be \
         reached; {then}.",
        span(policy.probe)
    )
}

fn recipients(sight: &Sight<'_>) -> String {
    if sight.policy.verify {
        let anyone = sight.takes_anyone.then_some(
            " It takes mail for names that nobody has, so mail for any recipient is taken.",
        );
        return format!(
            "The primary is asked whether it takes mail for a recipient; its yes is asked for again \
             after {}, its no is forgotten after {}; whom it has not is refused with 550. While it \
             is down, recipients it was known to have are taken, and mail for those it was not asked \
             about is put off with 451.{}",
            span(sight.policy.yes),
            span(sight.policy.no),
            anyone.unwrap_or_default()
        );
    }
    match (sight.policy.listed_only, sight.listed) {
        (false, _) => "Mail for any recipient is taken.".to_owned(),
        (true, 0) => "Mail for any recipient is taken, since the list of them is empty.".to_owned(),
        (true, _) => "Mail for a recipient who is not listed is refused with 550.".to_owned(),
    }
}

fn hold(sight: &Sight<'_>) -> String {
    match sight.policy.hold {
        Some(hold) => format!(
            "What cannot be delivered is tried again for {} after it arrived, and then given back \
             to its sender.",
            span(hold)
        ),
        None => "What cannot be delivered is tried again without end.".to_owned(),
    }
}

fn asking(sight: &Sight<'_>) -> String {
    let who = match sight.askers {
        Askers::Anybody => "Anybody may".to_owned(),
        Askers::Networks(networks) if networks.is_empty() => {
            "Nobody but an operator and the domain's people in the portal may".to_owned()
        }
        Askers::Networks(networks) => {
            let list: Vec<_> = networks.iter().map(ToString::to_string).collect();
            format!("Clients in {} may", list.join(", "))
        }
    };
    let is_nobody = matches!(sight.askers, Askers::Networks(networks) if networks.is_empty());
    let call = match sight.policy.atrn && !is_nobody {
        true => " Whoever logs in from there may have it over their own connection (ATRN).",
        false => "",
    };
    format!(
        "{who} ask for delivery (ETRN, finger); it goes to {}, whoever asks.{call}",
        sight.primary
    )
}

fn refusal(sight: &Sight<'_>) -> String {
    let Sight {
        policy,
        health,
        now,
        ..
    } = sight;
    let kept = match sight.refused {
        0 => String::new(),
        1 => " One message is kept as refused.".to_owned(),
        number => format!(" {number} messages are kept as refused."),
    };
    let Some(doubt) = doubt(policy.probation, health, *now) else {
        return match policy.probation {
            Probation::For(Duration::ZERO) => format!(
                "What the primary refuses (5xx) is given back at once: there is no probation.{kept}"
            ),
            _ => format!(
                "What the primary refuses (5xx) is given back at once: it has been taking mail for \
                 {}.{kept}",
                span(now.since(health.since))
            ),
        };
    };
    let why = match doubt {
        Doubt::Endless => "that is what its policy says".to_owned(),
        Doubt::TakesNoMail => "it took none in the last half hour".to_owned(),
        Doubt::RefusesMore => format!(
            "it refused {} recipients and took mail for {}",
            health.refused, health.taken
        ),
        Doubt::TooNew => format!(
            "it has been taking mail for {} only",
            span(now.since(health.since))
        ),
    };
    let then = match policy.probation {
        Probation::Endless => "until you decide".to_owned(),
        Probation::For(probation) => format!("and tried again after {}", span(probation)),
    };
    format!("What the primary refuses (5xx) is kept now {then}: {why}.{kept}")
}

fn delay(sight: &Sight<'_>) -> String {
    match sight.policy.delay {
        Some(delay) => {
            format!(
                "Senders are told that their mail is late after {}.",
                span(delay)
            )
        }
        None => "Senders are not told that their mail is late.".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use holdfast_mail::{Network, NodeId};

    use super::*;

    #[test]
    fn a_new_domain_is_told_of_in_words() {
        let (domain, policy) = (Domain::parse("a.example").unwrap(), Policy::default());
        let sight = Sight {
            domain: &domain,
            primary: "mx.a.example:25",
            policy: &policy,
            own: &PolicyChange::default(),
            plan: None,
            health: &Health::default(),
            held: Counts::default(),
            refused: 0,
            askers: &Askers::Anybody,
            listed: 0,
            takes_anyone: false,
            attended: None,
            reach: None,
            now: Timestamp(1_800_000_000_000),
            clock: Timestamp(1_800_000_000_000),
        };
        assert_eq!(
            explain(&sight),
            [
                "A message for a.example is accepted now and delivered to mx.a.example:25; there is \
                 no quota.",
                "Nobody has looked at the primary yet; it is looked at every 5m, and every few \
                 seconds while mail is held and it cannot be reached; while it is up, mail that arrives \
                 here is passed on at once.",
                "Mail for any recipient is taken.",
                "What cannot be delivered is tried again for 5d after it arrived, and then given \
                 back to its sender.",
                "What the primary refuses (5xx) is kept now and tried again after 10m: it took none \
                 in the last half hour.",
                "Senders are not told that their mail is late.",
                "Anybody may ask for delivery (ETRN, finger); it goes to mx.a.example:25, whoever asks.",
            ]
        );
        let on_plan = ("small".to_owned(), 2);
        let plan_of = |own: &PolicyChange| {
            let sight = Sight {
                plan: Some(&on_plan),
                own,
                ..sight
            };
            plan(&sight).unwrap()
        };
        assert_eq!(
            plan_of(&PolicyChange::default()),
            "It is on the plan small with 2 extra steps; its quota, how long mail is held, what a \
             sender is told when it is full and how its primary is watched are the plan's."
        );
        let own = PolicyChange {
            quota_bytes: Some(0),
            hold_ms: Some(1),
            ..PolicyChange::default()
        };
        assert_eq!(
            plan_of(&own),
            "It is on the plan small with 2 extra steps; the quota of bytes and how long mail is \
             held: set for the domain itself, which goes before the plan; the rest is the plan's."
        );
        let full = Policy {
            quota_messages: Some(3),
            ..policy
        };
        let held = Counts {
            messages: 3,
            bytes: 9,
        };
        let sight = Sight {
            policy: &full,
            held,
            refused: 2,
            ..sight
        };
        assert_eq!(
            arrival(&sight),
            "A message for a.example is put off with 452 now and its sender tries again; 3 of 3 \
             messages are used."
        );
        assert!(refusal(&sight).ends_with(" 2 messages are kept as refused."));
        let attended = Attended {
            session: [0; 16],
            account: "ann".to_owned(),
            to: "192.0.2.7:25".parse().unwrap(),
            over: None,
            since: Timestamp(0),
            until: Timestamp(1),
        };
        let there = Policy {
            attended: true,
            ..policy
        };
        let at_host = Policy {
            at_host: true,
            ..there
        };
        for (policy, attended, said) in [
            (
                &there,
                None,
                "accepted now and held until somebody signs in",
            ),
            (
                &there,
                Some(&attended),
                "accepted now and delivered to 192.0.2.7:25, where ann is signed in",
            ),
            (
                &at_host,
                None,
                "accepted now and held until somebody signs in",
            ),
            (
                &at_host,
                Some(&attended),
                "accepted now and delivered to mx.a.example:25, while ann is signed in",
            ),
        ] {
            let told = arrival(&Sight {
                policy,
                attended,
                ..sight
            });
            assert!(told.contains(said), "{told}");
        }
        for (list, said) in [
            (
                &[][..],
                "Nobody but an operator and the domain's people in the portal may ask",
            ),
            (
                &["192.0.2.0/24", "::1"],
                "Clients in 192.0.2.0/24, ::1/128 may ask",
            ),
        ] {
            let networks = list.iter().map(|text| Network::parse(text).unwrap());
            let askers = &Askers::Networks(networks.collect());
            assert!(asking(&Sight { askers, ..sight }).starts_with(said));
        }
    }

    #[test]
    fn what_becomes_of_a_message_is_what_its_sender_is_answered() {
        let domain = Domain::parse("a.example").unwrap();
        let at = |minutes: u64| Timestamp(1_800_000_000_000 + minutes * 60_000);
        let defer = Policy {
            defer: true,
            ..Policy::default()
        };
        let up = Reach {
            down: None,
            since: at(0),
            at: at(2),
            node: NodeId(1),
        };
        let down = Reach {
            down: Some("refused".to_owned()),
            ..up.clone()
        };
        let tell = |policy: &Policy, reach: &Reach, clock: Timestamp| {
            arrival(&Sight {
                domain: &domain,
                primary: "mx.a.example:25",
                policy,
                own: &PolicyChange::default(),
                plan: None,
                health: &Health::default(),
                held: Counts {
                    messages: 3,
                    bytes: 9,
                },
                refused: 0,
                askers: &Askers::Anybody,
                listed: 1,
                takes_anyone: false,
                attended: None,
                reach: Some(reach),
                // Nothing has happened since the primary was first looked at.
                now: at(0),
                clock,
            })
        };
        let relay = Policy::default();
        let listed = Policy {
            listed_only: true,
            ..defer
        };
        let full = Policy {
            quota_messages: Some(3),
            ..defer
        };
        let atrn = Policy {
            atrn: true,
            ..relay
        };
        for (policy, reach, clock, said) in [
            (&relay, &up, at(3), "is accepted now and delivered to mx.a"),
            (
                &relay,
                &down,
                at(3),
                "is accepted now and held until mx.a.example:25 can be reached;",
            ),
            (
                &atrn,
                &down,
                at(3),
                "can be reached, or somebody calls for it;",
            ),
            (&defer, &up, at(0), "is accepted now and delivered"),
            (&defer, &up, at(3), "is put off with 451 now"),
            (
                &listed,
                &up,
                at(3),
                "for a listed recipient of a.example is put off with 451 now",
            ),
            (&full, &up, at(3), "is put off with 452 now"),
            // Nobody has looked for long.
            (&defer, &up, at(60), "is accepted now and delivered"),
            (&defer, &down, at(3), "is accepted now and held"),
        ] {
            let told = tell(policy, reach, clock);
            assert!(told.contains(said), "{said}: {told}");
        }
    }
}
