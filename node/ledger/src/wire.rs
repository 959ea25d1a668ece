//! Words of mail and of the cluster as prost messages, for log and rows alike.
//!
//! What was encoded decodes to the same value. Anything else is [`Undecodable`], never a
//! guess: a replica that guesses at an entry has a state of its own from then on.

use std::net::SocketAddr;

use holdfast_mail::{
    Address, BodyRef, BodyType, Domain, Envelope, MessageId, NodeId, Notify, Recipient, Ret,
    ReversePath, Timestamp,
};
use holdfast_proto::ledger as proto;

use crate::{Member, Primary};

/// The bytes are damaged, or a newer version wrote them. An entry of the log that cannot be
/// decoded stops the node; it is never skipped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0}; nothing was changed and the mail is safe; if other nodes run a newer version, update \
     this one, otherwise replace it by a new member"
)]
pub struct Undecodable(String);

impl Undecodable {
    pub(crate) fn damaged(what: &str, error: &prost::DecodeError) -> Self {
        Self(format!("a {what} is damaged ({error})"))
    }

    pub(crate) fn unknown(what: &str) -> Self {
        Self(format!("a {what} is of a kind this version does not know"))
    }

    pub(crate) fn field(name: &str) -> Self {
        Self(format!("the field `{name}` is missing or not valid"))
    }
}

pub(crate) fn domain(text: &str) -> Result<Domain, Undecodable> {
    Domain::parse(text).map_err(|_| Undecodable::field("domain"))
}

pub(crate) fn message_id(bytes: &[u8]) -> Result<MessageId, Undecodable> {
    MessageId::from_bytes(bytes).ok_or(Undecodable::field("message id"))
}

/// Bytes of a known number.
pub(crate) fn exactly<const N: usize>(
    name: &'static str,
    bytes: &[u8],
) -> Result<[u8; N], Undecodable> {
    bytes.try_into().map_err(|_| Undecodable::field(name))
}

/// An address without port, and the port.
pub(crate) fn socket(address: &str, port: u32) -> Result<SocketAddr, Undecodable> {
    let ip = address.parse().map_err(|_| Undecodable::field("address"))?;
    let port = u16::try_from(port).map_err(|_| Undecodable::field("port"))?;
    Ok(SocketAddr::new(ip, port))
}

/// A message within a message, which proto3 cannot demand.
pub(crate) fn present<T>(name: &'static str, value: Option<T>) -> Result<T, Undecodable> {
    value.ok_or(Undecodable::field(name))
}

pub(crate) fn envelope_to(envelope: &Envelope) -> proto::Envelope {
    proto::Envelope {
        id: envelope.id.to_bytes().to_vec().into(),
        reverse_path: envelope.reverse_path.as_str().to_owned(),
        recipients: envelope.recipients.iter().map(recipient_to).collect(),
        body_len: envelope.body.len,
        body_digest: envelope.body.digest.to_vec().into(),
        received_at_ms: envelope.received_at.0,
        body_type: match envelope.body_type {
            BodyType::SevenBit => proto::BodyType::SevenBit,
            BodyType::EightBitMime => proto::BodyType::EightBitMime,
        }
        .into(),
        smtputf8: envelope.smtputf8,
        ret: match envelope.ret {
            None => proto::Ret::Unspecified,
            Some(Ret::Full) => proto::Ret::Full,
            Some(Ret::Headers) => proto::Ret::Headers,
        }
        .into(),
        envid: envelope.envid.clone(),
        helo: envelope.helo.clone(),
        client: envelope.client.clone(),
    }
}

pub(crate) fn envelope_from(envelope: proto::Envelope) -> Result<Envelope, Undecodable> {
    let id = message_id(&envelope.id)?;
    let reverse_path = if envelope.reverse_path.is_empty() {
        ReversePath::Null
    } else {
        ReversePath::Mailbox(address(&envelope.reverse_path)?)
    };
    Ok(Envelope {
        id,
        reverse_path,
        recipients: envelope
            .recipients
            .into_iter()
            .map(recipient_from)
            .collect::<Result<_, _>>()?,
        body: BodyRef {
            id,
            len: envelope.body_len,
            digest: exactly("body digest", &envelope.body_digest)?,
        },
        received_at: Timestamp(envelope.received_at_ms),
        body_type: match proto::BodyType::try_from(envelope.body_type) {
            Ok(proto::BodyType::SevenBit) => BodyType::SevenBit,
            Ok(proto::BodyType::EightBitMime) => BodyType::EightBitMime,
            Err(_) => return Err(Undecodable::unknown("body type")),
        },
        smtputf8: envelope.smtputf8,
        ret: match proto::Ret::try_from(envelope.ret) {
            Ok(proto::Ret::Unspecified) => None,
            Ok(proto::Ret::Full) => Some(Ret::Full),
            Ok(proto::Ret::Headers) => Some(Ret::Headers),
            Err(_) => return Err(Undecodable::unknown("RET")),
        },
        envid: envelope.envid,
        helo: envelope.helo,
        client: envelope.client,
    })
}

fn recipient_to(recipient: &Recipient) -> proto::Recipient {
    proto::Recipient {
        address: recipient.address.as_str().to_owned(),
        notify: recipient.notify.map(|notify| proto::Notify {
            success: notify.success,
            failure: notify.failure,
            delay: notify.delay,
        }),
        orcpt: recipient.orcpt.clone(),
    }
}

fn recipient_from(recipient: proto::Recipient) -> Result<Recipient, Undecodable> {
    Ok(Recipient {
        address: address(&recipient.address)?,
        notify: recipient.notify.map(|notify| Notify {
            success: notify.success,
            failure: notify.failure,
            delay: notify.delay,
        }),
        orcpt: recipient.orcpt,
    })
}

/// Whether SMTPUTF8 was asked for was settled when the address was received.
fn address(text: &str) -> Result<Address, Undecodable> {
    Address::parse(text, true).map_err(|_| Undecodable::field("address"))
}

pub(crate) fn primary_to(primary: &Primary) -> proto::Primary {
    proto::Primary {
        host: primary.host.clone(),
        port: u32::from(primary.port),
    }
}

pub(crate) fn primary_from(primary: proto::Primary) -> Result<Primary, Undecodable> {
    Ok(Primary {
        host: primary.host,
        port: primary
            .port
            .try_into()
            .map_err(|_| Undecodable::field("port"))?,
    })
}

pub(crate) fn member_to(member: &Member) -> proto::Member {
    proto::Member {
        id: member.id.0,
        name: member.name.clone(),
        region: member.region.clone(),
        cluster_address: member.cluster_address.clone(),
        smtp_name: member.smtp_name.clone(),
        smtp_address: member.smtp_address.clone(),
    }
}

pub(crate) fn member_from(member: proto::Member) -> Member {
    Member {
        id: NodeId(member.id),
        name: member.name,
        region: member.region,
        cluster_address: member.cluster_address,
        smtp_name: member.smtp_name,
        smtp_address: member.smtp_address,
    }
}
