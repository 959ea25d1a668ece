//! What customers see in a browser, and their programs over HTTP: the state of their domains, the
//! mail that is held, and what may be done with it.
//!
//! Every node serves all of it: what it shows is the replicated state, what it changes goes through
//! the log, and a session is a text that the browser keeps. Pages work without scripts.

mod account;
mod api;
mod copies;
mod dns;
mod door;
mod find;
mod live;
mod log;
mod mail;
mod overview;
mod page;
mod receive;
mod recipients;
mod settings;
mod sign_in;
mod upload;

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderName, HeaderValue, Request, header};
use axum::middleware::{Next, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use holdfast_ledger::{KvError, KvRead, query};
use holdfast_mail::Domain;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::{Semaphore, watch};
use tokio_util::task::AbortOnDropHandle;
use tower::ServiceExt;

use crate::accounts::{Doorkeeper, Seal};
use crate::guests::{Guests, Places};
use crate::net::listen::{Listener, end_when_silent};
use crate::net::tls::WebServer;
use crate::recent::Recent;
use crate::release::Desk;
use crate::replica::Cluster;

use copies::Copies;
use page::Problem;

/// Connections at a time, of all browsers and programs. A page that is open keeps one.
const CONNECTIONS_MAX: usize = 1_000;

/// Connections at a time of one client, so that none takes all places: an office behind one address, each
/// of whose browsers opens six at most.
const CONNECTIONS_PER_CLIENT_MAX: usize = 64;

/// How long a client may take to shake hands, and to send the head of a request: who is slower
/// keeps others out.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a browser may acknowledge nothing. A page that shows what happens, or that receives mail,
/// must not outlast its machine; a slow line is given three tries.
const SILENCE_MAX: Duration = Duration::from_secs(8);

/// Octets of a form: the longest list of recipients that one may paste.
const FORM_OCTETS_MAX: usize = 2 * 1024 * 1024;

/// Octets of the form to sign in, the only one that is read of strangers: a name, a password and a code.
const SIGN_IN_OCTETS_MAX: usize = 8 * 1024;

/// Octets of a request's head, with its cookies. What is read of a head is kept, whoever sends it.
const HEAD_OCTETS_MAX: usize = 32 * 1024;

/// Forms, and orders of programs, of one account within [`CHANGES_PERIOD`]: more than anybody types, and
/// enough for a program that carries lists over. Each is an entry of the log and a line of the audit.
const CHANGES_MAX: u32 = 60;
const CHANGES_PERIOD: Duration = Duration::from_secs(60);

/// Sent with every answer. No script, style or form but our own; no other site frames a page.
const HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; \
         connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "same-origin"),
    (
        header::STRICT_TRANSPORT_SECURITY,
        "max-age=31536000; includeSubDomains",
    ),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
];

/// What all pages share.
struct Portal {
    cluster: Cluster,
    doorkeeper: Arc<Doorkeeper>,
    release: Arc<Desk>,
    copies: Copies,
    /// Accounts that changed something a moment ago.
    changes: Mutex<Recent<String>>,
    /// Domains whose DNS was looked at a moment ago.
    checks: Mutex<Recent<Domain>>,
    /// True once the node stops or is drained: open pages are told to come back elsewhere.
    stopping: watch::Receiver<bool>,
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
struct Client(IpAddr);

/// What a node needs to serve the portal.
pub struct Options {
    pub listener: Listener,
    /// Another after the certificate was renewed.
    pub tls: Arc<ArcSwap<WebServer>>,
    pub doorkeeper: Arc<Doorkeeper>,
    pub release: Arc<Desk>,
    /// True while the node stops or is drained.
    pub closing: watch::Receiver<bool>,
}

/// Serves until `stop` is true, and then finishes what is in progress.
pub async fn run(options: Options, cluster: Cluster, mut stop: watch::Receiver<bool>) {
    let copies = Copies::default();
    let _asking = AbortOnDropHandle::new(tokio::spawn(copies.clone().keep(cluster.clone())));
    let portal = Arc::new(Portal {
        cluster,
        doorkeeper: options.doorkeeper,
        release: options.release,
        copies,
        changes: Mutex::default(),
        checks: Mutex::default(),
        stopping: options.closing,
    });
    serve(options.listener, options.tls, router(portal), &mut stop).await;
}

async fn serve(
    listener: Listener,
    tls: Arc<ArcSwap<WebServer>>,
    router: Router,
    stop: &mut watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let guests = Guests::default();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = told(stop) => break,
        };
        let caps = Places {
            all_max: CONNECTIONS_MAX,
            each_max: CONNECTIONS_PER_CLIENT_MAX,
        };
        let guest = match guests.enter(peer.ip(), caps) {
            Ok(guest) => guest,
            Err(why) => {
                tracing::debug!(client = %peer.ip(), "a browser was turned away: {why}");
                continue;
            }
        };
        if let Err(error) = end_when_silent(&stream, SILENCE_MAX) {
            tracing::debug!("a dead browser is noticed late: {error}");
        }
        let (tls, router, stop) = (tls.load_full(), router.clone(), stop.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(PATIENCE, tls.accept(stream)).await {
                Ok(Ok(stream)) => converse(TokioIo::new(stream), router, peer.ip(), stop).await,
                Ok(Err(error)) => tracing::debug!(client = %peer.ip(), "no TLS: {error}"),
                Err(_) => tracing::debug!(client = %peer.ip(), "a TLS handshake took too long"),
            }
            drop((place, guest));
        });
    }
    // Those that talk with us end by themselves: they saw `stop` too.
    let finished = places.acquire_many(u32::try_from(CONNECTIONS_MAX).unwrap_or(u32::MAX));
    if tokio::time::timeout(PATIENCE, finished).await.is_err() {
        tracing::debug!("some browsers were cut off");
    }
}

/// Resolves when the node stops.
async fn told(stop: &mut watch::Receiver<bool>) {
    let _sender_gone = stop.wait_for(|stop| *stop).await;
}

impl Portal {
    fn may_change(&self, account: &str) -> Result<(), Problem> {
        let account = account.to_owned();
        match Recent::within(&self.changes, account, CHANGES_PERIOD, CHANGES_MAX) {
            true => Ok(()),
            false => Err(Problem::TooOften),
        }
    }

    /// The key of sessions; a node that has just joined does not know it yet.
    fn seal(&self) -> Result<Seal, Problem> {
        let seal = seal(&self.cluster.view())?;
        seal.ok_or_else(|| {
            Problem::Unable("this node has just joined and is still catching up".to_owned())
        })
    }
}

/// Made anew each time: once the cluster has another authority, whoever has the key of the old one, from
/// a disk that was thrown away perhaps, must not be able to make sessions.
fn seal(view: &dyn KvRead) -> Result<Option<Seal>, KvError> {
    let known = query::cluster(view)?;
    Ok(known.map(|known| Seal::new(&known.ca_key)))
}

async fn converse<S>(stream: S, router: Router, client: IpAddr, mut stop: watch::Receiver<bool>)
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let service = tower::service_fn(move |request: Request<hyper::body::Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Client(client));
        router.clone().oneshot(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(HEAD_OCTETS_MAX)
        .serve_connection(stream, TowerToHyperService::new(service));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = told(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%client, "a browser's connection broke off: {error}");
    }
}

fn router(portal: Arc<Portal>) -> Router {
    Router::new()
        .route("/", get(overview::domains))
        .route(
            "/sign-in",
            get(sign_in::form)
                .post(sign_in::submit)
                .layer(DefaultBodyLimit::max(SIGN_IN_OCTETS_MAX)),
        )
        .route("/sign-out", post(sign_in::out))
        .route("/d/{domain}", get(overview::show))
        .route("/d/{domain}/live", get(live::stream))
        .route("/d/{domain}/receive", post(receive::receive))
        .route("/d/{domain}/deliver", post(overview::deliver))
        .route("/d/{domain}/mail", get(mail::list).post(mail::dispose))
        .route(
            "/d/{domain}/recipients",
            get(recipients::show).post(recipients::change),
        )
        .route("/d/{domain}/recipients.txt", get(recipients::export))
        .route(
            "/d/{domain}/settings",
            get(settings::show).post(settings::change),
        )
        .route("/d/{domain}/dns", get(dns::show).post(dns::check))
        .route("/d/{domain}/log", get(log::show))
        .route("/account", get(account::show))
        .route("/account/password", post(account::password))
        .route("/account/codes", post(account::codes))
        .route("/account/tokens", post(account::tokens))
        .nest("/api/v1", api::router())
        .route("/style.css", get(page::style))
        .route("/live.js", get(page::script))
        .fallback(page::not_found)
        .layer(from_fn_with_state(portal.clone(), elsewhere))
        .layer(DefaultBodyLimit::max(FORM_OCTETS_MAX))
        .layer(map_response(with_headers))
        .with_state(portal)
}

/// While the node stops or is drained, another one answers: the next connection finds it.
async fn elsewhere(
    State(portal): State<Arc<Portal>>,
    request: Request<Body>,
    next: Next,
) -> Response {
    let path = request.uri().path();
    if !*portal.stopping.borrow() || path == "/style.css" {
        return next.run(request).await;
    }
    let why = "this node is being maintained, and another one answers: try again in a moment";
    let problem = Problem::Unable(why.to_owned());
    let mut response = match path.starts_with("/api/") {
        true => api::Failure::from(problem).into_response(),
        false => problem.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    response
}

async fn with_headers(response: Response) -> Response {
    let mut response = response.into_response();
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // What a customer sees is nobody else's, not even a cache's.
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use holdfast_ledger::account::{Account, SendLimits};
    use holdfast_ledger::{Batch, Command, Member, MemoryKv, Reply, apply_batch, level};
    use holdfast_mail::{NodeId, Timestamp};
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::net::connect;
    use crate::net::tls::{Identity, web_server};

    fn account() -> Account {
        Account {
            name: "ann".to_owned(),
            password: String::new(),
            second_factor: None,
            domains: vec![],
            created_at: Timestamp(1),
            epoch: 7,
            locked_until: None,
            places: vec![],
            signed_in_at: None,
            signed_in_from: String::new(),
            tokens: vec![],
            send_limits: SendLimits::default(),
        }
    }

    #[test]
    fn sessions_are_sealed_with_the_key_of_the_authority_that_there_is_now() {
        let mut kv = MemoryKv::new();
        assert!(seal(&kv).unwrap().is_none(), "it has just joined");
        let bootstrap = Command::Bootstrap {
            cluster_id: [1; 16],
            ca_certificate: vec![1],
            ca_key: b"old".to_vec(),
            first: Member {
                id: NodeId(1),
                name: "oslo".to_owned(),
                region: "north".to_owned(),
                cluster_address: "192.0.2.1:7100".to_owned(),
                smtp_name: "mx1.holdfast.example".to_owned(),
                smtp_address: "192.0.2.1:25".to_owned(),
            },
            level: level::NEWEST,
        };
        let trust = |used| Command::TrustAuthority {
            node: NodeId(1),
            authority: [2; 32],
            used,
        };
        let rotation = [
            Command::OfferAuthority {
                authority: [2; 32],
                certificate: vec![2],
                key: b"new".to_vec(),
                cross: vec![3],
            },
            trust(false),
            trust(true),
            Command::RetireAuthority { authority: [2; 32] },
        ];
        let text = |seal: &Seal| seal.begin(&account(), Timestamp(5));
        for (index, command) in (1..).zip([bootstrap].into_iter().chain(rotation)) {
            let is_last = matches!(command, Command::RetireAuthority { .. });
            let batch = Batch {
                at: Timestamp(1_800_000_000_000),
                commands: vec![command],
            };
            let replies = apply_batch(&mut kv, index, &batch, &mut Vec::new()).unwrap();
            assert!(!matches!(replies[..], [Reply::Refused(_)]), "{replies:?}");
            let key: &[u8] = if is_last { b"new" } else { b"old" };
            let now = seal(&kv).unwrap().unwrap();
            assert_eq!(text(&now), text(&Seal::new(key)), "after command {index}");
        }
    }

    #[tokio::test]
    async fn one_client_does_not_take_all_places() {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.address().unwrap();
        let identity = Identity::self_signed("mx.holdfast.example").unwrap();
        let tls = Arc::new(ArcSwap::from_pointee(web_server(identity).unwrap()));
        let (_stop, mut stopped) = watch::channel(false);
        tokio::spawn(async move { serve(listener, tls, Router::new(), &mut stopped).await });
        let connect = async || connect::tcp(address, PATIENCE).await.unwrap();
        let mut mine = Vec::new();
        for _ in 0..CONNECTIONS_PER_CLIENT_MAX {
            mine.push(connect().await);
        }
        let mut octet = [0];
        // Without a word, for it has not shaken hands.
        assert_eq!(connect().await.read(&mut octet).await.unwrap_or(0), 0);
        let last = mine.last_mut().unwrap();
        let heard = tokio::time::timeout(Duration::from_millis(50), last.read(&mut octet));
        assert!(heard.await.is_err(), "the others are still served");
    }
}
