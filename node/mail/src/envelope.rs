//! What travels around a message: who sent it, to whom, and where its body is.

use std::collections::BTreeSet;

use crate::{Address, Domain, MessageId, ReversePath, Timestamp};

/// Everything known of an accepted message but its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    pub id: MessageId,
    pub reverse_path: ReversePath,
    /// In the order of the RCPT commands; never empty.
    pub recipients: Vec<Recipient>,
    pub body: BodyRef,
    /// When the final dot was read, by the clock of the receiving node; of a message that was
    /// accepted, the logged time of that.
    pub received_at: Timestamp,
    pub body_type: BodyType,
    /// MAIL carried SMTPUTF8 (RFC 6531 section 3.4).
    pub smtputf8: bool,
    /// RET of RFC 3461 section 4.3.
    pub ret: Option<Ret>,
    /// ENVID of RFC 3461 section 4.4, still in xtext, as received.
    pub envid: Option<String>,
    /// The argument of HELO or EHLO.
    pub helo: String,
    /// The client's address, without port.
    pub client: String,
}

impl Envelope {
    /// Where it goes, by name.
    #[must_use]
    pub fn domains(&self) -> BTreeSet<Domain> {
        self.recipients
            .iter()
            .filter_map(|to| to.address.domain().cloned())
            .collect()
    }
}

/// One RCPT command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    pub address: Address,
    /// NOTIFY of RFC 3461 section 4.1; `None` where the client gave none.
    pub notify: Option<Notify>,
    /// ORCPT of RFC 3461 section 4.2, as received: `addr-type;xtext`.
    pub orcpt: Option<String>,
}

/// NOTIFY of RFC 3461 section 4.1. All false is `NEVER`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notify {
    pub success: bool,
    pub failure: bool,
    pub delay: bool,
}

/// RET of RFC 3461 section 4.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ret {
    Full,
    Headers,
}

/// BODY of RFC 6152.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyType {
    #[default]
    SevenBit,
    EightBitMime,
}

/// Where a message's content is, and what it must be. The content includes the `Received`
/// line that the receiving node put before it. A body's id is its message's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyRef {
    pub id: MessageId,
    /// Bytes.
    pub len: u64,
    /// BLAKE3 of the content.
    pub digest: [u8; 32],
}
