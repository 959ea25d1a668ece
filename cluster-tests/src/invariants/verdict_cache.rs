//! Where recipients are those that the primary says it has, what it said counts: a no for its time
//! and no longer, a yes without being asked for again in its time, and on beyond that while there is
//! no answer. Of whom nothing is known while the primary is away, nothing is said.
//!
//! A node has some seconds to tell the others what it heard, and while a node fails that may not
//! succeed: such a yes may be forgotten, and a node that comes back may not have heard of it yet.

use std::collections::{BTreeMap, BTreeSet};

use super::Verdict;
use crate::history::{Answer, AttemptId, Event, History, Stage, domain_of};

/// Seconds that an answer of the primary may take to be known at every node.
const NOTED: f64 = 6.0;

/// How often each part of the rule could have been broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Recipients that were refused.
    pub refused: usize,
    /// Recipients with a yes in its time that were named while the primary was away,
    pub known_while_away: usize,
    /// or there, so that it could have been asked again.
    pub known_while_up: usize,
    /// Recipients whose yes was out of its time, and the primary did not answer.
    pub refreshed_in_vain: usize,
    /// Recipients of whom nothing was known, while the primary was away.
    pub unknown_while_away: usize,
}

#[must_use]
pub fn check(history: &History) -> Verdict {
    let (tally, broken) = judged(history);
    let tried = tally.refused
        + tally.known_while_away
        + tally.known_while_up
        + tally.refreshed_in_vain
        + tally.unknown_while_away;
    Verdict::of(tried, broken)
}

#[must_use]
pub fn tally(history: &History) -> Tally {
    judged(history).0
}

fn judged(history: &History) -> (Tally, Vec<String>) {
    let record = Record::of(history);
    let mut tally = Tally::default();
    let mut broken = Vec::new();
    for naming in &record.namings {
        record.judge(naming, &mut tally, &mut broken);
    }
    for (recipient, sayings) in &record.sayings {
        for saying in sayings {
            broken.extend(record.asked_too_early(recipient, saying));
        }
    }
    (tally, broken)
}

/// What of a history the rule asks for.
struct Record<'a> {
    history: &'a History,
    /// By domain: since when, and how long a yes and a no count.
    policies: BTreeMap<&'a str, Policy>,
    /// By recipient, in order.
    sayings: BTreeMap<&'a str, Vec<Saying<'a>>>,
    namings: Vec<Naming<'a>>,
}

struct Policy {
    since: f64,
    keep_yes: f64,
    keep_no: f64,
}

/// What a primary said.
struct Saying<'a> {
    at: f64,
    by: &'a str,
    answer: Answer,
    /// Nothing kept the cluster from noting it.
    is_noted: bool,
}

/// A sender named a recipient, alone.
struct Naming<'a> {
    attempt: AttemptId,
    recipient: &'a str,
    node: &'a str,
    begun: f64,
    ended: f64,
    outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Whatever became of the message.
    Taken,
    Refused,
    /// The primary, it was said, cannot be asked.
    Unverified,
    /// For another reason.
    PutOff(u16),
}

impl<'a> Record<'a> {
    fn of(history: &'a History) -> Self {
        let disturbances = history.disturbances();
        let mut record = Self {
            history,
            policies: BTreeMap::new(),
            sayings: BTreeMap::new(),
            namings: Vec::new(),
        };
        let begun = history.begun();
        let tries = history.tries();
        let tries: BTreeMap<AttemptId, _> = tries.iter().map(|t| (t.attempt, t)).collect();
        let mut unverified = BTreeSet::new();
        for (at, event) in history.timed() {
            match event {
                Event::Verify {
                    domain,
                    keep_yes,
                    keep_no,
                } => {
                    let policy = Policy {
                        since: at,
                        keep_yes: *keep_yes,
                        keep_no: *keep_no,
                    };
                    record.policies.insert(domain, policy);
                }
                Event::Asked {
                    recipient,
                    by,
                    answer,
                } => record.sayings.entry(recipient).or_default().push(Saying {
                    at,
                    by,
                    answer: *answer,
                    is_noted: !disturbances.cover(at),
                }),
                Event::Unverified { attempt } => {
                    unverified.insert(*attempt);
                }
                Event::Replied { attempt, .. } | Event::Closed { attempt, .. } => {
                    let Some(outcome) = outcome(event, unverified.contains(attempt)) else {
                        continue;
                    };
                    let Some(a_try) = tries.get(attempt) else {
                        continue;
                    };
                    let [recipient] = a_try.recipients else {
                        continue;
                    };
                    record.namings.push(Naming {
                        attempt: *attempt,
                        recipient,
                        node: a_try.node,
                        begun: begun.get(attempt).copied().unwrap_or(at),
                        ended: at,
                        outcome,
                    });
                }
                _ => {}
            }
        }
        record
    }

    fn judge(&self, naming: &Naming<'_>, tally: &mut Tally, broken: &mut Vec<String>) {
        let domain = domain_of(naming.recipient);
        let policy = self.policies.get(domain);
        let Some(policy) = policy.filter(|policy| naming.begun > policy.since) else {
            return;
        };
        let what = format!(
            "attempt {} to {} at {}",
            naming.attempt.0, naming.recipient, naming.node
        );
        let before = |saying: &&Saying<'_>| saying.at <= naming.ended;
        let sayings: Vec<&Saying<'_>> = self.sayings(naming.recipient).filter(before).collect();
        let last = |answer| sayings.iter().rfind(|saying| saying.answer == answer);
        let (last_no, last_yes) = (last(Answer::No), last(Answer::Yes));
        let no_may_count = last_no.is_some_and(|no| naming.begun <= no.at + policy.keep_no + NOTED);

        if naming.outcome == Outcome::Refused {
            tally.refused += 1;
            let yes_is_newer = last_yes.is_some_and(|yes| {
                yes.at + NOTED < naming.begun && last_no.is_none_or(|no| no.at < yes.at)
            });
            if !no_may_count || yes_is_newer {
                broken.push(format!("{what}: refused, and the primary did not say so"));
            }
        }

        let is_away = self.is_away(domain, naming.begun, naming.ended);
        if is_away && last_yes.is_none() && !no_may_count {
            tally.unknown_while_away += 1;
            // 421: the node itself goes away.
            let is_put_off = match naming.outcome {
                Outcome::Unverified | Outcome::PutOff(450 | 451 | 421) => true,
                Outcome::Taken | Outcome::Refused | Outcome::PutOff(_) => false,
            };
            if !is_put_off {
                broken.push(format!(
                    "{what}: nobody could say whether it is known, and it was {:?}",
                    naming.outcome
                ));
            }
        }

        let Some(yes) = self.known_yes(naming.recipient, naming.begun, naming.ended) else {
            return;
        };
        // It may not have heard of the yes.
        if self.is_disturbed(naming.node, naming.begun) {
            return;
        }
        let is_denied = matches!(naming.outcome, Outcome::Refused | Outcome::Unverified);
        let is_silent = is_away
            || sayings
                .iter()
                .any(|saying| saying.at >= naming.begun && saying.answer == Answer::Later);
        let why = if naming.ended < yes.at + policy.keep_yes {
            if is_away {
                tally.known_while_away += 1;
                "known, the primary is away"
            } else {
                tally.known_while_up += 1;
                "known, and the primary need not be asked"
            }
        } else if naming.begun > yes.at + policy.keep_yes + NOTED && is_silent {
            tally.refreshed_in_vain += 1;
            "known, and only asked about in vain"
        } else {
            return;
        };
        if is_denied {
            broken.push(format!("{what}: {why}, and it was {:?}", naming.outcome));
        }
    }

    fn asked_too_early(&self, recipient: &str, saying: &Saying<'_>) -> Option<String> {
        let policy = self.policies.get(domain_of(recipient))?;
        let yes = self.known_yes(recipient, saying.at, saying.at)?;
        let since = saying.at - yes.at;
        let is_early = since < policy.keep_yes && !self.is_disturbed(saying.by, saying.at);
        is_early.then(|| {
            format!(
                "{} asked about {recipient} {since:.0} s after a yes that counts for {:.0} s",
                saying.by, policy.keep_yes
            )
        })
    }

    /// The primary's last yes, if every node knows of it at `begun`, and there was no no until
    /// `ended`.
    fn known_yes(&self, recipient: &str, begun: f64, ended: f64) -> Option<&Saying<'a>> {
        let is_yes = |saying: &&Saying<'_>| {
            saying.answer == Answer::Yes && saying.is_noted && saying.at + NOTED < begun
        };
        let yes = self.sayings(recipient).rfind(is_yes)?;
        let is_no = |saying: &Saying<'_>| {
            saying.answer == Answer::No && (yes.at..=ended).contains(&saying.at)
        };
        (!self.sayings(recipient).any(is_no)).then_some(yes)
    }

    fn sayings(&self, recipient: &str) -> impl DoubleEndedIterator<Item = &Saying<'a>> {
        self.sayings.get(recipient).into_iter().flatten()
    }

    /// Whether the domain's primary was away all that time.
    fn is_away(&self, domain: &str, begun: f64, ended: f64) -> bool {
        let mut is_up = false;
        for (at, event) in self.history.timed() {
            let Event::Primary {
                domain: of,
                is_up: now,
            } = event
            else {
                continue;
            };
            if of != domain {
                continue;
            }
            if at > ended {
                break;
            }
            if at > begun && (is_up || *now) {
                return false;
            }
            is_up = *now;
        }
        !is_up
    }

    fn is_disturbed(&self, node: &str, at: f64) -> bool {
        self.history.disturbances_at(node).cover(at)
    }
}

/// None: it was not heard what became of the recipient.
fn outcome(event: &Event, unverified: bool) -> Option<Outcome> {
    match event {
        Event::Replied {
            stage: Stage::AfterTheDot,
            ..
        }
        | Event::Closed {
            stage: Stage::AfterTheDot,
            ..
        } => Some(Outcome::Taken),
        Event::Replied { code: 550, .. } => Some(Outcome::Refused),
        Event::Replied { .. } if unverified => Some(Outcome::Unverified),
        Event::Replied { code, .. } => Some(Outcome::PutOff(*code)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Fault;
    use crate::history::sketch::{asked, attempt, began, history, replied};

    const JOE: &str = "joe@example.test";
    const KEEP_YES: f64 = 40.0;
    const KEEP_NO: f64 = 20.0;

    /// A run of one event a second.
    #[derive(Clone, Default)]
    struct Story(Vec<Event>);

    impl Story {
        fn begins() -> Self {
            Self(vec![
                Event::Verify {
                    domain: "example.test".into(),
                    keep_yes: KEEP_YES,
                    keep_no: KEEP_NO,
                },
                primary(true),
            ])
        }

        fn then(mut self, event: Event) -> Self {
            self.0.push(event);
            self
        }

        fn wait(mut self, seconds: f64) -> Self {
            let note = Event::Note {
                text: "time passes".into(),
            };
            self.0.extend(vec![note; seconds as usize]);
            self
        }

        /// Somebody names joe, and hears that.
        fn named(self, code: u16) -> Self {
            let number = self.0.len() as u64;
            let reply = Event::Replied {
                attempt: AttemptId(number),
                stage: Stage::BeforeTheDot,
                code,
            };
            self.then(attempt(number, number, &[JOE])).then(reply)
        }

        fn named_unverified(self) -> Self {
            let number = self.0.len() as u64;
            let mut named = self.named(451);
            let attempt = AttemptId(number);
            named
                .0
                .insert(number as usize + 1, Event::Unverified { attempt });
            named
        }

        fn taken(self) -> Self {
            let number = self.0.len() as u64;
            self.then(attempt(number, number, &[JOE]))
                .then(replied(number, 250))
        }

        fn is_broken(&self) -> bool {
            matches!(check(&history(&self.0)), Verdict::Broken { .. })
        }

        fn tally(&self) -> Tally {
            assert!(!self.is_broken(), "{:?}", check(&history(&self.0)));
            tally(&history(&self.0))
        }
    }

    fn primary(is_up: bool) -> Event {
        Event::Primary {
            domain: "example.test".into(),
            is_up,
        }
    }

    fn known() -> Story {
        Story::begins().then(asked(JOE, Answer::Yes)).wait(NOTED)
    }

    #[test]
    fn a_refusal_without_a_no_that_counts_is_noticed() {
        let refused = |story: Story| story.named(550);
        assert!(refused(Story::begins()).is_broken(), "never asked");
        let later = Story::begins().then(asked(JOE, Answer::Later));
        assert!(refused(later).is_broken(), "no answer is no no");
        assert!(refused(known()).is_broken(), "it said yes");
        let no = Story::begins().then(asked(JOE, Answer::No));
        let over = no.clone().wait(KEEP_NO + 2.0 * NOTED);
        assert!(refused(over).is_broken(), "that was long ago");
        let changed = no.clone().then(asked(JOE, Answer::Yes)).wait(NOTED + 2.0);
        assert!(refused(changed).is_broken(), "it has him by now");
        let tally = refused(no).tally();
        assert_eq!(tally.refused, 1);
    }

    #[test]
    fn a_known_recipient_who_is_not_taken_while_the_primary_is_away_is_noticed() {
        let away = known().then(primary(false)).wait(2.0);
        assert!(away.clone().named(550).is_broken());
        assert!(away.clone().named_unverified().is_broken());
        assert_eq!(away.clone().taken().tally().known_while_away, 1);
        // For another reason.
        assert_eq!(away.clone().named(452).tally().known_while_away, 1);
    }

    #[test]
    fn a_question_in_the_time_of_a_yes_is_noticed() {
        let again = known().wait(2.0).then(asked(JOE, Answer::Yes));
        assert!(again.is_broken());
        let over = known().wait(KEEP_YES).then(asked(JOE, Answer::Yes));
        assert!(!over.is_broken());
        assert_eq!(known().wait(2.0).taken().tally().known_while_up, 1);
    }

    #[test]
    fn a_yes_that_is_lost_by_a_refresh_that_failed_is_noticed() {
        let stale = known().wait(KEEP_YES + NOTED);
        let away = stale.clone().then(primary(false)).wait(2.0);
        assert!(away.clone().named_unverified().is_broken());
        assert!(away.clone().named(550).is_broken());
        assert_eq!(away.taken().tally().refreshed_in_vain, 1);
        let mut deferred = stale.named_unverified();
        let asking = deferred.0.len() - 2;
        deferred.0.insert(asking, asked(JOE, Answer::Later));
        assert!(deferred.is_broken());
    }

    #[test]
    fn an_unknown_recipient_who_is_taken_or_refused_while_the_primary_is_away_is_noticed() {
        let away = Story::begins().then(primary(false)).wait(2.0);
        assert!(away.clone().taken().is_broken());
        assert!(away.clone().named(550).is_broken());
        assert!(away.clone().named(452).is_broken());
        let tally = away.named(451).named_unverified().tally();
        assert_eq!(tally.unknown_while_away, 2);
    }

    #[test]
    fn what_a_fault_kept_from_being_noted_may_be_forgotten() {
        let forgotten = |story: Story| story.then(primary(false)).wait(2.0).named_unverified();
        let unsure = Story::begins()
            .then(began(Fault::Kill))
            .then(asked(JOE, Answer::Yes));
        assert!(!forgotten(unsure.wait(NOTED + 2.0)).is_broken());
        // The node that is asked comes back, and has not heard of it.
        let back = known().wait(20.0).then(began(Fault::Kill));
        assert!(!forgotten(back).is_broken());
    }

    #[test]
    fn a_domain_that_takes_anybody_says_nothing() {
        let mut story = known().then(primary(false)).taken();
        story.0.remove(0);
        assert_eq!(check(&history(&story.0)), Verdict::Unknown);
    }
}
