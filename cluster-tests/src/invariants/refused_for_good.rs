//! Mail for a protected domain is never answered with 5xx: whatever is wrong with the cluster
//! passes, and a sender that is told so comes again. Every letter of a run is lawful mail, but those
//! to recipients of whom the primary has said that it has them not: those are the question of
//! [`verdict_cache`](super::verdict_cache).

use std::collections::BTreeSet;

use super::Verdict;
use crate::history::{Answer, End, Event, History, Try};

#[must_use]
pub fn check(history: &History) -> Verdict {
    let ghosts: BTreeSet<&str> = history
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Asked {
                recipient,
                answer: Answer::No,
                ..
            } => Some(recipient.as_str()),
            _ => None,
        })
        .collect();
    let is_to_a_ghost = |a_try: &Try<'_>| {
        let mut recipients = a_try.recipients.iter();
        a_try.end == End::BeforeTheDot
            && a_try.code == Some(550)
            && recipients.any(|to| ghosts.contains(to.as_str()))
    };
    let tries = history.tries();
    let answered: Vec<_> = tries
        .iter()
        .filter(|a_try| !is_to_a_ghost(a_try))
        .filter_map(|a_try| Some((a_try, a_try.code?)))
        .collect();
    let refused = answered
        .iter()
        .filter(|(_, code)| *code >= 500)
        .map(|(a_try, code)| {
            format!(
                "attempt {} of letter {} was answered by {} with {code}",
                a_try.attempt.0, a_try.letter, a_try.node
            )
        })
        .collect();
    Verdict::of(answered.len(), refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::sketch::{asked, attempt, closed, history, replied};
    use crate::history::{AttemptId, Event, Stage};

    const TO: &[&str] = &["a@example.test"];

    #[test]
    fn a_5xx_at_any_stage_is_noticed() {
        for stage in [Stage::BeforeTheDot, Stage::AfterTheDot] {
            let refusal = Event::Replied {
                attempt: AttemptId(1),
                stage,
                code: 550,
            };
            let events = [attempt(1, 1, TO), refusal];
            assert!(matches!(check(&history(&events)), Verdict::Broken { .. }));
        }
    }

    #[test]
    fn whom_the_primary_does_not_have_is_another_rules_question() {
        let refused = |answer| {
            let refusal = Event::Replied {
                attempt: AttemptId(1),
                stage: Stage::BeforeTheDot,
                code: 550,
            };
            let asked = asked(TO[0], answer);
            check(&history(&[attempt(1, 1, TO), asked, refusal]))
        };
        assert_eq!(refused(Answer::No), Verdict::Unknown);
        assert!(matches!(refused(Answer::Yes), Verdict::Broken { .. }));
        assert!(matches!(refused(Answer::Later), Verdict::Broken { .. }));
    }

    #[test]
    fn to_be_told_to_come_again_is_lawful() {
        let events = [
            attempt(1, 1, TO),
            replied(1, 451),
            attempt(2, 1, TO),
            closed(2, Stage::AfterTheDot),
            attempt(3, 1, TO),
            replied(3, 250),
        ];
        assert_eq!(check(&history(&events)), Verdict::Holds { tried: 2 });
    }
}
