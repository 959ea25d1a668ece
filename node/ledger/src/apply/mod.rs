//! How the state changes: one file for each verb.

mod accept;
mod access;
mod account;
mod acme;
mod attend;
mod audit;
mod authority;
mod cancel;
mod counts;
mod dispose;
mod domain;
mod drill;
mod duty;
mod flush;
mod known;
mod lease;
mod lost;
mod mark;
mod member;
mod observe;
mod owe;
mod place;
mod plan;
mod post;
mod recipients;
mod record;
mod report;
mod review;
mod sign_in;
mod submit;
mod sweep;
mod take;
mod usage;

use accept::By;
pub use attend::ATTEND_TTL_MAX;
pub use dispose::{DISPOSE_MAX, UNDELETE_TIME};
pub use known::{KNOWN_MAX, SWEEP_KNOWN_MAX};
pub(crate) use lost::give_up;
pub(crate) use mark::is_stale;
pub use observe::SEEN_MAX;
pub use recipients::{RECIPIENTS_MAX, RECIPIENTS_PER_COMMAND_MAX};
pub use report::REPORT_KEPT;
pub use review::REVIEW_MAX;
pub use submit::SENT_PERIOD;
pub(crate) use take::take_over;
pub use usage::SWEEP_USAGE_MAX;

use std::time::Duration;

use holdfast_mail::{Timestamp, mutant};
use holdfast_proto::ledger as proto;

use crate::{Batch, Command, Effect, Kv, KvError, Refusal, Reply, Seq, query, row, tables};

/// The version of the stored rows. State written by a newer one is not touched.
pub const FORMAT: u32 = 1;

/// How long the ledger remembers that an id was cancelled or completed, counted from the id's
/// own time; an Accept of anything older is refused. Longer than any proposal or SMTP
/// transaction is retried under the same id.
pub const MARK_KEPT: Duration = Duration::from_secs(24 * 3600);

/// Marks that one Sweep forgets, so that it does not delay the Accepts behind it.
pub const SWEEP_MARKS_MAX: usize = 2_000;

/// Open invitations, so that one Sweep can look at all of them.
pub const TOKENS_MAX: usize = 1_000;

/// The longest a lease is granted for at once. Delivery outlasts it by renewal; a node that
/// died delays its domains no longer than this.
pub const LEASE_TTL_MAX: Duration = Duration::from_secs(15 * 60);

/// What is kept of a primary's answer, octets: one reply line of RFC 5321 section 4.5.3.1.5.
pub const REPLY_TEXT_OCTETS_MAX: usize = 512;

/// Octets of a body, 1 TiB: far beyond what SMTP carries, and small enough that sums of them
/// cannot overflow. Without it one absurd length could break the counts, and so every replica.
pub const BODY_OCTETS_MAX: u64 = 1 << 40;

/// Commands that one entry can carry: the place within the entry has 16 bits in a [`Seq`].
pub const COMMANDS_PER_BATCH_MAX: usize = 1 << 16;

/// Where and when in the log a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logged {
    pub index: u64,
    /// In its batch, from 0.
    pub position: u32,
    /// The logged time.
    pub at: Timestamp,
}

impl Logged {
    /// On to the next place. An entry has 2^16 of them, and then comes the next one: two commands at
    /// one place would overwrite each other's rows.
    pub(crate) fn step(&mut self) {
        match u16::try_from(self.position + 1) {
            Ok(position) => self.position = position.into(),
            Err(_) => (self.index, self.position) = (self.index + 1, 0),
        }
    }
}

/// Applies one entry of the log. Logged time never goes back: a proposer whose clock is behind
/// gets the time of the entries before it.
pub fn apply_batch(
    kv: &mut dyn Kv,
    index: u64,
    batch: &Batch,
    effects: &mut Vec<Effect>,
) -> Result<Vec<Reply>, KvError> {
    let at = advance(kv, batch.at)?;
    (0..)
        .zip(&batch.commands)
        .map(|(position, command)| {
            let when = Logged {
                index,
                position,
                at,
            };
            apply(kv, when, command, effects)
        })
        .collect()
}

/// Applies one command. Total: what cannot be done is a [`Reply::Refused`] that changed
/// nothing; `Err` means that the state could not be read, and that the caller must throw away
/// whatever the batch has written.
pub fn apply(
    kv: &mut dyn Kv,
    when: Logged,
    command: &Command,
    effects: &mut Vec<Effect>,
) -> Result<Reply, KvError> {
    // Past the last place two commands would share a Seq. Which entries are too long is the
    // proposer's affair; here it must be harmless.
    let Ok(position) = u16::try_from(when.position) else {
        return Ok(Reply::Refused(Refusal::TryAgain));
    };
    let seq = Seq::new(when.index, position);
    // A By is judged by what it carries, when that is applied; and the other is how the level rises.
    let judged = !matches!(command, Command::By { .. } | Command::RaiseLevel { .. });
    if judged && command.level() > 1 && command.level() > query::level(kv)? {
        return refuse(Refusal::NotFinalized);
    }
    match command {
        Command::Accept { envelope } => {
            accept::accept(kv, when, seq, envelope, By::Anybody, effects)
        }
        Command::Submit { account, envelope } => {
            accept::accept(kv, when, seq, envelope, By::Account(account), effects)
        }
        Command::Cancel { message } => cancel::cancel(kv, when, *message, effects),
        Command::SetDomain {
            domain,
            primary,
            must_be_new,
            must_exist,
        } => domain::set(
            kv,
            when,
            domain,
            primary,
            *must_be_new,
            *must_exist,
            effects,
        ),
        Command::RemoveDomain { domain } => domain::remove(kv, when, domain, effects),
        Command::Bootstrap {
            cluster_id,
            ca_certificate,
            ca_key,
            first,
            level,
        } => {
            let ca = (&ca_certificate[..], &ca_key[..]);
            member::bootstrap(kv, cluster_id, ca, first, *level, effects)
        }
        Command::Invite {
            token_id,
            secret_hash,
            expires_at,
        } => member::invite(kv, token_id, secret_hash, *expires_at),
        Command::Redeem {
            token_id,
            secret_hash,
            member,
        } => member::redeem(kv, when, token_id, secret_hash, member, effects),
        Command::RemoveMember { node } => member::remove(kv, when, *node, effects),
        Command::AcquireLease {
            domain,
            node,
            ttl_ms,
        } => lease::acquire(kv, when, seq, domain, *node, *ttl_ms, effects),
        Command::RenewLeases {
            node,
            leases,
            ttl_ms,
        } => lease::renew(kv, when, *node, leases, *ttl_ms),
        Command::ReleaseLease {
            domain,
            node,
            epoch,
        } => lease::release(kv, domain, *node, *epoch, effects),
        Command::Record {
            domain,
            node,
            epoch,
            outcomes,
        } => {
            let lease = (domain, *node, *epoch);
            let kept = record::Refusals::Kept;
            record::record(kv, when, seq, lease, outcomes, &kept, effects)
        }
        Command::Flush { domain, .. } => flush::flush(kv, domain, effects),
        Command::Sweep => sweep::sweep(kv, when),
        Command::Settle {
            domain,
            node,
            epoch,
            outcomes,
        } => {
            let lease = (domain, *node, *epoch);
            let judged = record::Refusals::Judged;
            record::record(kv, when, seq, lease, outcomes, &judged, effects)
        }
        Command::TakePost {
            node,
            ttl_ms,
            epoch,
        } => post::take(kv, when, seq, *node, *ttl_ms, *epoch),
        Command::Report {
            node,
            epoch,
            about,
            kind,
            version,
            envelope,
        } => {
            let about = report::About {
                message: *about,
                kind: *kind,
                version: *version,
            };
            report::report(kv, when, seq, (*node, *epoch), &about, envelope, effects)
        }
        Command::SettleReports {
            node,
            epoch,
            outcomes,
        } => report::settle(kv, when, (*node, *epoch), outcomes, effects),
        Command::Dispose {
            domain,
            how,
            messages,
            held,
            by,
        } => {
            let order = dispose::Order {
                how: *how,
                messages,
                held: *held,
                by,
            };
            dispose::dispose(kv, when, seq, domain, &order, effects)
        }
        Command::Review { domain, seqs } => review::review(kv, when, seq, domain, seqs, effects),
        Command::SetRecipients {
            domain,
            add,
            remove,
            clear,
        } => recipients::set(kv, when, domain, add, remove, *clear),
        Command::SetPolicy { domain, change } => domain::set_policy(kv, domain, *change, effects),
        Command::Learn {
            domain,
            name,
            node,
            takes,
            reply,
        } => {
            let answer = proto::KnownRow {
                takes: *takes,
                at_ms: when.at.0,
                reply: reply.clone(),
                node: node.0,
            };
            known::learn(kv, when, domain, name, answer)
        }
        Command::Unlearn { domain, names } => known::unlearn(kv, domain, names),
        Command::SetPlan {
            name,
            change,
            must_be_new,
            must_exist,
        } => plan::set(kv, when, name, change, *must_be_new, *must_exist),
        Command::RemovePlan { name } => plan::remove(kv, when, name),
        Command::Subscribe {
            domain,
            plan,
            extra_steps,
            follow,
        } => {
            let order = plan::Order {
                plan: plan.as_deref(),
                extra_steps: *extra_steps,
                follow: *follow,
            };
            plan::subscribe(kv, when, domain, &order, effects)
        }
        Command::Observe { node, seen } => observe::observe(kv, when, *node, seen),
        Command::SetRoute { domain, route } => domain::set_route(kv, domain, route, effects),
        Command::SetAskers { domain, askers } => flush::set_askers(kv, domain, askers),
        Command::OfAccount { name, change } => account::change(kv, when, name, change),
        Command::Attend {
            domain,
            session,
            account,
            to,
            over,
            ttl_ms,
        } => {
            let who = (session, account.as_str());
            let place = (*to, *over);
            attend::attend(kv, when, domain, who, place, *ttl_ms, effects)
        }
        Command::Leave { domain, session } => attend::leave(kv, domain, session, effects),
        Command::BeginDrill { id, plan } => drill::begin(kv, when, *id, plan, effects),
        Command::TellDrill { id, event } => drill::tell(kv, *id, event, effects),
        Command::EndDrill { id, report } => drill::end(kv, *id, report, effects),
        Command::ScheduleDrill { name, schedule } => {
            drill::schedule(kv, name, schedule.as_ref(), effects)
        }
        Command::OfferAuthority {
            authority,
            certificate,
            key,
            cross,
        } => {
            let offer = proto::OfferAuthority {
                authority: authority.to_vec().into(),
                certificate: certificate.clone().into(),
                key: key.clone().into(),
                cross: cross.clone().into(),
            };
            authority::offer(kv, when, offer)
        }
        Command::RetireAuthority { authority } => authority::retire(kv, authority),
        Command::TrustAuthority {
            node,
            authority,
            used,
        } => authority::trust(kv, *node, authority, *used),
        Command::Grant {
            name,
            role,
            certificate,
            authority,
            expires_at,
        } => {
            let grant = proto::GrantRow {
                role: role.to_proto().into(),
                certificate: certificate.to_vec().into(),
                authority: authority.to_vec().into(),
                granted_at_ms: when.at.0,
                expires_at_ms: expires_at.0,
            };
            access::grant(kv, name, &grant)
        }
        Command::Revoke { name } => access::revoke(kv, name),
        Command::Acme { change } => acme::change(kv, when, change),
        Command::Note => Ok(Reply::Done),
        Command::SetDrained { node, drained } => {
            duty::set_drained(kv, when, *node, *drained, effects)
        }
        Command::RaiseLevel { level, members } => duty::raise_level(kv, *level, members),
        Command::By {
            who,
            from,
            says,
            command,
        } => {
            let person = audit::Person { who, from, says };
            audit::by(kv, when, seq, &person, command, effects)
        }
    }
}

/// Moves the logged time on to `at`, unless it is there already.
fn advance(kv: &mut dyn Kv, at: Timestamp) -> Result<Timestamp, KvError> {
    let clock: Option<proto::ClockRow> = row::get(kv, tables::CLOCK)?;
    if let Some(clock) = &clock {
        if clock.format > FORMAT {
            return Err(KvError(format!(
                "it has format {}, and this version reads formats up to {FORMAT}; nothing was \
                 changed; run the version that wrote it, or a newer one",
                clock.format
            )));
        }
        if clock.at_ms >= at.0 && !mutant("time-runs-back") {
            return Ok(Timestamp(clock.at_ms));
        }
    }
    let moved = proto::ClockRow {
        format: FORMAT,
        at_ms: at.0,
    };
    row::put(kv, tables::CLOCK, &moved);
    Ok(at)
}

fn refuse(refusal: Refusal) -> Result<Reply, KvError> {
    Ok(Reply::Refused(refusal))
}
