//! What a primary offered in its answer to EHLO.

use super::reply::Reply;

/// Most recipients put into one transaction. RFC 5321 section 4.5.3.1.8: "The minimum total
/// number of recipients that MUST be buffered is 100 recipients."
pub const RECIPIENTS_MAX: usize = 100;

/// The extensions this client makes use of. All absent after HELO.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Extensions {
    /// RFC 2920.
    pub(super) pipelining: bool,
    /// RFC 6152.
    pub(super) eight_bit_mime: bool,
    /// RFC 6531.
    pub(super) smtputf8: bool,
    /// RFC 3030.
    pub(super) chunking: bool,
    /// RFC 3461.
    pub(super) dsn: bool,
    /// RFC 3207.
    pub(super) starttls: bool,
    /// RFC 4954, and what Microsoft made of it.
    pub(super) auth_plain: bool,
    pub(super) auth_login: bool,
    /// RFC 1870: MAIL may carry SIZE.
    pub(super) size: bool,
    /// RFC 1870, bytes: the largest message taken; `None` where no limit is named.
    pub(super) size_max: Option<u64>,
    /// MAILMAX of RFC 9422: transactions in one session.
    pub(super) mails_max: Option<u64>,
    /// RCPTMAX of RFC 9422: RCPT commands in one transaction.
    pub(super) recipients_max: Option<u64>,
}

impl Extensions {
    /// Reads the answer to EHLO: a greeting, then a keyword with parameters on each line.
    pub(super) fn read(reply: &Reply) -> Self {
        let mut offered = Self::default();
        for line in reply.lines.iter().skip(1) {
            let mut words = line.split_ascii_whitespace();
            let keyword = words.next().unwrap_or_default().to_ascii_uppercase();
            match keyword.as_str() {
                "PIPELINING" => offered.pipelining = true,
                "8BITMIME" => offered.eight_bit_mime = true,
                "SMTPUTF8" => offered.smtputf8 = true,
                "CHUNKING" => offered.chunking = true,
                "DSN" => offered.dsn = true,
                "STARTTLS" => offered.starttls = true,
                "SIZE" => {
                    offered.size = true;
                    // RFC 1870 section 4: "A value of 0 (zero) indicates that no fixed maximum
                    // message size is in force."
                    offered.size_max = words
                        .next()
                        .and_then(|limit| limit.parse().ok())
                        .filter(|limit| *limit > 0);
                }
                "AUTH" => words.for_each(|word| match word.to_ascii_uppercase().as_str() {
                    "PLAIN" => offered.auth_plain = true,
                    "LOGIN" => offered.auth_login = true,
                    _ => {}
                }),
                "LIMITS" => words.for_each(|limit| offered.limit(limit)),
                _ => {}
            }
        }
        offered
    }

    /// How many RCPT commands one transaction may hold.
    pub(super) fn recipients_in_one_mail(&self) -> usize {
        let offered = self
            .recipients_max
            .and_then(|limit| usize::try_from(limit).ok())
            .unwrap_or(RECIPIENTS_MAX);
        // A limit of zero would be no mail at all: a slip of whoever configured it.
        offered.clamp(1, RECIPIENTS_MAX)
    }

    fn limit(&mut self, limit: &str) {
        let Some((name, value)) = limit.split_once('=') else {
            return;
        };
        // RFC 9422 section 4: limits that are not known, or not understood, are passed over.
        let Ok(value) = value.parse() else { return };
        match name.to_ascii_uppercase().as_str() {
            "MAILMAX" => self.mails_max = Some(value),
            "RCPTMAX" => self.recipients_max = Some(value),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_are_read_whatever_their_case_and_company() {
        let offered = Extensions::read(&Reply {
            code: 250,
            lines: [
                "PIPELINING is the name of this host",
                "size 0",
                "Chunking",
                "LIMITS rcptmax=20 MAILMAX=x NEWMAX=1 MAILMAX=7",
                "X-8BITMIME",
                "",
            ]
            .map(str::to_owned)
            .to_vec(),
        });
        assert_eq!(
            offered,
            Extensions {
                size: true,
                chunking: true,
                recipients_max: Some(20),
                mails_max: Some(7),
                ..Extensions::default()
            }
        );
        assert_eq!(offered.recipients_in_one_mail(), 20);
    }
}
