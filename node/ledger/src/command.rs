//! What can be asked of the cluster: every fact enters as one of these.

use std::fmt;
use std::net::SocketAddr;

use holdfast_mail::dsn::Kind;
use holdfast_mail::{Domain, Envelope, MessageId, NodeId, Timestamp};
use holdfast_proto::ledger as proto;
use prost::Message;

use crate::access::Role;
use crate::account::AccountChange;
use crate::acme::AcmeChange;
use crate::askers::Askers;
use crate::drill::{self, DrillEvent, DrillPlan, DrillReport, DrillSchedule};
use crate::plan::PlanChange;
use crate::policy::PolicyChange;
use crate::wire::{
    domain, envelope_from, envelope_to, exactly, member_from, member_to, message_id, present,
    primary_from, primary_to, socket,
};
use crate::{Route, Seq, Undecodable, level};

#[derive(Clone, PartialEq, Eq)]
pub enum Command {
    /// Take responsibility for a message. Idempotent by the envelope's id.
    Accept {
        envelope: Envelope,
    },
    /// The same, for whoever `account` sends mail to. For domains that are not ours too.
    Submit {
        account: String,
        envelope: Envelope,
    },
    /// Never accept this id. The first of Accept and Cancel in the log wins.
    Cancel {
        message: MessageId,
    },
    SetDomain {
        domain: Domain,
        primary: Primary,
        must_be_new: bool,
        must_exist: bool,
    },
    /// Refused while mail is held.
    RemoveDomain {
        domain: Domain,
    },
    /// The first entry of a cluster.
    Bootstrap {
        cluster_id: [u8; 16],
        ca_certificate: Vec<u8>,
        ca_key: Vec<u8>,
        first: Member,
        /// The feature level that the cluster begins at.
        level: u32,
    },
    Invite {
        token_id: [u8; 16],
        secret_hash: [u8; 32],
        expires_at: Timestamp,
    },
    /// Use an invitation up. The log index becomes the new member's id, whatever `member.id`
    /// says, so the command must be the first of its entry.
    Redeem {
        token_id: [u8; 16],
        secret_hash: [u8; 32],
        member: Member,
    },
    RemoveMember {
        node: NodeId,
    },
    AcquireLease {
        domain: Domain,
        node: NodeId,
        ttl_ms: u64,
    },
    RenewLeases {
        node: NodeId,
        /// With the epoch of each.
        leases: Vec<(Domain, u64)>,
        ttl_ms: u64,
    },
    ReleaseLease {
        domain: Domain,
        node: NodeId,
        epoch: u64,
    },
    /// What became of delivery attempts, as versions before Settle wrote it: what was refused
    /// is kept.
    Record {
        domain: Domain,
        node: NodeId,
        epoch: u64,
        outcomes: Vec<Outcome>,
    },
    /// The primary is said to be back. `via` names who says so: `etrn`, `operator`, …
    Flush {
        domain: Domain,
        via: String,
    },
    /// Forget what is no longer needed.
    Sweep,
    /// What became of delivery attempts; only from the holder of the lease. A refusal is
    /// judged: mail is kept while the primary is on probation, and bounced once it is believed.
    Settle {
        domain: Domain,
        node: NodeId,
        epoch: u64,
        outcomes: Vec<Outcome>,
    },
    /// Ask for the post, or keep it: its holder writes and sends what senders are owed.
    TakePost {
        node: NodeId,
        ttl_ms: u64,
        /// Of the lease to be renewed; 0 for a new one.
        epoch: u64,
    },
    /// Accept the notification that a sender is owed, and owe it no more. Idempotent by the
    /// envelope's id; only from the holder of the post.
    Report {
        node: NodeId,
        epoch: u64,
        about: MessageId,
        kind: Kind,
        /// Of the owed row it was written from: if more is owed by now, it must say more.
        version: u64,
        envelope: Envelope,
    },
    /// What became of attempts to deliver notifications; only from the holder of the post.
    SettleReports {
        node: NodeId,
        epoch: u64,
        outcomes: Vec<ReportOutcome>,
    },
    /// Somebody decides about mail that was refused, or about mail that waits.
    Dispose {
        domain: Domain,
        how: Disposal,
        /// None: all of the domain.
        messages: Vec<MessageId>,
        /// What waits for delivery too, not only what was refused.
        held: bool,
        by: String,
    },
    /// Do with these messages what the time has come for: expire, tell of a delay, try again
    /// what was refused. The rows decide, so anybody may ask.
    Review {
        domain: Domain,
        seqs: Vec<Seq>,
    },
    /// Change a domain's policy; for mail that is held too.
    SetPolicy {
        domain: Domain,
        change: PolicyChange,
    },
    /// Change the list of a domain's recipients.
    SetRecipients {
        domain: Domain,
        /// Local parts; `*` is every one.
        add: Vec<String>,
        remove: Vec<String>,
        /// Forget the list as it was.
        clear: bool,
    },
    /// What the primary said when it was asked whether it takes mail for `name`; for the empty
    /// name: for one that nobody can have.
    Learn {
        domain: Domain,
        name: String,
        node: NodeId,
        takes: bool,
        reply: String,
    },
    /// Forget what the primary said of these names, or of all if there are none.
    Unlearn {
        domain: Domain,
        names: Vec<String>,
    },
    /// Change what a plan offers, for all domains that are on it.
    SetPlan {
        name: String,
        change: PlanChange,
        must_be_new: bool,
        must_exist: bool,
    },
    /// Refused while a domain is on it.
    RemovePlan {
        name: String,
    },
    /// Put a domain on a plan, or take it off.
    Subscribe {
        domain: Domain,
        /// Empty: none any more; `None`: as it is.
        plan: Option<String>,
        /// `None`: as they are, and none of a plan that is another.
        extra_steps: Option<u32>,
        /// Forget what the domain's own policy says of what a plan says.
        follow: bool,
    },
    /// What a node found of primaries. The word of the node is the cluster's: it asks the others
    /// before it says that one is down.
    Observe {
        node: NodeId,
        seen: Vec<Seen>,
    },
    /// How mail goes to the domain's primary.
    SetRoute {
        domain: Domain,
        route: Route,
    },
    /// Who may ask for the domain's held mail to be delivered.
    SetAskers {
        domain: Domain,
        askers: Askers,
    },
    OfAccount {
        name: String,
        change: AccountChange,
    },
    /// Somebody is signed in at the machine that takes a domain's mail: a new session, or the
    /// same one goes on.
    Attend {
        domain: Domain,
        /// Drawn by the node that has the connection.
        session: [u8; 16],
        account: String,
        /// Where mail goes while it lasts.
        to: SocketAddr,
        /// Mail goes there over the connection that this node has with them (ATRN).
        over: Option<NodeId>,
        ttl_ms: u64,
    },
    /// They are gone.
    Leave {
        domain: Domain,
        session: [u8; 16],
    },
    /// Rehearse a failure. Refused while another drill is under way.
    BeginDrill {
        id: MessageId,
        plan: DrillPlan,
    },
    /// Something happened in it.
    TellDrill {
        id: MessageId,
        event: DrillEvent,
    },
    EndDrill {
        id: MessageId,
        report: DrillReport,
    },
    /// Have drills begin by themselves, or no more.
    ScheduleDrill {
        name: String,
        schedule: Option<DrillSchedule>,
    },
    /// The cluster is to have another certificate authority. Both count until the old one is
    /// retired.
    OfferAuthority {
        /// The fingerprint of its key.
        authority: [u8; 32],
        certificate: Vec<u8>,
        key: Vec<u8>,
        /// Its key, signed by the authority before it.
        cross: Vec<u8>,
    },
    /// From here on only the new authority counts. Refused while a member has not moved to it.
    RetireAuthority {
        /// The new one.
        authority: [u8; 32],
    },
    /// The node trusts the offered authority.
    TrustAuthority {
        node: NodeId,
        authority: [u8; 32],
        /// And presents a certificate of it.
        used: bool,
    },
    /// Somebody may use the operators' API from afar, with this certificate and no other.
    Grant {
        name: String,
        role: Role,
        /// SHA-256.
        certificate: [u8; 32],
        /// Who signed it.
        authority: [u8; 32],
        expires_at: Timestamp,
    },
    Revoke {
        name: String,
    },
    /// Something about the certificate that is ordered for all nodes.
    Acme {
        change: AcmeChange,
    },
    /// Nothing changes; in a By, the audit says what was done without the ledger.
    Note,
    /// Free a node of its duties, so that it can be stopped, or give them back.
    SetDrained {
        node: NodeId,
        drained: bool,
    },
    /// Use the commands up to this feature level. Refused unless all members are among `members`,
    /// who were asked whether they know them.
    RaiseLevel {
        level: u32,
        members: Vec<NodeId>,
    },
    /// Somebody gave the command, and the audit says so. It carries no other By.
    By {
        who: String,
        /// Where they are connected from.
        from: String,
        /// What the command is to come to, in words.
        says: String,
        command: Box<Self>,
    },
}

/// A primary as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub domain: Domain,
    /// Why it cannot be reached, if it cannot.
    pub down: Option<String>,
}

impl Seen {
    fn to_proto(&self) -> proto::observe::Seen {
        proto::observe::Seen {
            domain: self.domain.to_string(),
            up: self.down.is_none(),
            why: self.down.clone().unwrap_or_default(),
        }
    }

    fn from_proto(seen: proto::observe::Seen) -> Result<Self, Undecodable> {
        Ok(Self {
            domain: domain(&seen.domain)?,
            down: (!seen.up).then_some(seen.why),
        })
    }
}

/// What an operator, or the domain's owner, wants done with mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposal {
    /// Try refused mail again, as if it had just arrived.
    Requeue,
    /// Drop it. Nobody is told.
    Discard,
    /// Give it back to its senders.
    Bounce,
    /// Set it aside: it is neither delivered nor given back until it is released.
    Hold,
    /// Deliver what was set aside by Hold.
    Release,
    /// Set it aside, and drop it after [`crate::UNDELETE_TIME`]. Nobody is told.
    Delete,
    /// Take Delete back.
    Undelete,
}

/// What became of one attempt to deliver a notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportOutcome {
    pub seq: Seq,
    pub fate: ReportFate,
    pub reply: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportFate {
    Delivered,
    /// To be tried again.
    Deferred,
    /// Refused for good, or too old: nobody is told, for it has no sender.
    Dropped,
}

/// The server that a domain's mail is held for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Primary {
    pub host: String,
    pub port: u16,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: NodeId,
    pub name: String,
    pub region: String,
    /// `host:port` of its cluster listener.
    pub cluster_address: String,
    /// The name in its banner and in customers' MX records.
    pub smtp_name: String,
    /// `host:port` of its SMTP listener.
    pub smtp_address: String,
}

/// What became of one recipient in one delivery attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub message: MessageId,
    /// Index in the envelope's recipients.
    pub recipient: u32,
    pub verdict: Verdict,
    /// What the primary said; cut at [`crate::REPLY_TEXT_OCTETS_MAX`].
    pub reply: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The primary took it: 2xx after the final dot.
    Delivered,
    /// To be tried again.
    Deferred,
    /// 5xx. Not tried again by itself, yet kept: a primary that comes back half-built must
    /// not cost mail it would have accepted.
    Refused,
}

/// One entry of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The proposer's clock. The ledger's time is the latest it has seen.
    pub at: Timestamp,
    pub commands: Vec<Command>,
}

impl Batch {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        proto::Batch {
            at_ms: self.at.0,
            commands: self.commands.iter().map(|c| c.encode().into()).collect(),
        }
        .encode_to_vec()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Undecodable> {
        let batch = proto::Batch::decode(bytes).map_err(|e| Undecodable::damaged("batch", &e))?;
        Ok(Self {
            at: Timestamp(batch.at_ms),
            commands: batch
                .commands
                .iter()
                .map(|command| Command::decode(command))
                .collect::<Result<_, _>>()?,
        })
    }
}

impl Command {
    /// The name of the verb, for logs and metrics.
    #[must_use]
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Accept { .. } => "accept",
            Self::Submit { .. } => "submit",
            Self::Cancel { .. } => "cancel",
            Self::SetDomain { .. } => "set_domain",
            Self::RemoveDomain { .. } => "remove_domain",
            Self::Bootstrap { .. } => "bootstrap",
            Self::Invite { .. } => "invite",
            Self::Redeem { .. } => "redeem",
            Self::RemoveMember { .. } => "remove_member",
            Self::AcquireLease { .. } => "acquire_lease",
            Self::RenewLeases { .. } => "renew_leases",
            Self::ReleaseLease { .. } => "release_lease",
            Self::Record { .. } => "record",
            Self::Flush { .. } => "flush",
            Self::Sweep => "sweep",
            Self::Settle { .. } => "settle",
            Self::TakePost { .. } => "take_post",
            Self::Report { .. } => "report",
            Self::SettleReports { .. } => "settle_reports",
            Self::Dispose { .. } => "dispose",
            Self::Review { .. } => "review",
            Self::SetPolicy { .. } => "set_policy",
            Self::SetRecipients { .. } => "set_recipients",
            Self::Learn { .. } => "learn",
            Self::Unlearn { .. } => "unlearn",
            Self::SetPlan { .. } => "set_plan",
            Self::RemovePlan { .. } => "remove_plan",
            Self::Subscribe { .. } => "subscribe",
            Self::Observe { .. } => "observe",
            Self::SetRoute { .. } => "set_route",
            Self::SetAskers { .. } => "set_askers",
            Self::OfAccount { .. } => "of_account",
            Self::Attend { .. } => "attend",
            Self::Leave { .. } => "leave",
            Self::BeginDrill { .. } => "begin_drill",
            Self::TellDrill { .. } => "tell_drill",
            Self::EndDrill { .. } => "end_drill",
            Self::ScheduleDrill { .. } => "schedule_drill",
            Self::OfferAuthority { .. } => "offer_authority",
            Self::RetireAuthority { .. } => "retire_authority",
            Self::TrustAuthority { .. } => "trust_authority",
            Self::Grant { .. } => "grant",
            Self::Revoke { .. } => "revoke",
            Self::Acme { .. } => "acme",
            Self::Note => "note",
            Self::SetDrained { .. } => "set_drained",
            Self::RaiseLevel { .. } => "raise_level",
            Self::By { .. } => "by",
        }
    }

    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        use proto::command::Verb;
        let verb = match self {
            Self::Submit { account, envelope } => Verb::Submit(proto::Submit {
                account: account.clone(),
                envelope: Some(envelope_to(envelope)),
            }),
            Self::Accept { envelope } => Verb::Accept(proto::Accept {
                envelope: Some(envelope_to(envelope)),
            }),
            Self::Cancel { message } => Verb::Cancel(proto::Cancel {
                message: message.to_bytes().to_vec().into(),
            }),
            Self::SetDomain {
                domain,
                primary,
                must_be_new,
                must_exist,
            } => Verb::SetDomain(proto::SetDomain {
                domain: domain.to_string(),
                primary: Some(primary_to(primary)),
                must_be_new: *must_be_new,
                must_exist: *must_exist,
            }),
            Self::RemoveDomain { domain } => Verb::RemoveDomain(proto::RemoveDomain {
                domain: domain.to_string(),
            }),
            Self::Bootstrap {
                cluster_id,
                ca_certificate,
                ca_key,
                first,
                level,
            } => Verb::Bootstrap(proto::Bootstrap {
                cluster_id: cluster_id.to_vec().into(),
                ca_certificate: ca_certificate.clone().into(),
                ca_key: ca_key.clone().into(),
                first: Some(member_to(first)),
                // As versions wrote it that knew of no levels.
                level: if *level > 1 { *level } else { 0 },
            }),
            Self::Invite {
                token_id,
                secret_hash,
                expires_at,
            } => Verb::Invite(proto::Invite {
                token_id: token_id.to_vec().into(),
                secret_hash: secret_hash.to_vec().into(),
                expires_at_ms: expires_at.0,
            }),
            Self::Redeem {
                token_id,
                secret_hash,
                member,
            } => Verb::Redeem(proto::Redeem {
                token_id: token_id.to_vec().into(),
                secret_hash: secret_hash.to_vec().into(),
                member: Some(member_to(member)),
            }),
            Self::RemoveMember { node } => Verb::RemoveMember(proto::RemoveMember { node: node.0 }),
            Self::AcquireLease {
                domain,
                node,
                ttl_ms,
            } => Verb::AcquireLease(proto::AcquireLease {
                domain: domain.to_string(),
                node: node.0,
                ttl_ms: *ttl_ms,
            }),
            Self::RenewLeases {
                node,
                leases,
                ttl_ms,
            } => Verb::RenewLeases(proto::RenewLeases {
                node: node.0,
                leases: leases
                    .iter()
                    .map(|(domain, epoch)| proto::renew_leases::Held {
                        domain: domain.to_string(),
                        epoch: *epoch,
                    })
                    .collect(),
                ttl_ms: *ttl_ms,
            }),
            Self::ReleaseLease {
                domain,
                node,
                epoch,
            } => Verb::ReleaseLease(proto::ReleaseLease {
                domain: domain.to_string(),
                node: node.0,
                epoch: *epoch,
            }),
            Self::Record {
                domain,
                node,
                epoch,
                outcomes,
            } => Verb::Record(proto::Record {
                domain: domain.to_string(),
                node: node.0,
                epoch: *epoch,
                outcomes: outcomes.iter().map(Outcome::to_proto).collect(),
            }),
            Self::Flush { domain, via } => Verb::Flush(proto::Flush {
                domain: domain.to_string(),
                via: via.clone(),
            }),
            Self::Sweep => Verb::Sweep(proto::Sweep {}),
            Self::Settle {
                domain,
                node,
                epoch,
                outcomes,
            } => Verb::Settle(proto::Settle {
                domain: domain.to_string(),
                node: node.0,
                epoch: *epoch,
                outcomes: outcomes.iter().map(Outcome::to_proto).collect(),
            }),
            Self::TakePost {
                node,
                ttl_ms,
                epoch,
            } => Verb::TakePost(proto::TakePost {
                node: node.0,
                ttl_ms: *ttl_ms,
                epoch: *epoch,
            }),
            Self::Report {
                node,
                epoch,
                about,
                kind,
                version,
                envelope,
            } => Verb::Report(proto::Report {
                node: node.0,
                epoch: *epoch,
                about: about.to_bytes().to_vec().into(),
                kind: match kind {
                    Kind::Failed => proto::ReportKind::Failed,
                    Kind::Delayed => proto::ReportKind::Delayed,
                }
                .into(),
                version: *version,
                envelope: Some(envelope_to(envelope)),
            }),
            Self::SettleReports {
                node,
                epoch,
                outcomes,
            } => Verb::SettleReports(proto::SettleReports {
                node: node.0,
                epoch: *epoch,
                outcomes: outcomes.iter().map(ReportOutcome::to_proto).collect(),
            }),
            Self::Dispose {
                domain,
                how,
                messages,
                held,
                by,
            } => Verb::Dispose(proto::Dispose {
                domain: domain.to_string(),
                how: match how {
                    Disposal::Requeue => proto::Disposal::Requeue,
                    Disposal::Discard => proto::Disposal::Discard,
                    Disposal::Bounce => proto::Disposal::Bounce,
                    Disposal::Hold => proto::Disposal::Hold,
                    Disposal::Release => proto::Disposal::Release,
                    Disposal::Delete => proto::Disposal::Delete,
                    Disposal::Undelete => proto::Disposal::Undelete,
                }
                .into(),
                messages: messages
                    .iter()
                    .map(|id| id.to_bytes().to_vec().into())
                    .collect(),
                held: *held,
                by: by.clone(),
            }),
            Self::Review { domain, seqs } => Verb::Review(proto::Review {
                domain: domain.to_string(),
                seqs: seqs.iter().map(|seq| seq.0).collect(),
            }),
            Self::SetPolicy { domain, change } => Verb::SetPolicy(proto::SetPolicy {
                domain: domain.to_string(),
                change: Some(*change),
            }),
            Self::SetRecipients {
                domain,
                add,
                remove,
                clear,
            } => Verb::SetRecipients(proto::SetRecipients {
                domain: domain.to_string(),
                add: add.clone(),
                remove: remove.clone(),
                clear: *clear,
            }),
            Self::Learn {
                domain,
                name,
                node,
                takes,
                reply,
            } => Verb::Learn(proto::Learn {
                domain: domain.to_string(),
                name: name.clone(),
                node: node.0,
                takes: *takes,
                reply: reply.clone(),
            }),
            Self::Unlearn { domain, names } => Verb::Unlearn(proto::Unlearn {
                domain: domain.to_string(),
                names: names.clone(),
            }),
            Self::SetPlan {
                name,
                change,
                must_be_new,
                must_exist,
            } => Verb::SetPlan(proto::SetPlan {
                name: name.clone(),
                change: Some(change.clone()),
                must_be_new: *must_be_new,
                must_exist: *must_exist,
            }),
            Self::RemovePlan { name } => Verb::RemovePlan(proto::RemovePlan { name: name.clone() }),
            Self::Subscribe {
                domain,
                plan,
                extra_steps,
                follow,
            } => Verb::Subscribe(proto::Subscribe {
                domain: domain.to_string(),
                plan: plan.clone(),
                extra_steps: *extra_steps,
                follow: *follow,
            }),
            Self::Observe { node, seen } => Verb::Observe(proto::Observe {
                node: node.0,
                seen: seen.iter().map(Seen::to_proto).collect(),
            }),
            Self::SetRoute { domain, route } => {
                let set = proto::SetRoute {
                    domain: domain.to_string(),
                    route: Some(route.to_proto()),
                };
                // A verb of its own: who passed over the field would refuse mail that others took.
                if route.direct {
                    Verb::SetRouteDirect(set)
                } else {
                    Verb::SetRoute(set)
                }
            }
            Self::SetAskers { domain, askers } => Verb::SetAskers(proto::SetAskers {
                domain: domain.to_string(),
                askers: Some(askers.to_proto()),
            }),
            Self::OfAccount { name, change } => Verb::OfAccount(proto::OfAccount {
                name: name.clone(),
                change: Some(change.to_proto()),
            }),
            Self::Attend {
                domain,
                session,
                account,
                to,
                over,
                ttl_ms,
            } => Verb::Attend(proto::Attend {
                domain: domain.to_string(),
                session: session.to_vec().into(),
                account: account.clone(),
                address: to.ip().to_string(),
                port: to.port().into(),
                ttl_ms: *ttl_ms,
                over: over.map_or(0, |node| node.0),
            }),
            Self::Leave { domain, session } => Verb::Leave(proto::Leave {
                domain: domain.to_string(),
                session: session.to_vec().into(),
            }),
            Self::BeginDrill { id, plan } => Verb::BeginDrill(proto::BeginDrill {
                id: id.to_bytes().to_vec().into(),
                plan: Some(plan.clone()),
            }),
            Self::TellDrill { id, event } => Verb::TellDrill(proto::TellDrill {
                id: id.to_bytes().to_vec().into(),
                event: Some(event.clone()),
            }),
            Self::EndDrill { id, report } => Verb::EndDrill(proto::EndDrill {
                id: id.to_bytes().to_vec().into(),
                report: Some(report.clone()),
            }),
            Self::ScheduleDrill { name, schedule } => Verb::ScheduleDrill(proto::ScheduleDrill {
                name: name.clone(),
                schedule: schedule.clone(),
            }),
            Self::OfferAuthority {
                authority,
                certificate,
                key,
                cross,
            } => Verb::OfferAuthority(proto::OfferAuthority {
                authority: authority.to_vec().into(),
                certificate: certificate.clone().into(),
                key: key.clone().into(),
                cross: cross.clone().into(),
            }),
            Self::RetireAuthority { authority } => Verb::RetireAuthority(proto::RetireAuthority {
                authority: authority.to_vec().into(),
            }),
            Self::TrustAuthority {
                node,
                authority,
                used,
            } => Verb::TrustAuthority(proto::TrustAuthority {
                node: node.0,
                authority: authority.to_vec().into(),
                used: *used,
            }),
            Self::Grant {
                name,
                role,
                certificate,
                authority,
                expires_at,
            } => Verb::Grant(proto::Grant {
                name: name.clone(),
                role: role.to_proto().into(),
                certificate: certificate.to_vec().into(),
                authority: authority.to_vec().into(),
                expires_at_ms: expires_at.0,
            }),
            Self::Revoke { name } => Verb::Revoke(proto::Revoke { name: name.clone() }),
            Self::Acme { change } => Verb::Acme(proto::Acme {
                change: Some(change.to_proto()),
            }),
            Self::Note => Verb::Note(proto::Note {}),
            Self::SetDrained { node, drained } => Verb::SetDrained(proto::SetDrained {
                node: node.0,
                drained: *drained,
            }),
            Self::RaiseLevel { level, members } => Verb::RaiseLevel(proto::RaiseLevel {
                level: *level,
                members: members.iter().map(|node| node.0).collect(),
            }),
            Self::By {
                who,
                from,
                says,
                command,
            } => Verb::By(proto::By {
                who: who.clone(),
                from: from.clone(),
                says: says.clone(),
                command: command.encode().into(),
            }),
        };
        proto::Command { verb: Some(verb) }.encode_to_vec()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Undecodable> {
        use proto::command::Verb;
        let command =
            proto::Command::decode(bytes).map_err(|e| Undecodable::damaged("command", &e))?;
        Ok(match command.verb.ok_or(Undecodable::unknown("command"))? {
            Verb::Submit(submit) => Self::Submit {
                account: submit.account,
                envelope: envelope_from(present("envelope", submit.envelope)?)?,
            },
            Verb::Accept(accept) => Self::Accept {
                envelope: envelope_from(present("envelope", accept.envelope)?)?,
            },
            Verb::Cancel(cancel) => Self::Cancel {
                message: message_id(&cancel.message)?,
            },
            Verb::SetDomain(set) => Self::SetDomain {
                domain: domain(&set.domain)?,
                primary: primary_from(present("primary", set.primary)?)?,
                must_be_new: set.must_be_new,
                must_exist: set.must_exist,
            },
            Verb::RemoveDomain(remove) => Self::RemoveDomain {
                domain: domain(&remove.domain)?,
            },
            Verb::Bootstrap(bootstrap) => Self::Bootstrap {
                cluster_id: exactly("cluster id", &bootstrap.cluster_id)?,
                ca_certificate: bootstrap.ca_certificate.into(),
                ca_key: bootstrap.ca_key.into(),
                first: member_from(present("first member", bootstrap.first)?),
                level: level::known(bootstrap.level.max(1))?,
            },
            Verb::Invite(invite) => Self::Invite {
                token_id: exactly("token id", &invite.token_id)?,
                secret_hash: exactly("secret hash", &invite.secret_hash)?,
                expires_at: Timestamp(invite.expires_at_ms),
            },
            Verb::Redeem(redeem) => Self::Redeem {
                token_id: exactly("token id", &redeem.token_id)?,
                secret_hash: exactly("secret hash", &redeem.secret_hash)?,
                member: member_from(present("member", redeem.member)?),
            },
            Verb::RemoveMember(remove) => Self::RemoveMember {
                node: NodeId(remove.node),
            },
            Verb::AcquireLease(acquire) => Self::AcquireLease {
                domain: domain(&acquire.domain)?,
                node: NodeId(acquire.node),
                ttl_ms: acquire.ttl_ms,
            },
            Verb::RenewLeases(renew) => Self::RenewLeases {
                node: NodeId(renew.node),
                leases: renew
                    .leases
                    .iter()
                    .map(|held| Ok((domain(&held.domain)?, held.epoch)))
                    .collect::<Result<_, Undecodable>>()?,
                ttl_ms: renew.ttl_ms,
            },
            Verb::ReleaseLease(release) => Self::ReleaseLease {
                domain: domain(&release.domain)?,
                node: NodeId(release.node),
                epoch: release.epoch,
            },
            Verb::Record(record) => Self::Record {
                domain: domain(&record.domain)?,
                node: NodeId(record.node),
                epoch: record.epoch,
                outcomes: record
                    .outcomes
                    .into_iter()
                    .map(Outcome::from_proto)
                    .collect::<Result<_, _>>()?,
            },
            Verb::Flush(flush) => Self::Flush {
                domain: domain(&flush.domain)?,
                via: flush.via,
            },
            Verb::Sweep(_) => Self::Sweep,
            Verb::Settle(settle) => Self::Settle {
                domain: domain(&settle.domain)?,
                node: NodeId(settle.node),
                epoch: settle.epoch,
                outcomes: settle
                    .outcomes
                    .into_iter()
                    .map(Outcome::from_proto)
                    .collect::<Result<_, _>>()?,
            },
            Verb::TakePost(take) => Self::TakePost {
                node: NodeId(take.node),
                ttl_ms: take.ttl_ms,
                epoch: take.epoch,
            },
            Verb::Report(report) => Self::Report {
                node: NodeId(report.node),
                epoch: report.epoch,
                about: message_id(&report.about)?,
                kind: match proto::ReportKind::try_from(report.kind) {
                    Ok(proto::ReportKind::Failed) => Kind::Failed,
                    Ok(proto::ReportKind::Delayed) => Kind::Delayed,
                    _ => return Err(Undecodable::unknown("kind of report")),
                },
                version: report.version,
                envelope: envelope_from(present("envelope", report.envelope)?)?,
            },
            Verb::SettleReports(settle) => Self::SettleReports {
                node: NodeId(settle.node),
                epoch: settle.epoch,
                outcomes: settle
                    .outcomes
                    .into_iter()
                    .map(ReportOutcome::from_proto)
                    .collect::<Result<_, _>>()?,
            },
            Verb::Dispose(dispose) => Self::Dispose {
                domain: domain(&dispose.domain)?,
                how: match proto::Disposal::try_from(dispose.how) {
                    Ok(proto::Disposal::Requeue) => Disposal::Requeue,
                    Ok(proto::Disposal::Discard) => Disposal::Discard,
                    Ok(proto::Disposal::Bounce) => Disposal::Bounce,
                    Ok(proto::Disposal::Hold) => Disposal::Hold,
                    Ok(proto::Disposal::Release) => Disposal::Release,
                    Ok(proto::Disposal::Delete) => Disposal::Delete,
                    Ok(proto::Disposal::Undelete) => Disposal::Undelete,
                    _ => return Err(Undecodable::unknown("disposal")),
                },
                messages: dispose
                    .messages
                    .iter()
                    .map(|id| message_id(id))
                    .collect::<Result<_, _>>()?,
                held: dispose.held,
                by: dispose.by,
            },
            Verb::Review(review) => Self::Review {
                domain: domain(&review.domain)?,
                seqs: review.seqs.into_iter().map(Seq).collect(),
            },
            Verb::SetPolicy(set) => Self::SetPolicy {
                domain: domain(&set.domain)?,
                change: present("policy", set.change)?,
            },
            Verb::SetRecipients(set) => Self::SetRecipients {
                domain: domain(&set.domain)?,
                add: set.add,
                remove: set.remove,
                clear: set.clear,
            },
            Verb::Learn(learn) => Self::Learn {
                domain: domain(&learn.domain)?,
                name: learn.name,
                node: NodeId(learn.node),
                takes: learn.takes,
                reply: learn.reply,
            },
            Verb::Unlearn(unlearn) => Self::Unlearn {
                domain: domain(&unlearn.domain)?,
                names: unlearn.names,
            },
            Verb::SetPlan(set) => Self::SetPlan {
                name: set.name,
                change: present("plan", set.change)?,
                must_be_new: set.must_be_new,
                must_exist: set.must_exist,
            },
            Verb::RemovePlan(remove) => Self::RemovePlan { name: remove.name },
            Verb::Subscribe(subscribe) => Self::Subscribe {
                domain: domain(&subscribe.domain)?,
                plan: subscribe.plan,
                extra_steps: subscribe.extra_steps,
                follow: subscribe.follow,
            },
            Verb::Observe(observe) => Self::Observe {
                node: NodeId(observe.node),
                seen: observe
                    .seen
                    .into_iter()
                    .map(Seen::from_proto)
                    .collect::<Result<_, _>>()?,
            },
            Verb::SetRoute(set) | Verb::SetRouteDirect(set) => Self::SetRoute {
                domain: domain(&set.domain)?,
                route: Route::from_proto(present("route", set.route)?)?,
            },
            Verb::SetAskers(set) => Self::SetAskers {
                domain: domain(&set.domain)?,
                askers: Askers::from_proto(&present("askers", set.askers)?)?,
            },
            Verb::OfAccount(of) => Self::OfAccount {
                name: of.name,
                change: AccountChange::from_proto(present("change", of.change)?)?,
            },
            Verb::Attend(attend) => Self::Attend {
                domain: domain(&attend.domain)?,
                session: exactly("session", &attend.session)?,
                account: attend.account,
                to: socket(&attend.address, attend.port)?,
                over: (attend.over != 0).then_some(NodeId(attend.over)),
                ttl_ms: attend.ttl_ms,
            },
            Verb::Leave(leave) => Self::Leave {
                domain: domain(&leave.domain)?,
                session: exactly("session", &leave.session)?,
            },
            Verb::BeginDrill(begin) => {
                let plan = present("plan", begin.plan)?;
                drill::known_kind(plan.kind)?;
                Self::BeginDrill {
                    id: message_id(&begin.id)?,
                    plan,
                }
            }
            Verb::TellDrill(tell) => Self::TellDrill {
                id: message_id(&tell.id)?,
                event: present("event", tell.event)?,
            },
            Verb::EndDrill(end) => Self::EndDrill {
                id: message_id(&end.id)?,
                report: present("report", end.report)?,
            },
            Verb::ScheduleDrill(set) => {
                if let Some(schedule) = &set.schedule {
                    drill::known_kind(schedule.kind)?;
                }
                Self::ScheduleDrill {
                    name: set.name,
                    schedule: set.schedule,
                }
            }
            Verb::OfferAuthority(offer) => Self::OfferAuthority {
                authority: exactly("authority", &offer.authority)?,
                certificate: offer.certificate.into(),
                key: offer.key.into(),
                cross: offer.cross.into(),
            },
            Verb::RetireAuthority(retire) => Self::RetireAuthority {
                authority: exactly("authority", &retire.authority)?,
            },
            Verb::TrustAuthority(trust) => Self::TrustAuthority {
                node: NodeId(trust.node),
                authority: exactly("authority", &trust.authority)?,
                used: trust.used,
            },
            Verb::Grant(grant) => Self::Grant {
                role: Role::from_proto(grant.role)?,
                name: grant.name,
                certificate: exactly("certificate", &grant.certificate)?,
                authority: exactly("authority", &grant.authority)?,
                expires_at: Timestamp(grant.expires_at_ms),
            },
            Verb::Revoke(revoke) => Self::Revoke { name: revoke.name },
            Verb::Acme(acme) => Self::Acme {
                change: AcmeChange::from_proto(present("change", acme.change)?)?,
            },
            Verb::Note(_) => Self::Note,
            Verb::SetDrained(set) => Self::SetDrained {
                node: NodeId(set.node),
                drained: set.drained,
            },
            Verb::RaiseLevel(raise) => Self::RaiseLevel {
                level: level::known(raise.level)?,
                members: raise.members.into_iter().map(NodeId).collect(),
            },
            Verb::By(by) => Self::By {
                who: by.who,
                from: by.from,
                says: by.says,
                command: Box::new(Self::decode_plain(&by.command)?),
            },
        })
    }

    /// A command that is no By: however deep damaged bytes are nested, the stack is not.
    fn decode_plain(bytes: &[u8]) -> Result<Self, Undecodable> {
        let command =
            proto::Command::decode(bytes).map_err(|e| Undecodable::damaged("command", &e))?;
        match command.verb {
            Some(proto::command::Verb::By(_)) => Err(Undecodable::field("command")),
            _ => Self::decode(bytes),
        }
    }
}

impl ReportOutcome {
    fn to_proto(&self) -> proto::ReportOutcome {
        proto::ReportOutcome {
            seq: self.seq.0,
            fate: match self.fate {
                ReportFate::Delivered => proto::ReportFate::Delivered,
                ReportFate::Deferred => proto::ReportFate::Deferred,
                ReportFate::Dropped => proto::ReportFate::Dropped,
            }
            .into(),
            reply: self.reply.clone(),
        }
    }

    fn from_proto(outcome: proto::ReportOutcome) -> Result<Self, Undecodable> {
        Ok(Self {
            seq: Seq(outcome.seq),
            fate: match proto::ReportFate::try_from(outcome.fate) {
                Ok(proto::ReportFate::Delivered) => ReportFate::Delivered,
                Ok(proto::ReportFate::Deferred) => ReportFate::Deferred,
                Ok(proto::ReportFate::Dropped) => ReportFate::Dropped,
                _ => return Err(Undecodable::unknown("fate of a report")),
            },
            reply: outcome.reply,
        })
    }
}

impl Outcome {
    fn to_proto(&self) -> proto::Outcome {
        proto::Outcome {
            message: self.message.to_bytes().to_vec().into(),
            recipient: self.recipient,
            verdict: match self.verdict {
                Verdict::Delivered => proto::Verdict::Delivered,
                Verdict::Deferred => proto::Verdict::Deferred,
                Verdict::Refused => proto::Verdict::Refused,
            }
            .into(),
            reply: self.reply.clone(),
        }
    }

    fn from_proto(outcome: proto::Outcome) -> Result<Self, Undecodable> {
        Ok(Self {
            message: message_id(&outcome.message)?,
            recipient: outcome.recipient,
            verdict: match proto::Verdict::try_from(outcome.verdict) {
                Ok(proto::Verdict::Delivered) => Verdict::Delivered,
                Ok(proto::Verdict::Deferred) => Verdict::Deferred,
                Ok(proto::Verdict::Refused) => Verdict::Refused,
                Ok(proto::Verdict::Unspecified) | Err(_) => {
                    return Err(Undecodable::unknown("verdict"));
                }
            },
            reply: outcome.reply,
        })
    }
}

/// The verb only: the rest is people's addresses and, in Bootstrap, the cluster's private key,
/// neither of which belongs in a log file.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.verb())
    }
}
