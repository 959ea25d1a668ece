//! Sends canaries as a stranger sends mail: to one of our mail exchangers after the other, until one
//! takes it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use holdfast_ledger::Member;
use holdfast_mail::{Address, BodyRef, BodyType, Envelope, MessageId, Recipient, ReversePath};
use holdfast_smtp::client::{Fate, Mail};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::sink::FIELD;
use super::tally::Tally;
use crate::net::dns::Resolver;
use crate::replica::{Cluster, now, random_id};
use crate::talk::deliver::{self, Content, Dialing};

/// How long one exchanger is waited for: shorter than a patient sender's minutes, so that what is
/// measured is our gap and not its patience.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);
const ATTEMPT_TIME_MAX: Duration = Duration::from_secs(20);

/// The wait after all exchangers were tried in vain.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// How long canaries that were not taken yet are offered after the last was sent.
const LATE_TIME_MAX: Duration = Duration::from_secs(45);

/// What all canaries of a drill have in common.
#[derive(Clone)]
pub(super) struct Flock {
    pub(super) cluster: Cluster,
    pub(super) resolver: Arc<Resolver>,
    pub(super) drill: MessageId,
    /// Known to nobody else, so that nobody else's mail gets in.
    pub(super) to: Address,
    pub(super) began: Instant,
    pub(super) tally: Arc<Mutex<Tally>>,
}

impl Flock {
    /// Sends `rate` canaries a second until `stop`, and returns once all of them were taken or have
    /// waited long enough.
    pub(super) async fn fly(self, rate: u32, stop: CancellationToken) {
        let mut ticks = interval(Duration::from_secs(1) / rate.max(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut flying = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => {
                    let number = self.count(Tally::send);
                    flying.spawn(self.clone().carry(number));
                }
                Some(_) = flying.join_next(), if !flying.is_empty() => {}
            }
        }
        let landing = async { while flying.join_next().await.is_some() {} };
        // Those that are left count as not taken.
        let _late = timeout(LATE_TIME_MAX, landing).await;
    }

    fn count<T>(&self, entry: impl FnOnce(&mut Tally) -> T) -> T {
        entry(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn carry(self, number: u64) {
        loop {
            let members = self.cluster.members();
            let first = usize::try_from(number).unwrap_or(0) % members.len().max(1);
            let (before, after) = members.split_at(first.min(members.len()));
            for member in after.iter().chain(before) {
                let offered = timeout(ATTEMPT_TIME_MAX, self.offer(member, number)).await;
                match offered.unwrap_or_else(|_| Err("it took too long".to_owned())) {
                    Ok(()) => {
                        let at = u64::try_from(self.began.elapsed().as_millis());
                        self.count(|tally| tally.accept(number, at.unwrap_or(u64::MAX)));
                        return;
                    }
                    Err(why) => {
                        self.count(|tally| tally.put_off(number));
                        tracing::debug!(node = member.name, number, "a canary was put off: {why}");
                    }
                }
            }
            sleep(AGAIN_AFTER).await;
        }
    }

    async fn offer(&self, member: &Member, number: u64) -> Result<(), String> {
        let address = self.address(member).await?;
        let helo = &self.cluster.me().smtp_name;
        let dialing = Dialing::new(helo, CONNECT_TIME_MAX, ATTEMPT_TIME_MAX);
        let opened = deliver::open(&dialing, address, &member.smtp_name).await;
        let mut connection = opened.map_err(|why| why.to_string())?;
        let text = format!(
            "From: <>\r\nTo: <{}>\r\nSubject: canary {number}\r\n{FIELD}{} {number}\r\n\r\nchirp\r\n",
            self.to, self.drill
        );
        let mail = Mail {
            envelope: Arc::new(envelope(self.to.clone(), text.len() as u64)),
            recipients: vec![0],
            only_ask: false,
        };
        let outcome = connection.deliver(mail, &mut Once(Some(text.into()))).await;
        let outcome = outcome.ok_or("the session was not ready")?;
        let result = outcome.results.into_iter().next().ok_or("no answer")?;
        if result.fate != Fate::Delivered {
            return Err(result.reply);
        }
        connection.quit().await;
        Ok(())
    }

    /// Where a member takes mail.
    async fn address(&self, member: &Member) -> Result<SocketAddr, String> {
        let split = |text: &str| -> Option<(String, u16)> {
            let (host, port) = text.rsplit_once(':')?;
            let host = host.trim_start_matches('[').trim_end_matches(']');
            Some((host.to_owned(), port.parse().ok()?))
        };
        let unusable = || format!("{} is no address", member.smtp_address);
        let (mut host, port) = split(&member.smtp_address).ok_or_else(unusable)?;
        // One that listens on every address is where its peers find it.
        if host
            .parse()
            .is_ok_and(|ip: std::net::IpAddr| ip.is_unspecified())
        {
            host = split(&member.cluster_address).ok_or_else(unusable)?.0;
        }
        if let Ok(ip) = host.parse() {
            return Ok(SocketAddr::new(ip, port));
        }
        let found = self.resolver.addresses(&host).await;
        let found = found.map_err(|why| format!("{host} has no address: {why}"))?;
        let first = found.first().ok_or_else(unusable)?;
        Ok(SocketAddr::new(*first, port))
    }
}

/// With the null reverse-path: nobody is told of a canary that dies.
fn envelope(to: Address, len: u64) -> Envelope {
    let id = MessageId::new(now(), random_id());
    Envelope {
        id,
        reverse_path: ReversePath::Null,
        recipients: vec![Recipient {
            address: to,
            notify: None,
            orcpt: None,
        }],
        body: BodyRef {
            id,
            len,
            digest: [0; 32],
        },
        received_at: now(),
        body_type: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
        helo: String::new(),
        client: String::new(),
    }
}

/// Content in one piece.
struct Once(Option<Bytes>);

impl Content for Once {
    async fn next(&mut self) -> Result<Option<Bytes>, String> {
        Ok(self.0.take())
    }
}
