//! One client's transactions: who may send what, and the promise behind `250`.

use std::net::IpAddr;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use holdfast_ledger::account::{Account, Scopes};
use holdfast_ledger::query::DomainRecord;
use holdfast_ledger::{Command, Refusal, Reply as LedgerReply, Standing, level, query};
use holdfast_mail::trace::{Arrival, hops, received};
use holdfast_mail::{
    Address, BodyType, Domain, Envelope, MessageId, Recipient, ReversePath, mutant,
};
use holdfast_proto::cluster::Happening;
use holdfast_smtp::login::Login;
use holdfast_smtp::reply::Reply;
use holdfast_smtp::request::Mail;
use holdfast_smtp::server::{Question, Session};
use tokio::time::Instant;

use super::counters::Reason;
use super::inquiry::Answer;
use super::{Options, Shared, etrn};
use crate::accounts::Credentials;
use crate::failpoint;
use crate::history;
use crate::reach;
use crate::replica::{BodyWriter, ProposeError, now, random_id};
use crate::talk::serve::Desk;

/// How long a message may wait for a quorum: several elections, even at the slowest
/// `wan_profile`. A client waits ten minutes for the reply to the final dot (RFC 5321 section
/// 4.5.3.2.6), but other mail exchangers could have its message long before.
const ACCEPT_TIME_MAX: Duration = Duration::from_secs(60);

/// How long cancelling may take before the connection is closed without an answer.
const CANCEL_TIME_MAX: Duration = Duration::from_secs(20);

/// How long MAIL and DATA wait for a quorum that is lost. MAIL tells soon, so that the client can
/// turn to another node; a client at DATA has been through most of its transaction and waits two
/// minutes for the reply (RFC 5321 section 4.5.3.2.4).
const QUORUM_PATIENCE_AT_MAIL: Duration = Duration::from_secs(5);
const QUORUM_PATIENCE_AT_DATA: Duration = Duration::from_secs(30);

/// How often the quorum is looked for meanwhile.
const QUORUM_POLL: Duration = Duration::from_millis(50);

/// RFC 5321 section 6.3: "Simple counting of the number of Received: header fields in a
/// message has proven to be an effective … method of detecting loops"; "the counting … SHOULD
/// reject … over a large threshold, normally at least 100".
const RECEIVED_MAX: usize = 100;

/// How often one message may pass this cluster. Once is the rule; a forwarding primary may
/// make it two; more is a loop.
const OUR_HOPS_MAX: usize = 4;

/// Bytes of header section that are looked at for `Received` fields.
const HEADER_BYTES_MAX: usize = 256 << 10;

/// Letters of a Message-ID field that the history keeps: a line of RFC 5322 has no more.
const HEADER_ID_CHARS_MAX: usize = 998;

/// The recipients of one message with what is said of them (ORCPT), octets. Each may have eight hundred and
/// there may be a thousand: all connections together would have many times what a node should need. More
/// than the hundred that RFC 5321 section 4.5.3.1.8 wants to be taken, however long, always have room.
const RECIPIENT_OCTETS_MAX: usize = 256 << 10;

/// Domains that are looked at to tell whether any of them could ever take a message, when MAIL announces
/// its size. Where there are more, nothing is said before RCPT names one.
const DOMAINS_LOOKED_AT_MAX: usize = 64;

/// Recipients that the history names of a refused command.
const REFUSED_RECIPIENTS_MAX: usize = 10;

/// Refusals of one session that the log and the history tell one by one. A session whose every recipient is
/// refused says nothing new with the next, and would fill both; the others are summed at its end.
const REFUSALS_TOLD_MAX: u64 = 100;

const CATCHING_UP: &str =
    "this server is still catching up; please try again or another of our mail exchangers";

/// One session's desk.
pub(super) struct Transaction<'a> {
    shared: &'a Shared,
    options: &'a Options,
    client: IpAddr,
    /// Who has logged in, to send mail to anybody.
    account: Option<Account>,
    /// What they showed.
    shown: Option<Credentials>,
    mail: Option<Mail>,
    recipients: Vec<Recipient>,
    /// The last message whose content began, for the log lines of this transaction.
    message: Option<MessageId>,
    content: Option<Content>,
    /// Why the desk refused what it was last asked; the session's own refusals have none.
    reason: Option<&'static str>,
    /// Refusals so far.
    refusals: u64,
    /// For the history: the recipient that was asked about.
    asked: Option<String>,
    /// For the history: the message that is whole, until it is accepted or refused.
    whole: Option<Happening>,
}

struct Content {
    writer: BodyWriter,
    /// The header section so far, until it is whole.
    header: Vec<u8>,
    header_whole: bool,
    /// An octet above 127 has come, or is in our trace line.
    eight_bit: bool,
    failed: Option<std::io::Error>,
}

impl<'a> Transaction<'a> {
    pub(super) fn new(shared: &'a Shared, options: &'a Options, client: IpAddr) -> Self {
        Self {
            shared,
            options,
            client,
            account: None,
            shown: None,
            mail: None,
            recipients: Vec::new(),
            message: None,
            content: None,
            reason: None,
            refusals: 0,
            asked: None,
            whole: None,
        }
    }

    /// Notes why, for the log and the counters.
    fn refuse(&mut self, reason: &'static str, reply: Reply) -> Reply {
        self.reason = Some(reason);
        reply
    }

    /// Waits a moment for a quorum: a leader that died is replaced within seconds, and the client
    /// need not notice.
    async fn no_quorum(&mut self, patience: Duration) -> Option<Reply> {
        let deadline = Instant::now() + patience;
        while !self.shared.cluster.has_quorum() {
            if Instant::now() >= deadline {
                let text = "no quorum of our nodes can be reached; please try again or another of our mail exchangers";
                return Some(self.refuse("no_quorum", Reply::new(451, 3, 2, text)));
            }
            tokio::time::sleep(QUORUM_POLL).await;
        }
        None
    }

    async fn mail(&mut self, mail: Mail) -> Reply {
        self.forget();
        if let Some(refusal) = self.no_quorum(QUORUM_PATIENCE_AT_MAIL).await {
            return refusal;
        }
        if !self.shared.cluster.has_room() {
            return self.refuse("disk_low", disk_low());
        }
        if let Some(refusal) = self.look_again() {
            return refusal;
        }
        if let ReversePath::Mailbox(address) = &mail.reverse_path
            && let Some(refusal) = self.unreadable(address)
        {
            return refusal;
        }
        if let Some(account) = &self.account
            && !is_theirs(account, &mail.reverse_path)
        {
            return self.refuse("not_theirs", not_theirs());
        }
        if mail.size.is_some_and(|size| self.is_too_large(size)) {
            let text = match self.account {
                Some(_) => "your account may not send that much in an hour",
                None => "nobody that this server takes mail for may have a message of that size",
            };
            return self.refuse("too_large", Reply::new(552, 3, 4, text));
        }
        self.mail = Some(mail);
        Reply::new(250, 1, 0, "Ok")
    }

    /// What to answer while there may be nodes that cannot read such an address, and would stop at it. Not for
    /// good: the sender comes again, perhaps after the upgrade, or finds the primary up.
    fn unreadable(&mut self, address: &Address) -> Option<Reply> {
        if address.is_strict() || self.shared.cluster.level() >= level::LOOSE_ADDRESSES {
            return None;
        }
        let text = "our servers are being upgraded and cannot take this address yet; please try again later";
        Some(self.refuse("state", Reply::new(451, 3, 0, text)))
    }

    /// Whether a message of that size is none that anybody could get through here, or that the account
    /// could send. What cannot be read, or may be old, is no reason to say so.
    fn is_too_large(&self, size: u64) -> bool {
        if let Some(account) = &self.account {
            return size > account.send_limits.bytes;
        }
        let view = self.shared.cluster.view();
        let domains = query::domains(&view, None, DOMAINS_LOOKED_AT_MAX + 1).unwrap_or_default();
        let never = |record: &DomainRecord| {
            query::policy(&view, &record.name).is_ok_and(|policy| policy.is_too_large(size))
        };
        (1..=DOMAINS_LOOKED_AT_MAX).contains(&domains.len())
            && domains.iter().all(never)
            && self.shared.cluster.is_current()
    }

    async fn log_in(&mut self, login: Login) -> Reply {
        let send = Scopes {
            send: true,
            ..Scopes::default()
        };
        let (doorkeeper, cluster) = (&self.shared.doorkeeper, &self.shared.cluster);
        let who = doorkeeper.program(cluster, &login, self.client, send);
        match who.await {
            Ok((account, shown)) => {
                (self.account, self.shown) = (Some(account), Some(shown));
                Reply::new(235, 7, 0, "welcome")
            }
            Err(why) => self.refuse("login", why.to_reply()),
        }
    }

    /// A password that was changed, or a token that was removed, is not good for the rest of a session
    /// either: whoever stole it may have kept one open.
    fn look_again(&mut self) -> Option<Reply> {
        let shown = self.shown.as_ref()?;
        match shown.account(&self.shared.cluster.view(), now()) {
            Ok(Some(account)) => {
                self.account = Some(account);
                None
            }
            Ok(None) => {
                let text = "what you logged in with is no longer good; connect and log in again";
                Some(self.refuse("login", Reply::new(421, 7, 0, text)))
            }
            Err(error) => {
                tracing::error!("{error}");
                let text = "the accounts cannot be read; please try again";
                Some(self.refuse("state", Reply::new(451, 3, 0, text)))
            }
        }
    }

    async fn rcpt(&mut self, mut recipient: Recipient) -> Reply {
        // RFC 5321 section 4.5.1: "Any system that includes an SMTP server supporting mail
        // relaying or delivery MUST support the reserved mailbox "postmaster"". Nobody has a
        // mailbox here, so it is the operator's elsewhere.
        self.asked = Some(recipient.address.to_string());
        if is_postmaster_here(&recipient.address, &self.options.name) {
            match &self.options.postmaster {
                Some(postmaster) => recipient.address = postmaster.clone(),
                None => {
                    let text = "no mailboxes here; write to postmaster at the domain you mean";
                    return self.refuse("no_domain", Reply::new(550, 1, 1, text));
                }
            }
        }
        let address = &recipient.address;
        let Some(domain) = address.domain() else {
            let text = "the address has no domain";
            return self.refuse("no_domain", Reply::new(550, 1, 1, text));
        };
        if carries_a_route(address) {
            let text = "no routes in a local part";
            return self.refuse("relay", Reply::new(550, 7, 1, text));
        }
        match query::taker(&self.shared.cluster.view(), domain) {
            Ok(Some(_)) if !self.takes_mail_for(address, domain) => {
                if self.shared.cluster.is_current() {
                    let text = format!("{address} is not a recipient of {domain}");
                    self.refuse("unknown_recipient", Reply::new(550, 1, 1, text))
                } else {
                    // It may have been listed in an entry that this node has not applied yet.
                    self.refuse("state", Reply::new(451, 3, 0, CATCHING_UP))
                }
            }
            Ok(Some(record)) => {
                // Anybody can make names up, and each takes one of the places that hosts have.
                if record.name != *domain && self.shared.inquiry.is_no_host(domain).await {
                    let text = format!("there is no host {domain}");
                    return self.refuse("no_host", Reply::new(550, 1, 2, text));
                }
                if let Some(refusal) = self.room(domain) {
                    return self.refuse("quota", refusal);
                }
                if let Some((reason, refusal)) = self.inquire(address, domain).await {
                    return self.refuse(reason, refusal);
                }
                if let Some(refusal) = self.defer(&record, domain) {
                    return self.refuse("primary_is_up", refusal);
                }
                self.take(recipient)
            }
            // RFC 6761 section 6.4: such names do not exist, and one is a drill's.
            Ok(None) if self.account.is_some() && is_invalid(domain) => {
                let text = format!("there is no domain {domain}");
                self.refuse("no_domain", Reply::new(550, 1, 2, text))
            }
            // RFC 6409 section 6.1: whoever has logged in may send anywhere.
            Ok(None) if self.account.is_some() => self.take(recipient),
            // The domain may have been added in an entry that this node has not applied yet: 550
            // would bounce lawful mail.
            Ok(None) if !self.shared.cluster.is_current() => {
                self.refuse("state", Reply::new(451, 3, 0, CATCHING_UP))
            }
            Ok(None) => {
                let text = format!(
                    "relaying denied: {domain} is not a domain that this server is a backup for"
                );
                self.refuse("relay", Reply::new(550, 7, 1, text))
            }
            Err(error) => {
                tracing::error!("{error}");
                self.refuse(
                    "state",
                    Reply::new(
                        451,
                        3,
                        0,
                        "the list of domains cannot be read; please try again",
                    ),
                )
            }
        }
    }

    /// One more recipient, if the envelope has room for it.
    fn take(&mut self, recipient: Recipient) -> Reply {
        if let Some(refusal) = self.unreadable(&recipient.address) {
            return refusal;
        }
        let octets = |to: &Recipient| {
            to.address.to_string().len() + to.orcpt.as_ref().map_or(0, String::len)
        };
        let octets: usize = self.recipients.iter().chain([&recipient]).map(octets).sum();
        if octets > RECIPIENT_OCTETS_MAX {
            let text = "no more recipients in one message; send it to the others in another one";
            return self.refuse("too_many_recipients", Reply::new(452, 5, 3, text));
        }
        self.recipients.push(recipient);
        Reply::new(250, 1, 5, "Ok")
    }

    /// A list that cannot be read shuts nobody out: the primary decides then.
    fn takes_mail_for(&self, address: &Address, domain: &Domain) -> bool {
        let view = self.shared.cluster.view();
        query::takes_mail_for(&view, domain, address.local()).unwrap_or(true)
    }

    /// What to answer if the domain's primary is asked about its recipients, and does not take mail
    /// for this one or cannot say.
    async fn inquire(&self, address: &Address, domain: &Domain) -> Option<(&'static str, Reply)> {
        let view = self.shared.cluster.view();
        let standing = query::standing(&view, domain, address.local(), now());
        // What cannot be read shuts nobody out: the primary decides when it gets the message.
        let standing = standing.unwrap_or(Standing::Taken);
        let answer = match standing {
            Standing::Taken => return None,
            Standing::Refused => Answer::Refused(String::new()),
            Standing::Unknown | Standing::TakenUnlessRefused => {
                self.shared.inquiry.ask(address, domain, self.client).await
            }
        };
        match (answer, standing) {
            // An answer may have come in an entry that this node has not applied yet.
            (Answer::Refused(_), Standing::Refused) if !self.shared.cluster.is_current() => {
                Some(("state", Reply::new(451, 3, 0, CATCHING_UP)))
            }
            (Answer::Refused(_), _) => {
                let text = format!("{address} is not a recipient of {domain}: its server says so");
                Some(("unknown_recipient", Reply::new(550, 1, 1, text)))
            }
            (Answer::Taken, _) | (Answer::Silent(_), Standing::TakenUnlessRefused) => None,
            (Answer::Silent(_), _) => {
                let text = format!(
                    "the server of {domain} cannot be asked about {address} now; please try again"
                );
                Some(("unverified", Reply::new(451, 4, 1, text)))
            }
        }
    }

    /// What to answer if mail for the domain is to go to its primary, which is up. Not to the null
    /// reverse-path's: a notification is tried less often, and its sender cannot be told of it.
    fn defer(&self, record: &DomainRecord, domain: &Domain) -> Option<Reply> {
        let view = self.shared.cluster.view();
        let policy = query::policy(&view, domain).ok()?;
        if !policy.defer
            || self.account.is_some()
            || self.mail.as_ref()?.reverse_path == ReversePath::Null
        {
            return None;
        }
        let reach = query::reach(&view, &record.name).ok()??;
        let knocks = &self.shared.knocks;
        let mut knocks = knocks.lock().unwrap_or_else(PoisonError::into_inner);
        if !reach::puts_off(&policy, &reach, now())
            || knocks.believes(self.client, &record.name, now())
        {
            return None;
        }
        let text = format!(
            "the first mail exchanger of {} is up; please deliver there",
            record.name
        );
        Some(Reply::new(451, 4, 3, text))
    }

    /// What to answer if the domain has no room for a message of the size that MAIL announced. An
    /// early word: whether there is room is decided when the message is accepted.
    fn room(&self, domain: &Domain) -> Option<Reply> {
        let view = self.shared.cluster.view();
        let size = self.mail.as_ref().and_then(|mail| mail.size).unwrap_or(1);
        let policy = query::policy(&view, domain).ok()?;
        let held = query::charged(&view, domain).ok()?;
        let has_room = policy.has_room(held.messages, held.bytes, size);
        let for_good = policy.full_for_good || policy.is_too_large(size);
        (!has_room).then(|| full(for_good))
    }

    /// Content begins: our trace line first.
    async fn content(&mut self, session: &Session) -> Reply {
        if let Some(refusal) = self.no_quorum(QUORUM_PATIENCE_AT_DATA).await {
            return refusal;
        }
        let id = MessageId::new(now(), random_id());
        let only_recipient = match &self.recipients[..] {
            [one] => Some(one.address.as_str()),
            _ => None,
        };
        let line = received(&Arrival {
            helo: session.helo(),
            client: &self.client.to_string(),
            by: &self.options.name,
            with: session.protocol(),
            id,
            at: now(),
            only_recipient,
        });
        self.message = Some(id);
        let mut content = Content {
            writer: self.shared.cluster.bodies().begin(id),
            header: Vec::new(),
            header_whole: false,
            eight_bit: !line.is_ascii(),
            failed: None,
        };
        content.failed = content.writer.write(Bytes::from(line)).await.err();
        self.content = Some(content);
        Reply::new(250, 0, 0, "Ok")
    }

    /// The content is whole: the promise is made here or not at all.
    async fn message(&mut self, session: &Session) -> Option<Reply> {
        let begin = Instant::now();
        if let Some(refusal) = self.unusable() {
            self.content = None;
            return Some(refusal);
        }
        let (Some(mail), Some(content), Some(id)) =
            (self.mail.take(), self.content.take(), self.message)
        else {
            return Some(self.refuse("sequence", Reply::new(503, 5, 1, "no transaction")));
        };
        failpoint::reach("content-received");
        let body = match content.writer.finish().await {
            Ok(body) => body,
            Err(error) => {
                // Nothing was proposed, so 4xx is safe.
                tracing::warn!(msg = %id, "the body was not stored: {error}");
                let text = "the message could not be stored; please try again";
                return Some(self.refuse("body", Reply::new(451, 3, 0, text)));
            }
        };
        failpoint::reach("body-stored");
        let bytes = body.len;
        let recipients = std::mem::take(&mut self.recipients);
        let has_addresses_in_utf8 = !mail.reverse_path.as_str().is_ascii()
            || recipients.iter().any(|to| !to.address.as_str().is_ascii());
        let envelope = Envelope {
            id,
            reverse_path: mail.reverse_path,
            recipients,
            body,
            received_at: now(),
            // Many clients announce what their message could have had. A primary without the extension can be
            // given what needs none, and would never get it otherwise (RFC 6152 section 3, RFC 6531 section 3.1).
            body_type: match content.eight_bit {
                true => mail.body_type,
                false => BodyType::SevenBit,
            },
            smtputf8: mail.smtputf8 && (content.eight_bit || has_addresses_in_utf8),
            ret: mail.ret,
            envid: mail.envid,
            helo: session.helo().to_owned(),
            client: self.client.to_string(),
        };
        let recipients = envelope.recipients.len();
        self.whole = Some(Happening {
            header_id: header_id(&content.header),
            ..self.happening("accepted", &envelope)
        });
        let cluster = &self.shared.cluster;
        let reply = match cluster
            .propose(
                match &self.account {
                    None => Command::Accept { envelope },
                    Some(account) => Command::Submit {
                        account: account.name.clone(),
                        envelope,
                    },
                },
                Instant::now() + ACCEPT_TIME_MAX,
            )
            .await
        {
            Ok(LedgerReply::Accepted { .. }) => {
                failpoint::reach("before-reply");
                Some(self.taken(id))
            }
            Ok(LedgerReply::Refused(Refusal::FullForNow)) => {
                Some(self.refuse("quota", full(false)))
            }
            Ok(LedgerReply::Refused(Refusal::FullForGood)) => {
                Some(self.refuse("quota", full(true)))
            }
            Ok(LedgerReply::Refused(Refusal::NotYourDomain)) => {
                Some(self.refuse("not_theirs", not_theirs()))
            }
            Ok(LedgerReply::Refused(why @ Refusal::TooMuchSent)) => {
                Some(self.refuse("too_much", Reply::new(451, 7, 1, why.to_string())))
            }
            Ok(LedgerReply::Refused(why)) => {
                let text = format!("the message was not accepted: {why}");
                Some(self.refuse("ledger", Reply::new(451, 3, 0, text)))
            }
            Ok(other) => {
                tracing::error!(msg = %id, "an unexpected reply to accept: {other:?}");
                self.cancel(id).await
            }
            Err(ProposeError::NotProposed(why)) => {
                let text = format!("not accepted: {why}; please try again");
                Some(self.refuse("no_quorum", Reply::new(451, 3, 2, text)))
            }
            Err(ProposeError::Unknown(why)) => {
                tracing::warn!(msg = %id, "the outcome of accept is unknown, cancelling: {why}");
                self.cancel(id).await
            }
        };
        let seconds = begin.elapsed().as_secs_f64();
        if reply.as_ref().is_some_and(Reply::is_positive) {
            self.message = None;
            self.shared.counters.accepted.inc();
            self.shared.cluster.tally().accepted();
            self.shared.counters.accepted_bytes.inc_by(bytes);
            self.shared.counters.accept_seconds.observe(seconds);
            tracing::info!(msg = %id, client = %self.client, bytes, recipients, seconds, "accepted");
            if let Some(whole) = self.whole.take() {
                let accepted = Happening {
                    text: reply.as_ref().map(Reply::to_string).unwrap_or_default(),
                    ..whole
                };
                self.shared.cluster.note_lasting(accepted, begin.elapsed());
            }
        }
        reply
    }

    fn taken(&self, id: MessageId) -> Reply {
        let copies = self.shared.cluster.durable_copies(id);
        Reply::new(
            250,
            0,
            0,
            format!(
                "Ok: {id} held on {} of {} nodes",
                copies.holders, copies.voters
            ),
        )
    }

    /// RFC 5321 section 4.2.5: after a 4yz reply the server "MUST NOT make a subsequent attempt to
    /// deliver that message". So it is cancelled in the log before 451 is said; when even that
    /// cannot be committed, nothing is said at all.
    async fn cancel(&mut self, id: MessageId) -> Option<Reply> {
        if mutant("451-without-cancel") {
            return Some(Reply::new(451, 3, 2, "not accepted in time"));
        }
        let deadline = Instant::now() + CANCEL_TIME_MAX;
        match self
            .shared
            .cluster
            .propose(Command::Cancel { message: id }, deadline)
            .await
        {
            Ok(LedgerReply::Cancelled) => {
                failpoint::reach("cancelled");
                let cancelled = history::about("cancelled", id);
                self.shared.cluster.note(cancelled);
                let text = "not accepted in time; please try again";
                Some(self.refuse("no_quorum", Reply::new(451, 3, 2, text)))
            }
            Ok(LedgerReply::AlreadyAccepted) => Some(self.taken(id)),
            other => {
                tracing::warn!(
                    msg = %id,
                    client = %self.client,
                    "closing without an answer, the sender will try again: {other:?}"
                );
                if let Some(whole) = self.whole.take() {
                    self.shared.cluster.note(Happening {
                        kind: "unanswered".into(),
                        ..whole
                    });
                }
                self.shared
                    .counters
                    .refused
                    .get_or_create(&Reason {
                        reason: "no_answer",
                    })
                    .inc();
                None
            }
        }
    }

    /// Why the received content is not taken, if it is not.
    fn unusable(&mut self) -> Option<Reply> {
        let content = self.content.as_ref()?;
        if let Some(error) = &content.failed {
            if error.kind() == std::io::ErrorKind::StorageFull {
                return Some(self.refuse("disk_low", disk_low()));
            }
            tracing::warn!(
                msg = self.message.map(tracing::field::display),
                "the body was not stored: {error}"
            );
            let text = "the message could not be stored; please try again";
            return Some(self.refuse("body", Reply::new(451, 3, 0, text)));
        }
        let ours: Vec<Domain> = self
            .shared
            .cluster
            .members()
            .iter()
            .filter_map(|member| Domain::parse(&member.smtp_name).ok())
            .collect();
        let hops = hops(&content.header, &ours);
        if hops.received > RECEIVED_MAX || hops.ours > OUR_HOPS_MAX {
            let text = format!(
                "mail loop: received {} times, by us {} times",
                hops.received, hops.ours
            );
            return Some(self.refuse("loop", Reply::new(554, 4, 6, text)));
        }
        None
    }

    fn happening(&self, kind: &str, envelope: &Envelope) -> Happening {
        let to = envelope.recipients.iter();
        Happening {
            from: Some(envelope.reverse_path.as_str().to_owned()),
            to: to.map(|to| to.address.to_string()).collect(),
            client: self.client.to_string(),
            bytes: envelope.body.len,
            ..history::about(kind, envelope.id)
        }
    }

    /// The session is over. For the history: what was not told yet, and if it was in the middle of a
    /// transaction.
    pub(super) fn ended(&self, why: &str) {
        if self.refusals > REFUSALS_TOLD_MAX {
            let untold = self.refusals - REFUSALS_TOLD_MAX;
            let text = format!("{untold} more refusals in the same session");
            tracing::info!(client = %self.client, "{text}");
            self.shared.cluster.note(Happening {
                client: self.client.to_string(),
                text,
                ..history::happening("refused")
            });
        }
        let Some(mail) = &self.mail else {
            return;
        };
        let to = self.recipients.iter().take(REFUSED_RECIPIENTS_MAX);
        self.shared.cluster.note(Happening {
            from: Some(mail.reverse_path.as_str().to_owned()),
            to: to.map(|to| to.address.to_string()).collect(),
            client: self.client.to_string(),
            text: why.to_owned(),
            ..history::happening("broken_off")
        });
    }

    /// A refusal, with as much of its transaction as is known.
    fn note_refusal(&self, reply: &Reply, asked: Option<String>, whole: Option<Happening>) {
        let to = match asked {
            Some(asked) => vec![asked],
            // The first say whose mail it is; a client may name a thousand, and be refused without end.
            None => self
                .recipients
                .iter()
                .take(REFUSED_RECIPIENTS_MAX)
                .map(|to| to.address.to_string())
                .collect(),
        };
        let from = self
            .mail
            .as_ref()
            .map(|mail| mail.reverse_path.as_str().to_owned());
        let refused = whole.unwrap_or_else(|| Happening {
            from,
            to,
            client: self.client.to_string(),
            message: self
                .message
                .map_or_else(Bytes::new, |id| id.to_bytes().to_vec().into()),
            ..Happening::default()
        });
        self.shared.cluster.note(Happening {
            kind: "refused".into(),
            text: reply.to_string(),
            ..refused
        });
    }

    fn forget(&mut self) {
        self.asked = None;
        self.whole = None;
        self.mail = None;
        self.recipients.clear();
        self.message = None;
        self.content = None;
        self.reason = None;
    }
}

/// Whether mail from there is sent in the name of one of the account's domains. An early word: the
/// ledger decides.
fn is_theirs(account: &Account, from: &ReversePath) -> bool {
    match from {
        ReversePath::Null => false,
        ReversePath::Mailbox(address) => address
            .domain()
            .is_some_and(|domain| account.domains.contains(domain)),
    }
}

fn not_theirs() -> Reply {
    let text = "you may send in your own domains' names only";
    Reply::new(553, 7, 1, text)
}

impl Desk for Transaction<'_> {
    async fn ask(&mut self, question: Question, session: &Session) -> Option<Reply> {
        match question {
            Question::Mail(mail) => Some(self.mail(mail).await),
            Question::Rcpt(recipient) => {
                let reply = self.rcpt(recipient).await;
                if reply.is_positive() {
                    self.asked = None;
                }
                Some(reply)
            }
            Question::Content => Some(self.content(session).await),
            Question::Message => self.message(session).await,
            Question::Etrn(etrn) => {
                let reply = etrn::answer(self.shared, self.client, etrn).await;
                if !reply.is_positive() {
                    self.reason = Some("etrn");
                }
                Some(reply)
            }
            Question::Login(login) => Some(self.log_in(login).await),
            // The session does not offer it here.
            Question::Atrn(_) => Some(Reply::new(502, 5, 1, "not here")),
        }
    }

    async fn body(&mut self, bytes: Vec<u8>) {
        let Some(content) = &mut self.content else {
            return;
        };
        if content.failed.is_some() {
            return;
        }
        content.eight_bit |= !bytes.is_ascii();
        if !content.header_whole {
            let room = HEADER_BYTES_MAX - content.header.len();
            let seam = content.header.len().saturating_sub(3);
            content
                .header
                .extend_from_slice(&bytes[..bytes.len().min(room)]);
            content.header_whole = content.header.len() == HEADER_BYTES_MAX
                || content.header[seam..]
                    .windows(4)
                    .any(|window| window == b"\r\n\r\n");
        }
        // Mail that does not end would take what is kept for the log, and stop every node at once.
        content.failed = if self.shared.cluster.has_room() {
            content.writer.write(Bytes::from(bytes)).await.err()
        } else {
            Some(std::io::ErrorKind::StorageFull.into())
        };
    }

    fn refused(&mut self, reply: &Reply) {
        let reason = self.reason.take().unwrap_or_else(|| reason_of(reply));
        self.shared
            .counters
            .refused
            .get_or_create(&Reason { reason })
            .inc();
        self.refusals += 1;
        let (asked, whole) = (self.asked.take(), self.whole.take());
        if self.refusals <= REFUSALS_TOLD_MAX {
            tracing::info!(
                client = %self.client,
                msg = self.message.map(tracing::field::display),
                code = reply.code,
                reason,
                "refused: {}",
                reply.lines.join(" ")
            );
            self.note_refusal(reply, asked, whole);
        }
        // What is refused from here on is no part of that message.
        if self.content.is_none() {
            self.message = None;
        }
    }

    fn reset(&mut self) {
        self.forget();
    }
}

/// What the Message-ID field says, without angle brackets; empty where there is none.
fn header_id(header: &[u8]) -> String {
    const NAME: &[u8] = b"message-id:";
    let mut lines = header.split(|byte| *byte == b'\n');
    let Some(first) = lines.find(|line| {
        line.get(..NAME.len())
            .is_some_and(|name| name.eq_ignore_ascii_case(NAME))
    }) else {
        return String::new();
    };
    // It may be folded behind the name (RFC 5322 section 3.6.4).
    let folded = lines
        .next()
        .filter(|line| line.starts_with(b" ") || line.starts_with(b"\t"));
    let text = [&first[NAME.len()..], folded.unwrap_or_default()].concat();
    let text = String::from_utf8_lossy(&text);
    let id = text.trim().trim_start_matches('<');
    let end = id.find(|c: char| c == '>' || c.is_whitespace());
    id[..end.unwrap_or(id.len())]
        .chars()
        .take(HEADER_ID_CHARS_MAX)
        .collect()
}

/// RFC 3463 section 3.4: "X.3.1 Mail system full".
fn disk_low() -> Reply {
    let text = "not enough disk space; please try again later or another of our mail exchangers";
    Reply::new(452, 3, 1, text)
}

/// RFC 3463 section 3.3: "X.2.2 Mailbox full".
fn full(for_good: bool) -> Reply {
    if for_good {
        let text = "more mail is held for this domain than its owner allows";
        Reply::new(552, 2, 2, text)
    } else {
        let text =
            "more mail is held for this domain than its owner allows; please try again later";
        Reply::new(452, 2, 2, text)
    }
}

/// Why the session refused by itself.
fn reason_of(reply: &Reply) -> &'static str {
    let status = reply.status.map(|status| (status.subject, status.detail));
    match (reply.code, status) {
        (500 | 550, Some((5, 2))) => "framing",
        (552, _) => "too_large",
        (421, Some((4, 2))) => "timeout",
        (421, Some((3, 2))) => "shutdown",
        (421 | 452, _) => "limit",
        (554, Some((5, 0))) => "out_of_step",
        (503 | 554, _) => "sequence",
        _ => "syntax",
    }
}

/// `<postmaster>`, or postmaster at this very host.
fn is_postmaster_here(address: &Address, name: &str) -> bool {
    address.local().eq_ignore_ascii_case("postmaster")
        && address
            .domain()
            .is_none_or(|domain| domain.as_str().eq_ignore_ascii_case(name))
}

/// Whether the domain is one of those that never exist (RFC 6761 section 6.4).
fn is_invalid(domain: &Domain) -> bool {
    domain.as_str() == "invalid" || domain.as_str().ends_with(".invalid")
}

/// `joe%other.example`, `other.example!joe` and `"joe@other.example"` ask the primary to relay:
/// a backup that passes them on turns a trusting primary into an open relay.
fn carries_a_route(address: &Address) -> bool {
    address.local().contains(['%', '!', '@'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_id_is_found_however_it_is_written() {
        for (header, id) in [
            (
                "Subject: a\r\nMessage-ID: <1@a.example>\r\n\r\n",
                "1@a.example",
            ),
            ("message-id:<1@a.example> (comment)\r\n\r\n", "1@a.example"),
            (
                "Message-Id:\r\n <1@a.example>\r\nTo: b\r\n\r\n",
                "1@a.example",
            ),
            ("Message-ID: 1@a.example\r\n\r\n", "1@a.example"),
            ("Message-ID:", ""),
            ("X-Message-ID: <1@a.example>\r\n\r\n", ""),
            ("", ""),
        ] {
            assert_eq!(header_id(header.as_bytes()), id, "{header:?}");
        }
    }
}
