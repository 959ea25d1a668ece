//! What is known of a recipient because the primary was asked.

use std::time::Duration;

use holdfast_mail::{NodeId, Timestamp};
use holdfast_proto::ledger as proto;

use crate::Policy;

/// How long a yes counts for at least while it cannot be asked for again: no primary is down for
/// longer, even where mail is held without end.
const YES_KEPT: Duration = Duration::from_secs(366 * 24 * 3600);

/// What the primary said of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// It takes mail for it.
    pub takes: bool,
    pub at: Timestamp,
    /// In its words.
    pub reply: String,
    /// Which node asked.
    pub node: NodeId,
}

/// What to do with a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Taken,
    Refused,
    /// Ask the primary; if it does not say, take it.
    TakenUnlessRefused,
    /// Ask the primary; nothing is known.
    Unknown,
}

impl Known {
    pub(crate) fn from_row(row: proto::KnownRow) -> Self {
        Self {
            takes: row.takes,
            at: Timestamp(row.at_ms),
            reply: row.reply,
            node: NodeId(row.node),
        }
    }

    /// A yes that the primary cannot be asked to repeat goes on to count: a question that is not
    /// answered says nothing about the recipient.
    #[must_use]
    pub fn standing(&self, policy: &Policy, now: Timestamp) -> Standing {
        let fresh = self
            .at
            .plus(if self.takes { policy.yes } else { policy.no })
            > now;
        match (self.takes, fresh) {
            (true, true) => Standing::Taken,
            (false, true) => Standing::Refused,
            (true, false) if !self.is_useless(policy, now) => Standing::TakenUnlessRefused,
            _ => Standing::Unknown,
        }
    }

    /// Nothing depends on it any more.
    pub(crate) fn is_useless(&self, policy: &Policy, now: Timestamp) -> bool {
        let kept = if self.takes {
            policy.yes.max(YES_KEPT)
        } else {
            policy.no
        };
        self.at.plus(kept) <= now
    }
}
