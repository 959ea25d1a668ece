//! Rows as prost messages.

use prost::Message;

use crate::{Kv, KvError, KvRead};

pub(crate) fn get<R: Message + Default>(kv: &dyn KvRead, key: &[u8]) -> Result<Option<R>, KvError> {
    match kv.get(key)? {
        Some(value) => decode(key, &value).map(Some),
        None => Ok(None),
    }
}

pub(crate) fn put<R: Message>(kv: &mut dyn Kv, key: &[u8], row: &R) {
    kv.put(key, &row.encode_to_vec());
}

pub(crate) fn exists(kv: &dyn KvRead, key: &[u8]) -> Result<bool, KvError> {
    Ok(kv.get(key)?.is_some())
}

pub(crate) fn decode<R: Message + Default>(key: &[u8], value: &[u8]) -> Result<R, KvError> {
    R::decode(value).map_err(|error| unreadable(key, error))
}

/// A row that is there but cannot be what was written.
pub(crate) fn unreadable(key: &[u8], why: impl std::fmt::Display) -> KvError {
    KvError(format!("the row at {key:02x?} is damaged: {why}"))
}
