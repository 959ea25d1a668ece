//! A session meets a stream: bytes, time-outs and TLS. Nothing is decided here.

pub mod deliver;
pub mod serve;
