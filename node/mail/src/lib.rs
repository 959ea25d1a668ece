//! The words of mail: addresses, envelopes, statuses, identifiers and time.
//!
//! Floor 0. Values only: no clock, no randomness, no socket, no storage. Time and
//! identity come in as arguments.

pub mod address;
pub mod checkup;
pub mod dsn;
pub mod envelope;
pub mod ids;
pub mod mutant;
pub mod network;
pub mod retry;
pub mod route;
pub mod status;
pub mod sts;
pub mod time;
pub mod trace;

pub use address::{Address, AddressError, Domain, ReversePath};
pub use envelope::{BodyRef, BodyType, Envelope, Notify, Recipient, Ret};
pub use ids::{MessageId, NodeId};
pub use mutant::mutant;
pub use network::Network;
pub use status::Status;
pub use time::Timestamp;
