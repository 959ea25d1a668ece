//! Enhanced status codes (RFC 3463): class, subject, detail.

use std::fmt;

/// `2.1.5` and its kin. The class must agree with the reply's first digit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Status {
    /// 2 success, 4 try later, 5 never.
    pub class: u8,
    pub subject: u16,
    pub detail: u16,
}

impl Status {
    #[must_use]
    pub const fn new(class: u8, subject: u16, detail: u16) -> Self {
        Self {
            class,
            subject,
            detail,
        }
    }

    /// Reads `class.subject.detail` from the start of a reply's text; the numbers have at most
    /// three digits (RFC 3463 section 2).
    #[must_use]
    pub fn leading(text: &str) -> Option<Self> {
        let word = text.split(' ').next()?;
        let mut parts = word.split('.');
        let class = match parts.next()? {
            "2" => 2,
            "4" => 4,
            "5" => 5,
            _ => return None,
        };
        let number = |part: &str| -> Option<u16> {
            (part.len() <= 3 && !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
                .then(|| part.parse().ok())?
        };
        let subject = number(parts.next()?)?;
        let detail = number(parts.next()?)?;
        parts.next().is_none().then_some(Self {
            class,
            subject,
            detail,
        })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_from_the_start_of_a_reply() {
        assert_eq!(
            Status::leading("5.1.1 no such user"),
            Some(Status::new(5, 1, 1))
        );
        for text in ["", "3.1.1 x", "5.1", "5.1.1.1", "5.1.1111 x", "550 5.1.1"] {
            assert_eq!(Status::leading(text), None, "{text}");
        }
    }
}
