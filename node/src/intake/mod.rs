//! Port 25: takes mail for configured domains, and says `250` only when a quorum holds it.

mod counters;
mod etrn;
mod inquiry;
mod knocks;
mod returned;
#[cfg(test)]
mod tests;
mod transaction;

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use holdfast_mail::{Address, Domain};
use holdfast_proto::cluster::Happening;
use holdfast_smtp::reply::Reply;
use holdfast_smtp::server::{self, Service, Session};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::accounts::Doorkeeper;
use crate::guests::{Guest, Guests, Places};
use crate::history::happening;
use crate::net::dns::Resolver;
use crate::net::listen::Listener;
use crate::net::tls::SmtpServer;
use crate::observe::Metrics;
use crate::release::Desk;
use crate::replica::Cluster;
use crate::talk::serve::{Stream, serve};
use counters::Counters;
use inquiry::Inquiry;
use knocks::Knocks;
use returned::Primaries;
use transaction::Transaction;

/// How long transactions in progress may take to finish at a stop.
const FINISH_TIME_MAX: Duration = Duration::from_secs(15);

/// Of a node that serves both doors, one place in so many is for submission, and the others are for port
/// 25: strangers who fill the one do not keep customers out of the other, nor the other way round.
const SUBMISSION_SHARE: usize = 5;

/// What the operator sets. A session keeps what was in force when it began.
#[derive(Clone)]
pub struct Options {
    /// The name in greeting and trace lines.
    pub name: String,
    /// Who gets mail to `<postmaster>` without a domain.
    pub postmaster: Option<Address>,
    /// Largest message, bytes.
    pub message_bytes_max: u64,
    /// Sessions at a time, at both doors: each costs a task, a read buffer and a piece of content.
    pub connections_max: usize,
    /// Sessions at a time from one address, so that one sender cannot shut out the others.
    pub connections_per_client_max: usize,
    pub tls: SmtpServer,
}

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Anybody brings mail for domains of ours.
    Exchange,
    /// Customers send mail to anybody.
    Submission {
        /// TLS from the first byte.
        tls: bool,
    },
}

/// Who is at which door.
struct Hall {
    strangers: Guests,
    customers: Guests,
    has_both_doors: bool,
}

impl Hall {
    /// A place among `all` of both doors, or why there is none.
    fn enter(
        &self,
        door: Door,
        client: IpAddr,
        (all, each_max): (usize, usize),
    ) -> Result<Guest, &'static str> {
        // Of very few each door has one.
        let share = (all / SUBMISSION_SHARE).max(1);
        let (guests, all_max) = match (door, self.has_both_doors) {
            (Door::Exchange, true) => (&self.strangers, all.saturating_sub(share).max(1)),
            (Door::Exchange, false) => (&self.strangers, all),
            (Door::Submission { .. }, true) => (&self.customers, share),
            (Door::Submission { .. }, false) => (&self.customers, all),
        };
        guests.enter(client, Places { all_max, each_max })
    }
}

/// What the room works with.
pub struct House {
    pub cluster: Cluster,
    pub release: Arc<Desk>,
    pub resolver: Resolver,
    pub doorkeeper: Arc<Doorkeeper>,
    pub metrics: Metrics,
}

/// What every session needs.
struct Shared {
    cluster: Cluster,
    doorkeeper: Arc<Doorkeeper>,
    counters: Counters,
    release: Arc<Desk>,
    inquiry: Arc<Inquiry>,
    knocks: Arc<Mutex<Knocks>>,
}

/// Serves `listeners` until `stop` resolves, and then finishes what is in progress.
pub async fn run(
    options: Arc<ArcSwap<Options>>,
    house: House,
    listeners: Vec<(Door, Listener)>,
    stop: impl Future<Output = ()>,
) {
    let counters = Counters::default();
    house
        .metrics
        .register(|registry| counters.register(registry));
    let House {
        cluster,
        release,
        resolver,
        doorkeeper,
        ..
    } = house;
    let has_door = |wanted: fn(&Door) -> bool| listeners.iter().any(|(door, _)| wanted(door));
    let hall = Hall {
        strangers: Guests::default(),
        customers: Guests::default(),
        has_both_doors: has_door(|door| *door == Door::Exchange)
            && has_door(|door| *door != Door::Exchange),
    };
    let shared = Arc::new(Shared {
        inquiry: Inquiry::new(cluster.clone(), resolver.clone()),
        knocks: Arc::default(),
        doorkeeper,
        cluster,
        counters,
        release,
    });
    let (stopping, stopped) = watch::channel(false);
    let mut sessions = JoinSet::new();
    let (connections_tx, mut connections) = tokio::sync::mpsc::channel(64);
    let mut accepting = JoinSet::new();
    let primaries = Primaries::default();
    accepting.spawn(knocks::share(shared.knocks.clone(), shared.cluster.clone()));
    accepting.spawn(primaries.clone().keep(shared.cluster.clone(), resolver));
    for (door, listener) in listeners {
        let connections = connections_tx.clone();
        accepting.spawn(async move {
            loop {
                let (stream, peer) = listener.accept().await;
                if connections.send((door, stream, peer)).await.is_err() {
                    return;
                }
            }
        });
    }
    tokio::pin!(stop);
    let mut drained = shared.cluster.drained();
    loop {
        tokio::select! {
            () = &mut stop => break,
            // Sessions under way end after their transaction.
            Ok(()) = drained.changed() => {
                stopping.send_replace(*drained.borrow_and_update());
            }
            Some((door, stream, peer)) = connections.recv() => {
                // It is to look like a host that is down.
                if shared.cluster.rehearsal().is_dead() {
                    continue;
                }
                shared.counters.connections.inc();
                let options = options.load_full();
                if shared.cluster.is_drained() {
                    tracing::debug!(client = %peer.ip(), "sent to another node: this one is drained");
                    turn_away(&stream, 3, 2, "this server is being maintained; the other mail exchangers take your mail");
                    continue;
                }
                let places = (options.connections_max, options.connections_per_client_max);
                match hall.enter(door, peer.ip(), places) {
                    Ok(guest) => {
                        let domains = primaries.at(peer.ip());
                        if !domains.is_empty() {
                            tokio::spawn(welcome(shared.clone(), domains));
                        }
                        let (shared, stopped) = (shared.clone(), stopped.clone());
                        let served = shared.cluster.serve_somebody();
                        sessions.spawn(async move {
                            tokio::select! {
                                () = session(&shared, &options, door, stream, peer.ip(), stopped) => {}
                                () = shared.cluster.rehearsal().dies() => {}
                            }
                            drop((guest, served));
                        });
                    }
                    Err(why) => {
                        shared.counters.turned_away.inc();
                        tracing::info!(client = %peer.ip(), "a connection was turned away: {why}");
                        shared.cluster.note(Happening {
                            client: peer.ip().to_string(),
                            text: why.into(),
                            ..happening("turned_away")
                        });
                        let text = format!("{why}; try again later or at another of our mail exchangers");
                        turn_away(&stream, 7, 0, &text);
                    }
                }
            }
            Some(ended) = sessions.join_next(), if !sessions.is_empty() => {
                if let Err(error) = ended {
                    tracing::error!("a session ended badly: {error}");
                }
            }
        }
    }
    accepting.abort_all();
    stopping.send_replace(true);
    let finish = async { while sessions.join_next().await.is_some() {} };
    if tokio::time::timeout(FINISH_TIME_MAX, finish).await.is_err() {
        tracing::info!(
            sessions = sessions.len(),
            "sessions are cut off; nothing they sent was acknowledged"
        );
    }
}

/// Sends a client of a node that belongs to no cluster on. Left without a greeting it would wait for one: RFC
/// 5321 section 4.5.3.2.1 gives it five minutes, before it tries the next exchanger.
pub(crate) fn send_on(stream: &TcpStream) {
    let text = "this server is not in service yet; the other mail exchangers take your mail";
    turn_away(stream, 3, 2, text);
}

/// The primary of these is back.
async fn welcome(shared: Arc<Shared>, domains: Vec<Domain>) {
    for domain in domains {
        let started = shared.release.start(&shared.cluster, domain, "inbound");
        if let Err(why) = started.await {
            tracing::debug!("a primary came by, and its mail waits for the next try: {why}");
        }
    }
}

/// Tells a client that it is not served here now. It fits the empty send buffer of a new connection, so
/// nothing waits; a client that cannot take it is gone.
fn turn_away(stream: &TcpStream, subject: u16, detail: u16, text: &str) {
    let reply = Reply::new(421, subject, detail, text);
    let _gone = stream.try_write(&reply.to_bytes());
}

async fn session(
    shared: &Shared,
    options: &Options,
    door: Door,
    stream: TcpStream,
    client: IpAddr,
    stopped: watch::Receiver<bool>,
) {
    let session = Session::new(server::Options {
        service: match door {
            Door::Exchange => Service::Exchange,
            Door::Submission { .. } => Service::Submission,
        },
        secure: door == Door::Submission { tls: true },
        ..server::Options::new(
            &options.name,
            options.message_bytes_max,
            door != Door::Submission { tls: true },
        )
    });
    let stream = if door == (Door::Submission { tls: true }) {
        match Stream::secured(stream, &options.tls).await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%client, "no session under TLS: {error}");
                return;
            }
        }
    } else {
        stream.into()
    };
    shared.cluster.note(Happening {
        client: client.to_string(),
        ..happening("connected")
    });
    let mut desk = Transaction::new(shared, options, client);
    let tls = Some(options.tls.clone());
    match serve(stream, session, tls, &mut desk, stopped).await {
        Ok(_) => desk.ended("the client left"),
        Err(error) => {
            tracing::debug!(%client, "a session broke off: {error}");
            desk.ended(&error.to_string());
        }
    }
}
