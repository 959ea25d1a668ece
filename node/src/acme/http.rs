//! HTTPS to an authority: one connection for each request, as few are made in months.

use std::error::Error as StdError;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::uri::{PathAndQuery, Scheme};
use axum::http::{HeaderValue, Request, Response, Uri, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use tokio_util::task::AbortOnDropHandle;

use crate::net::connect;
use crate::net::dns::Resolver;
use crate::net::tls::{self, Authorities};

const PORT: u16 = 443;

/// For one request and its answer. Authorities take seconds where they sign.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Octets of an answer: a chain of certificates is the longest, and the ledger takes 64 KiB of it.
const ANSWER_OCTETS_MAX: usize = 128 << 10;

/// Asks an authority.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) resolver: Arc<Resolver>,
    /// Of whom its certificate must be.
    pub(super) authorities: Authorities,
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.clone();
        Box::pin(async move {
            let uri = request.uri().clone();
            let asked = tokio::time::timeout(REQUEST_TIME_MAX, client.ask(request)).await;
            let asked = asked.unwrap_or_else(|_| Err("no answer in time".into()));
            let answer = asked.map_err(|why| Error::Other(format!("{uri}: {why}").into()))?;
            let (parts, body) = answer.into_parts();
            Ok(BytesResponse {
                parts,
                body: Box::new(body),
            })
        })
    }
}

type Failed = Box<dyn StdError + Send + Sync>;

impl Client {
    async fn ask(
        &self,
        mut request: Request<BodyWrapper<Bytes>>,
    ) -> Result<Response<Bytes>, Failed> {
        let uri = request.uri().clone();
        if uri.scheme() != Some(&Scheme::HTTPS) {
            return Err("authorities are asked under https: only".into());
        }
        let (authority, host) = uri
            .authority()
            .map(|authority| (authority.as_str(), authority.host()))
            .ok_or("there is no host in it")?;
        // RFC 3986 section 3.2.2: an IPv6 address stands in brackets.
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(PORT);
        let path = uri.path_and_query().cloned();
        let path = path.unwrap_or(PathAndQuery::from_static("/"));
        request
            .headers_mut()
            .insert(header::HOST, HeaderValue::from_str(authority)?);
        *request.uri_mut() = Uri::from(path);

        let mut last: Failed = "the host has no address".into();
        for ip in self.resolver.addresses(host).await? {
            let stream = match connect::tcp(SocketAddr::new(ip, port), CONNECT_TIMEOUT).await {
                Ok(stream) => stream,
                Err(error) => {
                    last = error.into();
                    continue;
                }
            };
            let stream = tls::client_of(stream, host, &self.authorities).await?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            let _talking = AbortOnDropHandle::new(tokio::spawn(connection));
            let (parts, body) = sender.send_request(request).await?.into_parts();
            let body = to_bytes(Body::new(body), ANSWER_OCTETS_MAX).await;
            let body = body.map_err(|_| "the answer is too long, or was cut off")?;
            return Ok(Response::from_parts(parts, body));
        }
        Err(last)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::net::dns::Memory;
    use crate::net::listen::Listener;
    use crate::net::{authority, pass};

    /// What is made of an answer, by one who trusts whoever gives it, or nobody.
    async fn asked(answer: String, is_trusted: bool) -> Result<Vec<u8>, String> {
        let (key, request) = authority::request_for(&["localhost".to_owned()]).unwrap();
        let ca = authority::Authority::create([1; 16]).unwrap();
        let certificate = ca.sign_server(&request, "localhost").unwrap();
        let chain = pass::block("CERTIFICATE", &certificate);
        let identity = tls::Identity::parse(&chain, &key).unwrap();
        let server = tls::web_server(identity).unwrap();
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = listener.address().unwrap().port();
        let serving = tokio::spawn(async move {
            let (stream, _) = listener.accept().await;
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
        let stranger = authority::Authority::create([2; 16]).unwrap();
        let trusted = if is_trusted { &ca } else { &stranger };
        let pem = pass::block("CERTIFICATE", &trusted.certificate);
        let client = Client {
            resolver: Arc::new(Resolver::new(&[], Memory::None).unwrap()),
            authorities: Authorities::parse(&pem).unwrap(),
        };
        let request = Request::get(format!("https://localhost:{port}/dir?a=b"));
        let answered = client.request(request.body(BodyWrapper::default()).unwrap());
        let answered = answered.await.map_err(|error| error.to_string());
        let heard = serving.await.unwrap();
        assert!(
            !is_trusted || heard.starts_with("GET /dir?a=b HTTP/1.1\r\n"),
            "{heard}"
        );
        assert!(
            !is_trusted || heard.contains(&format!("host: localhost:{port}\r\n")),
            "{heard}"
        );
        let body = answered?.body.into_bytes().await.unwrap();
        Ok(body.to_vec())
    }

    #[tokio::test]
    async fn an_authority_is_asked_under_its_certificate_and_its_answer_has_a_bound() {
        let answer = |length: usize| {
            let body = "x".repeat(length);
            format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}")
        };
        assert_eq!(asked(answer(3), true).await, Ok(b"xxx".to_vec()));
        let long = asked(answer(ANSWER_OCTETS_MAX + 1), true)
            .await
            .unwrap_err();
        assert!(long.contains("too long"), "{long}");
        let stranger = asked(answer(3), false).await.unwrap_err();
        assert!(stranger.contains("certificate"), "{stranger}");
    }

    #[tokio::test]
    async fn an_authority_without_tls_is_not_asked() {
        let client = Client {
            resolver: Arc::new(Resolver::new(&[], Memory::None).unwrap()),
            authorities: Authorities::parse(&pass::block(
                "CERTIFICATE",
                &authority::Authority::create([1; 16]).unwrap().certificate,
            ))
            .unwrap(),
        };
        let request = Request::get("http://localhost/").body(BodyWrapper::default());
        let said = client.request(request.unwrap()).await.err().unwrap();
        assert!(said.to_string().contains("https: only"), "{said}");
    }
}
