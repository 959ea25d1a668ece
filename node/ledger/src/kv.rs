//! What the state machine asks of a store: ordered rows of bytes.

use std::collections::BTreeMap;

/// The world broke: a row could not be read, or is not what was written. Never a refusal. The
/// replica must throw away what the batch wrote and stop, for it no longer knows the state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the replicated state cannot be read: {0}")]
pub struct KvError(pub String);

/// Key and value.
pub type Row = (Vec<u8>, Vec<u8>);

/// Rows at one point in time.
pub trait KvRead {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError>;

    /// Rows whose key begins with `prefix`, in key order, at most `limit`; from the key `from`
    /// on (inclusive, a full key), or all where it is empty.
    fn scan(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Row>, KvError>;
}

/// Rows being changed. A `get` or `scan` sees the puts and deletes before it. Nothing is
/// durable, or seen by others, until the caller of [`crate::apply_batch`] commits all of it.
pub trait Kv: KvRead {
    fn put(&mut self, key: &[u8], value: &[u8]);
    fn delete(&mut self, key: &[u8]);
}

/// Rows in memory, for tests and simulation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryKv {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl MemoryKv {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// All rows, in key order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        self.rows
            .iter()
            .map(|(key, value)| (key.as_slice(), value.as_slice()))
    }
}

impl KvRead for MemoryKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.rows.get(key).cloned())
    }

    fn scan(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Row>, KvError> {
        let start = prefix.max(from).to_vec();
        Ok(self
            .rows
            .range(start..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(limit)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }
}

impl Kv for MemoryKv {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.rows.insert(key.to_vec(), value.to_vec());
    }

    fn delete(&mut self, key: &[u8]) {
        self.rows.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_keeps_to_its_prefix_its_start_and_its_limit() {
        let mut kv = MemoryKv::new();
        for key in ["a1", "b1", "b2", "b3", "c1"] {
            kv.put(key.as_bytes(), b"");
        }
        let keys = |from: &str, limit| -> Vec<String> {
            kv.scan(b"b", from.as_bytes(), limit)
                .unwrap()
                .into_iter()
                .map(|(key, _)| String::from_utf8(key).unwrap())
                .collect()
        };
        assert_eq!(keys("", 9), ["b1", "b2", "b3"]);
        assert_eq!(keys("", 2), ["b1", "b2"]);
        assert_eq!(keys("b2", 9), ["b2", "b3"]);
        assert_eq!(keys("b4", 9), [""; 0]);
    }
}
