//! On-demand mail relay (RFC 2645), port 366: a customer behind NAT, or on an address that changes,
//! connects, logs in and says ATRN; then the roles turn, and held mail goes over the same connection.
//!
//! The node that has the connection delivers: the ledger says so (`Attend`), and the others leave the
//! domain alone meanwhile.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use holdfast_ledger::account::{Account, Scopes};
use holdfast_ledger::{KvError, KvRead, Refusal, RouteTls, level, query};
use holdfast_mail::Domain;
use holdfast_smtp::login::Login;
use holdfast_smtp::reply::Reply;
use holdfast_smtp::server::{Options, Question, Service, Session};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::{Instant, interval, timeout};

use crate::accounts::{Credentials, Doorkeeper};
use crate::attendance::{Attendance, NotThere, RENEW_EVERY};
use crate::dial::CONNECT_TIMEOUT;
use crate::guests::{Guests, Places};
use crate::net::listen::Listener;
use crate::net::tls::SmtpServer;
use crate::recent::Recent;
use crate::replica::{Cluster, now};
use crate::switchboard::Switchboard;
use crate::talk::deliver::{Connection, Dialing};
use crate::talk::serve::{self, Caller};

/// Customers at a time. Each has a session and, while mail goes, a courier.
const CUSTOMERS_MAX: usize = 500;

/// Of them at one client: a customer calls once, an office with several servers a few times. Else one host
/// that never logs in keeps out everybody.
const CUSTOMERS_PER_CLIENT_MAX: usize = 10;

/// Connections that one client may make within [`CLIENT_PERIOD`].
const CLIENT_CALLS_MAX: u32 = 30;
const CLIENT_PERIOD: Duration = Duration::from_secs(60);

/// From the connection to the login: a customer's server shows its secret at once, and who has none takes
/// a customer's place meanwhile. Enough for the slowest line and a wrong try or two.
const LOGIN_TIME_MAX: Duration = Duration::from_secs(60);

/// Domains served in one session, one after the other.
const DOMAINS_MAX: usize = 100;

/// How long the customer's server may take for each step until its EHLO is answered (RFC 5321
/// section 4.5.3.2.1 grants five minutes to strangers; this one has just called).
const OPENING_WAIT_MAX: Duration = Duration::from_secs(60);

/// How long the connection waits for the courier, whose lease another node may hold: longer than that
/// node takes to notice and to give it back.
const COURIER_WAIT_MAX: Duration = Duration::from_secs(30);

/// What the room needs.
pub(crate) struct OnDemand {
    pub(crate) name: String,
    pub(crate) cluster: Cluster,
    pub(crate) tls: Arc<ArcSwap<SmtpServer>>,
    pub(crate) doorkeeper: Arc<Doorkeeper>,
    pub(crate) switchboard: Switchboard,
}

/// Serves `listener` until the task is aborted. While `stopped` is true, sessions end before the roles
/// turn.
pub(crate) async fn run(room: OnDemand, listener: Listener, stopped: watch::Receiver<bool>) {
    let room = Arc::new(room);
    let places = Arc::new(Semaphore::new(CUSTOMERS_MAX));
    let guests = Guests::default();
    let caps = Places {
        all_max: CUSTOMERS_MAX,
        each_max: CUSTOMERS_PER_CLIENT_MAX,
    };
    let clients = Mutex::default();
    while let Ok(place) = places.clone().acquire_owned().await {
        let (stream, peer) = listener.accept().await;
        if !Recent::client_within(&clients, peer.ip(), CLIENT_PERIOD, CLIENT_CALLS_MAX) {
            let _gone =
                stream.try_write(b"421 4.7.0 too many connections; try again in a minute\r\n");
            continue;
        }
        let guest = match guests.enter(peer.ip(), caps) {
            Ok(guest) => guest,
            Err(why) => {
                let _gone = stream.try_write(format!("421 4.7.0 {why}\r\n").as_bytes());
                continue;
            }
        };
        if room.cluster.is_drained() {
            let _gone = stream
                .try_write(b"421 4.3.2 this server is being maintained; call another one\r\n");
            continue;
        }
        let (room, stopped) = (room.clone(), stopped.clone());
        let served = room.cluster.serve_somebody();
        tokio::spawn(async move {
            if let Err(why) = serve_one(&room, stream, peer, stopped).await {
                tracing::debug!(client = %peer.ip(), "an on-demand session broke off: {why}");
            }
            drop((place, guest, served));
        });
    }
}

async fn serve_one(
    room: &OnDemand,
    stream: TcpStream,
    peer: SocketAddr,
    stopped: watch::Receiver<bool>,
) -> io::Result<()> {
    let session = Session::new(Options {
        service: Service::OnDemand,
        // Nothing is taken here.
        ..Options::new(&room.name, 0, true)
    });
    let (stranger, logged_in) = oneshot::channel();
    let mut desk = Desk {
        room,
        peer,
        stranger: Some(stranger),
        customer: None,
        granted: Vec::new(),
    };
    let tls = Some(room.tls.load().as_ref().clone());
    let caller = tokio::select! {
        served = serve::serve(stream, session, tls, &mut desk, stopped) => served?,
        () = stays_a_stranger(logged_in) => return Err(io::ErrorKind::TimedOut.into()),
    };
    if let (Some(caller), Some(customer)) = (caller, desk.customer) {
        hand_out(room, caller, &customer, desk.granted).await;
    }
    Ok(())
}

/// Resolves if nobody has logged in in time.
async fn stays_a_stranger(logged_in: oneshot::Receiver<Infallible>) {
    if timeout(LOGIN_TIME_MAX, logged_in).await.is_ok() {
        std::future::pending().await
    }
}

/// One customer's.
struct Desk<'a> {
    room: &'a OnDemand,
    peer: SocketAddr,
    /// Dropped at the login.
    stranger: Option<oneshot::Sender<Infallible>>,
    customer: Option<Customer>,
    granted: Vec<Attendance>,
}

/// Who has logged in.
struct Customer {
    account: Account,
    shown: Credentials,
    peer: SocketAddr,
}

impl serve::Desk for Desk<'_> {
    async fn ask(&mut self, question: Question, _session: &Session) -> Option<Reply> {
        Some(match question {
            Question::Login(login) => self.log_in(login).await,
            Question::Atrn(domains) => self.atrn(domains).await,
            // The session refuses mail here.
            _ => Reply::new(502, 5, 1, "not here"),
        })
    }

    async fn body(&mut self, _bytes: Vec<u8>) {}

    fn refused(&mut self, reply: &Reply) {
        tracing::info!(client = %self.peer.ip(), code = reply.code, text = ?reply.lines, "refused on demand");
    }

    fn reset(&mut self) {}
}

impl Customer {
    /// Why this customer may not have one of their domains' mail over this connection, if not: a
    /// password can be stolen, so the operator says where it is enough, and from which addresses.
    fn may_have(
        &self,
        view: &dyn KvRead,
        domain: &Domain,
    ) -> Result<Option<&'static str>, KvError> {
        let route = query::route(view, domain)?;
        Ok(if !query::policy(view, domain)?.atrn {
            Some("it is not set up for this domain; ask your provider")
        } else if !query::askers(view, domain)?.include(self.peer.ip()) {
            Some("not from your address")
        } else if route.key.is_some() || route.tls == RouteTls::Verified {
            // Here the customer's server is the TLS client: it shows no certificate.
            Some("the domain's mail goes only to a server whose certificate was checked")
        } else {
            None
        })
    }

    /// Why mail of a domain no longer goes to them, if so. A session may last for hours: what it was begun
    /// with can be taken back meanwhile, and so can what they may have.
    fn lost(&self, view: &dyn KvRead, domain: &Domain) -> Result<Option<&'static str>, KvError> {
        Ok(match self.shown.account(view, now())? {
            None => Some("what they logged in with is no longer good"),
            Some(account) if !account.domains.contains(domain) => Some("it is no longer theirs"),
            Some(_) => self.may_have(view, domain)?,
        })
    }

    /// A sign of life for one of the domains that they were granted.
    async fn renew(&self, attendance: &Attendance) -> Result<(), String> {
        let lost = self.lost(&attendance.cluster.view(), &attendance.domain);
        if let Some(why) = lost.map_err(|error| error.to_string())? {
            return Err(why.to_owned());
        }
        attendance.renew().await.map_err(|why| why.to_string())
    }
}

impl Desk<'_> {
    async fn log_in(&mut self, login: Login) -> Reply {
        let room = self.room;
        // No token of before could have the one.
        let has_scope = room.cluster.level() >= level::FETCH_SCOPE;
        let wanted = Scopes {
            fetch: has_scope,
            deliver: !has_scope,
            ..Scopes::default()
        };
        let who = room
            .doorkeeper
            .program(&room.cluster, &login, self.peer.ip(), wanted);
        match who.await {
            Ok((account, shown)) => {
                self.stranger = None;
                self.customer = Some(Customer {
                    account,
                    shown,
                    peer: self.peer,
                });
                Reply::new(235, 7, 0, "welcome")
            }
            Err(why) => why.to_reply(),
        }
    }

    /// The replies are those of RFC 2645 section 5.2.1.
    async fn atrn(&mut self, asked: Vec<Domain>) -> Reply {
        let Some(customer) = &self.customer else {
            return Reply::new(530, 7, 0, "log in first (AUTH)");
        };
        let account = &customer.account;
        let theirs = |domain: &Domain| account.domains.contains(domain);
        // RFC 2645 section 5.2.1: if any of them may not be had, none is.
        if !asked.iter().all(theirs) {
            return Reply::new(450, 7, 1, "ATRN request refused: a domain is not yours");
        }
        let view = self.room.cluster.view();
        let unreadable = |error: KvError| {
            tracing::error!("{error}");
            Reply::new(451, 3, 0, "the state cannot be read; try again")
        };
        // Of all of theirs those that may be had, of those that were named each.
        let (mut wanted, is_named) = match asked.is_empty() {
            true => (account.domains.clone(), false),
            false => (asked, true),
        };
        let count = wanted.len();
        let mut denied = None;
        let mut failed = None;
        wanted.retain(|domain| match customer.may_have(&view, domain) {
            Ok(None) => true,
            Ok(Some(why)) => {
                denied = Some(why);
                false
            }
            Err(error) => {
                failed = Some(error);
                false
            }
        });
        if let Some(error) = failed {
            return unreadable(error);
        }
        if let Some(why) = denied.filter(|_| is_named && wanted.len() < count || wanted.is_empty())
        {
            return Reply::new(450, 7, 1, format!("ATRN request refused: {why}"));
        }
        let has_mail = |domain: &Domain| query::held(&view, domain, None, 1).map(|h| !h.is_empty());
        let mut waiting = Vec::new();
        for domain in wanted {
            match has_mail(&domain) {
                Ok(true) => waiting.push(domain),
                Ok(false) => {}
                Err(error) => return unreadable(error),
            }
        }
        if waiting.is_empty() && !self.room.cluster.is_current() {
            return Reply::new(
                451,
                3,
                0,
                "this node is catching up; try again or call another",
            );
        }
        if waiting.is_empty() {
            return Reply::new(453, 0, 0, "You have no mail");
        }
        waiting.truncate(DOMAINS_MAX);
        let me = self.room.cluster.me().id;
        let mut granted = Vec::new();
        for domain in waiting {
            let cluster = self.room.cluster.clone();
            let begun = Attendance::begin(cluster, domain, &account.name, self.peer, Some(me));
            match begun.await {
                Ok(attendance) => granted.push(attendance),
                Err(NotThere::Refused(why @ Refusal::AttendedElsewhere)) => {
                    tracing::info!(client = %self.peer.ip(), %why, "ATRN was refused");
                    return Reply::new(
                        450,
                        3,
                        2,
                        "ATRN request refused: its mail goes elsewhere now",
                    );
                }
                Err(why) => {
                    return Reply::new(451, 3, 2, format!("unable to process ATRN now: {why}"));
                }
            }
        }
        self.granted = granted;
        Reply::new(250, 0, 0, "OK now reversing the connection")
    }
}

/// The roles have turned: mail goes out for one domain after the other.
async fn hand_out(room: &OnDemand, caller: Caller, customer: &Customer, granted: Vec<Attendance>) {
    let peer = customer.peer;
    let helo = &room.cluster.me().smtp_name;
    let dialing = Dialing::new(helo, CONNECT_TIMEOUT, OPENING_WAIT_MAX);
    let opened = async {
        // The customer's server may be slow to greet; what was granted stays theirs.
        let mut signs = interval(RENEW_EVERY);
        let opening = Connection::turned(caller, peer, &dialing);
        tokio::pin!(opening);
        loop {
            tokio::select! {
                opened = &mut opening => return opened.map_err(|why| why.to_string()),
                _ = signs.tick() => for attendance in &granted {
                    customer.renew(attendance).await?;
                },
            }
        }
    };
    let mut connection = match opened.await {
        Ok(connection) => connection,
        Err(why) => {
            tracing::info!(client = %peer.ip(), "no session after ATRN: {why}");
            return;
        }
    };
    let mut rest = granted.into_iter();
    while let Some(attendance) = rest.next() {
        if room.cluster.is_drained() {
            // They call another node for the rest.
            break;
        }
        let domain = attendance.domain.clone();
        tracing::info!(%domain, client = %peer.ip(), account = attendance.account, "mail goes over a turned connection");
        let (home, back) = oneshot::channel();
        connection.returns_to(home);
        room.switchboard.offer(domain.clone(), connection);
        match until_back(room, customer, &attendance, rest.as_slice(), back).await {
            Some(returned) => connection = returned,
            None => return,
        }
    }
    connection.quit().await;
}

/// Gives signs of life until the courier is through with the connection, and `None` once it is lost.
async fn until_back(
    room: &OnDemand,
    customer: &Customer,
    now: &Attendance,
    later: &[Attendance],
    mut back: oneshot::Receiver<Connection>,
) -> Option<Connection> {
    let begun = Instant::now();
    let mut signs = interval(RENEW_EVERY);
    loop {
        tokio::select! {
            returned = &mut back => return returned.ok(),
            _ = signs.tick() => {
                for attendance in std::iter::once(now).chain(later) {
                    if let Err(why) = customer.renew(attendance).await {
                        tracing::info!(domain = %attendance.domain, "an on-demand session ends: {why}");
                        drop(room.switchboard.take(&now.domain));
                        return None;
                    }
                }
                if begun.elapsed() >= COURIER_WAIT_MAX
                    && let Some(mut untaken) = room.switchboard.take(&now.domain)
                {
                    untaken.returns_to_nobody();
                    return Some(untaken);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_does_not_log_in_is_not_waited_for_and_who_has_is() {
        let begun = Instant::now();
        let (stranger, logged_in) = oneshot::channel();
        stays_a_stranger(logged_in).await;
        assert_eq!(begun.elapsed(), LOGIN_TIME_MAX);
        drop(stranger);

        let (stranger, logged_in) = oneshot::channel();
        drop(stranger);
        let stays = timeout(2 * LOGIN_TIME_MAX, stays_a_stranger(logged_in));
        assert!(stays.await.is_err());
    }
}
