//! An ICMP echo (RFC 792, RFC 4443 section 4.1), without privileges.
//!
//! The kernel's ping sockets write and check identifiers and sums. They are for whoever the system's
//! `net.ipv4.ping_group_range` names, for IPv6 too.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::time::timeout;

/// Echoes asked for: one can be lost.
const ECHOES: u8 = 3;

/// How long each is waited for: longer than a round trip by satellite.
const ECHO_TIME: Duration = Duration::from_secs(1);

const ECHO_V4: u8 = 8;
const ECHO_V6: u8 = 128;
const ECHO_REPLY_V4: u8 = 0;
const ECHO_REPLY_V6: u8 = 129;

/// Whether the host answers.
///
/// # Errors
/// It could not be asked: the system does not let this process, or has no route.
pub(crate) async fn answers(host: IpAddr) -> io::Result<bool> {
    let (domain, protocol, echo, reply) = match host {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, ECHO_V4, ECHO_REPLY_V4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, ECHO_V6, ECHO_REPLY_V6),
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(protocol))?;
    socket.set_nonblocking(true)?;
    socket.connect(&SocketAddr::new(host, 0).into())?;
    let socket = tokio::net::UdpSocket::from_std(UdpSocket::from(socket))?;
    for number in 0..ECHOES {
        // Type, code, sum (2), identifier (2), sequence (2).
        socket.send(&[echo, 0, 0, 0, 0, 0, 0, number]).await?;
        let mut answer = [0; 64];
        match timeout(ECHO_TIME, socket.recv(&mut answer)).await {
            Ok(Ok(_)) if answer[0] == reply => return Ok(true),
            // "No such host", from a router on the way.
            Ok(Ok(_) | Err(_)) | Err(_) => {}
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_host_that_is_there_answers_where_the_system_lets_us_ask() {
        for host in ["127.0.0.1", "::1"] {
            match answers(host.parse().unwrap()).await {
                Ok(answered) => assert!(answered, "{host}"),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
            }
        }
    }
}
