//! Lines that go dead without a word: to one machine, or from one to another. They need a world of
//! the test's own.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::process::Command;

/// An address that this machine has for a time, as a dial-up customer does.
pub struct Lent(IpAddr);

impl Lent {
    /// # Panics
    /// If it cannot be had.
    #[must_use]
    pub fn new(address: IpAddr) -> Self {
        must("ip", &["addr", "add", &address.to_string(), "dev", "lo"]);
        Self(address)
    }

    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.0
    }
}

impl Drop for Lent {
    /// Nobody says goodbye: what is sent there goes nowhere.
    fn drop(&mut self) {
        must("ip", &["addr", "del", &self.0.to_string(), "dev", "lo"]);
    }
}

/// From now on nothing goes from one machine to a server.
///
/// # Panics
/// If it cannot be cut.
pub fn cut(from: IpAddr, to: SocketAddr) {
    let (from, host, port) = (from.to_string(), to.ip().to_string(), to.port().to_string());
    let chain = ["-w", "-t", "raw", "-A", "PREROUTING"];
    let rule = ["-s", &from, "-d", &host, "-p", "tcp", "--dport", &port];
    must(
        "iptables",
        &[&chain[..], &rule[..], &["-j", "DROP"]].concat(),
    );
}

fn must(program: &str, arguments: &[&str]) {
    let ran = Command::new(program).args(arguments).output();
    let ran = ran.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(ran.status.success(), "{program} {arguments:?}: {ran:?}");
}
