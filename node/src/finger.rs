//! The finger service (RFC 1288): `finger example.org@mx1…` asks for a domain's held mail, as
//! customers without ETRN do.
//!
//! It tells nothing of people or machines, forwards nothing, and answers one line.

use std::sync::Arc;
use std::time::Duration;

use holdfast_smtp::finger::{QUERY_OCTETS_MAX, Query, parse};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::Semaphore;

use crate::guests::{Guests, Places};
use crate::net::listen::Listener;
use crate::release::{Desk, NotStarted, Pending, Wanted};
use crate::replica::Cluster;

/// Connections at a time; each is one short line, so others wait for a moment.
const CONNECTIONS_MAX: usize = 64;

/// Connections at a time of one client, which asks for a handful of domains. Else one host that says
/// nothing keeps out everybody.
const CONNECTIONS_PER_CLIENT_MAX: usize = 4;

/// How long a client may take to send its line, and then to take the answer. Who is slower keeps
/// others out.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves `listener` until the task is aborted.
pub async fn run(cluster: Cluster, desk: Arc<Desk>, listener: Listener) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let guests = Guests::default();
    let caps = Places {
        all_max: CONNECTIONS_MAX,
        each_max: CONNECTIONS_PER_CLIENT_MAX,
    };
    while let Ok(place) = places.clone().acquire_owned().await {
        let (stream, peer) = listener.accept().await;
        let Ok(guest) = guests.enter(peer.ip(), caps) else {
            continue;
        };
        let (cluster, desk) = (cluster.clone(), desk.clone());
        tokio::spawn(async move {
            let answered = serve(stream, PATIENCE, async |query| {
                answer(&cluster, &desk, peer.ip(), query).await
            });
            if let Err(error) = answered.await {
                tracing::debug!(client = %peer.ip(), "a finger query broke off: {error}");
            }
            drop((place, guest));
        });
    }
}

/// Reads one line and answers it.
async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    patience: Duration,
    answer: impl AsyncFnOnce(Query) -> String,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    let mut limited = (&mut stream).take(QUERY_OCTETS_MAX as u64);
    tokio::time::timeout(patience, limited.read_until(b'\n', &mut line)).await??;
    let query = match line.strip_suffix(b"\n") {
        Some(line) => parse(line),
        // Cut short or too long: whatever it was, it is not a domain.
        None => Query::Unknown,
    };
    let text = format!("{}\r\n", answer(query).await);
    let tell = async {
        stream.write_all(text.as_bytes()).await?;
        stream.shutdown().await
    };
    tokio::time::timeout(patience, tell).await?
}

async fn answer(cluster: &Cluster, desk: &Desk, client: std::net::IpAddr, query: Query) -> String {
    let domain = match query {
        Query::Domain(domain) => domain,
        // The words of RFC 1288 sections 3.2.1 and 3.2.2.
        Query::Forward => return "Finger forwarding service denied".into(),
        Query::Everybody => return "Finger online user list denied".into(),
        Query::Unknown => return "Ask for a domain: finger example.org@this-host".into(),
    };
    if cluster.is_drained() {
        return format!(
            "{domain}: this node is being maintained. Ask another one; the mail is safe."
        );
    }
    let wanted = Wanted::Domain(domain.clone());
    match desk.ask(cluster, client, wanted, "finger").await {
        Ok(Pending::Known(0)) => format!("{domain}: no messages are waiting."),
        Ok(Pending::Known(1)) => format!("{domain}: 1 message is waiting; delivery was started."),
        Ok(Pending::Known(count)) => {
            format!("{domain}: {count} messages are waiting; delivery was started.")
        }
        Ok(Pending::Started) => format!("{domain}: delivery was started a moment ago."),
        Ok(Pending::Uncounted) => format!("{domain}: delivery was started."),
        Err(why @ (NotStarted::TooOften | NotStarted::NotAllowed)) => format!("{domain}: {why}."),
        Err(why @ NotStarted::Unable(_)) => {
            format!("{domain}: cannot start delivery now: {why}. The mail is safe.")
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    async fn talk(sent: &[u8]) -> (Option<Query>, String) {
        let (mut client, server) = duplex(4096);
        client.write_all(sent).await.unwrap();
        client.shutdown().await.unwrap();
        let mut asked = None;
        let told = serve(server, PATIENCE, async |query| {
            asked = Some(query);
            "told".to_owned()
        });
        told.await.unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        (asked, text)
    }

    #[tokio::test]
    async fn one_line_is_answered_with_one_line() {
        let (asked, text) = talk(b"/W\r\nexample.org\r\n").await;
        assert_eq!((asked, &*text), (Some(Query::Everybody), "told\r\n"));
    }

    #[tokio::test]
    async fn a_line_without_an_end_is_cut_and_is_no_domain() {
        assert_eq!(talk(b"example.org").await.0, Some(Query::Unknown));
        let long = vec![b'a'; QUERY_OCTETS_MAX + 1];
        assert_eq!(talk(&long).await.0, Some(Query::Unknown));
    }

    #[tokio::test]
    async fn a_client_that_says_nothing_is_left() {
        let (_client, server) = duplex(64);
        let told = serve(server, Duration::from_millis(10), async |_| {
            unreachable!("nothing was asked")
        });
        assert_eq!(told.await.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    }
}
