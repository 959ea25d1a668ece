//! Fetches a domain's MTA-STS policy, as senders do (RFC 8461 section 3.3).
//!
//! The name belongs to the customer and leads wherever they want: so only to port 443, to no private
//! address, under a certificate that is good for it, and no further than a bound on time and size.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use holdfast_mail::Domain;
use holdfast_mail::checkup::Sts;
use holdfast_mail::sts::{POLICY_OCTETS_MAX, Policy};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio_util::task::AbortOnDropHandle;

use crate::net::connect;
use crate::net::dns::Resolver;
use crate::net::tls::{self, Trust};
use crate::public::is_public;

const PORT: u16 = 443;

/// For all of it; section 3.3 suggests a minute, and more is looked at than this.
const FETCH_TIME_MAX: Duration = Duration::from_secs(15);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What a sender would find. `private`: the policy's host may have a private address.
pub(crate) async fn look(resolver: &Resolver, domain: &Domain, private: bool) -> Sts {
    if !resolver.has_text(&format!("_mta-sts.{domain}")).await {
        return Sts::None;
    }
    let host = format!("mta-sts.{domain}");
    let fetched = tokio::time::timeout(FETCH_TIME_MAX, fetch(resolver, &host, private)).await;
    let fetched = fetched.unwrap_or_else(|_| Err(format!("{host} does not answer in time")));
    match fetched {
        Ok(text) => {
            Policy::parse(&text).map_or_else(|why| Sts::Unusable(why.to_string()), Sts::Policy)
        }
        Err(why) => Sts::Unusable(why),
    }
}

async fn fetch(resolver: &Resolver, host: &str, private: bool) -> Result<String, String> {
    let addresses = resolver.addresses(host).await;
    let addresses = addresses.map_err(|error| format!("{host} has no address: {error}"))?;
    let mut last = format!("{host} has no address");
    for ip in addresses {
        if !private && !is_public(ip) {
            last = format!("{ip}, an address of {host}, is private");
            continue;
        }
        match fetch_at(SocketAddr::new(ip, PORT), host, Trust::Roots).await {
            Ok(text) => return Ok(text),
            Err(why) => last = why,
        }
    }
    Err(last)
}

async fn fetch_at(address: SocketAddr, host: &str, trust: Trust) -> Result<String, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("https://{host} at {address}: {error}");
    let stream = connect::tcp(address, CONNECT_TIMEOUT).await;
    let stream = stream.map_err(|error| wrong(&error))?;
    let stream = tls::client(stream, host, trust).await;
    let stream = stream.map_err(|error| wrong(&error))?;
    let opened = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = opened.map_err(|error| wrong(&error))?;
    let _talking = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::get("/.well-known/mta-sts.txt")
        .header(header::HOST, host)
        .header(header::USER_AGENT, "Holdfast")
        .body(Body::empty())
        .map_err(|error| wrong(&error))?;
    let response = sender.send_request(request).await;
    let response = response.map_err(|error| wrong(&error))?;
    // "HTTP 3xx redirects MUST NOT be followed": whoever redirects does not hold the name.
    if response.status() != StatusCode::OK {
        return Err(wrong(&format!("answered {}", response.status())));
    }
    let kind = response.headers().get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.to_ascii_lowercase().starts_with("text/plain") {
        return Err(wrong(&format!("the policy is {kind:?} and not text/plain")));
    }
    let body = to_bytes(Body::new(response.into_body()), POLICY_OCTETS_MAX).await;
    let body = body.map_err(|_| wrong(&"the policy is too long, or was cut off"))?;
    String::from_utf8(body.to_vec()).map_err(|_| wrong(&"the policy is no text"))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;
    use crate::net::listen::Listener;

    const HOST: &str = "mta-sts.a.example";

    /// What is made of an answer, under a certificate that is only pinned, or not even that.
    async fn fetched(answer: String, is_trusted: bool) -> Result<String, String> {
        let identity = tls::Identity::self_signed(HOST).unwrap();
        let key = identity.key().unwrap();
        let server = tls::web_server(identity).unwrap();
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.address().unwrap();
        let serving = tokio::spawn(async move {
            let (stream, _): (TcpStream, _) = listener.accept().await;
            let Ok(mut stream) = server.accept(stream).await else {
                return String::new();
            };
            let mut asked = vec![0; 4096];
            let len = stream.read(&mut asked).await.unwrap();
            // The client may have heard enough.
            let _sent = stream.write_all(answer.as_bytes()).await;
            let _closed = stream.shutdown().await;
            String::from_utf8_lossy(&asked[..len]).into_owned()
        });
        let trust = if is_trusted {
            Trust::Key(key)
        } else {
            Trust::Roots
        };
        let fetched = fetch_at(address, HOST, trust).await;
        let asked = serving.await.unwrap();
        assert!(!is_trusted || asked.starts_with("GET /.well-known/mta-sts.txt HTTP/1.1\r\n"));
        fetched
    }

    fn answer(head: &str, body: &str) -> String {
        format!(
            "HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    #[tokio::test]
    async fn a_policy_is_plain_text_from_whom_the_name_leads_to_and_no_further() {
        let plain = "200 OK\r\ncontent-type: text/plain; charset=utf-8";
        let text = "version: STSv1\r\n";
        assert_eq!(fetched(answer(plain, text), true).await.unwrap(), text);
        for (answer, why) in [
            (
                answer("301 Moved\r\nlocation: https://elsewhere.example/", ""),
                "answered 301",
            ),
            (
                answer("200 OK\r\ncontent-type: text/html", text),
                "not text/plain",
            ),
            (
                answer(plain, &"x".repeat(POLICY_OCTETS_MAX + 1)),
                "too long",
            ),
        ] {
            let said = fetched(answer, true).await.unwrap_err();
            assert!(said.contains(why), "{said}");
        }
        let said = fetched(answer(plain, text), false).await.unwrap_err();
        assert!(!said.contains("version"), "{said}");
    }
}
