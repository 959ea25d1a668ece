//! Whose mail could not be delivered in the time that its domain holds mail is told so, once, and
//! not before that time; nobody else is.

use std::collections::{BTreeMap, BTreeSet};

use super::Verdict;
use crate::history::{AttemptId, End, Event, History, Try, domain_of};

/// Seconds that a notification may take after the time is over: a primary may still take the message
/// in the ten minutes of RFC 5321 section 4.5.3.2.6, and then it is an entry, and mail.
const SLACK: f64 = 660.0;
/// Seconds by which what is logged may be ahead of what a sender has seen.
const AHEAD: f64 = 2.0;
/// Seconds after which a primary's 250 must have been recorded, where nothing fails.
const RECORDED: f64 = 30.0;

#[must_use]
pub fn check(history: &History) -> Verdict {
    let tries = history.tries();
    let tries: BTreeMap<AttemptId, &Try<'_>> = tries.iter().map(|t| (t.attempt, t)).collect();
    let begun = history.begun();
    let disturbances = history.disturbances();
    let mut told: BTreeSet<(AttemptId, &str)> = BTreeSet::new();
    let mut delivered: BTreeMap<(AttemptId, &str), f64> = BTreeMap::new();
    let (mut tried, mut broken) = (0, Vec::new());
    for (at, event) in history.timed() {
        match event {
            Event::Delivered {
                attempt: Some(attempt),
                recipients,
                ..
            } => {
                for to in recipients {
                    delivered.entry((*attempt, to)).or_insert(at);
                }
            }
            Event::Bounced {
                attempt,
                sender,
                recipient,
            } => {
                tried += 1;
                let known = attempt.and_then(|attempt| tries.get(&attempt));
                let Some(a_try) = known.filter(|a_try| a_try.recipients.contains(recipient)) else {
                    broken.push(format!(
                        "{sender} was told of no mail of his to {recipient}"
                    ));
                    continue;
                };
                let what = format!("attempt {} to {recipient}", a_try.attempt.0);
                if a_try.reverse_path != sender || sender.is_empty() {
                    broken.push(format!("{what}: <{sender}> was told, not its sender"));
                }
                let held = at - begun.get(&a_try.attempt).copied().unwrap_or(at);
                match history.hold(domain_of(recipient)) {
                    Some(hold) if held >= hold - AHEAD => {}
                    hold => broken.push(format!("{what}: told after {held:.0} s of {hold:?}")),
                }
                if !told.insert((a_try.attempt, recipient)) && !disturbances.cover(at) {
                    broken.push(format!("{what}: told twice"));
                }
                let arrived = delivered.get(&(a_try.attempt, recipient.as_str()));
                if arrived.is_some_and(|then| at - then > RECORDED && !disturbances.cover(*then)) {
                    broken.push(format!("{what}: told although it had been delivered"));
                }
            }
            _ => {}
        }
    }
    let end = history.times.last().copied().unwrap_or_default();
    for a_try in tries.values() {
        // RFC 5321 section 4.5.5: a notification itself is never answered with one.
        if a_try.end != End::Acknowledged || a_try.reverse_path.is_empty() {
            continue;
        }
        for to in a_try.recipients {
            let since = end - begun.get(&a_try.attempt).copied().unwrap_or(end);
            let is_over = history
                .hold(domain_of(to))
                .is_some_and(|hold| since > hold + SLACK);
            if !is_over || delivered.contains_key(&(a_try.attempt, to.as_str())) {
                continue;
            }
            tried += 1;
            if !told.contains(&(a_try.attempt, to.as_str())) {
                broken.push(format!(
                    "attempt {} to {to}: neither delivered nor its sender told after {since:.0} s",
                    a_try.attempt.0
                ));
            }
        }
    }
    Verdict::of(tried, broken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::sketch::{attempt, delivered, history, replied};

    const TO: &str = "a@example.test";

    fn run(held: usize, behind: &[Event]) -> History {
        let mut events = vec![
            Event::Hold {
                domain: "example.test".into(),
                seconds: 100.0,
            },
            attempt(1, 1, &[TO]),
            replied(1, 250),
        ];
        let note = Event::Note {
            text: "time passes".into(),
        };
        events.extend(vec![note; held]);
        events.extend(behind.iter().cloned());
        history(&events)
    }

    fn bounced(attempt: Option<u64>, sender: &str) -> Event {
        Event::Bounced {
            attempt: attempt.map(AttemptId),
            sender: sender.into(),
            recipient: TO.into(),
        }
    }

    #[test]
    fn one_that_comes_in_time_is_right_and_one_that_comes_early_is_not() {
        let told = bounced(Some(1), "s@sender.test");
        assert_eq!(
            check(&run(110, std::slice::from_ref(&told))),
            Verdict::Holds { tried: 1 }
        );
        let early = check(&run(50, &[told]));
        assert!(matches!(early, Verdict::Broken { how } if how[0].contains("after 52 s of")));
    }

    #[test]
    fn one_that_never_comes_is_missed() {
        assert!(matches!(check(&run(800, &[])), Verdict::Broken { how } if how.len() == 1));
        assert_eq!(check(&run(110, &[])), Verdict::Unknown, "it may still come");
        assert_eq!(check(&run(800, &[delivered(1, &[TO])])), Verdict::Unknown);
    }

    #[test]
    fn one_to_somebody_else_or_of_no_mail_or_twice_or_of_delivered_mail_is_wrong() {
        let told = bounced(Some(1), "s@sender.test");
        let note = Event::Note {
            text: "later".into(),
        };
        let cases = [
            vec![bounced(Some(1), "t@sender.test")],
            vec![bounced(None, "s@sender.test")],
            vec![told.clone(), told.clone()],
            [vec![delivered(1, &[TO])], vec![note; 40], vec![told]].concat(),
        ];
        for behind in cases {
            assert!(
                matches!(check(&run(110, &behind)), Verdict::Broken { .. }),
                "{behind:?}"
            );
        }
    }
}
