//! Record and Settle: what became of delivery attempts.
//!
//! Fenced by the lease's epoch. Outcomes of what is already settled are passed over, so a
//! batch repeated because its reply was lost does no harm; the primary got those messages, and
//! nothing here could take them back.
//!
//! Settle judges refusals (see [`crate::probation`]); Record, which older versions wrote, keeps
//! all mail that was refused.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_mail::dsn::Kind;
use holdfast_mail::{Domain, MessageId, NodeId, Timestamp, mutant};
use holdfast_proto::ledger as proto;

use super::counts::{self, Change};
use super::owe::{self, owe};
use super::place::{Left, Place, answer, set_answer, shortened};
use super::usage::Fate;
use super::{Logged, lease, refuse};
use crate::policy::Probation;
use crate::probation::{Before, Health, Judgement, judge};
use crate::{Effect, Kv, KvError, Outcome, Refusal, Reply, Seq, Verdict, query, row, tables};

/// What a refusal is worth.
pub(super) enum Refusals {
    /// All that was refused is kept.
    Kept,
    Judged,
}

/// The bench that judges the refusals of one entry.
struct Bench {
    seq: Seq,
    probation: Probation,
    health: Health,
    remote: String,
}

pub(super) fn record(
    kv: &mut dyn Kv,
    when: Logged,
    seq: Seq,
    (domain, node, epoch): (&Domain, NodeId, u64),
    outcomes: &[Outcome],
    refusals: &Refusals,
    effects: &mut Vec<Effect>,
) -> Result<Reply, KvError> {
    if lease::held_by(kv, domain, node, epoch)?.is_none() {
        return refuse(Refusal::Fenced);
    }
    let mut bench = match refusals {
        Refusals::Kept => None,
        Refusals::Judged => Some(Bench::open(kv, when, seq, domain, outcomes)?),
    };
    let mut by_message: BTreeMap<MessageId, Vec<&Outcome>> = BTreeMap::new();
    for outcome in outcomes {
        by_message.entry(outcome.message).or_default().push(outcome);
    }
    let (mut in_domain, mut total) = (Change::default(), Change::default());
    let mut went = Vec::new();
    for (id, outcomes) in by_message {
        let left = settle(kv, when, domain, id, &outcomes, bench.as_mut(), effects)?;
        if let Some(len) = left.domain.message() {
            let is_delivered = outcomes.iter().any(|o| o.verdict == Verdict::Delivered);
            let fate = if is_delivered {
                Fate::Delivered
            } else {
                Fate::Returned
            };
            went.push((fate, len));
        }
        in_domain.take(left.domain);
        total.take(left.cluster);
        if mutant("counts-freed-twice") {
            total.take(left.cluster);
        }
    }
    counts::change_domain(kv, when, domain, in_domain, &went)?;
    counts::change(kv, tables::TOTAL, total)?;
    if let Some(bench) = bench {
        bench.close(kv, domain)?;
    }
    Ok(Reply::Done)
}

impl Bench {
    /// What the primary took counts before what it refused is judged.
    fn open(
        kv: &dyn Kv,
        when: Logged,
        seq: Seq,
        domain: &Domain,
        outcomes: &[Outcome],
    ) -> Result<Self, KvError> {
        let mut health = query::health(kv, domain)?;
        let taken = outcomes.iter().filter(|o| o.verdict == Verdict::Delivered);
        let taken = taken.count() as u64;
        if taken > 0 {
            health.took(when.at, taken);
        }
        Ok(Self {
            seq,
            // A stranger's server was not away: it means what it says, and who sent the mail is
            // to hear of it.
            probation: match query::is_strangers(kv, domain)? {
                true => Probation::For(Duration::ZERO),
                false => query::policy(kv, domain)?.probation,
            },
            health,
            remote: query::domain(kv, domain)?.map_or(String::new(), |d| d.primary.host),
        })
    }

    fn close(self, kv: &mut dyn Kv, domain: &Domain) -> Result<(), KvError> {
        // What has no record is forgotten with its last message.
        if !row::exists(kv, &tables::counts(domain))? && !row::exists(kv, &tables::domain(domain))?
        {
            kv.delete(&tables::health(domain));
        } else if self.health != query::health(kv, domain)? {
            let health = proto::HealthRow {
                since_ms: self.health.since.0,
                last_ms: self.health.last.0,
                taken: self.health.taken,
                refused: self.health.refused,
            };
            row::put(kv, &tables::health(domain), &health);
        }
        Ok(())
    }
}

/// Settles one message in one domain.
fn settle(
    kv: &mut dyn Kv,
    when: Logged,
    domain: &Domain,
    id: MessageId,
    outcomes: &[&Outcome],
    bench: Option<&mut Bench>,
    effects: &mut Vec<Effect>,
) -> Result<Left, KvError> {
    let Some(mut place) = Place::find(kv, domain, id)? else {
        return Ok(Left::default());
    };
    let attempts = place.held.attempts.saturating_add(1);
    let mut failed = Vec::new();
    let mut late = Vec::new();
    let mut answered = false;
    let mut bench = bench;
    for outcome in outcomes {
        let Some(at) = place
            .held
            .recipients
            .iter()
            .position(|recipient| *recipient == outcome.recipient)
        else {
            if outcome.verdict == Verdict::Delivered {
                // It was under way when somebody set it aside.
                let aside = &mut place.aside.recipients;
                answered |= aside.contains(&outcome.recipient);
                aside.retain(|recipient| *recipient != outcome.recipient);
                late.push(outcome.recipient);
            }
            continue;
        };
        answered = true;
        let reply = shortened(&outcome.reply);
        let before = answer(&place.held, outcome.recipient);
        let now = proto::Answer {
            recipient: outcome.recipient,
            reply: reply.clone(),
            at_ms: when.at.0,
            ..before
        };
        match outcome.verdict {
            Verdict::Deferred => {
                place.held.last_reply = reply;
                if bench.is_some() {
                    set_answer(&mut place.held, now);
                }
            }
            Verdict::Delivered => {
                place.held.recipients.remove(at);
            }
            Verdict::Refused if mutant("refused-mail-is-dropped") => {
                place.held.recipients.remove(at);
            }
            Verdict::Refused => {
                place.held.recipients.remove(at);
                place.refused.attempts = attempts;
                match bench.as_deref_mut() {
                    None => {
                        place.refused.recipients.push(outcome.recipient);
                        place.refused.recipients.sort_unstable();
                        place.refused.last_reply = reply;
                    }
                    Some(bench) => match bench.judge(when, &now) {
                        Judgement::Believed => failed.push(proto::OwedRecipient {
                            recipient: outcome.recipient,
                            why: proto::OwedWhy::Refused.into(),
                            reply,
                            at_ms: when.at.0,
                            remote: bench.remote.clone(),
                        }),
                        Judgement::Kept { retry_at } => place.refuse(
                            proto::Answer {
                                refusals: now.refusals.saturating_add(1),
                                first_refused_ms: if now.refusals == 0 {
                                    when.at.0
                                } else {
                                    now.first_refused_ms
                                },
                                ..now
                            },
                            retry_at,
                        ),
                    },
                }
            }
        }
    }
    // Delivered after all, while it was being given up: whoever was not told yet never is.
    let withdrawn = bench.is_some()
        && !late.is_empty()
        && owe::withdraw(kv, &place.envelope, Kind::Failed, &late)?;
    if !answered {
        return if withdrawn {
            release(kv, when, &place, effects)
        } else {
            Ok(Left::default())
        };
    }
    if !place.held.recipients.is_empty() {
        place.held.attempts = attempts;
    }
    if let Some(bench) = bench {
        if place.held.delay_told {
            let settled: Vec<u32> = outcomes
                .iter()
                .filter(|outcome| outcome.verdict == Verdict::Delivered)
                .map(|outcome| outcome.recipient)
                .collect();
            owe::withdraw(kv, &place.envelope, Kind::Delayed, &settled)?;
        }
        owe(
            kv,
            bench.seq,
            &place.envelope,
            Kind::Failed,
            failed,
            when.at,
            effects,
        )?;
    }
    place.put(kv, when, effects)
}

/// Nothing is queued here, and something owed went.
fn release(
    kv: &mut dyn Kv,
    when: Logged,
    place: &Place<'_>,
    effects: &mut Vec<Effect>,
) -> Result<Left, KvError> {
    let mut left = Left::default();
    if super::place::let_go(kv, when, &place.envelope, place.seq, effects)? {
        left.cluster = Change::one_message(place.envelope.body.len);
    }
    Ok(left)
}

impl Bench {
    fn judge(&mut self, when: Logged, answer: &proto::Answer) -> Judgement {
        let before = Before {
            refusals: answer.refusals,
            first: Timestamp(answer.first_refused_ms),
        };
        self.health.refused = self.health.refused.saturating_add(1);
        judge(self.probation, self.health, before, when.at)
    }
}
