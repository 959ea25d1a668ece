//! What a command is answered.

use holdfast_mail::{NodeId, Timestamp};
use holdfast_proto::ledger as proto;
use prost::Message;

use crate::{Seq, Undecodable};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Done,
    Accepted {
        seq: Seq,
    },
    /// The message was not accepted and never will be.
    Cancelled,
    /// To Cancel: too late, the message is the cluster's.
    AlreadyAccepted,
    Lease {
        epoch: u64,
        until: Timestamp,
    },
    /// To AcquireLease: somebody else's.
    LeaseHeld {
        node: NodeId,
        until: Timestamp,
    },
    /// To RenewLeases: the epochs that are still the caller's, in the order asked.
    Renewed {
        epochs: Vec<u64>,
    },
    Member(NodeId),
    /// How many messages wait for delivery.
    Flushed {
        messages: u64,
    },
    /// `more`: the bound on one entry's work was reached; sweep again.
    Swept {
        more: bool,
    },
    /// To Dispose and Review: how many messages something was done with. `more`: the bound on
    /// one entry's work was reached; ask again.
    Disposed {
        messages: u64,
        more: bool,
    },
    Refused(Refusal),
}

/// The replies to a batch, in the order of its commands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replies(pub Vec<Reply>);

/// Why a command changed nothing. Each text says what happened, what is safe and what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the domain is not configured; nothing was changed; add it with `domain add` first")]
    UnknownDomain,
    #[error(
        "the domain is configured already and was left as it is; use `domain set` to change it"
    )]
    DomainExists,
    #[error(
        "mail is held for the domain and stays held; let it be delivered, or end it first: what \
         was refused with `mail requeue`, `mail bounce` or `mail discard`, what still waits with \
         `mail bounce --held` or `mail discard --held`"
    )]
    MailHeld,
    #[error(
        "the message was cancelled before it was accepted; its sender still has it and will retry"
    )]
    Cancelled,
    #[error(
        "the message's id is more than a day older than the cluster's time, so whether it was \
         accepted before is no longer known; nothing was changed; check the clock of the node \
         that received it, and let the sender retry under a new id"
    )]
    Stale,
    #[error(
        "the command contradicts itself; nothing was changed; this is an error in Holdfast, please report it"
    )]
    Malformed,
    #[error(
        "the lease on the domain is no longer the caller's; nothing was recorded and the mail is \
         still held; stop delivering for the domain and acquire the lease anew"
    )]
    Fenced,
    #[error(
        "the invitation is unknown, used, expired or its secret is wrong; the cluster is unchanged; make a new one with `invite`"
    )]
    BadToken,
    #[error("a thousand invitations are open; nothing was changed; wait until some have expired")]
    TooManyInvitations,
    #[error(
        "a member has this name already; the invitation is still good; choose another name, or remove that member first"
    )]
    NameTaken,
    #[error(
        "the command came at a place in the log where it cannot be carried out; nothing was changed; propose it again"
    )]
    TryAgain,
    #[error("the cluster exists already and was left as it is; join it with an invitation instead")]
    AlreadyBootstrapped,
    #[error(
        "the node is not a member of the cluster; nothing was changed; see `cluster status` for those that are"
    )]
    UnknownNode,
    #[error("this is the cluster's last member; it and the mail stay; let another node join first")]
    LastMember,
    #[error(
        "the notification is no longer owed as it was written; nothing was changed; look at what is owed and write it anew"
    )]
    NotOwed,
    #[error(
        "more mail is held for the domain than its quota allows; nothing was changed; try again once some of it is delivered"
    )]
    FullForNow,
    #[error(
        "more mail is held for the domain than its quota allows; nothing was changed; the domain's owner wants such mail sent back"
    )]
    FullForGood,
    #[error(
        "as much is known about the domain's recipients as is kept; the answer was not noted; the primary is asked again when it is needed"
    )]
    TooManyKnown,
    #[error(
        "the route makes no sense: a login or a pinned key needs TLS that is required, and LMTP a fixed host; nothing was changed"
    )]
    UnsoundRoute,
    #[error("there is no such plan; nothing was changed; see `plan list`")]
    UnknownPlan,
    #[error("the plan exists already and was left as it is; use `plan set` to change it")]
    PlanExists,
    #[error(
        "domains are on the plan; nothing was changed; put them on another first, with `domain set --plan`"
    )]
    PlanInUse,
    #[error(
        "there are as many plans as there may be, counting those that were removed and are still on a bill; nothing was changed; change one that is not used instead"
    )]
    TooManyPlans,
    #[error(
        "the plan has no steps of extra quota, or the domain is on none; nothing was changed; see `plan show`"
    )]
    NoSteps,
    #[error("the sender's address is in no domain of the account's; nothing was accepted")]
    NotYourDomain,
    #[error("the account has sent as much as it may within an hour; nothing was accepted")]
    TooMuchSent,
    #[error("there is no such account; nothing was changed; see `account list`")]
    UnknownAccount,
    #[error("the account exists already and was left as it is; use `account set` to change it")]
    AccountExists,
    #[error(
        "the account is locked for a while after too many failed sign-ins; nothing was changed; wait, or ask the operator for `account unlock`"
    )]
    AccountLocked,
    #[error("the code was used already; nobody was signed in; wait for the next code")]
    CodeUsed,
    #[error(
        "the account has as many tokens as it may have; nothing was changed; remove one that is not used"
    )]
    TooManyTokens,
    #[error("mail of the domain does not wait for somebody to sign in; nothing was changed")]
    NotAttended,
    #[error(
        "somebody is signed in for the domain from another place, and its mail goes there; nothing was changed; let that session end first"
    )]
    AttendedElsewhere,
    #[error(
        "a drill is under way; nothing was changed; see `drill list`, and wait for its end or end it with `drill stop`"
    )]
    DrillUnderWay,
    #[error("there is no such drill, or it has ended; nothing was changed; see `drill list`")]
    UnknownDrill,
    #[error("there are as many schedules as there may be; nothing was changed; remove one first")]
    TooManySchedules,
    #[error(
        "the domain has as many recipients as may be listed, 100,000; nothing was changed; take anybody's mail, or whom the primary says it has, instead"
    )]
    TooManyRecipients,
    #[error(
        "the certificate authority is being rotated already; nothing was changed; `cluster rotate-ca` follows it, and --finish ends it"
    )]
    RotationUnderWay,
    #[error("no rotation of the certificate authority is under way; nothing was changed")]
    NoRotation,
    #[error(
        "a node still uses the old certificate authority; both stay trusted; bring the node back, or remove it with `cluster leave`"
    )]
    AuthorityInUse,
    #[error("nobody of that name has access; nothing was changed; see `access list`")]
    NotGranted,
    #[error(
        "as many people have access as may have; nothing was changed; revoke one that is not used"
    )]
    TooManyGranted,
    #[error(
        "no certificate is ordered by ACME, or not from this directory any more; nothing was changed; see `cluster acme show`"
    )]
    NoAcme,
    #[error(
        "too few nodes would be left that are not drained: with them stopped, no mail could be accepted; nothing was changed; give another node its duties back first, with `node undrain`"
    )]
    WouldStop,
    #[error(
        "not every node is known to understand this yet; nothing was changed; upgrade them all, and then finalize the upgrade first: holdfast cluster finalize-upgrade"
    )]
    NotFinalized,
}

impl Reply {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        use proto::reply::Answer;
        let answer = match self {
            Self::Done => Answer::Done(true),
            Self::Accepted { seq } => Answer::Accepted(seq.0),
            Self::Cancelled => Answer::Cancelled(true),
            Self::AlreadyAccepted => Answer::AlreadyAccepted(true),
            Self::Lease { epoch, until } => Answer::Lease(proto::reply::Lease {
                epoch: *epoch,
                until_ms: until.0,
            }),
            Self::LeaseHeld { node, until } => Answer::LeaseHeld(proto::reply::LeaseHeld {
                node: node.0,
                until_ms: until.0,
            }),
            Self::Renewed { epochs } => Answer::Renewed(proto::reply::Renewed {
                epochs: epochs.clone(),
            }),
            Self::Member(node) => Answer::Member(node.0),
            Self::Flushed { messages } => Answer::Flushed(*messages),
            Self::Swept { more } => Answer::Swept(*more),
            Self::Disposed { messages, more } => Answer::Disposed(proto::reply::Disposed {
                messages: *messages,
                more: *more,
            }),
            Self::Refused(refusal) => Answer::Refused(refusal.to_proto().into()),
        };
        proto::Reply {
            answer: Some(answer),
        }
        .encode_to_vec()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Undecodable> {
        use proto::reply::Answer;
        let reply = proto::Reply::decode(bytes).map_err(|e| Undecodable::damaged("reply", &e))?;
        Ok(match reply.answer.ok_or(Undecodable::unknown("reply"))? {
            Answer::Done(_) => Self::Done,
            Answer::Accepted(seq) => Self::Accepted { seq: Seq(seq) },
            Answer::Cancelled(_) => Self::Cancelled,
            Answer::AlreadyAccepted(_) => Self::AlreadyAccepted,
            Answer::Lease(lease) => Self::Lease {
                epoch: lease.epoch,
                until: Timestamp(lease.until_ms),
            },
            Answer::LeaseHeld(lease) => Self::LeaseHeld {
                node: NodeId(lease.node),
                until: Timestamp(lease.until_ms),
            },
            Answer::Renewed(renewed) => Self::Renewed {
                epochs: renewed.epochs,
            },
            Answer::Member(node) => Self::Member(NodeId(node)),
            Answer::Flushed(messages) => Self::Flushed { messages },
            Answer::Swept(more) => Self::Swept { more },
            Answer::Disposed(disposed) => Self::Disposed {
                messages: disposed.messages,
                more: disposed.more,
            },
            Answer::Refused(refusal) => Self::Refused(Refusal::from_proto(refusal)?),
        })
    }
}

impl Replies {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        proto::Replies {
            replies: self.0.iter().map(|reply| reply.encode().into()).collect(),
        }
        .encode_to_vec()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Undecodable> {
        proto::Replies::decode(bytes)
            .map_err(|e| Undecodable::damaged("list of replies", &e))?
            .replies
            .iter()
            .map(|reply| Reply::decode(reply))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl Refusal {
    fn to_proto(self) -> proto::Refusal {
        match self {
            Self::UnknownDomain => proto::Refusal::UnknownDomain,
            Self::DomainExists => proto::Refusal::DomainExists,
            Self::MailHeld => proto::Refusal::MailHeld,
            Self::Cancelled => proto::Refusal::Cancelled,
            Self::Stale => proto::Refusal::Stale,
            Self::Malformed => proto::Refusal::Malformed,
            Self::Fenced => proto::Refusal::Fenced,
            Self::BadToken => proto::Refusal::BadToken,
            Self::TooManyInvitations => proto::Refusal::TooManyInvitations,
            Self::NameTaken => proto::Refusal::NameTaken,
            Self::TryAgain => proto::Refusal::TryAgain,
            Self::AlreadyBootstrapped => proto::Refusal::AlreadyBootstrapped,
            Self::UnknownNode => proto::Refusal::UnknownNode,
            Self::LastMember => proto::Refusal::LastMember,
            Self::NotOwed => proto::Refusal::NotOwed,
            Self::FullForNow => proto::Refusal::FullForNow,
            Self::FullForGood => proto::Refusal::FullForGood,
            Self::TooManyKnown => proto::Refusal::TooManyKnown,
            Self::UnsoundRoute => proto::Refusal::UnsoundRoute,
            Self::UnknownPlan => proto::Refusal::UnknownPlan,
            Self::PlanExists => proto::Refusal::PlanExists,
            Self::PlanInUse => proto::Refusal::PlanInUse,
            Self::TooManyPlans => proto::Refusal::TooManyPlans,
            Self::NoSteps => proto::Refusal::NoSteps,
            Self::NotYourDomain => proto::Refusal::NotYourDomain,
            Self::TooMuchSent => proto::Refusal::TooMuchSent,
            Self::UnknownAccount => proto::Refusal::UnknownAccount,
            Self::AccountExists => proto::Refusal::AccountExists,
            Self::AccountLocked => proto::Refusal::AccountLocked,
            Self::CodeUsed => proto::Refusal::CodeUsed,
            Self::TooManyTokens => proto::Refusal::TooManyTokens,
            Self::NotAttended => proto::Refusal::NotAttended,
            Self::AttendedElsewhere => proto::Refusal::AttendedElsewhere,
            Self::DrillUnderWay => proto::Refusal::DrillUnderWay,
            Self::UnknownDrill => proto::Refusal::UnknownDrill,
            Self::TooManySchedules => proto::Refusal::TooManySchedules,
            Self::TooManyRecipients => proto::Refusal::TooManyRecipients,
            Self::RotationUnderWay => proto::Refusal::RotationUnderWay,
            Self::NoRotation => proto::Refusal::NoRotation,
            Self::AuthorityInUse => proto::Refusal::AuthorityInUse,
            Self::NotGranted => proto::Refusal::NotGranted,
            Self::TooManyGranted => proto::Refusal::TooManyGranted,
            Self::NoAcme => proto::Refusal::NoAcme,
            Self::WouldStop => proto::Refusal::WouldStop,
            Self::NotFinalized => proto::Refusal::NotFinalized,
        }
    }

    fn from_proto(value: i32) -> Result<Self, Undecodable> {
        use proto::Refusal as P;
        Ok(match P::try_from(value) {
            Ok(P::UnknownDomain) => Self::UnknownDomain,
            Ok(P::DomainExists) => Self::DomainExists,
            Ok(P::MailHeld) => Self::MailHeld,
            Ok(P::Cancelled) => Self::Cancelled,
            Ok(P::Stale) => Self::Stale,
            Ok(P::Malformed) => Self::Malformed,
            Ok(P::Fenced) => Self::Fenced,
            Ok(P::BadToken) => Self::BadToken,
            Ok(P::TooManyInvitations) => Self::TooManyInvitations,
            Ok(P::NameTaken) => Self::NameTaken,
            Ok(P::TryAgain) => Self::TryAgain,
            Ok(P::AlreadyBootstrapped) => Self::AlreadyBootstrapped,
            Ok(P::UnknownNode) => Self::UnknownNode,
            Ok(P::LastMember) => Self::LastMember,
            Ok(P::NotOwed) => Self::NotOwed,
            Ok(P::FullForNow) => Self::FullForNow,
            Ok(P::FullForGood) => Self::FullForGood,
            Ok(P::TooManyKnown) => Self::TooManyKnown,
            Ok(P::UnsoundRoute) => Self::UnsoundRoute,
            Ok(P::UnknownPlan) => Self::UnknownPlan,
            Ok(P::PlanExists) => Self::PlanExists,
            Ok(P::PlanInUse) => Self::PlanInUse,
            Ok(P::TooManyPlans) => Self::TooManyPlans,
            Ok(P::NoSteps) => Self::NoSteps,
            Ok(P::NotYourDomain) => Self::NotYourDomain,
            Ok(P::TooMuchSent) => Self::TooMuchSent,
            Ok(P::UnknownAccount) => Self::UnknownAccount,
            Ok(P::AccountExists) => Self::AccountExists,
            Ok(P::AccountLocked) => Self::AccountLocked,
            Ok(P::CodeUsed) => Self::CodeUsed,
            Ok(P::TooManyTokens) => Self::TooManyTokens,
            Ok(P::NotAttended) => Self::NotAttended,
            Ok(P::AttendedElsewhere) => Self::AttendedElsewhere,
            Ok(P::DrillUnderWay) => Self::DrillUnderWay,
            Ok(P::UnknownDrill) => Self::UnknownDrill,
            Ok(P::TooManySchedules) => Self::TooManySchedules,
            Ok(P::TooManyRecipients) => Self::TooManyRecipients,
            Ok(P::RotationUnderWay) => Self::RotationUnderWay,
            Ok(P::NoRotation) => Self::NoRotation,
            Ok(P::AuthorityInUse) => Self::AuthorityInUse,
            Ok(P::NotGranted) => Self::NotGranted,
            Ok(P::TooManyGranted) => Self::TooManyGranted,
            Ok(P::NoAcme) => Self::NoAcme,
            Ok(P::WouldStop) => Self::WouldStop,
            Ok(P::NotFinalized) => Self::NotFinalized,
            Ok(P::Unspecified) | Err(_) => return Err(Undecodable::unknown("refusal")),
        })
    }
}
