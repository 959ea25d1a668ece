//! Child processes that never outlive the benchmark.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a process may take to stop before it is killed.
const STOP_TIME_MAX: Duration = Duration::from_secs(40);

/// A process that is stopped when dropped.
pub(crate) struct Guard(pub(crate) Child);

impl Guard {
    pub(crate) fn stop(&mut self, signal: Signal) -> io::Result<()> {
        if self.0.try_wait()?.is_some() {
            return Ok(());
        }
        signal_to(self.0.id(), signal)?;
        let deadline = Instant::now() + STOP_TIME_MAX;
        while self.0.try_wait()?.is_none() {
            if Instant::now() >= deadline {
                self.0.kill()?;
                self.0.wait()?;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Err(error) = self.stop(Signal::TERM) {
            eprintln!("bench: process {} may still run: {error}", self.0.id());
        }
    }
}

pub(crate) fn signal_to(pid: u32, signal: Signal) -> io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("no such process id"))?;
    Ok(kill_process(pid, signal)?)
}

/// The first of `count` ports in a row that were free a moment ago.
pub(crate) fn free_ports(count: u16) -> io::Result<u16> {
    loop {
        let first = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut row = (1..count).map(|at| first.checked_add(at));
        let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if row.all(|port| port.is_some_and(is_free)) {
            return Ok(first);
        }
    }
}

/// Waits until an SMTP server greets with 220.
pub(crate) fn wait_for_greeting(address: SocketAddr, limit: Duration) -> io::Result<()> {
    use io::Read;
    let deadline = Instant::now() + limit;
    loop {
        let mut code = [0; 3];
        let greeted = TcpStream::connect(address).and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.read_exact(&mut code)
        });
        if greeted.is_ok() && &code == b"220" {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(io::Error::other(format!("{address} does not greet")));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A field of /proc/PID/smaps_rollup, in MB.
pub(crate) fn memory_mb(pid: u32, field: &str) -> io::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    text.lines()
        .find_map(|line| {
            line.strip_prefix(field)?
                .split_whitespace()
                .next()?
                .parse::<f64>()
                .ok()
        })
        .map(|kib| kib * 1024.0 / 1e6)
        .ok_or_else(|| io::Error::other(format!("no {field} for process {pid}")))
}
