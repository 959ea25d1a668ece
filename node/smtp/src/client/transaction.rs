//! One message on its way: what is asked of the primary, and what became of each recipient.

use std::sync::Arc;

use holdfast_mail::Envelope;

use super::reply::{Reply, Severity, recordable};

/// A message to be sent, and to whom of its recipients.
#[derive(Clone, Debug)]
pub struct Mail {
    pub envelope: Arc<Envelope>,
    /// Indices in `envelope.recipients`; an index that is not there is passed over. At most
    /// [`Session::recipients_max`](super::Session::recipients_max) are sent in one go.
    pub recipients: Vec<u32>,
    /// Only ask whether the recipients are taken: no content is sent, and nobody is delivered to.
    pub only_ask: bool,
}

/// What became of a message. Each recipient that was asked for appears once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub results: Vec<RecipientResult>,
    /// The primary had the whole message when contact was lost, before it answered: it may
    /// have it, it may not. Sent again, it may arrive twice; not sent again, never.
    pub in_doubt: bool,
    /// The results marked [`Fate::Deferred`] come from the connection's end and say nothing of
    /// the message.
    pub connection_failed: bool,
    /// The primary was asked. Not so where what it offered in EHLO was answer enough.
    pub asked: bool,
}

/// What became of one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipientResult {
    /// Index in `envelope.recipients`.
    pub recipient: u32,
    pub fate: Fate,
    /// What the primary said, or what happened instead; at most
    /// [`RECORDED_BYTES_MAX`](super::RECORDED_BYTES_MAX) bytes, free of controls.
    pub reply: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// The primary took responsibility.
    Delivered,
    /// It would take mail for the recipient. Only where it was asked no more.
    Known,
    /// To be tried again.
    Deferred,
    /// The primary, or a limit it announced, said never.
    Refused,
}

/// The recipients of the mail under way.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) mail: Mail,
    standing: Vec<Standing>,
    /// MAIL was accepted: the primary has a transaction open.
    pub(super) mail_accepted: bool,
    /// DATA was answered with 354.
    pub(super) data_open: bool,
    /// MAIL was, or is about to be, written.
    pub(super) asked: bool,
    /// Everything the primary needs to deliver was written, its reply is not here.
    pub(super) sent: bool,
}

#[derive(Debug)]
enum Standing {
    Asked,
    Accepted(String),
    Settled(Fate, String),
}

impl Transaction {
    /// At most `recipients_max` recipients are asked for; the others are deferred.
    pub(super) fn new(mut mail: Mail, recipients_max: usize) -> Self {
        let known = mail.envelope.recipients.len();
        mail.recipients.retain(|index| (*index as usize) < known);
        let standing = (0..mail.recipients.len())
            .map(|place| {
                if place < recipients_max {
                    Standing::Asked
                } else {
                    Standing::Settled(
                        Fate::Deferred,
                        "not tried yet: the primary takes fewer recipients at a time".to_owned(),
                    )
                }
            })
            .collect();
        Self {
            mail,
            standing,
            mail_accepted: false,
            data_open: false,
            asked: false,
            sent: false,
        }
    }

    /// The places in `mail.recipients` that RCPT is to be sent for.
    pub(super) fn places_to_ask(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.standing.len()).filter(|place| matches!(self.standing[*place], Standing::Asked))
    }

    pub(super) fn is_any_to_ask(&self) -> bool {
        self.places_to_ask().next().is_some()
    }

    pub(super) fn is_any_accepted(&self) -> bool {
        self.standing
            .iter()
            .any(|standing| matches!(standing, Standing::Accepted(_)))
    }

    /// The primary answered RCPT for `place`. After a refused MAIL the answer means nothing.
    pub(super) fn answer_rcpt(&mut self, place: usize, reply: &Reply) {
        let any_accepted = self.is_any_accepted();
        let Some(standing @ Standing::Asked) = self.standing.get_mut(place) else {
            return;
        };
        *standing = match fate(reply) {
            Fate::Delivered | Fate::Known => Standing::Accepted(reply.recorded()),
            // RFC 5321 section 4.5.3.1.10: "Clients SHOULD treat a 552 code in this case as a
            // temporary, rather than permanent, failure": too many recipients.
            Fate::Refused if reply.code == 552 && any_accepted => {
                Standing::Settled(Fate::Deferred, reply.recorded())
            }
            // What is said of us, or of the server, is no word about a mailbox.
            Fate::Refused if self.mail.only_ask && !reply.is_about_a_mailbox() => {
                Standing::Settled(Fate::Deferred, reply.recorded())
            }
            other => Standing::Settled(other, reply.recorded()),
        };
    }

    /// The places of those the message is sent for.
    pub(super) fn places_accepted(&self) -> impl Iterator<Item = usize> + '_ {
        let accepted = |place: &usize| matches!(self.standing[*place], Standing::Accepted(_));
        (0..self.standing.len()).filter(accepted)
    }

    /// The answer for one recipient (RFC 2033 section 4.2).
    pub(super) fn settle_one(&mut self, place: usize, fate: Fate, reply: &str) {
        if let Some(standing @ Standing::Accepted(_)) = self.standing.get_mut(place) {
            *standing = Standing::Settled(fate, recordable(reply));
        }
    }

    /// One reply, or one event, decides for every recipient not settled yet.
    pub(super) fn settle(&mut self, fate: Fate, reply: &str) {
        let fate = if self.mail.only_ask {
            Fate::Deferred
        } else {
            fate
        };
        for standing in &mut self.standing {
            if !matches!(standing, Standing::Settled(..)) {
                *standing = Standing::Settled(fate, recordable(reply));
            }
        }
    }

    pub(super) fn into_outcome(self, in_doubt: bool, connection_failed: bool) -> Outcome {
        let results = self
            .mail
            .recipients
            .iter()
            .zip(self.standing)
            .map(|(recipient, standing)| {
                let (fate, reply) = match standing {
                    Standing::Settled(fate, reply) => (fate, reply),
                    Standing::Accepted(reply) if self.mail.only_ask => (Fate::Known, reply),
                    Standing::Asked | Standing::Accepted(_) => {
                        (Fate::Deferred, "not decided by the primary".to_owned())
                    }
                };
                RecipientResult {
                    recipient: *recipient,
                    fate,
                    reply,
                }
            })
            .collect();
        Outcome {
            results,
            in_doubt,
            connection_failed,
            asked: self.asked,
        }
    }
}

/// What a reply means by its first digit. 3yz has no meaning where this is asked, and is
/// caught before.
pub(super) fn fate(reply: &Reply) -> Fate {
    match reply.severity() {
        Severity::Done => Fate::Delivered,
        Severity::GoOn | Severity::Later => Fate::Deferred,
        Severity::Never => Fate::Refused,
    }
}
