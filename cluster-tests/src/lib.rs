//! Real nodes, real mail, real kills: what runs against the cluster, what is written down of it,
//! and the rules that the record is held against.
//!
//! - [`history`] is what was observed from outside, in order;
//! - [`invariants`] are the rules, one file each, that know nothing but a history;
//! - [`nemesis`] decides, from a seed, which node is killed and for how long;
//! - [`storm`] plans, from a seed, many faults that overlap;
//! - [`partition`] lists the ways in which a network falls apart;
//! - [`figures`] is what a run came to, for the report of many;
//! - [`story`] is what a customer's story needs: a mailbox, a sender, a browser;
//! - [`harness`] starts the `holdfast` binary, sends mail to it, and receives what it delivers.
//!
//! Nothing here links the product: it is judged by what comes out of its sockets.

pub mod figures;
pub mod harness;
pub mod history;
pub mod invariants;
pub mod nemesis;
pub mod partition;
pub mod random;
pub mod storm;
pub mod story;
