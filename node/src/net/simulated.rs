//! A network made of memory, for the simulation: streams between hosts, whose pieces take their
//! time, wait while a way is cut, and end in nothing when a host has died.
//!
//! As with TCP, what one stream carries arrives in order or not at all; a lost piece is one that
//! comes late. Between streams anything may overtake anything. There is no TLS here: who is at
//! the other end is what the simulation says.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use holdfast_mail::NodeId;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::mpsc;

use super::grpc::{Conn, ConnectInfo};
use crate::world::simulated as world;

thread_local! {
    static SWITCH: RefCell<Option<Switch>> = const { RefCell::new(None) };
}

/// What is under way to a machine outside, or from it, at most.
const OUTSIDE_BYTES: usize = 64 << 10;

/// How long one piece is under way, milliseconds.
const DELAY: (u64, u64) = (1, 20);
/// One piece in this many is lost and sent again.
const LOST_ONE_IN: u64 = 200;
const SENT_AGAIN_AFTER: u64 = 250;

/// What connects the hosts of one simulation.
#[derive(Clone)]
pub(crate) struct Switch(Arc<Mutex<Inner>>);

struct Inner {
    now: u64,
    dice: u64,
    /// Ways that are cut, from and to.
    cut: BTreeSet<(usize, usize)>,
    /// Bytes that go through each stream of a slow way in a millisecond.
    slow: BTreeMap<(usize, usize), u64>,
    ways: Vec<Arc<Mutex<Way>>>,
    hosts: BTreeMap<usize, Host>,
    primary: Option<Primary>,
    trace: blake3::Hasher,
}

/// Serves a connection to a machine outside. The lines to it are short, and never cut.
pub(crate) type Primary = Arc<dyn Fn(DuplexStream) + Send + Sync>;

struct Host {
    peer: (NodeId, [u8; 16]),
    listener: Option<mpsc::UnboundedSender<Conn<Pipe>>>,
}

/// One direction of a stream.
struct Way {
    from: usize,
    to: usize,
    /// With the moment each is due. An empty one is the end.
    under_way: VecDeque<(u64, Bytes)>,
    arrived: VecDeque<Bytes>,
    last_due: u64,
    broken: bool,
    reader: Option<Waker>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The address of a host.
pub(crate) fn address(host: usize) -> String {
    format!("host-{host}.simulated:1")
}

/// The network that this thread's hosts hang on, if they are simulated.
pub(crate) fn switch() -> Option<Switch> {
    SWITCH.with_borrow(Clone::clone)
}

impl Switch {
    /// Makes a network, and this thread's hosts hang on it.
    pub(crate) fn install(seed: u64) -> Self {
        let switch = Self(Arc::new(Mutex::new(Inner {
            now: 0,
            dice: seed,
            cut: BTreeSet::new(),
            slow: BTreeMap::new(),
            ways: Vec::new(),
            hosts: BTreeMap::new(),
            primary: None,
            trace: blake3::Hasher::new(),
        })));
        SWITCH.set(Some(switch.clone()));
        switch
    }

    pub(crate) fn uninstall() {
        SWITCH.set(None);
    }

    pub(crate) fn host(&self, host: usize, peer: (NodeId, [u8; 16])) {
        let listener = None;
        lock(&self.0).hosts.insert(host, Host { peer, listener });
    }

    /// From now on machines outside are this one.
    pub(crate) fn set_primary(&self, primary: Primary) {
        lock(&self.0).primary = Some(primary);
    }

    /// A connection to a machine outside, if there is one.
    pub(crate) fn outside(&self) -> Option<DuplexStream> {
        let primary = lock(&self.0).primary.clone()?;
        let (ours, theirs) = tokio::io::duplex(OUTSIDE_BYTES);
        primary(theirs);
        Some(ours)
    }

    /// The host is gone. Who talks to it hears nothing until it is back.
    pub(crate) fn down(&self, host: usize) {
        if let Some(host) = lock(&self.0).hosts.get_mut(&host) {
            host.listener = None;
        }
    }

    /// The host is back, and knows nothing of its streams.
    pub(crate) fn up(&self, host: usize) {
        let mut inner = lock(&self.0);
        inner.ways.retain(|way| {
            let mut way = lock(way);
            let gone = way.from == host || way.to == host;
            if gone {
                way.broken = true;
                way.reader.take().into_iter().for_each(Waker::wake);
            }
            !gone
        });
    }

    pub(crate) fn cut(&self, from: usize, to: usize) {
        lock(&self.0).cut.insert((from, to));
    }

    /// From now on every stream between the two carries so many bytes in a millisecond.
    pub(crate) fn slow(&self, from: usize, to: usize, bytes: u64) {
        lock(&self.0).slow.insert((from, to), bytes);
    }

    pub(crate) fn heal(&self) {
        lock(&self.0).cut.clear();
    }

    /// Notes what happened, and when.
    pub(crate) fn note(&self, what: &[u64]) {
        lock(&self.0).note(what);
    }

    pub(crate) fn trace(&self) -> String {
        lock(&self.0).trace.finalize().to_hex()[..16].to_owned()
    }

    /// A millisecond later: what is due arrives.
    pub(crate) fn tick(&self) {
        let mut inner = lock(&self.0);
        inner.now += 1;
        let now = inner.now;
        let mut wake = Vec::new();
        inner.ways.retain(|way| Arc::strong_count(way) > 1);
        for way in inner.ways.clone() {
            let mut way = lock(&way);
            if inner.cut.contains(&(way.from, way.to)) {
                continue;
            }
            while way.under_way.front().is_some_and(|(due, _)| *due <= now) {
                let piece = way.under_way.pop_front().map(|(_, piece)| piece);
                way.arrived.extend(piece);
                inner.note(&[0, way.from as u64, way.to as u64]);
                wake.extend(way.reader.take());
            }
        }
        drop(inner);
        wake.into_iter().for_each(Waker::wake);
    }

    fn connection(&self, from: usize, to: usize) -> Option<Pipe> {
        let mut inner = lock(&self.0);
        if inner.cut.contains(&(from, to)) || inner.cut.contains(&(to, from)) {
            return None;
        }
        let listener = inner.hosts.get(&to)?.listener.clone()?;
        let peer = inner.hosts.get(&from)?.peer;
        let mut way = |from, to| {
            let way = Arc::new(Mutex::new(Way {
                from,
                to,
                under_way: VecDeque::new(),
                arrived: VecDeque::new(),
                last_due: 0,
                broken: false,
                reader: None,
            }));
            inner.ways.push(way.clone());
            way
        };
        let (there, back) = (way(from, to), way(to, from));
        let pipe = |read: &Arc<Mutex<Way>>, write: &Arc<Mutex<Way>>| Pipe {
            switch: self.clone(),
            read: read.clone(),
            write: write.clone(),
        };
        let info = ConnectInfo {
            certificate: None,
            peer: Some(peer),
            address: ([127, 0, 0, 1], 1).into(),
        };
        let accepted = Conn::new(pipe(&there, &back), info);
        listener.send(accepted).ok()?;
        Some(pipe(&back, &there))
    }

    /// Connects this host to the one at `target`, as soon as it can be reached.
    pub(crate) async fn connect(self, target: String) -> io::Result<Pipe> {
        let from = world::here().map_or(0, |machine| machine.host);
        loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let to = {
                let inner = lock(&self.0);
                inner
                    .hosts
                    .keys()
                    .copied()
                    .find(|host| address(*host) == target)
            };
            let to = to.ok_or(io::ErrorKind::NotFound)?;
            if let Some(pipe) = self.connection(from, to) {
                return Ok(pipe);
            }
        }
    }

    /// What this host accepts.
    pub(crate) fn listen(&self) -> mpsc::UnboundedReceiver<Conn<Pipe>> {
        let (tx, rx) = mpsc::unbounded_channel();
        let here = world::here().map_or(0, |machine| machine.host);
        if let Some(host) = lock(&self.0).hosts.get_mut(&here) {
            host.listener = Some(tx);
        }
        rx
    }
}

impl Inner {
    fn roll(&mut self) -> u64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        world::mix(self.dice)
    }

    fn note(&mut self, what: &[u64]) {
        self.trace.update(&self.now.to_be_bytes());
        for number in what {
            self.trace.update(&number.to_be_bytes());
        }
    }
}

/// One end of a stream.
pub(crate) struct Pipe {
    switch: Switch,
    read: Arc<Mutex<Way>>,
    write: Arc<Mutex<Way>>,
}

impl Pipe {
    fn send(&self, piece: Bytes) -> io::Result<()> {
        let mut inner = lock(&self.switch.0);
        let mut delay = DELAY.0 + inner.roll() % (DELAY.1 - DELAY.0);
        if inner.roll().is_multiple_of(LOST_ONE_IN) {
            delay += SENT_AGAIN_AFTER;
        }
        let now = inner.now;
        let mut way = lock(&self.write);
        let slow = inner.slow.get(&(way.from, way.to));
        let takes = slow.map_or(0, |bytes| piece.len() as u64 / bytes);
        drop(inner);
        if way.broken {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        way.last_due = way.last_due.max(now + delay) + takes;
        let due = way.last_due;
        way.under_way.push_back((due, piece));
        Ok(())
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // A host that is dead sends no farewell; one that lives tells the other end.
        let alive = world::here().is_some_and(|machine| machine.host == lock(&self.write).from);
        if alive {
            let _broken = self.send(Bytes::new());
        }
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut way = lock(&self.read);
        if let Some(piece) = way.arrived.front_mut() {
            let now = piece.len().min(buf.remaining());
            buf.put_slice(&piece[..now]);
            piece.advance(now);
            // The end, which is empty from the beginning, stays.
            if piece.is_empty() && now > 0 {
                way.arrived.pop_front();
            }
            return Poll::Ready(Ok(()));
        }
        if way.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        way.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        Poll::Ready(
            self.send(Bytes::copy_from_slice(bytes))
                .map(|()| bytes.len()),
        )
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.send(Bytes::new()))
    }
}
