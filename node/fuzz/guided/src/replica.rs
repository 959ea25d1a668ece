//! The files of the node's `replica` that its targets need, without the database that the whole
//! room stands on.

#[path = "../../../src/replica/codec.rs"]
pub(crate) mod codec;
#[path = "../../../src/replica/fuzz.rs"]
pub(crate) mod fuzz;
#[path = "../../../src/replica/snapshot.rs"]
pub(crate) mod snapshot;
#[path = "../../../src/replica/types.rs"]
pub(crate) mod types;

/// The node's `level`, which asks its store too: this one never behaves as an older version.
pub(crate) mod level {
    pub(crate) fn understands(_: &holdfast_ledger::Batch) -> bool {
        true
    }
}

/// Named by an alias in `types`, and not used here.
pub(crate) mod state_machine {
    pub(crate) struct StateMachine;
}
