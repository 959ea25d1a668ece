//! Postfix's own load generator and sink.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::child::{Guard, wait_for_greeting};
use crate::{DOMAIN, MESSAGE_BYTES, SESSIONS};

/// A drain that makes no progress for so long has failed.
const STALL_MAX: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connections {
    OneEach,
    Reused,
}

/// Sends `messages` with 64 sessions, spread over the addresses as senders spread over MX hosts
/// of one preference; until all are acknowledged.
pub(crate) fn send(
    to: &[SocketAddr],
    messages: usize,
    connections: Connections,
) -> io::Result<Duration> {
    let begin = Instant::now();
    let share = |all: usize, at: usize| all / to.len() + usize::from(at < all % to.len());
    let mut sources = Vec::new();
    for (at, address) in to.iter().enumerate() {
        let mut source = Command::new("smtp-source");
        if connections == Connections::Reused {
            source.arg("-d");
        }
        source
            .args(["-s", &share(SESSIONS, at).to_string()])
            .args(["-m", &share(messages, at).to_string()])
            .args(["-l", &MESSAGE_BYTES.to_string()])
            .args([
                "-f",
                "sender@elsewhere.example",
                "-t",
                &format!("user@{DOMAIN}"),
            ])
            .arg(address.to_string())
            .stdin(Stdio::null());
        sources.push(Guard(source.spawn()?));
    }
    for source in &mut sources {
        let status = source.0.wait()?;
        if !status.success() {
            return Err(io::Error::other(format!("smtp-source ended with {status}")));
        }
    }
    Ok(begin.elapsed())
}

/// `smtp-sink` as the primary.
pub(crate) struct Sink {
    _process: Guard,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Clone, Copy, Default)]
struct Seen {
    messages: usize,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Sink {
    pub(crate) fn start(address: SocketAddr) -> io::Result<Self> {
        // It refuses to run as root.
        let mut process = Command::new("smtp-sink")
            .args(["-u", "nobody", "-c", &address.to_string(), "1000"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let counters = process.stdout.take();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let watch = seen.clone();
        std::thread::spawn(move || {
            if let Some(counters) = counters {
                follow(counters, &watch);
            }
        });
        let process = Guard(process);
        wait_for_greeting(address, Duration::from_secs(5))?;
        Ok(Self {
            _process: process,
            seen,
        })
    }

    /// From the first message to the last of `messages`.
    pub(crate) fn wait_for(&self, messages: usize) -> io::Result<Duration> {
        let mut progress = (0, Instant::now());
        loop {
            let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if let (true, Some(first), Some(last)) =
                (seen.messages >= messages, seen.first, seen.last)
            {
                return Ok(last - first);
            }
            if seen.messages > progress.0 {
                progress = (seen.messages, Instant::now());
            }
            if progress.1.elapsed() > STALL_MAX {
                return Err(io::Error::other(format!(
                    "only {} of {messages} messages were delivered",
                    seen.messages
                )));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Reads `sess=1 quit=1 mesg=20`, each behind a carriage return.
fn follow(mut counters: impl Read, seen: &Mutex<Seen>) {
    let mut buffer = [0; 16 << 10];
    let mut line = Vec::new();
    while let Ok(count @ 1..) = counters.read(&mut buffer) {
        for byte in &buffer[..count] {
            if *byte != b'\r' {
                line.push(*byte);
                continue;
            }
            let text = String::from_utf8_lossy(&line);
            let messages = text
                .rsplit_once("mesg=")
                .and_then(|(_, n)| n.trim().parse().ok());
            line.clear();
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(messages) = messages
                && messages > seen.messages
            {
                let now = Instant::now();
                seen.messages = messages;
                seen.first.get_or_insert(now);
                seen.last = Some(now);
            }
        }
    }
}
