//! A domain's DNS: what it should say, and what all nodes find that it says.

use holdfast_ledger::Refusal;
use holdfast_ledger::query::{self, DomainRecord};
use holdfast_mail::checkup::{Finding, Weight};
use holdfast_proto::admin as wire;
use tonic::Status;

use super::{Admin, broken, domains, refused};
use crate::zone;

fn record(admin: &Admin, name: &str) -> Result<DomainRecord, Status> {
    let record = query::domain(&admin.cluster()?.view(), &domains::parse(name)?);
    record
        .map_err(broken)?
        .ok_or_else(|| refused(&Refusal::UnknownDomain))
}

pub(super) fn lines(
    admin: &Admin,
    request: &wire::DomainZoneRequest,
) -> Result<wire::DomainZoneReply, Status> {
    let record = record(admin, &request.name)?;
    let text = zone::lines(&admin.cluster()?, &record, request.hosts).map_err(broken)?;
    Ok(wire::DomainZoneReply { text })
}

pub(super) async fn check(admin: &Admin, name: &str) -> Result<wire::DomainCheckReply, Status> {
    let record = record(admin, name)?;
    let found = zone::check(&admin.cluster()?, &record.name).await;
    let told = |(finding, nodes): (Finding, Vec<String>)| wire::Finding {
        weight: match finding.weight {
            Weight::Fault => 0,
            Weight::Warning => 1,
            Weight::Good => 2,
        },
        what: finding.what,
        fix: finding.fix,
        nodes,
    };
    let silent = found.silent.into_iter();
    Ok(wire::DomainCheckReply {
        findings: found.findings.into_iter().map(told).collect(),
        silent: silent
            .map(|(node, why)| wire::Silent { node, why })
            .collect(),
    })
}
