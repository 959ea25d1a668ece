//! How long to wait for what (RFC 5321 section 4.5.3.2).
//!
//! The section sets minimums; waiting less turns a slow primary into one that gets the same
//! message twice.

use std::time::Duration;

/// What a client waits for, named as in RFC 5321 section 4.5.3.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Timeout {
    /// Initial 220 message.
    Banner,
    /// Answer to EHLO, HELO or STARTTLS: no minimum is named, so that of MAIL.
    Hello,
    /// MAIL command (and RSET, which takes its place in a reused session).
    Mail,
    /// RCPT command.
    Rcpt,
    /// DATA initiation.
    DataInitiation,
    /// Data block: one write of content.
    DataBlock,
    /// Data termination: the reply to the final dot, or to BDAT LAST.
    DataTermination,
    /// Answer to QUIT. Nothing depends on it any more.
    Quit,
}

impl Timeout {
    #[must_use]
    pub const fn duration(self) -> Duration {
        const MINUTE: u64 = 60;
        Duration::from_secs(match self {
            Self::Banner | Self::Hello | Self::Mail | Self::Rcpt => 5 * MINUTE,
            Self::DataInitiation => 2 * MINUTE,
            Self::DataBlock => 3 * MINUTE,
            Self::DataTermination => 10 * MINUTE,
            Self::Quit => 5,
        })
    }

    /// What the primary owes us, for a sentence that says it did not come.
    #[must_use]
    pub const fn awaited(self) -> &'static str {
        match self {
            Self::Banner => "greeting",
            Self::Hello => "answer to EHLO",
            Self::Mail => "answer to MAIL",
            Self::Rcpt => "answer to RCPT",
            Self::DataInitiation => "answer to DATA",
            Self::DataBlock => "readiness to take more of the message",
            Self::DataTermination => "answer to the end of the message",
            Self::Quit => "answer to QUIT",
        }
    }
}

/// The one thing that is waited for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    pub timeout: Timeout,
    /// Changes whenever something else is waited for. A deadline is set when it changes and
    /// not when bytes come, so that a primary cannot buy time with a byte a minute.
    pub number: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_wait_is_shorter_than_the_rfc_asks() {
        // RFC 5321 section 4.5.3.2: "An SMTP client MUST provide a timeout mechanism. It MUST
        // use per-command timeouts rather than somehow trying to time the entire mail
        // transaction." The minimums follow in its subsections, in minutes.
        for (timeout, minutes) in [
            (Timeout::Banner, 5),
            (Timeout::Mail, 5),
            (Timeout::Rcpt, 5),
            (Timeout::DataInitiation, 2),
            (Timeout::DataBlock, 3),
            (Timeout::DataTermination, 10),
        ] {
            assert_eq!(
                timeout.duration(),
                Duration::from_secs(minutes * 60),
                "{timeout:?}"
            );
        }
    }
}
