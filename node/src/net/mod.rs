//! The network: TCP, TLS, DNS and gRPC connections. The only room that knows rustls, rcgen,
//! hickory and raw sockets.

pub mod authority;
pub mod connect;
pub mod dns;
pub mod grpc;
pub mod handed;
pub mod listen;
pub mod pass;
pub(crate) mod ping;
#[cfg(test)]
pub(crate) mod simulated;
mod strikes;
pub mod tls;
