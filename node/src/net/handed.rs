//! Listening sockets that whoever started this process opened before, as systemd's socket units
//! do (sd_listen_fds(3)). They stay open while the node is not there: the kernel lets clients wait
//! instead of refusing them.

use std::io;
use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;

use super::listen::Listener;

/// Names of the sockets, in their order.
const NAMES: &str = "LISTEN_FDNAMES";

/// What was handed over and nobody has taken yet.
#[derive(Debug, Default)]
pub struct Handed(Vec<(String, SocketAddr, TcpListener)>);

impl Handed {
    /// Takes them out of the environment: at the start, and once.
    ///
    /// # Errors
    /// One is no listening TCP socket.
    pub fn from_environment() -> io::Result<Self> {
        let names = std::env::var(NAMES).unwrap_or_default();
        let mut names = names.split(':');
        let mut found = ListenFd::from_env();
        let mut sockets = Vec::with_capacity(found.len());
        for at in 0..found.len() {
            let name = names.next().unwrap_or_default().to_owned();
            if let Some(socket) = found.take_tcp_listener(at)? {
                sockets.push((name, socket.local_addr()?, socket));
            }
        }
        Ok(Self(sockets))
    }

    /// The socket called `name` that listens on `address`.
    ///
    /// # Errors
    /// The kernel refuses to have it waited for.
    pub fn take(&mut self, name: &str, address: SocketAddr) -> io::Result<Option<Listener>> {
        let wanted =
            |(known, at, _): &(String, SocketAddr, TcpListener)| known == name && *at == address;
        let Some(at) = self.0.iter().position(wanted) else {
            return Ok(None);
        };
        let (_, _, socket) = self.0.swap_remove(at);
        Listener::from_std(socket).map(Some)
    }

    /// One that nobody took: its clients would wait without end.
    #[must_use]
    pub fn left(&self) -> Option<(&str, SocketAddr)> {
        let (name, address, _) = self.0.first()?;
        Some((name, *address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_goes_to_whom_name_and_address_say() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let mut handed = Handed(vec![("smtp".into(), address, socket)]);
        let elsewhere = "127.0.0.1:1".parse().unwrap();
        assert!(handed.take("portal", address).unwrap().is_none());
        assert!(handed.take("smtp", elsewhere).unwrap().is_none());
        assert_eq!(handed.left(), Some(("smtp", address)));
        let taken = handed.take("smtp", address).unwrap().unwrap();
        assert_eq!(taken.address().unwrap(), address);
        assert_eq!(handed.left(), None);
        let client = std::net::TcpStream::connect(address).unwrap();
        let (_, peer) = taken.accept().await;
        assert_eq!(peer, client.local_addr().unwrap());
    }
}
