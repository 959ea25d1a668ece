//! Clients that nobody wants: too many, too slow, too long, too greedy.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// Between two of a pest's lives, and between two looks whether the flood is over.
const PAUSE: Duration = Duration::from_millis(200);
const PEST_STACK_BYTES: usize = 64 << 10;
const PIECE_BYTES: usize = 64 << 10;

/// A way of being a burden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pest {
    /// Connects and says nothing.
    Silent,
    /// Sends a message at a byte in 200 ms.
    SlowWriter,
    /// Asks without end and reads no answer.
    SlowReader,
    /// Sends a command that does not end.
    EndlessLine,
    /// Names recipients without end.
    ManyRecipients,
    /// Sends a message that does not end.
    EndlessMail,
}

pub const PESTS: [Pest; 6] = [
    Pest::Silent,
    Pest::SlowWriter,
    Pest::SlowReader,
    Pest::EndlessLine,
    Pest::ManyRecipients,
    Pest::EndlessMail,
];

/// Pests at work until it is dropped.
#[derive(Debug)]
pub struct Flood {
    state: Arc<State>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    ended: AtomicBool,
    /// Connections that were made, and bytes that were sent, in all.
    connections: AtomicU64,
    bytes: AtomicU64,
    /// So that a pest that waits can be ended.
    open: Mutex<Vec<TcpStream>>,
}

impl Flood {
    /// `silent` connections that stay as long as they are let, and `of_each` pests of every other
    /// kind that come again whenever they are thrown out.
    ///
    /// # Panics
    /// If this machine has no more threads.
    #[must_use]
    pub fn start(node: SocketAddr, domain: &str, silent: usize, of_each: usize) -> Self {
        let state = Arc::new(State::default());
        let mut pests = Vec::new();
        pests.push((Pest::Silent, silent));
        pests.extend((0..of_each).flat_map(|_| PESTS[1..].iter().map(|pest| (*pest, 1))));
        let threads = pests
            .into_iter()
            .map(|(pest, count)| {
                let (state, domain) = (Arc::clone(&state), domain.to_owned());
                thread::Builder::new()
                    .stack_size(PEST_STACK_BYTES * 4)
                    .spawn(move || {
                        if pest == Pest::Silent {
                            state.sit(node, count);
                            return;
                        }
                        while !state.is_over() {
                            // Being thrown out is what should happen.
                            drop(state.pester(pest, node, &domain));
                            thread::sleep(PAUSE);
                        }
                    })
                    .expect("a thread for a pest")
            })
            .collect();
        Self { state, threads }
    }

    #[must_use]
    pub fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.state.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
        for stream in self.state.open().drain(..) {
            // It may have been thrown out.
            drop(stream.shutdown(Shutdown::Both));
        }
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

impl State {
    fn is_over(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    fn open(&self) -> std::sync::MutexGuard<'_, Vec<TcpStream>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(&self, node: SocketAddr) -> io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&node, CONNECT_TIME_MAX)?;
        self.connections.fetch_add(1, Ordering::Relaxed);
        if self.is_over() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(stream)
    }

    /// Keeps `count` connections open; those that were closed are made again.
    fn sit(&self, node: SocketAddr, count: usize) {
        let mut seats: Vec<TcpStream> = Vec::new();
        while !self.is_over() {
            seats.retain(|seat| {
                let mut bytes = [0; 512];
                seat.set_nonblocking(true).is_ok() && !matches!((&*seat).read(&mut bytes), Ok(0))
            });
            while seats.len() < count && !self.is_over() {
                match self.connect(node) {
                    Ok(seat) => seats.push(seat),
                    Err(_) => break,
                }
            }
            thread::sleep(PAUSE);
        }
    }

    fn pester(&self, pest: Pest, node: SocketAddr, domain: &str) -> io::Result<()> {
        let mut stream = self.connect(node)?;
        self.open().push(stream.try_clone()?);
        stream.set_read_timeout(Some(CONNECT_TIME_MAX))?;
        let mut send = |bytes: &[u8]| -> io::Result<()> {
            if self.is_over() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            stream.write_all(bytes)
        };
        let envelope =
            format!("EHLO pest.test\r\nMAIL FROM:<>\r\nRCPT TO:<pest@{domain}>\r\nDATA\r\n");
        let piece = vec![b'x'; PIECE_BYTES];
        match pest {
            Pest::Silent => Ok(()),
            Pest::SlowWriter => {
                for byte in envelope.bytes().cycle() {
                    send(&[byte])?;
                    thread::sleep(PAUSE);
                }
                Ok(())
            }
            Pest::SlowReader => {
                let questions = b"EHLO pest.test\r\nNOOP\r\nHELP\r\n".repeat(1000);
                loop {
                    send(&questions)?;
                }
            }
            Pest::EndlessLine => loop {
                send(&piece)?;
            },
            Pest::ManyRecipients => {
                send(b"EHLO pest.test\r\nMAIL FROM:<>\r\n")?;
                for number in 0_u64.. {
                    send(format!("RCPT TO:<pest{number}@{domain}>\r\n").as_bytes())?;
                }
                Ok(())
            }
            Pest::EndlessMail => {
                send(envelope.as_bytes())?;
                // After 354, or the whole pipeline would be refused as one.
                thread::sleep(PAUSE);
                let line = [&piece[..900], b"\r\n"].concat().repeat(64);
                loop {
                    send(&line)?;
                }
            }
        }
    }
}
