//! What a domain's owner wants done with its mail.

use std::time::Duration;

use holdfast_mail::Timestamp;
use holdfast_proto::ledger as proto;
use prost::Message;

/// How long mail is held unless the owner says otherwise: what RFC 5321 section 4.5.4.1 grants
/// every sender, "at least 4-5 days".
pub(crate) const HOLD_DEFAULT: Duration = Duration::from_secs(5 * 24 * 3600);

/// How long a primary must have been taking mail before its refusals are believed, unless the
/// owner says otherwise: long enough for somebody who restores a server to see that it refuses
/// mail, short enough that the sender of a mistyped address soon hears of it.
pub(crate) const PROBATION_DEFAULT: Duration = Duration::from_secs(10 * 60);

/// How long a primary's word that it takes mail for somebody is not asked for again, unless the
/// owner says otherwise: mailboxes live for years, and a day's worth of questions is few.
pub(crate) const YES_DEFAULT: Duration = Duration::from_secs(24 * 3600);

/// How long its word that it does not is believed, unless the owner says otherwise: short, for
/// whoever made a mailbox waits for its first mail.
pub(crate) const NO_DEFAULT: Duration = Duration::from_secs(30 * 60);

/// How often a primary is looked at, unless the owner says otherwise: what the old services did.
pub(crate) const PROBE_DEFAULT: Duration = Duration::from_secs(5 * 60);

/// Between a probe that disturbs nobody and one that is no use.
const PROBE_MIN: Duration = Duration::from_secs(10);
const PROBE_MAX: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long a message is held before it is given back; `None`: for ever.
    pub hold: Option<Duration>,
    /// After how long its sender is told that it is late; `None`: never.
    pub delay: Option<Duration>,
    pub probation: Probation,
    /// Mail that may be held at once, bytes; `None`: no limit.
    pub quota_bytes: Option<u64>,
    /// Mail that may be held at once, messages; `None`: no limit.
    pub quota_messages: Option<u64>,
    /// A full domain sends mail back for good (552) instead of asking for patience (452).
    pub full_for_good: bool,
    /// Mail for others than the listed recipients is refused.
    pub listed_only: bool,
    /// Parts a recipient's name from a sub-address, as in `joe+lists`; `None`: nothing does.
    pub delimiter: Option<char>,
    /// The primary is asked whether it takes mail for a recipient.
    pub verify: bool,
    /// Its yes is asked for again after this.
    pub yes: Duration,
    /// Its no is forgotten after this.
    pub no: Duration,
    /// Mail goes only while somebody is signed in for the domain, and to where they are.
    pub attended: bool,
    /// It goes to the domain's primary instead, as configured, for whom a proxy stands between.
    pub at_host: bool,
    /// How often the primary is looked at while no mail is held.
    pub probe: Duration,
    /// While the primary is up, senders are asked to go there.
    pub defer: bool,
    /// A primary that cannot be reached is pinged, for a hint at what is down: its mail server, or its
    /// machine or line. Nothing else depends on it.
    pub ping: bool,
    /// Whoever logs in may have the mail over the connection they made (RFC 2645). Not unless somebody
    /// said so: a password alone is then enough to get it.
    pub atrn: bool,
}

/// When a primary's refusals are believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probation {
    /// Once it has been taking mail for this long.
    For(Duration),
    /// Never: refused mail is kept until somebody decides, or until it expires.
    Endless,
}

/// What is to be changed of a policy: only the fields that are there. Units and defaults are told
/// where the log's format is.
pub use proto::Policy as PolicyChange;

impl Default for Policy {
    fn default() -> Self {
        Self::from_proto(&proto::Policy::default())
    }
}

impl Policy {
    pub(crate) fn from_proto(policy: &proto::Policy) -> Self {
        let span = |ms: u64| (ms > 0).then(|| Duration::from_millis(ms));
        let limit = |number: Option<u64>| number.filter(|number| *number > 0);
        Self {
            hold: policy.hold_ms.map_or(Some(HOLD_DEFAULT), span),
            delay: policy.delay_ms.and_then(span),
            probation: match policy.probation_ms {
                None => Probation::For(PROBATION_DEFAULT),
                Some(u64::MAX) => Probation::Endless,
                Some(ms) => Probation::For(Duration::from_millis(ms)),
            },
            quota_bytes: limit(policy.quota_bytes),
            quota_messages: limit(policy.quota_messages),
            full_for_good: policy.full_for_good.unwrap_or(false),
            listed_only: policy.listed_only.unwrap_or(false),
            attended: policy.attended.unwrap_or(false),
            at_host: policy.at_host.unwrap_or(false),
            delimiter: policy.delimiter.map_or(Some('+'), |point| {
                char::from_u32(point).filter(|c| *c != '\0')
            }),
            verify: policy.verify.unwrap_or(false),
            yes: policy.yes_ms.map_or(YES_DEFAULT, Duration::from_millis),
            no: policy.no_ms.map_or(NO_DEFAULT, Duration::from_millis),
            probe: policy
                .probe_ms
                .map_or(PROBE_DEFAULT, Duration::from_millis)
                .clamp(PROBE_MIN, PROBE_MAX),
            defer: policy.defer.unwrap_or(false),
            ping: policy.ping.unwrap_or(false),
            atrn: policy.atrn.unwrap_or(false),
        }
    }

    /// When a message that was received then is given back.
    #[must_use]
    pub fn expires_at(&self, received_at: Timestamp) -> Option<Timestamp> {
        self.hold.map(|hold| received_at.plus(hold))
    }

    /// Whether a message of `len` bytes never has room, whatever is held.
    #[must_use]
    pub fn is_too_large(&self, len: u64) -> bool {
        self.quota_bytes.is_some_and(|quota| len > quota)
    }

    /// Whether a message of `len` bytes has room beside what is held already.
    #[must_use]
    pub fn has_room(&self, messages: u64, bytes: u64, len: u64) -> bool {
        self.quota_messages
            .is_none_or(|quota| messages.saturating_add(1) <= quota)
            && self
                .quota_bytes
                .is_none_or(|quota| bytes.saturating_add(len) <= quota)
    }
}

/// What is stored of a policy, or of a plan, with the change in it.
pub(crate) fn changed<M: Message>(mut row: M, change: &M) -> M {
    // What protobuf calls to merge: a field that is there takes the place of the old one. What was
    // encoded a moment ago can be decoded.
    let merged = row.merge(&change.encode_to_vec()[..]);
    debug_assert!(merged.is_ok());
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mail_of_who_is_signed_in_goes_to_where_they_are_unless_the_host_is_meant() {
        let policy = |attended, at_host| {
            let policy = Policy::from_proto(&proto::Policy {
                attended,
                at_host,
                ..proto::Policy::default()
            });
            (policy.attended, policy.at_host)
        };
        assert_eq!(policy(None, None), (false, false));
        assert_eq!(policy(Some(true), None), (true, false));
        assert_eq!(policy(Some(true), Some(true)), (true, true));
    }

    #[test]
    fn a_quota_is_full_with_the_last_message_that_fits() {
        let policy = Policy {
            quota_bytes: Some(100),
            quota_messages: Some(2),
            ..Policy::default()
        };
        assert!(policy.has_room(1, 60, 40));
        assert!(!policy.has_room(1, 61, 40));
        assert!(!policy.has_room(2, 0, 1));
        assert!(Policy::default().has_room(u64::MAX, u64::MAX, u64::MAX));
    }
}
