//! What is sent: letters that follow from a seed, and the bytes of each try.

use crate::history::AttemptId;
use crate::random::Random;

/// A message as its author sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    pub number: u64,
    /// Empty for a bounce.
    pub reverse_path: String,
    /// Of MAIL.
    pub parameters: Vec<String>,
    pub recipients: Vec<String>,
    size: usize,
    seed: u64,
}

/// The header that tells a delivery's origin.
const ATTEMPT_HEADER: &str = "X-Attempt: ";

const RECIPIENTS_MAX: u64 = 3;
const SMALL_BYTES: u64 = 20_000;
const LARGE_BYTES: u64 = 1_500_000;

impl Letter {
    #[must_use]
    pub fn new(seed: u64, number: u64, domains: &[&str]) -> Self {
        let mut random = Random::new(seed ^ number.wrapping_mul(0x9e37_79b9));
        let reverse_path = if random.one_in(8) {
            String::new()
        } else {
            format!("author{number}@sender.test")
        };
        let recipients = (0..random.between(1, RECIPIENTS_MAX))
            .map(|at| {
                let domain = domains[random.between(0, domains.len() as u64 - 1) as usize];
                // Only the domain's letters may change their case.
                format!("Reader{number}-{at}@{domain}")
            })
            .collect();
        // Some are larger than what is replicated at once with the log.
        let largest = if random.one_in(60) {
            LARGE_BYTES
        } else {
            SMALL_BYTES
        };
        Self {
            number,
            reverse_path,
            // Some senders do not say so, and send it all the same.
            parameters: (!number.is_multiple_of(3))
                .then(|| "BODY=8BITMIME".to_owned())
                .into_iter()
                .collect(),
            recipients,
            size: random.between(200, largest) as usize,
            seed,
        }
    }

    /// The message as it is handed over in one try.
    #[must_use]
    pub fn bytes(&self, attempt: AttemptId) -> Vec<u8> {
        let mut text = format!(
            "{ATTEMPT_HEADER}{}\r\nFrom: author{}@sender.test\r\nSubject: Letter {}\r\n\r\n",
            attempt.0, self.number, self.number
        )
        .into_bytes();
        if !self.parameters.is_empty() {
            // Nobody need go on saying that there are eight bits where there are none.
            text.extend_from_slice("Grüße\r\n".as_bytes());
        }
        let mut random = Random::new(self.seed ^ self.number);
        while text.len() < self.size {
            // What transports have damaged before.
            match random.between(0, 30) {
                0 => text.push(b'.'),
                1 => text.extend_from_slice(b"..two dots"),
                2 => text.extend_from_slice("Grüße".as_bytes()),
                3 => text.extend_from_slice(b"From here"),
                4 => {}
                _ => {
                    for _ in 0..random.between(1, 9) {
                        text.extend_from_slice(format!("{:08x}", random.draw() as u32).as_bytes());
                    }
                }
            }
            text.extend_from_slice(b"\r\n");
        }
        text
    }
}

/// Divides what a primary got into the try it names and the bytes behind the `Received` lines.
pub(crate) fn opened(arrived: &[u8]) -> (Option<AttemptId>, &[u8]) {
    let mut rest = arrived;
    let mut in_trace = false;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let (line, after) = rest.split_at(end + 1);
        let begins = line
            .get(..9)
            .is_some_and(|name| name.eq_ignore_ascii_case(b"Received:"));
        let goes_on = in_trace && matches!(line.first(), Some(b' ' | b'\t'));
        if !begins && !goes_on {
            break;
        }
        in_trace = true;
        rest = after;
    }
    let attempt = rest
        .strip_prefix(ATTEMPT_HEADER.as_bytes())
        .and_then(|rest| rest.split(|byte| *byte == b'\r').next())
        .and_then(|number| std::str::from_utf8(number).ok()?.parse().ok())
        .map(AttemptId);
    (attempt, rest)
}

/// What a notification of failed delivery says: the try by its header, and whom it did not reach.
pub(crate) fn reported(arrived: &[u8]) -> (Option<AttemptId>, Vec<String>) {
    let text = String::from_utf8_lossy(arrived);
    let fields = |name: &'static str| text.lines().filter_map(move |line| line.strip_prefix(name));
    let attempt = fields(ATTEMPT_HEADER).find_map(|number| number.trim().parse().ok());
    let failed = text.contains("Action: failed");
    let recipients = fields("Final-Recipient: rfc822;").filter(|_| failed);
    let recipients = recipients.map(|to| to.trim().to_owned()).collect();
    (attempt.map(AttemptId), recipients)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAINS: [&str; 2] = ["example.test", "other.test"];

    #[test]
    fn a_letter_follows_from_its_seed_and_number() {
        assert_eq!(Letter::new(1, 5, &DOMAINS), Letter::new(1, 5, &DOMAINS));
        let letters: Vec<Letter> = (0..3000)
            .map(|number| Letter::new(1, number, &DOMAINS))
            .collect();
        assert!(letters.iter().any(|letter| letter.reverse_path.is_empty()));
        assert!(letters.iter().any(|letter| letter.recipients.len() == 3));
        assert!(letters.iter().any(|letter| letter.size > 1 << 20));
    }

    #[test]
    fn every_try_differs_and_is_known_again_behind_trace_lines() {
        let letter = Letter::new(1, 5, &DOMAINS);
        let bytes = letter.bytes(AttemptId(17));
        assert_ne!(bytes, letter.bytes(AttemptId(18)));
        assert!(
            bytes
                .split_inclusive(|byte| *byte == b'\n')
                .all(|line| line.ends_with(b"\r\n"))
        );
        let arrived = [
            b"Received: from a\r\n\tby b; now\r\nReceived: from c\r\n",
            bytes.as_slice(),
        ]
        .concat();
        assert_eq!(opened(&arrived), (Some(AttemptId(17)), bytes.as_slice()));
        assert_eq!(opened(b"Subject: spam\r\n\r\n").0, None);
    }
}
