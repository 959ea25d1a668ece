//! The rules. Each is a function of a history and lives in a file of its own name.
//!
//! | Rule | What a customer would say |
//! |---|---|
//! | [`acknowledged_mail_lost`] | you said 250, and it never came |
//! | [`unexpected_mail`] | nobody sent this |
//! | [`bytes_changed`] | this is not what was sent |
//! | [`delivered_to_someone_else`] | this was not for him |
//! | [`delivered_although_refused`] | you said 451, and it came all the same |
//! | [`envelope_changed`] | this is not what the sender said of it |
//! | [`acknowledged_by_a_minority`] | you said 250 without a quorum |
//! | [`acknowledged_before_the_sync`] | you said 250, and the power went |
//! | [`two_lease_holders`] | two of you deliver my mail at once |
//! | [`replicas_disagree`] | which of your nodes is right? |
//! | [`quota_not_exact`] | you hold more than I pay for, or refused what I had room for |
//! | [`early_or_missing_bounce`] | my sender was told too early, or never |
//! | [`verdict_cache`] | you refused a user of mine, or took whom nobody could vouch for |
//! | [`refused_for_good`] | you told my sender to give up |
//! | [`duplicates_without_cause`] | it came twice, and nothing had happened |
//! | [`duplicates`] | it came twice |

pub mod acknowledged_before_the_sync;
pub mod acknowledged_by_a_minority;
pub mod acknowledged_mail_lost;
pub mod bytes_changed;
pub mod delivered_although_refused;
pub mod delivered_to_someone_else;
pub mod duplicates;
pub mod duplicates_without_cause;
pub mod early_or_missing_bounce;
pub mod envelope_changed;
pub mod quota_not_exact;
pub mod refused_for_good;
pub mod replicas_disagree;
pub mod two_lease_holders;
pub mod unexpected_mail;
pub mod verdict_cache;

use std::fmt;

use crate::history::History;

/// What a rule says of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing broke the rule, and this many times something could have.
    Holds {
        tried: usize,
    },
    /// Nothing could have broken it: the run says nothing about the rule.
    Unknown,
    /// Lawful, but somebody should know.
    Noted {
        tried: usize,
        what: Vec<String>,
    },
    Broken {
        how: Vec<String>,
    },
}

impl Verdict {
    /// The verdict on `tried` cases of which `broken` broke the rule.
    fn of(tried: usize, broken: Vec<String>) -> Self {
        match (tried, broken.is_empty()) {
            (_, false) => Self::Broken { how: broken },
            (0, true) => Self::Unknown,
            (tried, true) => Self::Holds { tried },
        }
    }
}

pub type Rule = fn(&History) -> Verdict;

/// Every rule with its name.
pub const RULES: &[(&str, Rule)] = &[
    ("acknowledged mail lost", acknowledged_mail_lost::check),
    ("unexpected mail", unexpected_mail::check),
    ("bytes changed", bytes_changed::check),
    (
        "delivered to someone else",
        delivered_to_someone_else::check,
    ),
    (
        "delivered although refused",
        delivered_although_refused::check,
    ),
    ("envelope changed", envelope_changed::check),
    (
        "acknowledged by a minority",
        acknowledged_by_a_minority::check,
    ),
    (
        "acknowledged before the sync",
        acknowledged_before_the_sync::check,
    ),
    ("two lease holders", two_lease_holders::check),
    ("replicas disagree", replicas_disagree::check),
    ("quota not exact", quota_not_exact::check),
    ("early or missing bounce", early_or_missing_bounce::check),
    ("verdict cache", verdict_cache::check),
    ("refused for good", refused_for_good::check),
    ("duplicates without cause", duplicates_without_cause::check),
    ("duplicates", duplicates::check),
];

/// All verdicts on one history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report(pub Vec<(&'static str, Verdict)>);

/// Holds a history against every rule. It must be complete: what was acknowledged has had its
/// time to be delivered.
#[must_use]
pub fn check(history: &History) -> Report {
    Report(
        RULES
            .iter()
            .map(|(name, rule)| (*name, rule(history)))
            .collect(),
    )
}

impl Report {
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.0
            .iter()
            .any(|(_, verdict)| matches!(verdict, Verdict::Broken { .. }))
    }

    /// Whether the run could have broken the rule called `name`.
    #[must_use]
    pub fn is_tried(&self, name: &str) -> bool {
        self.0
            .iter()
            .any(|(known, verdict)| *known == name && *verdict != Verdict::Unknown)
    }
}

/// How many cases of one rule are shown.
const SHOWN_MAX: usize = 10;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, verdict) in &self.0 {
            let cases = match verdict {
                Verdict::Holds { tried } => {
                    writeln!(f, "  {name}: no, in {tried} cases")?;
                    continue;
                }
                Verdict::Unknown => {
                    writeln!(f, "  {name}: unknown, nothing was tried")?;
                    continue;
                }
                Verdict::Noted { tried, what } => {
                    writeln!(f, "  {name}: {} of {tried}, lawfully", what.len())?;
                    what
                }
                Verdict::Broken { how } => {
                    writeln!(f, "  {name}: BROKEN {} times", how.len())?;
                    how
                }
            };
            for case in cases.iter().take(SHOWN_MAX) {
                writeln!(f, "    {case}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Event;
    use crate::history::sketch::{attempt, delivered, history, replied};

    #[test]
    fn a_run_that_tried_nothing_passes_nothing() {
        let report = check(&history(&[]));
        assert!(!report.is_broken());
        for (name, _) in RULES {
            assert!(!report.is_tried(name), "{name}");
        }
    }

    #[test]
    fn a_good_run_breaks_nothing_and_says_what_it_tried() {
        let to = &["a@example.test"][..];
        let report = check(&history(&[
            attempt(1, 1, to),
            replied(1, 451),
            attempt(2, 1, to),
            replied(2, 250),
            delivered(2, to),
            Event::Confirmed { number: 2 },
        ]));
        assert!(!report.is_broken(), "{report}");
        let without_faults = [
            "acknowledged by a minority",
            "acknowledged before the sync",
            "two lease holders",
            "replicas disagree",
            "quota not exact",
            "early or missing bounce",
            "verdict cache",
        ];
        for (name, _) in RULES {
            let is_tried = !without_faults.contains(name);
            assert_eq!(report.is_tried(name), is_tried, "{name}\n{report}");
        }
    }
}
