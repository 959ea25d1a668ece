//! Feature levels: two versions of Holdfast run in one cluster while it is upgraded, and the newer one
//! says nothing yet that the older one does not understand.
//!
//! The cluster has a level, and every version knows the commands up to one of its own. A command
//! above the cluster's level is refused; `RaiseLevel` goes up once every member knows it, and it never
//! goes down. Level 1 is that of clusters without a row that says so.

use holdfast_mail::{Address, Envelope, ReversePath};

use crate::account::AccountChange;
use crate::{Command, Disposal, Undecodable};

/// The highest level that this version knows. A new cluster begins here. It goes up by one in each
/// version that adds a command, so that two versions in a row run together.
pub const NEWEST: u32 = 4;

/// Since which level the name of a node that was removed is kept: state that an older version would
/// not write is different on it.
pub(crate) const REMOVED_NAMES: u32 = 3;

/// Since which level failed sign-ins are counted for each network that they come from. Below it one
/// count decides for everybody, as an older version would.
pub(crate) const SIGN_INS_BY_NETWORK: u32 = 4;

/// Since which level the code that switched a second factor on is used up.
pub(crate) const CODES_STAY_USED: u32 = 4;

/// Since which level the names of a domain's list are counted and limited.
pub(crate) const LISTED_COUNTS: u32 = 4;

/// Since which level mail goes to the primary while somebody is signed in anywhere.
pub(crate) const AT_HOST: u32 = 4;

/// Since which level plans say how often a primary is looked at, and whether it is pinged: what has a
/// domain follow its plan clears that of its own policy, too, which an older version would keep.
pub(crate) const PLANS_WATCH: u32 = 4;

/// Since which level getting mail (ATRN) is a scope of tokens. Until then `deliver` is enough for it.
pub const FETCH_SCOPE: u32 = 4;

/// Since which level an address may have a local part that RFC 5321 does not know ([`Address::is_strict`]).
pub const LOOSE_ADDRESSES: u32 = 4;

/// Since which level sign-ins have a part of the audit of their own, and no account has more than its
/// share of either: an older version would forget other rows.
pub(crate) const AUDIT_SHARES: u32 = 4;

impl Command {
    /// Since which level it exists. A new command gets the level that the next release brings, never
    /// one that was released: versions of that level do not know it, and would stop.
    #[must_use]
    pub fn level(&self) -> u32 {
        match self {
            Self::Accept { envelope }
            | Self::Submit { envelope, .. }
            | Self::Report { envelope, .. } => of_envelope(envelope),
            Self::Cancel { .. }
            | Self::SetDomain { .. }
            | Self::RemoveDomain { .. }
            | Self::Bootstrap { .. }
            | Self::Invite { .. }
            | Self::Redeem { .. }
            | Self::RemoveMember { .. }
            | Self::AcquireLease { .. }
            | Self::RenewLeases { .. }
            | Self::ReleaseLease { .. }
            | Self::Record { .. }
            | Self::Flush { .. }
            | Self::Sweep
            | Self::Settle { .. }
            | Self::TakePost { .. }
            | Self::SettleReports { .. }
            | Self::Review { .. }
            | Self::SetRecipients { .. }
            | Self::Learn { .. }
            | Self::Unlearn { .. }
            | Self::RemovePlan { .. }
            | Self::Subscribe { .. }
            | Self::Observe { .. }
            | Self::SetRoute { .. }
            | Self::SetAskers { .. }
            | Self::Attend { .. }
            | Self::Leave { .. } => 1,
            // Who does not know a field does not keep it.
            Self::SetPolicy { change, .. } => match (change.at_host, change.ping.or(change.atrn)) {
                (Some(_), _) => AT_HOST,
                (None, Some(_)) => 3,
                (None, None) => 1,
            },
            Self::SetPlan { change, .. } => match (change.probe_ms, change.ping) {
                (None, None) => 1,
                _ => PLANS_WATCH,
            },
            Self::Dispose { how, .. } => how.level(),
            Self::OfAccount { change, .. } => change.level(),
            Self::SetDrained { .. } => 2,
            Self::BeginDrill { .. }
            | Self::TellDrill { .. }
            | Self::EndDrill { .. }
            | Self::ScheduleDrill { .. }
            | Self::OfferAuthority { .. }
            | Self::RetireAuthority { .. }
            | Self::TrustAuthority { .. }
            | Self::Grant { .. }
            | Self::Revoke { .. }
            | Self::Acme { .. }
            | Self::Note => 3,
            // Whoever knows the level knows how to get there.
            Self::RaiseLevel { level, .. } => 2.max(*level),
            Self::By { command, .. } => command.level(),
        }
    }
}

/// Who does not know an address cannot read the envelope that it is in.
fn of_envelope(envelope: &Envelope) -> u32 {
    let from = match &envelope.reverse_path {
        ReversePath::Null => None,
        ReversePath::Mailbox(address) => Some(address),
    };
    let to = envelope.recipients.iter().map(|to| &to.address);
    match from.into_iter().chain(to).all(Address::is_strict) {
        true => 1,
        false => LOOSE_ADDRESSES,
    }
}

impl Disposal {
    fn level(self) -> u32 {
        match self {
            Self::Requeue
            | Self::Discard
            | Self::Bounce
            | Self::Hold
            | Self::Release
            | Self::Delete
            | Self::Undelete => 1,
        }
    }
}

impl AccountChange {
    fn level(&self) -> u32 {
        match self {
            Self::Add { .. }
            | Self::Remove
            | Self::Password(_)
            | Self::SecondFactor(_)
            | Self::Domains(_)
            | Self::SignOut
            | Self::Unlock
            | Self::SignIn { .. }
            | Self::RemoveToken(_) => 1,
            // Who does not know a scope does not keep it.
            Self::AddToken(token) if token.scopes.fetch => FETCH_SCOPE,
            Self::AddToken(_) => 1,
            // Who does not know a limit does not keep to it.
            Self::SendLimits { .. } => 3,
        }
    }
}

/// A level that a log or a state names, if this version knows it. Nothing is safe to guess.
pub(crate) fn known(level: u32) -> Result<u32, Undecodable> {
    if level > NEWEST {
        return Err(Undecodable::unknown("feature level"));
    }
    Ok(level)
}

#[cfg(test)]
mod tests {
    use holdfast_mail::Domain;

    use super::*;
    use crate::{PlanChange, PolicyChange};

    #[test]
    fn a_field_is_of_the_level_that_brought_it() {
        let policy = |change| Command::SetPolicy {
            domain: Domain::parse("a.example").unwrap(),
            change,
        };
        let plan = |change| Command::SetPlan {
            name: "basic".to_owned(),
            change,
            must_be_new: false,
            must_exist: false,
        };
        let attended = PolicyChange {
            attended: Some(true),
            ..PolicyChange::default()
        };
        assert_eq!(policy(attended).level(), 1);
        let at_host = PolicyChange {
            at_host: Some(false),
            ping: Some(true),
            ..attended
        };
        assert_eq!(policy(at_host).level(), AT_HOST);
        assert_eq!(plan(PlanChange::default()).level(), 1);
        let (probe_ms, ping) = (Some(1), Some(false));
        let watched = [
            PlanChange {
                probe_ms,
                ..PlanChange::default()
            },
            PlanChange {
                ping,
                ..PlanChange::default()
            },
        ];
        for change in watched {
            assert_eq!(plan(change).level(), PLANS_WATCH);
        }
    }
}
