//! What can be asked of the state. Lists come in pages: at most `limit`, behind `after`.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;

use holdfast_mail::dsn::{Kind, Why};
use holdfast_mail::{BodyRef, Domain, Envelope, MessageId, NodeId, Timestamp};
use holdfast_proto::ledger as proto;

use crate::account::{AccessToken, Account};
use crate::acme::{AcmeDirectory, AcmeIssued};
use crate::host;
use crate::plan::plan_row;
use crate::row::{self, unreadable};
use crate::{
    Askers, Health, Known, KvError, KvRead, Member, Month, Plan, Policy, PolicyChange, Primary,
    Role, Route, Seq, Standing, Usage, tables, usage, wire,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainRecord {
    pub name: Domain,
    pub primary: Primary,
    pub created_at: Timestamp,
}

/// Mail the cluster answers for: waiting for delivery, or refused by the primary and kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub messages: u64,
    pub bytes: u64,
}

/// A message in one domain's queue, on its refused list, or set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub seq: Seq,
    pub message: MessageId,
    /// Indices in the envelope's recipients: those to deliver to, or those refused.
    pub pending: Vec<u32>,
    /// How often the primary has answered about it.
    pub attempts: u32,
    /// What the primary last said to those named; empty before the first attempt.
    pub last_reply: String,
    /// On the refused list: when it is tried again by itself.
    pub retry_at: Option<Timestamp>,
    /// Its sender was, or will be, told that it is late.
    pub delay_told: bool,
    /// Set aside: until somebody releases it.
    pub kept_back: bool,
    /// Set aside: deleted, and dropped then.
    pub discard_at: Option<Timestamp>,
}

/// A notification that a sender is owed and nobody has written yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owed {
    pub about: MessageId,
    pub kind: Kind,
    pub version: u64,
    /// It is not to be written earlier.
    pub not_before: Timestamp,
    /// Until when a delayed message is tried; `None`: without end.
    pub until: Option<Timestamp>,
    pub recipients: Vec<OwedRecipient>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwedRecipient {
    /// Index in the envelope's recipients.
    pub recipient: u32,
    pub why: Why,
    pub reply: String,
    pub last_attempt: Option<Timestamp>,
    /// The primary's host.
    pub remote: String,
}

/// A notification on its way to a domain that is no customer's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingReport {
    pub seq: Seq,
    pub message: MessageId,
    pub attempts: u32,
    pub last_reply: String,
    pub next_at: Timestamp,
    pub give_up_at: Timestamp,
}

/// Something that somebody did: to mail, to a domain, to an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audited {
    pub at: Timestamp,
    pub by: String,
    /// Where they were connected from, as far as it is known.
    pub from: String,
    pub what: String,
    pub domain: String,
    pub messages: Vec<MessageId>,
}

/// Somebody who is signed in where a domain's mail goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attended {
    pub session: [u8; 16],
    pub account: String,
    pub to: SocketAddr,
    /// Over the connection that this node has with them.
    pub over: Option<NodeId>,
    pub since: Timestamp,
    /// It has ended by then, unless there is a sign of life.
    pub until: Timestamp,
}

/// Who may deliver for a domain. Past `until` anybody may take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub node: NodeId,
    pub epoch: u64,
    pub until: Timestamp,
}

#[derive(Clone, PartialEq, Eq)]
pub struct Cluster {
    pub id: [u8; 16],
    pub ca_certificate: Vec<u8>,
    pub ca_key: Vec<u8>,
}

/// Without the private key.
impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// The logged time: the latest that any batch carried.
pub fn now(kv: &dyn KvRead) -> Result<Timestamp, KvError> {
    let clock: Option<proto::ClockRow> = row::get(kv, tables::CLOCK)?;
    Ok(Timestamp(clock.unwrap_or_default().at_ms))
}

/// `None` before Bootstrap.
pub fn cluster(kv: &dyn KvRead) -> Result<Option<Cluster>, KvError> {
    let Some(row) = row::get::<proto::ClusterRow>(kv, tables::CLUSTER)? else {
        return Ok(None);
    };
    Ok(Some(Cluster {
        id: wire::exactly("cluster id", &row.id).map_err(|e| unreadable(tables::CLUSTER, e))?,
        ca_certificate: row.ca_certificate.into(),
        ca_key: row.ca_key.into(),
    }))
}

/// A certificate authority that is to take the place of the cluster's.
#[derive(Clone, PartialEq, Eq)]
pub struct Rotation {
    /// The fingerprint of its key.
    pub authority: [u8; 32],
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
    /// Its key, signed by the authority before it.
    pub cross: Vec<u8>,
    pub since: Timestamp,
    /// Members that do not trust it yet. As long as there is one, nobody presents its certificates.
    pub not_trusting: Vec<Member>,
    /// Members that do not present a certificate of it yet.
    pub not_using: Vec<Member>,
}

/// Without the private key.
impl fmt::Debug for Rotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rotation")
            .field("since", &self.since)
            .finish_non_exhaustive()
    }
}

/// `None` while no rotation is under way.
pub fn rotation(kv: &dyn KvRead) -> Result<Option<Rotation>, KvError> {
    let row: Option<proto::RotationRow> = row::get(kv, tables::ROTATION)?;
    let Some((offer, since_ms)) = row.and_then(|row| Some((row.offer?, row.since_ms))) else {
        return Ok(None);
    };
    let (mut not_trusting, mut not_using) = (Vec::new(), Vec::new());
    for member in members(kv)? {
        let standing: Option<proto::TrustRow> = row::get(kv, &tables::trusting(member.id))?;
        if standing.is_none() {
            not_trusting.push(member.clone());
        }
        if standing.is_none_or(|standing| !standing.used) {
            not_using.push(member);
        }
    }
    Ok(Some(Rotation {
        authority: wire::exactly("authority", &offer.authority)
            .map_err(|e| unreadable(tables::ROTATION, e))?,
        certificate: offer.certificate.into(),
        key: offer.key.into(),
        cross: offer.cross.into(),
        since: Timestamp(since_ms),
        not_trusting,
        not_using,
    }))
}

/// Every member trusts the authority that is offered.
pub(crate) fn all_trust(kv: &dyn KvRead) -> Result<bool, KvError> {
    for member in members(kv)? {
        if !row::exists(kv, &tables::trusting(member.id))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Somebody who may use the operators' API from afar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    pub name: String,
    pub role: Role,
    /// SHA-256 of the only certificate that counts.
    pub certificate: [u8; 32],
    /// Who signed it.
    pub authority: [u8; 32],
    pub granted_at: Timestamp,
    pub expires_at: Timestamp,
}

/// `None`: nobody of that name has access.
pub fn granted(kv: &dyn KvRead, name: &str) -> Result<Option<Granted>, KvError> {
    let key = tables::grant(name);
    match kv.get(&key)? {
        Some(value) => grant_from(&key, &value).map(Some),
        None => Ok(None),
    }
}

/// Everybody who has access, by name.
pub fn all_granted(kv: &dyn KvRead) -> Result<Vec<Granted>, KvError> {
    kv.scan(tables::GRANTS, &[], usize::MAX)?
        .iter()
        .map(|(key, value)| grant_from(key, value))
        .collect()
}

fn grant_from(key: &[u8], value: &[u8]) -> Result<Granted, KvError> {
    let row: proto::GrantRow = row::decode(key, value)?;
    let damaged = |e| unreadable(key, e);
    Ok(Granted {
        name: tables::grant_of(key)?.to_owned(),
        role: Role::from_proto(row.role).map_err(damaged)?,
        certificate: wire::exactly("certificate", &row.certificate).map_err(damaged)?,
        authority: wire::exactly("authority", &row.authority).map_err(damaged)?,
        granted_at: Timestamp(row.granted_at_ms),
        expires_at: Timestamp(row.expires_at_ms),
    })
}

/// How a certificate is ordered for all nodes.
pub struct Acme {
    pub directory: AcmeDirectory,
    /// The account there, as the client library writes it. Holds a private key.
    pub credentials: Option<Vec<u8>>,
    pub since: Timestamp,
    /// How often it was ordered since the last certificate; 0: that one came.
    pub tries: u32,
    /// When last; only if it was.
    pub tried_at: Option<Timestamp>,
    /// Why that failed; empty while it is under way.
    pub why: String,
}

impl Acme {
    /// An order was begun, and what it came to is not known yet.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        self.tries > 0 && self.why.is_empty()
    }
}

/// `None`: none is ordered.
pub fn acme(kv: &dyn KvRead) -> Result<Option<Acme>, KvError> {
    let Some(row) = row::get::<proto::AcmeRow>(kv, tables::ACME)? else {
        return Ok(None);
    };
    let directory = wire::present("directory", row.directory);
    Ok(Some(Acme {
        directory: directory
            .map(AcmeDirectory::from_proto)
            .map_err(|e| unreadable(tables::ACME, e))?,
        credentials: (!row.credentials.is_empty()).then(|| row.credentials.into()),
        since: Timestamp(row.since_ms),
        tries: row.tries,
        tried_at: time(row.tried_at_ms),
        why: row.why,
    }))
}

/// What is said to an authority that asks for this token; `None`: it is no token of ours.
pub fn acme_answer(kv: &dyn KvRead, token: &str) -> Result<Option<String>, KvError> {
    let row: Option<proto::AcmeAnswerRow> = row::get(kv, &tables::acme_answer(token))?;
    Ok(row.map(|row| row.key_authorization))
}

/// The certificate that was ordered, and when it came.
pub fn ordered(kv: &dyn KvRead) -> Result<Option<(AcmeIssued, Timestamp)>, KvError> {
    let row: Option<proto::AcmeIssuedRow> = row::get(kv, tables::ACME_ISSUED)?;
    Ok(row.map(|row| {
        let issued = AcmeIssued {
            directory: row.directory,
            chain: row.chain,
            key: row.key,
            names: row.names,
        };
        (issued, Timestamp(row.issued_at_ms))
    }))
}

/// All members, by id.
pub fn members(kv: &dyn KvRead) -> Result<Vec<Member>, KvError> {
    kv.scan(tables::MEMBERS, &[], usize::MAX)?
        .iter()
        .map(|(key, value)| Ok(wire::member_from(row::decode(key, value)?)))
        .collect()
}

/// The feature level: the highest of the commands that may be used.
pub fn level(kv: &dyn KvRead) -> Result<u32, KvError> {
    match row::get::<proto::LevelRow>(kv, tables::LEVEL)? {
        Some(row) => Ok(row.level),
        // It was made before there were levels.
        None if row::exists(kv, tables::CLUSTER)? => Ok(1),
        None => Ok(crate::level::NEWEST),
    }
}

/// Since when a node is drained, if it is.
pub fn drained(kv: &dyn KvRead, node: NodeId) -> Result<Option<Timestamp>, KvError> {
    let row: Option<proto::DrainedRow> = row::get(kv, &tables::drained(node))?;
    Ok(row.map(|row| Timestamp(row.at_ms)))
}

/// The members that are not drained, by id.
pub fn on_duty(kv: &dyn KvRead) -> Result<Vec<NodeId>, KvError> {
    let drained = kv.scan(tables::DRAINED, &[], usize::MAX)?;
    let is_drained = |node| drained.iter().any(|(key, _)| *key == tables::drained(node));
    let members = members(kv)?.into_iter().map(|member| member.id);
    Ok(members.filter(|node| !is_drained(*node)).collect())
}

/// The domains that a node delivers for, as last granted, the leases that are over at `now` left out.
pub fn leases_of(kv: &dyn KvRead, node: NodeId, now: Timestamp) -> Result<u64, KvError> {
    let mut leases = 0;
    for (key, value) in kv.scan(tables::LEASES, &[], usize::MAX)? {
        let lease: proto::LeaseRow = row::decode(&key, &value)?;
        leases += u64::from(lease.node == node.0 && lease.until_ms > now.0);
    }
    Ok(leases)
}

/// The node was a member and never will be again.
pub fn is_removed(kv: &dyn KvRead, node: NodeId) -> Result<bool, KvError> {
    row::exists(kv, &tables::removed(node))
}

/// The node of this name that was removed, if one was: the last of them.
pub fn removed_as(kv: &dyn KvRead, name: &str) -> Result<Option<NodeId>, KvError> {
    let mut found = None;
    for (key, value) in kv.scan(tables::REMOVED, &[], usize::MAX)? {
        let removed: proto::RemovedRow = row::decode(&key, &value)?;
        if removed.name == name && !name.is_empty() {
            found = Some(tables::removed_of(&key)?);
        }
    }
    Ok(found)
}

pub fn domain(kv: &dyn KvRead, domain: &Domain) -> Result<Option<DomainRecord>, KvError> {
    let key = tables::domain(domain);
    match kv.get(&key)? {
        Some(value) => domain_record(&key, &value, domain.clone()).map(Some),
        None => Ok(None),
    }
}

/// Configured domains, by name.
pub fn domains(
    kv: &dyn KvRead,
    after: Option<&Domain>,
    limit: usize,
) -> Result<Vec<DomainRecord>, KvError> {
    kv.scan(tables::DOMAINS, &behind(tables::DOMAINS, after), limit)?
        .iter()
        .map(|(key, value)| domain_record(key, value, tables::domain_of(key)?))
        .collect()
}

/// Whoever was signed in last where the domain's mail goes; it may have ended.
pub fn attended(kv: &dyn KvRead, domain: &Domain) -> Result<Option<Attended>, KvError> {
    let key = tables::attended(domain);
    let Some(row) = row::get::<proto::AttendRow>(kv, &key)? else {
        return Ok(None);
    };
    let unreadable = |error| unreadable(&key, error);
    Ok(Some(Attended {
        session: wire::exactly("session", &row.session).map_err(unreadable)?,
        account: row.account,
        to: wire::socket(&row.address, row.port).map_err(unreadable)?,
        over: (row.over != 0).then_some(NodeId(row.over)),
        since: Timestamp(row.since_ms),
        until: Timestamp(row.until_ms),
    }))
}

pub fn account(kv: &dyn KvRead, name: &str) -> Result<Option<Account>, KvError> {
    let key = tables::account(name);
    match row::get(kv, &key)? {
        Some(row) => Account::from_row(name, &key, row).map(Some),
        None => Ok(None),
    }
}

/// By name.
pub fn accounts(
    kv: &dyn KvRead,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<Account>, KvError> {
    let from = after.map_or_else(Vec::new, |name| tables::after(tables::account(name)));
    kv.scan(tables::ACCOUNTS, &from, limit)?
        .iter()
        .map(|(key, value)| {
            Account::from_row(tables::account_of(key)?, key, row::decode(key, value)?)
        })
        .collect()
}

/// The hash of the secret that goes with an invitation, if it was given and is not used yet.
pub fn invitation(kv: &dyn KvRead, token_id: &[u8; 16]) -> Result<Option<Vec<u8>>, KvError> {
    let row: Option<proto::TokenRow> = row::get(kv, &tables::token(token_id))?;
    Ok(row.map(|row| row.secret_hash.to_vec()))
}

/// A token and whose it is.
pub fn access_token(
    kv: &dyn KvRead,
    id: &[u8; 16],
) -> Result<Option<(Account, AccessToken)>, KvError> {
    let of: Option<proto::TokenOfRow> = row::get(kv, &tables::token_id(id))?;
    let Some(account) = of.map(|of| account(kv, &of.account)).transpose()?.flatten() else {
        return Ok(None);
    };
    let token = account.tokens.iter().find(|token| token.id == *id).cloned();
    Ok(token.map(|token| (account, token)))
}

/// Messages with anything pending or refused in the domain.
pub fn counts(kv: &dyn KvRead, domain: &Domain) -> Result<Counts, KvError> {
    counts_at(kv, &tables::counts(domain))
}

/// What counts against the domain's quota: its own mail, and that of the hosts below it.
pub fn charged(kv: &dyn KvRead, domain: &Domain) -> Result<Counts, KvError> {
    let keeper = host::keeper(kv, domain)?;
    let domain = keeper.as_ref().unwrap_or(domain);
    let (own, (below, _)) = (counts(kv, domain)?, host::below(kv, domain)?);
    Ok(Counts {
        messages: own.messages.saturating_add(below.messages),
        bytes: own.bytes.saturating_add(below.bytes),
    })
}

/// What the hosts below the domain hold, and how many they are.
pub fn below(kv: &dyn KvRead, domain: &Domain) -> Result<(Counts, u64), KvError> {
    host::below(kv, domain)
}

/// The record of whoever takes mail for the name: its own, or that of the domain that takes mail
/// for its hosts.
pub fn taker(kv: &dyn KvRead, name: &Domain) -> Result<Option<DomainRecord>, KvError> {
    match host::taker(kv, name)? {
        Some(taker) => domain(kv, &taker),
        None => Ok(None),
    }
}

/// The domain that answers for a host without a record of its own.
pub fn keeper(kv: &dyn KvRead, name: &Domain) -> Result<Option<Domain>, KvError> {
    host::keeper(kv, name)
}

/// All messages. One with recipients in two domains counts once here, as its body is stored
/// once, and in each domain's own counts.
pub fn total(kv: &dyn KvRead) -> Result<Counts, KvError> {
    counts_at(kv, tables::TOTAL)
}

/// Messages of the domain with anything to deliver.
pub fn pending(kv: &dyn KvRead, domain: &Domain) -> Result<u64, KvError> {
    let counts: Option<proto::CountsRow> = row::get(kv, &tables::counts(domain))?;
    Ok(counts.map_or(0, |counts| counts.pending))
}

/// Domains with anything to deliver, by name.
pub fn held_domains(
    kv: &dyn KvRead,
    after: Option<&Domain>,
    limit: usize,
) -> Result<Vec<Domain>, KvError> {
    /// Rows read at once.
    const PAGE: usize = 256;
    let mut found = Vec::new();
    let mut from = behind(tables::COUNTS, after);
    loop {
        let page = kv.scan(tables::COUNTS, &from, PAGE)?;
        for (key, value) in &page {
            if found.len() == limit {
                return Ok(found);
            }
            let counts: proto::CountsRow = row::decode(key, value)?;
            if counts.pending > 0 {
                found.push(tables::domain_of(key)?);
            }
        }
        match page.into_iter().nth(PAGE - 1) {
            Some((last, _)) => from = tables::after(last),
            None => return Ok(found),
        }
    }
}

/// What is to be delivered to the domain, in the order of acceptance.
pub fn held(
    kv: &dyn KvRead,
    domain: &Domain,
    after: Option<Seq>,
    limit: usize,
) -> Result<Vec<Held>, KvError> {
    queue(kv, tables::HELD, domain, after, limit)
}

/// What the domain's primary refused for good and is kept, in the order of acceptance.
pub fn refused(kv: &dyn KvRead, domain: &Domain, limit: usize) -> Result<Vec<Held>, KvError> {
    refused_after(kv, domain, None, limit)
}

/// The same, behind `after`.
pub fn refused_after(
    kv: &dyn KvRead,
    domain: &Domain,
    after: Option<Seq>,
    limit: usize,
) -> Result<Vec<Held>, KvError> {
    queue(kv, tables::REFUSED, domain, after, limit)
}

/// What somebody set aside, in the order of acceptance.
pub fn aside(
    kv: &dyn KvRead,
    domain: &Domain,
    after: Option<Seq>,
    limit: usize,
) -> Result<Vec<Held>, KvError> {
    queue(kv, tables::ASIDE, domain, after, limit)
}

/// Domains with any mail, held, refused or set aside, by name.
pub fn domains_with_mail(
    kv: &dyn KvRead,
    after: Option<&Domain>,
    limit: usize,
) -> Result<Vec<Domain>, KvError> {
    kv.scan(tables::COUNTS, &behind(tables::COUNTS, after), limit)?
        .iter()
        .map(|(key, _)| tables::domain_of(key))
        .collect()
}

/// Whether the domain is no customer's, nor a host of one: mail for it was sent by a customer.
pub fn is_strangers(kv: &dyn KvRead, domain: &Domain) -> Result<bool, KvError> {
    let has_record = row::exists(kv, &tables::domain(domain))?;
    Ok(!has_record && host::keeper(kv, domain)?.is_none())
}

/// What is to become of the domain's mail: what its owner said, then what its plan says, then the
/// default. For a host below a domain, what holds there.
pub fn policy(kv: &dyn KvRead, domain: &Domain) -> Result<Policy, KvError> {
    let row: Option<proto::PolicyRow> = row::get(kv, &tables::policy(domain))?;
    let Some(row) = row else {
        return match host::keeper(kv, domain)? {
            Some(keeper) => Ok(host::policy_of_host(policy(kv, &keeper)?)),
            None => Ok(Policy::default()),
        };
    };
    let own = row.policy.unwrap_or_default();
    if row.plan.is_empty() {
        return Ok(Policy::from_proto(&own));
    }
    let plan = plan(kv, &row.plan)?;
    let filled = plan.map_or(own, |plan| plan.fill(own, row.extra_steps));
    Ok(Policy::from_proto(&filled))
}

/// What the domain's owner said, where it goes before what a plan says.
pub fn own_policy(kv: &dyn KvRead, domain: &Domain) -> Result<PolicyChange, KvError> {
    let row: Option<proto::PolicyRow> = row::get(kv, &tables::policy(domain))?;
    Ok(row.and_then(|row| row.policy).unwrap_or_default())
}

/// The plan that the domain is on, and its steps of extra quota.
pub fn subscription(kv: &dyn KvRead, domain: &Domain) -> Result<Option<(String, u32)>, KvError> {
    let row: Option<proto::PolicyRow> = row::get(kv, &tables::policy(domain))?;
    Ok(row
        .filter(|row| !row.plan.is_empty())
        .map(|row| (row.plan, row.extra_steps)))
}

pub fn plan(kv: &dyn KvRead, name: &str) -> Result<Option<Plan>, KvError> {
    Ok(plan_row(kv, name)?.and_then(|row| Plan::from_row(name, &row)))
}

/// As many of our hosts as the domain's plan puts into its zone; 0: it says nothing.
pub fn mx_hosts(kv: &dyn KvRead, domain: &Domain) -> Result<u32, KvError> {
    let Some((name, _)) = subscription(kv, domain)? else {
        return Ok(0);
    };
    Ok(plan(kv, &name)?.map_or(0, |plan| plan.mx_hosts))
}

/// All plans that are not removed, by name: [`crate::PLANS_MAX`] at most.
pub fn plans(kv: &dyn KvRead) -> Result<Vec<Plan>, KvError> {
    let mut plans = Vec::new();
    for (key, value) in kv.scan(tables::PLANS, &[], usize::MAX)? {
        plans.extend(Plan::from_row(
            tables::plan_of(&key)?,
            &row::decode(&key, &value)?,
        ));
    }
    Ok(plans)
}

/// Since when usage is counted; `None`: not yet.
pub fn usage_since(kv: &dyn KvRead) -> Result<Option<Timestamp>, KvError> {
    usage::since(kv)
}

/// What the domain's usage comes to in a month that has begun; `None`: nothing came, nothing was
/// held, and there is nothing to pay.
pub fn usage(kv: &dyn KvRead, domain: &Domain, month: Month) -> Result<Option<Usage>, KvError> {
    usage::usage(kv, domain, month)
}

/// Domains that may have usage in the month, by name: those there are, and those that were removed.
pub fn used_domains(
    kv: &dyn KvRead,
    month: Month,
    after: Option<&Domain>,
    limit: usize,
) -> Result<Vec<Domain>, KvError> {
    let mut found = BTreeSet::new();
    for record in domains(kv, after, limit)? {
        found.insert(record.name);
    }
    let from = after.map_or_else(Vec::new, |domain| {
        tables::after(tables::usage(month, domain))
    });
    for (key, _) in kv.scan(&tables::usage_in(month), &from, limit)? {
        found.insert(tables::usage_of(&key)?.1);
    }
    Ok(found.into_iter().take(limit).collect())
}

/// Who may ask for the domain's held mail to be delivered; anybody where nothing was set.
pub fn askers(kv: &dyn KvRead, domain: &Domain) -> Result<Askers, KvError> {
    let keeper = host::keeper(kv, domain)?;
    let key = tables::askers(keeper.as_ref().unwrap_or(domain));
    let row: Option<proto::AskersRow> = row::get(kv, &key)?;
    row.and_then(|row| row.askers)
        .map_or(Ok(Askers::Anybody), |askers| {
            Askers::from_proto(&askers).map_err(|error| unreadable(&key, error))
        })
}

/// Whether mail for this recipient is taken at all. A list that nobody has filled yet shuts
/// nobody out, and postmaster is never shut out (RFC 5321 section 4.5.1).
pub fn takes_mail_for(kv: &dyn KvRead, domain: &Domain, local: &str) -> Result<bool, KvError> {
    let policy = policy(kv, domain)?;
    if !policy.listed_only || local.eq_ignore_ascii_case("postmaster") {
        return Ok(true);
    }
    let keeper = host::keeper(kv, domain)?;
    let domain = keeper.as_ref().unwrap_or(domain);
    let name = listed_name(local);
    if row::exists(kv, &tables::listed(domain, &name))? {
        return Ok(true);
    }
    if let Some((base, _)) = policy
        .delimiter
        .and_then(|delimiter| name.split_once(delimiter))
        && !base.is_empty()
        && row::exists(kv, &tables::listed(domain, base))?
    {
        return Ok(true);
    }
    if row::exists(kv, &tables::listed(domain, EVERYONE))? {
        return Ok(true);
    }
    Ok(recipients(kv, domain, None, 1)?.is_empty())
}

/// The listed recipients, by name.
pub fn recipients(
    kv: &dyn KvRead,
    domain: &Domain,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<String>, KvError> {
    let prefix = tables::of_domain(tables::LISTED, domain);
    let from = after.map_or_else(Vec::new, |name| tables::after(tables::listed(domain, name)));
    kv.scan(&prefix, &from, limit)?
        .into_iter()
        .map(|(key, _)| {
            let name = key.get(prefix.len()..).unwrap_or_default().to_vec();
            String::from_utf8(name).map_err(|error| unreadable(&key, error))
        })
        .collect()
}

/// What the primary said of a name, if it was asked; for the empty name: of one that nobody has.
pub fn known(kv: &dyn KvRead, domain: &Domain, name: &str) -> Result<Option<Known>, KvError> {
    let key = tables::known(domain, &listed_name(name));
    let row = if name.is_empty() {
        row::get::<proto::KnownsRow>(kv, &key)?.and_then(|all| all.anyone)
    } else {
        row::get(kv, &key)?
    };
    Ok(row.map(Known::from_row))
}

/// All names that the primary was asked about, with what it said.
pub fn knowns(
    kv: &dyn KvRead,
    domain: &Domain,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<(String, Known)>, KvError> {
    let prefix = tables::of_domain(tables::KNOWN, domain);
    let from = tables::after(tables::known(domain, after.unwrap_or_default()));
    kv.scan(&prefix, &from, limit)?
        .into_iter()
        .map(|(key, value)| {
            let (_, name) = tables::known_name(&key)?;
            Ok((name.to_owned(), Known::from_row(row::decode(&key, &value)?)))
        })
        .collect()
}

/// What to do with a recipient of a domain whose primary is asked. Where it takes mail for a name
/// that nobody has, it takes it for all, and its yes says nothing; postmaster is never asked for.
pub fn standing(
    kv: &dyn KvRead,
    domain: &Domain,
    local: &str,
    now: Timestamp,
) -> Result<Standing, KvError> {
    let policy = policy(kv, domain)?;
    if !policy.verify || local.eq_ignore_ascii_case("postmaster") {
        return Ok(Standing::Taken);
    }
    let anyone = known(kv, domain, "")?.filter(|anyone| anyone.takes);
    let standing = |known: Option<Known>| {
        known.map_or(Standing::Unknown, |known| known.standing(&policy, now))
    };
    Ok(
        match (standing(anyone), standing(known(kv, domain, local)?)) {
            (Standing::Taken, _) => Standing::Taken,
            (Standing::TakenUnlessRefused, Standing::Unknown) => Standing::TakenUnlessRefused,
            (_, of_name) => of_name,
        },
    )
}

/// Stands in a list for everyone.
const EVERYONE: &str = "*";

/// How a name is listed. Local parts may be told apart by case (RFC 5321 section 2.4), and hardly
/// any server does.
pub(crate) fn listed_name(local: &str) -> String {
    local.to_lowercase()
}

/// How the domain's primary has been taking mail.
pub fn health(kv: &dyn KvRead, domain: &Domain) -> Result<Health, KvError> {
    let row: Option<proto::HealthRow> = row::get(kv, &tables::health(domain))?;
    Ok(row.map_or_else(Health::default, |row| Health {
        since: Timestamp(row.since_ms),
        last: Timestamp(row.last_ms),
        taken: row.taken,
        refused: row.refused,
    }))
}

/// Whether a primary can be reached, as the cluster last found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Why not, if not.
    pub down: Option<String>,
    /// Since when it has been so.
    pub since: Timestamp,
    /// When it was last looked at.
    pub at: Timestamp,
    pub node: NodeId,
}

/// `None`: nobody has looked yet.
pub fn reach(kv: &dyn KvRead, domain: &Domain) -> Result<Option<Reach>, KvError> {
    let row: Option<proto::ReachRow> = row::get(kv, &tables::reach(domain))?;
    Ok(row.map(|row| Reach {
        down: (!row.up).then_some(row.why),
        since: Timestamp(row.since_ms),
        at: Timestamp(row.at_ms),
        node: NodeId(row.node),
    }))
}

/// How mail goes to the domain's primary.
pub fn route(kv: &dyn KvRead, domain: &Domain) -> Result<Route, KvError> {
    let row: Option<proto::RouteRow> = row::get(kv, &tables::route(domain))?;
    let route = row.and_then(|row| row.route).unwrap_or_default();
    Route::from_proto(route).map_err(|why| unreadable(&tables::route(domain), why))
}

/// Who writes and sends notifications. Past `until` anybody may take the post.
pub fn post(kv: &dyn KvRead) -> Result<Option<Lease>, KvError> {
    lease_at(kv, tables::POST)
}

/// Notifications that are owed, by the message they are about.
pub fn owed(
    kv: &dyn KvRead,
    after: Option<(MessageId, Kind)>,
    limit: usize,
) -> Result<Vec<Owed>, KvError> {
    let from = after.map_or_else(Vec::new, |(about, kind)| {
        tables::after(tables::owed(about, kind))
    });
    kv.scan(tables::OWED, &from, limit)?
        .iter()
        .map(|(key, value)| owed_from(key, value))
        .collect()
}

/// The notification of this kind about the message.
pub fn owed_about(kv: &dyn KvRead, about: MessageId, kind: Kind) -> Result<Option<Owed>, KvError> {
    let key = tables::owed(about, kind);
    let row = kv.get(&key)?;
    row.map(|value| owed_from(&key, &value)).transpose()
}

fn owed_from(key: &[u8], value: &[u8]) -> Result<Owed, KvError> {
    let (about, kind) = tables::owed_about(key)?;
    let row: proto::OwedRow = row::decode(key, value)?;
    Ok(Owed {
        about,
        kind,
        version: row.version,
        not_before: Timestamp(row.not_before_ms),
        until: time(row.until_ms),
        recipients: row
            .recipients
            .into_iter()
            .map(|owed| owed_recipient(key, owed))
            .collect::<Result<_, _>>()?,
    })
}

fn owed_recipient(key: &[u8], owed: proto::OwedRecipient) -> Result<OwedRecipient, KvError> {
    Ok(OwedRecipient {
        recipient: owed.recipient,
        why: match proto::OwedWhy::try_from(owed.why) {
            Ok(proto::OwedWhy::Refused) => Why::Refused,
            Ok(proto::OwedWhy::Expired) => Why::Expired,
            Ok(proto::OwedWhy::Returned) => Why::Returned,
            Ok(proto::OwedWhy::Delayed) => Why::Delayed,
            _ => return Err(unreadable(key, "it does not say why")),
        },
        reply: owed.reply,
        last_attempt: time(owed.at_ms),
        remote: owed.remote,
    })
}

/// Notifications on their way, in the order they were written.
pub fn reports(
    kv: &dyn KvRead,
    after: Option<Seq>,
    limit: usize,
) -> Result<Vec<PendingReport>, KvError> {
    let from = after.map_or_else(Vec::new, |seq| tables::after(tables::report(seq)));
    kv.scan(tables::REPORTS, &from, limit)?
        .iter()
        .map(|(key, value)| {
            let row: proto::ReportRow = row::decode(key, value)?;
            Ok(PendingReport {
                seq: tables::seq_of(key)?,
                message: wire::message_id(&row.message).map_err(|e| unreadable(key, e))?,
                attempts: row.attempts,
                last_reply: row.last_reply,
                next_at: Timestamp(row.next_at_ms),
                give_up_at: Timestamp(row.give_up_at_ms),
            })
        })
        .collect()
}

/// What was done by hand, oldest first.
pub fn audit(kv: &dyn KvRead) -> Result<Vec<Audited>, KvError> {
    let all = audit_after(kv, None, usize::MAX)?;
    Ok(all.into_iter().map(|(_, audited)| audited).collect())
}

/// The same by pages.
pub fn audit_after(
    kv: &dyn KvRead,
    after: Option<Seq>,
    limit: usize,
) -> Result<Vec<(Seq, Audited)>, KvError> {
    let mut rows = Vec::new();
    for table in [tables::AUDIT, tables::SIGN_INS] {
        let from = after.map(|seq| tables::after(tables::audited(table, seq)));
        for (key, value) in kv.scan(table, &from.unwrap_or_default(), limit)? {
            rows.push((tables::seq_of(&key)?, key, value));
        }
    }
    rows.sort_unstable_by_key(|(seq, ..)| *seq);
    rows.truncate(limit);
    rows.iter()
        .map(|(seq, key, value)| {
            let row: proto::AuditRow = row::decode(key, value)?;
            let audited = Audited {
                at: Timestamp(row.at_ms),
                by: row.by,
                from: row.from,
                what: row.what,
                domain: row.domain,
                messages: row
                    .ids
                    .iter()
                    .map(|id| wire::message_id(id).map_err(|e| unreadable(key, e)))
                    .collect::<Result<_, _>>()?,
            };
            Ok((*seq, audited))
        })
        .collect()
}

/// `None` unless something of the message is held or refused.
pub fn envelope(kv: &dyn KvRead, message: MessageId) -> Result<Option<Envelope>, KvError> {
    let key = tables::message(message);
    match row::get::<proto::MessageRow>(kv, &key)? {
        Some(row) => envelope_of(&key, row).map(Some),
        None => Ok(None),
    }
}

/// The same, with its place in the queues.
pub fn message(kv: &dyn KvRead, message: MessageId) -> Result<Option<(Seq, Envelope)>, KvError> {
    let key = tables::message(message);
    match row::get::<proto::MessageRow>(kv, &key)? {
        Some(row) => Ok(Some((Seq(row.seq), envelope_of(&key, row)?))),
        None => Ok(None),
    }
}

/// The message was cancelled within the last [`crate::MARK_KEPT`].
pub fn is_cancelled(kv: &dyn KvRead, message: MessageId) -> Result<bool, KvError> {
    let mark: Option<proto::MarkRow> = row::get(kv, &tables::mark(message))?;
    Ok(mark.is_some_and(|mark| matches!(mark.why, Some(proto::mark_row::Why::Cancelled(_)))))
}

/// When the message was cancelled or its last recipient settled, where that is remembered: then no
/// Accept of it that is applied from now on puts it into any queue. It is refused or answered as the
/// first one was, and a mark is forgotten only when it would be refused for its age.
pub fn marked_at(kv: &dyn KvRead, message: MessageId) -> Result<Option<Timestamp>, KvError> {
    let mark: Option<proto::MarkRow> = row::get(kv, &tables::mark(message))?;
    Ok(mark.map(|mark| Timestamp(mark.at_ms)))
}

/// The lease as last granted, be it over or not.
pub fn lease(kv: &dyn KvRead, domain: &Domain) -> Result<Option<Lease>, KvError> {
    lease_at(kv, &tables::lease(domain))
}

fn lease_at(kv: &dyn KvRead, key: &[u8]) -> Result<Option<Lease>, KvError> {
    let row: Option<proto::LeaseRow> = row::get(kv, key)?;
    Ok(row.map(|row| Lease {
        node: NodeId(row.node),
        epoch: row.epoch,
        until: Timestamp(row.until_ms),
    }))
}

/// Every body that a message refers to, by id.
pub fn bodies(
    kv: &dyn KvRead,
    after: Option<MessageId>,
    limit: usize,
) -> Result<Vec<BodyRef>, KvError> {
    let from = after.map_or_else(Vec::new, |id| tables::after(tables::message(id)));
    kv.scan(tables::MESSAGES, &from, limit)?
        .iter()
        .map(|(key, value)| Ok(envelope_of(key, row::decode(key, value)?)?.body))
        .collect()
}

/// The body that one row of the state refers to; `None` for rows of other tables. For readers
/// of a snapshot, which have rows and no store.
pub fn body_of_row(key: &[u8], value: &[u8]) -> Result<Option<BodyRef>, KvError> {
    if !key.starts_with(tables::MESSAGES) {
        return Ok(None);
    }
    Ok(Some(envelope_of(key, row::decode(key, value)?)?.body))
}

pub(crate) fn envelope_of(key: &[u8], row: proto::MessageRow) -> Result<Envelope, KvError> {
    wire::present("envelope", row.envelope)
        .and_then(wire::envelope_from)
        .map_err(|error| unreadable(key, error))
}

fn queue(
    kv: &dyn KvRead,
    table: &[u8],
    domain: &Domain,
    after: Option<Seq>,
    limit: usize,
) -> Result<Vec<Held>, KvError> {
    let from = after.map_or_else(Vec::new, |seq| {
        tables::after(tables::in_queue(table, domain, seq))
    });
    kv.scan(&tables::of_domain(table, domain), &from, limit)?
        .iter()
        .map(|(key, value)| {
            let row: proto::QueueRow = row::decode(key, value)?;
            Ok(Held {
                seq: tables::seq_of(key)?,
                message: wire::message_id(&row.message).map_err(|e| unreadable(key, e))?,
                pending: row.recipients,
                attempts: row.attempts,
                last_reply: row.last_reply,
                retry_at: time(row.retry_at_ms),
                delay_told: row.delay_told,
                kept_back: row.kept_back,
                discard_at: time(row.discard_at_ms),
            })
        })
        .collect()
}

/// Zero stands for no time.
fn time(ms: u64) -> Option<Timestamp> {
    (ms != 0).then_some(Timestamp(ms))
}

fn counts_at(kv: &dyn KvRead, key: &[u8]) -> Result<Counts, KvError> {
    let row: proto::CountsRow = row::get(kv, key)?.unwrap_or_default();
    Ok(Counts {
        messages: row.messages,
        bytes: row.bytes,
    })
}

fn domain_record(key: &[u8], value: &[u8], name: Domain) -> Result<DomainRecord, KvError> {
    let row: proto::DomainRow = row::decode(key, value)?;
    Ok(DomainRecord {
        name,
        primary: wire::present("primary", row.primary)
            .and_then(wire::primary_from)
            .map_err(|error| unreadable(key, error))?,
        created_at: Timestamp(row.created_at_ms),
    })
}

/// Where a page behind `after` begins.
fn behind(table: &[u8], after: Option<&Domain>) -> Vec<u8> {
    after.map_or_else(Vec::new, |domain| {
        tables::after(tables::of_domain(table, domain))
    })
}
