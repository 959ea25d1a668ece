//! The replicated state machine: what the cluster knows, and how each logged command changes it.
//!
//! Floor 1, pure: no clock, no randomness, no socket, no storage engine. Every replica applies
//! the same log to the same rows and must arrive at the same bytes, so the only time here is
//! the logged time, and nothing iterates over a hash map.
//!
//! Three rules carry the crate:
//!
//! - **A refusal is a reply.** [`apply`] answers every command; `Err` means that the rows could
//!   not be read, and then what the batch wrote so far must be thrown away and the node stop.
//! - **A refused command changes nothing.** Each verb looks first and puts afterwards.
//! - **State is the truth, effects are hints.** Whoever misses an [`Effect`] finds the same work
//!   by asking [`query`].
//!
//! Read on in [`command`] (what can be asked), `tables` (where it is kept), and `apply/`, one
//! file for each verb.

mod access;
pub mod account;
pub mod acme;
pub mod anew;
mod apply;
mod askers;
pub mod command;
pub mod drill;
mod effect;
mod host;
mod known;
mod kv;
pub mod level;
mod plan;
mod policy;
mod probation;
pub mod query;
mod reply;
mod route;
mod row;
mod tables;
mod usage;
mod wire;

pub use access::{GRANTS_MAX, PERSON_NAME_OCTETS_MAX, Role, is_person_name};
pub use apply::{
    ATTEND_TTL_MAX, BODY_OCTETS_MAX, COMMANDS_PER_BATCH_MAX, DISPOSE_MAX, FORMAT, KNOWN_MAX,
    LEASE_TTL_MAX, Logged, MARK_KEPT, RECIPIENTS_MAX, RECIPIENTS_PER_COMMAND_MAX,
    REPLY_TEXT_OCTETS_MAX, REPORT_KEPT, REVIEW_MAX, SEEN_MAX, SENT_PERIOD, SWEEP_KNOWN_MAX,
    SWEEP_MARKS_MAX, SWEEP_USAGE_MAX, TOKENS_MAX, UNDELETE_TIME, apply, apply_batch,
};
pub use askers::{Askers, NETWORKS_MAX};
pub use command::{
    Batch, Command, Disposal, Member, Outcome, Primary, ReportFate, ReportOutcome, Seen, Verdict,
};
pub use effect::Effect;
pub use host::HOSTS_MAX;
pub use known::{Known, Standing};
pub use kv::{Kv, KvError, KvRead, MemoryKv, Row};
pub use plan::{
    EXTRA_STEPS_MAX, PLAN_NAME_OCTETS_MAX, PLANS_MAX, PRICE_MAX, Plan, PlanChange, QUOTA_OCTETS_MAX,
};
pub use policy::{Policy, PolicyChange, Probation};
pub use probation::{Doubt, Health, PROOF_KEPT, doubt};
pub use reply::{Refusal, Replies, Reply};
pub use route::{LOGIN_OCTETS_MAX, Route, RouteTls};
pub use usage::{Amount, Bill, Month, USAGE_MONTHS, Usage};
pub use wire::Undecodable;

use std::fmt;

/// The order of acceptance: log index, then the place within the entry. Also the epoch of a
/// lease, for the same reason: no two commands ever have the same one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

impl Seq {
    /// 48 bits of index are enough for eight centuries of ten thousand entries a second.
    #[must_use]
    pub fn new(index: u64, position: u16) -> Self {
        Self(index << 16 | u64::from(position))
    }

    #[must_use]
    pub fn index(self) -> u64 {
        self.0 >> 16
    }
}

/// `index.position`
impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 >> 16, self.0 & 0xffff)
    }
}
