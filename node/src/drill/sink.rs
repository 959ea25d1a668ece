//! Where canaries end: this node's stand-in for a customer's server.
//!
//! On loopback, so that nothing has to be let through a firewall. It takes only what is addressed to
//! the canaries of a drill, notes it and throws it away.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use holdfast_ledger::drill::DRILL_DOMAIN;
use holdfast_mail::MessageId;
use holdfast_proto::cluster::Receipt;
use holdfast_smtp::reply::Reply;
use holdfast_smtp::server::{Options, Question, Session};
use tokio::sync::{Semaphore, watch};

use crate::net::listen::Listener;
use crate::replica::{Cluster, now};
use crate::talk::serve::{Desk, serve};

/// The field that says which canary it is, and of which drill.
pub(super) const FIELD: &str = "Holdfast-Canary: ";

/// Octets of a message that are looked at for it: our trace line stands before it.
const LOOKED_AT_MAX: usize = 8 << 10;

/// Octets of a message: a canary has some hundred.
const MESSAGE_BYTES_MAX: u64 = 1 << 20;

/// Sessions at a time; the courier opens no more.
const SESSIONS_MAX: usize = 32;

/// Begins to listen.
///
/// # Errors
/// No socket is to be had.
pub(super) fn listen(cluster: &Cluster) -> io::Result<Listener> {
    let listener = Listener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    cluster.rehearsal().set_sink(listener.address()?);
    Ok(listener)
}

/// Takes canaries until it is dropped.
pub(super) async fn run(cluster: Cluster, listener: Listener) {
    let places = std::sync::Arc::new(Semaphore::new(SESSIONS_MAX));
    let (_running, stop) = watch::channel(false);
    loop {
        let (stream, peer) = listener.accept().await;
        let Ok(place) = places.clone().try_acquire_owned() else {
            continue;
        };
        let (cluster, stop) = (cluster.clone(), stop.clone());
        tokio::spawn(async move {
            let session = Session::new(Options::new(DRILL_DOMAIN, MESSAGE_BYTES_MAX, false));
            let mut catcher = Catcher {
                cluster,
                content: Vec::new(),
            };
            if let Err(error) = serve(stream, session, None, &mut catcher, stop).await {
                tracing::debug!(%peer, "a canary's session broke off: {error}");
            }
            drop(place);
        });
    }
}

struct Catcher {
    cluster: Cluster,
    /// The beginning of the message.
    content: Vec<u8>,
}

impl Desk for Catcher {
    async fn ask(&mut self, question: Question, _session: &Session) -> Option<Reply> {
        Some(match question {
            Question::Mail(_) | Question::Rcpt(_) | Question::Content => {
                Reply::new(250, 0, 0, "Ok")
            }
            Question::Message => {
                let content = std::mem::take(&mut self.content);
                if let Some((drill, canary)) = canary(&content) {
                    let at_ms = now().0;
                    let receipt = Receipt { canary, at_ms };
                    self.cluster.rehearsal().received(drill, receipt);
                }
                // Nobody else knows the address: what is no canary is none any more.
                Reply::new(250, 0, 0, "taken")
            }
            Question::Etrn(_) | Question::Login(_) | Question::Atrn(_) => {
                Reply::new(502, 5, 1, "nothing of the kind here")
            }
        })
    }

    async fn body(&mut self, bytes: Vec<u8>) {
        let room = LOOKED_AT_MAX.saturating_sub(self.content.len());
        self.content.extend(bytes.iter().take(room));
    }

    fn refused(&mut self, _reply: &Reply) {}

    fn reset(&mut self) {
        self.content.clear();
    }
}

/// The drill and the number that a message's header section tells of.
fn canary(content: &[u8]) -> Option<(MessageId, u64)> {
    let text = String::from_utf8_lossy(content);
    let header = text.lines().take_while(|line| !line.is_empty());
    let mut fields = header.filter_map(|line| line.strip_prefix(FIELD));
    let (drill, number) = fields.next()?.split_once(' ')?;
    Some((drill.parse().ok()?, number.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use holdfast_mail::Timestamp;

    use super::*;

    #[test]
    fn a_canary_is_known_by_its_header_alone() {
        let drill = MessageId::new(Timestamp(7), 7);
        let message = |header: &str, body: &str| {
            canary(format!("Received: by us\r\n{header}\r\n\r\n{body}\r\n").as_bytes())
        };
        let field = format!("{FIELD}{drill} 12");
        assert_eq!(message(&field, "chirp"), Some((drill, 12)));
        assert_eq!(message("Subject: canary", &field), None);
        assert_eq!(message(&format!("{FIELD}{drill}"), ""), None);
    }
}
