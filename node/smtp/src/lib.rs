//! SMTP as values: bytes in, steps out. No socket, no clock.
//!
//! [`server`] answers a client that brings mail; [`client`] brings mail to a primary. Both are
//! driven by a shell that reads, writes and waits.

mod body;
pub mod client;
pub mod finger;
pub mod limits;
mod line;
pub mod login;
pub mod reply;
pub mod request;
pub mod server;

/// Where mail for other people's domains goes (RFC 5321 section 2.3.10 and IANA's list).
pub const PORT: u16 = 25;
