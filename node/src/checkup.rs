//! Asks the DNS what it says of a domain, and the primary whether it answers, from this node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::future::join_all;
use holdfast_ledger::{KvError, query};
use holdfast_mail::Domain;
use holdfast_mail::checkup::{Evidence, Finding, Host, Mail, hosts_wanted, judge};

use crate::destination::Destination;
use crate::dial::literal;
use crate::net::dns::{Exchangers, Resolver};
use crate::reach;
use crate::replica::Cluster;
use crate::sts;
use crate::switchboard::Switchboard;

/// What this node finds.
///
/// # Errors
/// The domain's record cannot be read, or there is none.
pub async fn findings(
    cluster: &Cluster,
    resolver: &Resolver,
    domain: &Domain,
) -> Result<Vec<Finding>, String> {
    let unreadable = |error: KvError| error.to_string();
    let record = query::domain(&cluster.view(), domain).map_err(unreadable)?;
    let record = record.ok_or("the domain is not configured here yet")?;
    let route = query::route(&cluster.view(), domain).map_err(unreadable)?;
    let private = route.private;
    let members = cluster.members();
    let ours: Vec<String> = members
        .iter()
        .map(|member| member.smtp_name.clone())
        .collect();
    let mail = match resolver.exchangers(domain.as_str()).await {
        Ok(Exchangers::Mx(list)) => Mail::Exchangers(list),
        Ok(Exchangers::Implicit) => Mail::NoRecord,
        Ok(Exchangers::NoDomain) => Mail::NoDomain,
        Err(error) => Mail::Unknown(error.to_string()),
    };
    let me = cluster.me().smtp_name.clone();
    let primary = (!route.by_mx).then_some(record.primary.host);
    let named = primary.iter().filter(|host| literal(host).is_none());
    // A name of theirs may lead to any of ours.
    let mut names: BTreeSet<String> = ours.iter().chain(named).cloned().collect();
    names.insert(me.clone());
    if let Mail::Exchangers(list) = &mail {
        names.extend(list.iter().map(|mx| mx.host.clone()));
    }
    let looks = names.into_iter().map(|name| async move {
        let found = host(resolver, &name).await;
        (name, found)
    });
    let hosts: BTreeMap<String, Host> = join_all(looks).await.into_iter().collect();
    let mut my_pointers = Vec::new();
    for address in hosts.get(&me).map_or(&[][..], |host| &host.addresses) {
        my_pointers.push((*address, resolver.pointers(*address).await));
    }
    let destination = Destination {
        cluster: cluster.clone(),
        resolver: Arc::new(resolver.clone()),
        domain: domain.clone(),
        switchboard: Switchboard::default(),
        relay: None,
    };
    Ok(judge(&Evidence {
        domain: domain.clone(),
        primary,
        leaves: reach::leaves(&query::policy(&cluster.view(), domain).map_err(unreadable)?),
        ours,
        hosts_wanted: hosts_wanted(query::mx_hosts(&cluster.view(), domain).map_err(unreadable)?),
        mail,
        hosts,
        greeted: reach::reached(&destination)
            .await
            .map_err(|why| why.to_string()),
        mta_sts: sts::look(resolver, domain, private).await,
        me,
        my_pointers,
    }))
}

async fn host(resolver: &Resolver, name: &str) -> Host {
    let (addresses, unknown) = match resolver.addresses_or_none(name).await {
        Ok(addresses) => (addresses, None),
        Err(why) => (Vec::new(), Some(why.to_string())),
    };
    Host {
        alias_of: resolver.alias(name).await,
        addresses,
        unknown,
    }
}
