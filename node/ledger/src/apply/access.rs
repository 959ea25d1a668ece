//! Grant and Revoke: who may use the operators' API from afar.

use holdfast_proto::ledger as proto;

use super::refuse;
use crate::access::{GRANTS_MAX, is_person_name};
use crate::{Kv, KvError, Refusal, Reply, row, tables};

/// A name that has access gets it anew: the certificate it had until now is none any more.
pub(super) fn grant(
    kv: &mut dyn Kv,
    name: &str,
    grant: &proto::GrantRow,
) -> Result<Reply, KvError> {
    if !is_person_name(name) {
        return refuse(Refusal::Malformed);
    }
    let key = tables::grant(name);
    let full = kv.scan(tables::GRANTS, &[], GRANTS_MAX)?.len() == GRANTS_MAX;
    if full && !row::exists(kv, &key)? {
        return refuse(Refusal::TooManyGranted);
    }
    row::put(kv, &key, grant);
    Ok(Reply::Done)
}

pub(super) fn revoke(kv: &mut dyn Kv, name: &str) -> Result<Reply, KvError> {
    let key = tables::grant(name);
    if !row::exists(kv, &key)? {
        return refuse(Refusal::NotGranted);
    }
    kv.delete(&key);
    Ok(Reply::Done)
}
