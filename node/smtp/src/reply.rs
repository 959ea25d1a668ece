//! What the server answers.

use std::fmt;

use holdfast_mail::Status;

/// A reply: code, enhanced status and text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Three digits.
    pub code: u16,
    /// RFC 2034; `None` for replies that carry none (greeting, EHLO, 354).
    pub status: Option<Status>,
    /// One line each, without line ends.
    pub lines: Vec<String>,
    /// The connection ends behind it.
    pub close: bool,
}

/// On one line, as people are told of it.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.code)?;
        if let Some(status) = self.status {
            write!(f, "{status} ")?;
        }
        f.write_str(&self.lines.join(" "))
    }
}

impl Reply {
    /// A reply of one line. The status's class follows from the code.
    #[must_use]
    pub fn new(code: u16, subject: u16, detail: u16, text: impl Into<String>) -> Self {
        let class = u8::try_from(code / 100).unwrap_or(5);
        let status = Some(Status::new(class, subject, detail));
        Self {
            code,
            status,
            lines: vec![text.into()],
            close: false,
        }
    }

    /// A reply without enhanced status.
    #[must_use]
    pub fn plain(code: u16, text: impl Into<String>) -> Self {
        Self {
            code,
            status: None,
            lines: vec![text.into()],
            close: false,
        }
    }

    /// The same, and then the connection ends.
    #[must_use]
    pub fn and_close(mut self) -> Self {
        self.close = true;
        self
    }

    #[must_use]
    pub fn is_positive(&self) -> bool {
        self.code < 400
    }

    /// As it goes over the wire. Text that could break a line is replaced: some of it comes
    /// from the client.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (number, line) in self.lines.iter().enumerate() {
            let mark = if number + 1 < self.lines.len() {
                '-'
            } else {
                ' '
            };
            let status = self
                .status
                .map(|status| format!("{status} "))
                .unwrap_or_default();
            let text: String = line
                .chars()
                .map(|c| if c.is_control() { '?' } else { c })
                .collect();
            bytes.extend_from_slice(format!("{}{mark}{status}{text}\r\n", self.code).as_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_a_reply_carries_code_and_status() {
        let mut reply = Reply::new(550, 1, 1, "no\r\n250 yes");
        reply.lines.push("such user".into());
        assert_eq!(
            reply.to_bytes(),
            b"550-5.1.1 no??250 yes\r\n550 5.1.1 such user\r\n"
        );
    }
}
