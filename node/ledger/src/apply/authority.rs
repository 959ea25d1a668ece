//! OfferAuthority, TrustAuthority and RetireAuthority: the cluster gets another certificate
//! authority while it runs.
//!
//! No node presents a certificate of the new one before every member trusts it, and the old one
//! stays until every member presents one of the new. So whatever is down or cut off meanwhile can
//! come back and speak to all others.

use holdfast_mail::NodeId;
use holdfast_proto::ledger as proto;

use super::{Logged, refuse};
use crate::{Kv, KvError, Refusal, Reply, query, row, tables};

pub(super) fn offer(
    kv: &mut dyn Kv,
    when: Logged,
    offer: proto::OfferAuthority,
) -> Result<Reply, KvError> {
    if !row::exists(kv, tables::CLUSTER)? {
        return refuse(Refusal::TryAgain);
    }
    if let Some(rotation) = row::get::<proto::RotationRow>(kv, tables::ROTATION)? {
        // The same proposal, repeated.
        if rotation.offer.as_ref() == Some(&offer) {
            return Ok(Reply::Done);
        }
        return refuse(Refusal::RotationUnderWay);
    }
    let rotation = proto::RotationRow {
        offer: Some(offer),
        since_ms: when.at.0,
    };
    row::put(kv, tables::ROTATION, &rotation);
    Ok(Reply::Done)
}

pub(super) fn trust(
    kv: &mut dyn Kv,
    node: NodeId,
    authority: &[u8; 32],
    used: bool,
) -> Result<Reply, KvError> {
    if !row::exists(kv, &tables::member(node))? {
        return refuse(Refusal::UnknownNode);
    }
    if offered(kv)?.is_none_or(|offer| offer.authority[..] != authority[..]) {
        return refuse(Refusal::NoRotation);
    }
    // Nobody uses what not all trust: others could not speak to it.
    if used && !query::all_trust(kv)? {
        return refuse(Refusal::TryAgain);
    }
    row::put(kv, &tables::trusting(node), &proto::TrustRow { used });
    Ok(Reply::Done)
}

pub(super) fn retire(kv: &mut dyn Kv, authority: &[u8; 32]) -> Result<Reply, KvError> {
    let cluster: Option<proto::ClusterRow> = row::get(kv, tables::CLUSTER)?;
    let Some(cluster) = cluster else {
        return refuse(Refusal::TryAgain);
    };
    let Some(offer) = offered(kv)? else {
        // The same proposal, repeated.
        return if cluster.authority[..] == authority[..] {
            Ok(Reply::Done)
        } else {
            refuse(Refusal::NoRotation)
        };
    };
    if offer.authority[..] != authority[..] {
        return refuse(Refusal::NoRotation);
    }
    for member in query::members(kv)? {
        let standing: Option<proto::TrustRow> = row::get(kv, &tables::trusting(member.id))?;
        if standing.is_none_or(|standing| !standing.used) {
            return refuse(Refusal::AuthorityInUse);
        }
    }
    let cluster = proto::ClusterRow {
        id: cluster.id,
        ca_certificate: offer.certificate,
        ca_key: offer.key,
        authority: offer.authority,
    };
    row::put(kv, tables::CLUSTER, &cluster);
    kv.delete(tables::ROTATION);
    for (key, _) in kv.scan(tables::TRUSTING, &[], usize::MAX)? {
        kv.delete(&key);
    }
    Ok(Reply::Done)
}

fn offered(kv: &dyn Kv) -> Result<Option<proto::OfferAuthority>, KvError> {
    let rotation: Option<proto::RotationRow> = row::get(kv, tables::ROTATION)?;
    Ok(rotation.and_then(|rotation| rotation.offer))
}
