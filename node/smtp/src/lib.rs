//! .
pub mod client;
