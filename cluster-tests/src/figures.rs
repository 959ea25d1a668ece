//! What a run came to, in numbers: one line for the soak's report.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::history::{Event, Fault, History};
use crate::invariants::{Report, Verdict};

/// Names the file that the next judgement appends its figures to.
pub const FIGURES_VARIABLE: &str = "HOLDFAST_TEST_FIGURES";

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Figures {
    pub seed: u64,
    pub acknowledged: usize,
    pub delivered: usize,
    /// By name, how often each began.
    pub faults: BTreeMap<String, usize>,
    /// Copies that users saw twice, all with a cause.
    pub duplicates: usize,
    /// Pairs of replicas that were compared at the same entry.
    pub states_compared: usize,
    /// By fault: seconds from it, or its end, to the next 250 for a message that was begun after
    /// it.
    pub recoveries: BTreeMap<String, Vec<f64>>,
    /// Rules that were broken, with what they say.
    pub broken: Vec<String>,
}

impl Figures {
    #[must_use]
    pub fn of(seed: u64, history: &History, report: &Report) -> Self {
        let mut figures = Self {
            seed,
            acknowledged: history.acknowledged(),
            delivered: history.deliveries().len(),
            ..Self::default()
        };
        for (fault, count) in history.faults() {
            figures.faults.insert(name(fault), count);
        }
        for (rule, verdict) in &report.0 {
            match verdict {
                Verdict::Noted { what, .. } if *rule == "duplicates" => {
                    figures.duplicates = what.len();
                }
                Verdict::Holds { tried } if *rule == "replicas disagree" => {
                    figures.states_compared = *tried;
                }
                Verdict::Broken { how } => {
                    let first = how.first().map(String::as_str).unwrap_or_default();
                    let count = how.len();
                    figures
                        .broken
                        .push(format!("{rule}: {count} times, first: {first}"));
                }
                _ => {}
            }
        }
        for event in &history.events {
            if let Event::Recovered { from, seconds } = event {
                let times = figures.recoveries.entry(name(*from)).or_default();
                times.push(*seconds);
            }
        }
        figures
    }

    /// Appends a line to the file that the environment names, if it names one.
    ///
    /// # Panics
    /// If it cannot: a soak without figures is none.
    pub fn leave(&self) {
        let Some(file) = std::env::var_os(FIGURES_VARIABLE).map(PathBuf::from) else {
            return;
        };
        let line = serde_json::to_string(self).expect("figures are JSON") + "\n";
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&file)
            .and_then(|mut file| std::io::Write::write_all(&mut file, line.as_bytes()))
            .expect("a file for figures");
    }

    /// These and those together.
    pub fn add(&mut self, other: &Self) {
        self.acknowledged += other.acknowledged;
        self.delivered += other.delivered;
        self.duplicates += other.duplicates;
        self.states_compared += other.states_compared;
        for (fault, count) in &other.faults {
            *self.faults.entry(fault.clone()).or_default() += count;
        }
        for (fault, times) in &other.recoveries {
            let known = self.recoveries.entry(fault.clone()).or_default();
            known.extend(times);
        }
        self.broken.extend(other.broken.iter().cloned());
    }
}

/// The time that so many percent of them did not exceed; 0 where there are none.
#[must_use]
pub fn percentile(times: &[f64], percent: usize) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    let at = (sorted.len() * percent / 100).min(last);
    sorted.get(at).copied().unwrap_or_default()
}

fn name(fault: Fault) -> String {
    format!("{fault:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::sketch::{attempt, began, delivered, history, replied};
    use crate::invariants::check;

    const TO: &[&str] = &["a@example.test"];

    #[test]
    fn a_run_is_counted_and_two_are_added() {
        let run = history(&[
            attempt(1, 1, TO),
            replied(1, 250),
            began(Fault::Kill),
            Event::Recovered {
                from: Fault::Kill,
                seconds: 2.0,
            },
            delivered(1, TO),
            delivered(1, TO),
        ]);
        let mut figures = Figures::of(7, &run, &check(&run));
        assert_eq!((figures.acknowledged, figures.delivered), (1, 2));
        assert_eq!(figures.duplicates, 1);
        figures.add(&figures.clone());
        assert_eq!(figures.faults["Kill"], 2);
        assert_eq!(figures.recoveries["Kill"], [2.0, 2.0]);
        assert_eq!(percentile(&[3.0, 1.0, 2.0], 50), 2.0);
        assert_eq!(percentile(&[3.0, 1.0, 2.0], 99), 3.0);
        assert_eq!(percentile(&[], 50), 0.0);
    }

    #[test]
    fn what_was_broken_is_told() {
        let run = history(&[attempt(1, 1, TO), replied(1, 250)]);
        let figures = Figures::of(7, &run, &check(&run));
        assert!(figures.broken[0].starts_with("acknowledged mail lost: 1 times"));
    }
}
