//! openraft's own suite for stores, on ours.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tokio::sync::broadcast;

use super::log_storage::LogStorage;
use super::snapshot::Snapshots;
use super::state_machine::StateMachine;
use super::types::Types;
use crate::store::{Options, Store};

struct Builder;

impl StoreBuilder<Types, LogStorage, StateMachine, tempfile::TempDir> for Builder {
    async fn build(
        &self,
    ) -> Result<(tempfile::TempDir, LogStorage, StateMachine), StorageError<Types>> {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            fatal: Arc::new(|why| panic!("{why}")),
        };
        let store = Arc::new(Store::open(&dir.path().join("ledger"), options).unwrap());
        let snapshots = Snapshots::open(dir.path().join("snapshots")).unwrap();
        let (effects, _) = broadcast::channel(16);
        let machine = StateMachine::open(store.clone(), snapshots, effects).unwrap();
        Ok((dir, LogStorage::new(store), machine))
    }
}

#[test]
fn openrafts_own_suite_passes_on_our_stores() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(Suite::test_all(Builder)).unwrap();
}
