//! The wire formats, generated from the `.proto` files beside this folder.

#![allow(clippy::pedantic)]

/// What the replicated log and the state hold.
pub mod ledger {
    include!(concat!(env!("OUT_DIR"), "/holdfast.ledger.v1.rs"));
}

/// Node to node.
#[cfg(feature = "services")]
pub mod cluster {
    include!(concat!(env!("OUT_DIR"), "/holdfast.cluster.v1.rs"));
}

/// The operators' API.
#[cfg(feature = "services")]
pub mod admin {
    include!(concat!(env!("OUT_DIR"), "/holdfast.admin.v1.rs"));
}
