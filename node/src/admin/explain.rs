//! What becomes of a domain's mail now, and why, in sentences.

use std::time::Duration;

use holdfast_ledger::query::Counts;
use holdfast_ledger::{Askers, Doubt, Health, Policy, Probation, doubt};
use holdfast_mail::{Domain, Timestamp};

/// Everything that a domain's mail depends on.
pub(super) struct Sight<'a> {
    pub(super) domain: &'a Domain,
    pub(super) primary: &'a str,
    pub(super) policy: &'a Policy,
    pub(super) health: &'a Health,
    /// Held and refused.
    pub(super) held: Counts,
    pub(super) refused: usize,
    pub(super) askers: &'a Askers,
    /// Whether anybody is listed as a recipient.
    pub(super) listed: usize,
    pub(super) now: Timestamp,
}

pub(super) fn explain(sight: &Sight<'_>) -> Vec<String> {
    vec![
        arrival(sight),
        recipients(sight),
        hold(sight),
        refusal(sight),
        delay(sight),
        asking(sight),
    ]
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
    if policy.has_room(held.messages, held.bytes, 1) {
        return format!(
            "A message for {domain} is accepted now and delivered to {primary}; {room}."
        );
    }
    if policy.full_for_good {
        format!(
            "A message for {domain} is refused with 552 now and goes back to its sender; {room}."
        )
    } else {
        format!(
            "A message for {domain} is put off with 452 now and its sender tries again; {room}."
        )
    }
}

fn recipients(sight: &Sight<'_>) -> String {
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
            "Nobody but an operator may".to_owned()
        }
        Askers::Networks(networks) => {
            let list: Vec<_> = networks.iter().map(ToString::to_string).collect();
            format!("Clients in {} may", list.join(", "))
        }
    };
    format!("{who} ask for delivery (ETRN, finger); it goes to the primary, whoever asks.")
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

/// `5d`, `1h30m`: the two largest units.
fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let units = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];
    let at = units
        .iter()
        .position(|(_, size)| seconds >= *size)
        .unwrap_or(3);
    let (name, size) = units[at];
    let rest = units
        .get(at + 1)
        .map_or(0, |(_, next)| seconds % size / next);
    match units.get(at + 1) {
        Some((next, _)) if rest > 0 => format!("{}{name}{rest}{next}", seconds / size),
        _ => format!("{}{name}", seconds / size),
    }
}

#[cfg(test)]
mod tests {
    use holdfast_mail::Network;

    use super::*;

    #[test]
    fn a_new_domain_is_told_of_in_words() {
        let (domain, policy) = (Domain::parse("a.example").unwrap(), Policy::default());
        let sight = Sight {
            domain: &domain,
            primary: "mx.a.example:25",
            policy: &policy,
            health: &Health::default(),
            held: Counts::default(),
            refused: 0,
            askers: &Askers::Anybody,
            listed: 0,
            now: Timestamp(1_800_000_000_000),
        };
        assert_eq!(
            explain(&sight),
            [
                "A message for a.example is accepted now and delivered to mx.a.example:25; there is \
                 no quota.",
                "Mail for any recipient is taken.",
                "What cannot be delivered is tried again for 5d after it arrived, and then given \
                 back to its sender.",
                "What the primary refuses (5xx) is kept now and tried again after 10m: it took none \
                 in the last half hour.",
                "Senders are not told that their mail is late.",
                "Anybody may ask for delivery (ETRN, finger); it goes to the primary, whoever asks.",
            ]
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
        for (list, said) in [
            (&[][..], "Nobody but an operator may ask"),
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
    fn spans_have_two_units_at_most() {
        for (seconds, text) in [(0, "0s"), (90, "1m30s"), (3600, "1h"), (90_061, "1d1h")] {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }
}
