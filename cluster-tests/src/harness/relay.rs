//! A wide area network in user space: each directed line between two machines is delayed,
//! jittered, throttled, stalled or cut by a relay that the connections are led through.
//!
//! What a line does is what TCP makes of it: bytes come late, but in order and whole. A lost
//! packet is a stall until its repetition, and a cut line is a stall until it is mended.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::partition::Link;
use crate::random::Random;

const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// What is read at once, and what a stall delays.
const PIECE_BYTES: usize = 16 << 10;
/// Pieces on their way over one line: about what a long fat pipe holds.
const PIECES_MAX: usize = 64;
/// TCP waits so long before it repeats a packet (RFC 6298 has 1 s; Linux begins at 200 ms).
const REPEAT_AFTER: Duration = Duration::from_millis(250);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// How a line behaves, in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quality {
    pub delay: Duration,
    /// At most so much is added.
    pub jitter: Duration,
    /// One in so many pieces is lost and repeated; 0: none.
    pub loss_one_in: u64,
    /// 0: as fast as it goes.
    pub bytes_per_second: u64,
}

/// One directed line.
#[derive(Debug, Default)]
struct Line {
    quality: Mutex<Quality>,
    is_cut: AtomicBool,
    carried: AtomicU64,
}

/// All lines, and the relays at their beginnings.
#[derive(Debug)]
pub(super) struct Relays {
    lines: BTreeMap<Link, Arc<Line>>,
}

impl Relays {
    /// Relays for these links: gives them, and the port of the relay of each. A relay leads to
    /// `address(to)`.
    pub(super) fn start(
        links: &[Link],
        address: impl Fn(u8) -> SocketAddr,
        seed: u64,
    ) -> io::Result<(Self, BTreeMap<Link, u16>)> {
        let lines: BTreeMap<Link, Arc<Line>> =
            links.iter().map(|link| (*link, Arc::default())).collect();
        let mut ports = BTreeMap::new();
        for (from, to) in links {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            ports.insert((*from, *to), listener.local_addr()?.port());
            let (out, back) = (lines[&(*from, *to)].clone(), lines[&(*to, *from)].clone());
            let target = address(*to);
            thread::spawn(move || {
                for (count, stream) in (seed..).zip(listener.incoming()) {
                    let (out, back) = (out.clone(), back.clone());
                    thread::spawn(move || {
                        // An error is an end of one of the two connections.
                        drop(stream.and_then(|stream| lead(stream, target, &out, &back, count)));
                    });
                }
            });
        }
        Ok((Self { lines }, ports))
    }

    pub(super) fn set(&self, quality: Quality) {
        for link in self.lines.keys() {
            self.set_line(link, quality);
        }
    }

    /// One line, in its direction.
    pub(super) fn set_line(&self, link: &Link, quality: Quality) {
        let line = &self.lines[link];
        *line.quality.lock().unwrap_or_else(PoisonError::into_inner) = quality;
    }

    pub(super) fn cut(&self, is_cut: impl Fn(&Link) -> bool) {
        for (link, line) in &self.lines {
            line.is_cut.store(is_cut(link), Ordering::Relaxed);
        }
    }

    /// Bytes that have come out at the other end of all lines.
    pub(super) fn carried(&self) -> u64 {
        let lines = self.lines.values();
        lines.map(|line| line.carried.load(Ordering::Relaxed)).sum()
    }
}

/// Joins two connections until one ends.
fn lead(
    near: TcpStream,
    target: SocketAddr,
    out: &Arc<Line>,
    back: &Arc<Line>,
    seed: u64,
) -> io::Result<()> {
    // A connection is made by packets on both lines.
    while out.is_cut.load(Ordering::Relaxed) || back.is_cut.load(Ordering::Relaxed) {
        thread::sleep(LOOK_EVERY);
    }
    let far = TcpStream::connect_timeout(&target, CONNECT_TIME_MAX)?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (near_back, far_back) = (near.try_clone()?, far.try_clone()?);
    let back = back.clone();
    let returning = thread::spawn(move || carry(far_back, near_back, &back, seed ^ 1));
    carry(near, far, out, seed);
    drop(returning.join());
    Ok(())
}

/// Carries bytes over a line until either end closes; then closes the other.
fn carry(mut from: TcpStream, to: TcpStream, line: &Arc<Line>, seed: u64) {
    let (sent, arriving) = sync_channel::<(Instant, Vec<u8>)>(PIECES_MAX);
    let far_end = {
        let line = line.clone();
        thread::spawn(move || deliver(&arriving, to, &line))
    };
    let mut random = Random::new(seed);
    let mut due = Instant::now();
    let mut piece = vec![0; PIECE_BYTES];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        let quality = *line.quality.lock().unwrap_or_else(PoisonError::into_inner);
        let jitter = quality.jitter.as_micros() as u64;
        let mut delay = quality.delay + Duration::from_micros(random.between(0, jitter));
        if quality.loss_one_in > 0 && random.one_in(quality.loss_one_in) {
            delay += REPEAT_AFTER;
        }
        // In order: nothing overtakes what is late.
        due = due.max(Instant::now() + delay);
        if let Some(micros) = (length as u64 * 1_000_000).checked_div(quality.bytes_per_second) {
            due += Duration::from_micros(micros);
        }
        if sent.send((due, piece[..length].to_vec())).is_err() {
            break;
        }
    }
    drop(sent);
    drop(far_end.join());
    // It may have ended already.
    drop(from.shutdown(Shutdown::Both));
}

fn deliver(arriving: &Receiver<(Instant, Vec<u8>)>, mut to: TcpStream, line: &Line) {
    while let Ok((due, piece)) = arriving.recv() {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        while line.is_cut.load(Ordering::Relaxed) {
            thread::sleep(LOOK_EVERY);
        }
        if to.write_all(&piece).is_err() {
            break;
        }
        line.carried
            .fetch_add(piece.len() as u64, Ordering::Relaxed);
    }
    // It may have ended already.
    drop(to.shutdown(Shutdown::Both));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two lines, 1 to 2 and back, between a client and a server that returns what it gets.
    fn echo() -> (Relays, TcpStream) {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = server.local_addr().unwrap();
        thread::spawn(move || {
            for stream in server.incoming() {
                let mut stream = stream.unwrap();
                let mut back = stream.try_clone().unwrap();
                thread::spawn(move || drop(io::copy(&mut stream, &mut back)));
            }
        });
        let (relays, ports) = Relays::start(&[(1, 2), (2, 1)], |_| address, 1).unwrap();
        let client = TcpStream::connect((Ipv4Addr::LOCALHOST, ports[&(1, 2)])).unwrap();
        client
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        (relays, client)
    }

    fn returns(client: &mut TcpStream, bytes: &[u8]) -> bool {
        let mut got = vec![0; bytes.len()];
        client.write_all(bytes).unwrap();
        client.read_exact(&mut got).is_ok() && got == bytes
    }

    #[test]
    fn bytes_come_in_order_and_whole_over_a_bad_line() {
        let (relays, mut client) = echo();
        relays.set(Quality {
            delay: Duration::from_millis(1),
            jitter: Duration::from_millis(2),
            loss_one_in: 1000,
            bytes_per_second: 0,
        });
        client
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let bytes: Vec<u8> = (0..200_000_u32).map(|at| (at % 251) as u8).collect();
        assert!(returns(&mut client, &bytes));
        // A piece is counted after it has been handed on.
        crate::harness::wait_for("the count", Duration::from_secs(5), || {
            (relays.carried() >= 400_000).then_some(())
        });
    }

    #[test]
    fn a_delay_is_a_delay_in_each_direction() {
        let (relays, mut client) = echo();
        assert!(returns(&mut client, b"quick"));
        relays.set(Quality {
            delay: Duration::from_millis(50),
            ..Quality::default()
        });
        let begun = Instant::now();
        assert!(returns(&mut client, b"slow"));
        assert!(begun.elapsed() >= Duration::from_millis(100));
    }

    #[test]
    fn a_line_can_be_bad_in_one_direction_only() {
        let (relays, mut client) = echo();
        relays.set_line(
            &(2, 1),
            Quality {
                delay: Duration::from_millis(100),
                ..Quality::default()
            },
        );
        let begun = Instant::now();
        assert!(returns(&mut client, b"slow"));
        let there_and_back = begun.elapsed();
        assert!(
            (100..200).contains(&there_and_back.as_millis()),
            "{there_and_back:?}"
        );
    }

    #[test]
    fn a_line_cut_in_one_direction_stalls_until_it_is_mended() {
        for cut in [(1, 2), (2, 1)] {
            let (relays, mut client) = echo();
            assert!(returns(&mut client, b"before"));
            relays.cut(|link| *link == cut);
            assert!(!returns(&mut client, b"during"));
            relays.cut(|_| false);
            let mut late = [0; 6];
            client.read_exact(&mut late).unwrap();
            assert_eq!(&late, b"during");
        }
    }
}
