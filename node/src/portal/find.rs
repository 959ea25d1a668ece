//! Mail as customers look for it: with its subject, in which a search looks too.

use std::time::Duration;

use holdfast_ledger::{KvError, Seq};
use holdfast_mail::{BodyRef, Domain};
use mail_parser::MessageParser;
use tokio::time::{Instant, timeout_at};

use super::Portal;
use crate::listing::{self, Listed, State, Wanted};

/// How long reading subjects may take: bodies that are on their way here from another node are shown
/// without, and a search that takes longer is told to go on.
const SUBJECTS_TIME_MAX: Duration = Duration::from_secs(2);

/// Messages that a search looks at in one go.
const SEARCHED_AT_ONCE: usize = 100;

/// What is looked for.
pub(super) struct Search {
    /// None: in every state.
    pub(super) states: Vec<State>,
    /// Part of a sender, a recipient or a subject, in whatever case; empty: all mail.
    pub(super) text: String,
    pub(super) after: Option<Seq>,
    pub(super) limit: usize,
}

#[derive(Default)]
pub(super) struct Found {
    /// With their subjects; empty: there is none, or it could not be read in time.
    pub(super) mail: Vec<(Listed, String)>,
    /// What to ask for next; `None`: that was all.
    pub(super) next: Option<Seq>,
}

/// Some of the domain's mail, in the order of acceptance.
pub(super) async fn find(
    portal: &Portal,
    domain: &Domain,
    search: &Search,
) -> Result<Found, KvError> {
    let until = Instant::now() + SUBJECTS_TIME_MAX;
    let wanted = Wanted {
        states: search.states.clone(),
        ..Wanted::default()
    };
    let text = search.text.trim().to_lowercase();
    let at_once = match text.is_empty() {
        true => search.limit,
        false => SEARCHED_AT_ONCE,
    };
    let mut found = Found {
        mail: Vec::new(),
        next: search.after,
    };
    loop {
        let page = listing::page(&portal.cluster.view(), domain, &wanted, found.next, at_once)?;
        for listed in page.mail {
            let is_enough = found.mail.len() >= search.limit;
            let is_late = !text.is_empty() && Instant::now() >= until;
            // A message may be in two queues: both are on the same page.
            if (is_enough || is_late) && found.next != Some(listed.row.seq) {
                return Ok(found);
            }
            found.next = Some(listed.row.seq);
            let read = timeout_at(until, subject(portal, &listed.envelope.body));
            let subject = read.await.ok().flatten().unwrap_or_default();
            if is_about(&listed, &subject, &text) {
                found.mail.push((listed, subject));
            }
        }
        found.next = page.next;
        let is_enough = found.mail.len() >= search.limit;
        if page.next.is_none() || is_enough || Instant::now() >= until {
            return Ok(found);
        }
    }
}

/// `text` in small letters.
fn is_about(mail: &Listed, subject: &str, text: &str) -> bool {
    let has = |of: &str| of.to_lowercase().contains(text);
    text.is_empty()
        || has(mail.envelope.reverse_path.as_str())
        || has(subject)
        || mail.recipients().any(|recipient| has(&recipient))
}

/// From the first piece of the message, which holds the header of all but absurd ones.
async fn subject(portal: &Portal, body: &BodyRef) -> Option<String> {
    let mut reader = portal.cluster.bodies().read(body).await.ok()?;
    let piece = reader.next().await.ok()??;
    let header = header(&piece);
    let message = MessageParser::new().parse_headers(header)?;
    let subject = message.subject()?;
    // One line, and no control that steers a screen.
    Some(
        subject
            .chars()
            .filter(|c| !c.is_control())
            .take(200)
            .collect(),
    )
}

/// Up to the empty line that ends it (RFC 5322 section 2.1).
fn header(piece: &[u8]) -> &[u8] {
    let end = piece.windows(4).position(|four| four == b"\r\n\r\n");
    &piece[..end.map_or(piece.len(), |at| at + 4)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_header_is_looked_at() {
        assert_eq!(
            header(b"Subject: a\r\n\r\nSubject: b\r\n"),
            b"Subject: a\r\n\r\n"
        );
        assert_eq!(header(b"Subject: a\r\n"), b"Subject: a\r\n");
        let raw = b"Received: x\r\nSubject: =?UTF-8?Q?Gr=C3=BC=C3=9Fe?= an\r\n alle\r\n\r\n";
        let message = MessageParser::new().parse_headers(header(raw)).unwrap();
        assert_eq!(message.subject(), Some("Grüße an alle"));
    }
}
