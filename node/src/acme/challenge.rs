//! Answers an authority that asks a node for a token, over HTTP on port 80 (RFC 8555 section 8.3).
//! Any node can: what is asked for is in the ledger. Nothing else is served there.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, Request, Response, StatusCode, header};
use holdfast_ledger::KvError;
use holdfast_ledger::acme::is_acme_token;
use holdfast_ledger::query;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use crate::guests::{Guests, Places};
use crate::net::listen::Listener;
use crate::replica::Cluster;

/// Connections at a time; each is one short request, so others wait for a moment.
const CONNECTIONS_MAX: usize = 256;

/// Connections at a time of one client; an authority asks from several places, once for each name. Else
/// one host that says nothing keeps the authority out, until the certificate has ended.
const CONNECTIONS_PER_CLIENT_MAX: usize = 8;

/// For a connection, from its first octet to its last. Who is slower keeps others out.
const PATIENCE: Duration = Duration::from_secs(10);

/// Octets of a request's head; the least that hyper takes.
const HEAD_OCTETS_MAX: usize = 8 << 10;

/// How long an answer may be on its way from the leader, which has the authority ask once a majority
/// knows it: this node may be the one that does not yet.
const LEDGER_LAG_MAX: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(100);

const PATH: &str = "/.well-known/acme-challenge/";

/// Serves `listener` until the task is aborted.
pub(crate) async fn run(cluster: Cluster, listener: Listener) {
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
        let cluster = cluster.clone();
        tokio::spawn(async move {
            serve(stream, peer, |token| look_up(cluster.clone(), token)).await;
            drop((place, guest));
        });
    }
}

/// One request and its answer.
async fn serve<F>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: SocketAddr,
    look_up: impl Fn(String) -> F,
) where
    F: Future<Output = Result<Option<String>, KvError>>,
{
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let found = token_of(&request).map(|token| look_up(token.to_owned()));
        async move {
            let found = match found {
                Some(found) => found.await,
                None => Ok(None),
            };
            Ok::<_, Infallible>(answer(found))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(HEAD_OCTETS_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(PATIENCE, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%peer, "an authority's connection broke off: {error}"),
        Err(_) => tracing::debug!(%peer, "an authority's connection took too long"),
    }
}

fn token_of<B>(request: &Request<B>) -> Option<&str> {
    let asks = [Method::GET, Method::HEAD].contains(request.method());
    let token = request.uri().path().strip_prefix(PATH)?;
    (asks && is_acme_token(token)).then_some(token)
}

fn answer(found: Result<Option<String>, KvError>) -> Response<String> {
    let (status, text) = match found {
        Ok(Some(text)) => (StatusCode::OK, text),
        Ok(None) => (StatusCode::NOT_FOUND, String::new()),
        Err(error) => {
            tracing::error!("this node cannot read its state: {}", error.0);
            (StatusCode::SERVICE_UNAVAILABLE, String::new())
        }
    };
    let mut response = Response::new(text);
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// What the ledger has for a token; waits for it while an order is under way.
async fn look_up(cluster: Cluster, token: String) -> Result<Option<String>, KvError> {
    let until = Instant::now() + LEDGER_LAG_MAX;
    loop {
        let view = cluster.view();
        let found = query::acme_answer(&view, &token)?;
        let under_way = query::acme(&view)?.is_some_and(|acme| acme.is_under_way());
        drop(view);
        if found.is_some() || !under_way || Instant::now() >= until {
            return Ok(found);
        }
        sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    /// What is answered by a node that knows the token `abc`.
    async fn asked(request: &str) -> String {
        let (mut client, server) = duplex(64 << 10);
        let serving = serve(
            server,
            "192.0.2.1:1024".parse().unwrap(),
            async |token: String| Ok((token == "abc").then(|| "abc.key".to_owned())),
        );
        let asking = async {
            client.write_all(request.as_bytes()).await.unwrap();
            let mut heard = String::new();
            client.read_to_string(&mut heard).await.unwrap();
            heard
        };
        tokio::join!(serving, asking).1
    }

    fn get(path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nhost: mx1.example\r\n\r\n")
    }

    #[tokio::test]
    async fn a_token_is_answered_and_nothing_else_is_there() {
        let heard = asked(&get("/.well-known/acme-challenge/abc")).await;
        assert!(heard.starts_with("HTTP/1.1 200 OK\r\n"), "{heard}");
        assert!(heard.ends_with("\r\n\r\nabc.key"), "{heard}");
        for path in [
            "/",
            "/metrics",
            "/.well-known/acme-challenge/",
            "/.well-known/acme-challenge/def",
            "/.well-known/acme-challenge/abc/",
            "/.well-known/acme-challenge/../abc",
        ] {
            let heard = asked(&get(path)).await;
            assert!(heard.starts_with("HTTP/1.1 404 "), "{path}: {heard}");
        }
        let posted = asked(
            "POST /.well-known/acme-challenge/abc HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n",
        )
        .await;
        assert!(posted.starts_with("HTTP/1.1 404 "), "{posted}");
    }

    #[tokio::test]
    async fn a_request_without_an_end_is_refused() {
        let long = "a".repeat(2 * HEAD_OCTETS_MAX);
        let heard = asked(&get(&format!("/{long}"))).await;
        assert!(
            heard.starts_with("HTTP/1.1 414 ") || heard.starts_with("HTTP/1.1 431 "),
            "{heard}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_says_nothing_is_left() {
        let (_client, server) = duplex(64);
        let peer = "192.0.2.1:1024".parse().unwrap();
        let begun = Instant::now();
        serve(server, peer, async |_| Ok(None)).await;
        assert!(begun.elapsed() <= PATIENCE + Duration::from_secs(1));
    }
}
