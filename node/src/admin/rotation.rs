//! Another certificate authority for a cluster that runs.
//!
//! The ledger carries it, and the nodes do it by themselves (`replica/renewal.rs`): whoever asks
//! only begins it, watches and, at the end, drops the old one. So it goes on when the operator's
//! terminal, or any node, dies, and `rotate-ca` typed again follows it.

use std::time::Duration;

use holdfast_ledger::query::{self, Rotation};
use holdfast_ledger::{Command, Member};
use holdfast_mail::Timestamp;
use holdfast_proto::admin as wire;
use tokio::sync::mpsc;
use tonic::Status;

use super::{Admin, broken};
use crate::net::authority::Authority;
use crate::replica::Cluster;

/// How often whoever watches is told how far it is.
const TELL_EVERY: Duration = Duration::from_millis(500);

pub(super) async fn rotate(
    admin: &Admin,
    request: wire::RotateCaRequest,
) -> Result<mpsc::Receiver<Result<wire::Progress, Status>>, Status> {
    let cluster = admin.cluster()?;
    let (progress, out) = mpsc::channel(64);
    let end = |text: String| Ok(told(text, true));
    let rotation = query::rotation(&cluster.view()).map_err(broken)?;
    match (rotation, request.finish) {
        (None, true) => return Err(super::refused(&holdfast_ledger::Refusal::NoRotation)),
        (Some(rotation), true) => {
            may_finish(&rotation)?;
            let outdated = outdated(admin)?;
            if request.dry_run {
                let _room = progress.try_send(end(format!(
                    "dry run: nothing was changed. The old authority could be dropped.{outdated}"
                )));
                return Ok(out);
            }
            let authority = rotation.authority;
            admin
                .propose(Command::RetireAuthority { authority })
                .await?;
            let _room = progress.try_send(end(format!(
                "the old authority is trusted no more. Invitations from before the rotation are void.{outdated}"
            )));
            return Ok(out);
        }
        (Some(rotation), false) if request.dry_run => {
            let text = format!("dry run: nothing was changed. {}", words(&rotation));
            let _room = progress.try_send(end(text));
            return Ok(out);
        }
        (None, false) if request.dry_run => {
            let silent = silent(&cluster).await;
            let waits = if silent.is_empty() {
                "All nodes answer.".to_owned()
            } else {
                format!(
                    "{} not answering: it would wait for them.",
                    silent.join(", ")
                )
            };
            let _room = progress.try_send(end(format!(
                "dry run: nothing was changed. Every node would first trust a new authority, then get a certificate \
                 of it; the old one stays trusted until --finish. {waits}"
            )));
            return Ok(out);
        }
        (Some(_), false) => {}
        (None, false) => begin(admin, &cluster).await?,
    }
    tokio::spawn(watch(cluster, progress));
    Ok(out)
}

async fn begin(admin: &Admin, cluster: &Cluster) -> Result<(), Status> {
    let known = query::cluster(&cluster.view()).map_err(broken)?;
    let known = known.ok_or_else(|| Status::unavailable("this node is still catching up"))?;
    let failed = |e: &dyn std::fmt::Display| Status::internal(e.to_string());
    let old = Authority {
        certificate: known.ca_certificate,
        key: known.ca_key,
    };
    let (new, cross) = Authority::create_after(&old, known.id).map_err(|e| failed(&e))?;
    let authority = crate::net::authority::fingerprint(&new.certificate).map_err(|e| failed(&e))?;
    admin
        .propose(Command::OfferAuthority {
            authority,
            certificate: new.certificate,
            key: new.key,
            cross,
        })
        .await?;
    Ok(())
}

/// Tells how far it is until every node has moved, or nobody listens any more.
async fn watch(cluster: Cluster, progress: mpsc::Sender<Result<wire::Progress, Status>>) {
    let mut waited = 0u32;
    let mut silent = Vec::new();
    loop {
        let all = cluster.members().len() as u64;
        let step = match query::rotation(&cluster.view()) {
            Err(error) => Err(broken(error)),
            Ok(None) if waited == 0 => {
                // This node has not applied it yet.
                Ok(told("the nodes are told".to_owned(), false))
            }
            Ok(None) => Ok(told(
                "the rotation was finished meanwhile".to_owned(),
                true,
            )),
            Ok(Some(rotation)) if rotation.not_using.is_empty() => Ok(told(
                "every node has a certificate of the new authority. End it with: holdfast cluster rotate-ca --finish"
                    .to_owned(),
                true,
            )),
            Ok(Some(rotation)) => {
                let (text, behind) = if rotation.not_trusting.is_empty() {
                    ("nodes with a certificate of the new authority", &rotation.not_using)
                } else {
                    ("nodes that trust both authorities", &rotation.not_trusting)
                };
                // Asking costs two seconds where a node is silent, so not every time.
                if waited % 10 == 9 {
                    silent = self::silent(&cluster).await;
                }
                let hint = if silent.is_empty() {
                    String::new()
                } else {
                    format!(
                        "; {} not answering: bring it back, or remove it with `holdfast cluster leave`",
                        silent.join(", ")
                    )
                };
                Ok(wire::Progress {
                    done_units: all - (behind.len() as u64).min(all),
                    all_units: all,
                    unit: format!("(waiting for {}{hint})", names(behind)),
                    ..told(text.to_owned(), false)
                })
            }
        };
        let over = step.as_ref().map_or(true, |step| step.done);
        if progress.send(step).await.is_err() || over {
            return;
        }
        waited = waited.saturating_add(1);
        tokio::time::sleep(TELL_EVERY).await;
    }
}

fn told(step: String, done: bool) -> wire::Progress {
    wire::Progress {
        step,
        done,
        ..wire::Progress::default()
    }
}

fn names(members: &[Member]) -> String {
    let names: Vec<&str> = members.iter().map(|member| &member.name[..]).collect();
    names.join(", ")
}

async fn silent(cluster: &Cluster) -> Vec<String> {
    let standings = cluster.standings().await.into_iter();
    standings
        .filter(|(_, standing, ..)| standing.is_err())
        .map(|(place, ..)| place.name)
        .collect()
}

fn may_finish(rotation: &Rotation) -> Result<(), Status> {
    if rotation.not_using.is_empty() {
        return Ok(());
    }
    Err(Status::failed_precondition(format!(
        "{} still on the old authority, and would be locked out; nothing was changed, both stay trusted\n\
         fix: wait until `holdfast cluster rotate-ca` says that every node has moved; bring back a node that is \
         down, or remove it with `holdfast cluster leave`",
        names(&rotation.not_using)
    )))
}

/// Whose identity ends with the old authority, in a sentence.
fn outdated(admin: &Admin) -> Result<String, Status> {
    let list = super::access::list(admin)?.list.into_iter();
    let names: Vec<String> = list
        .filter(|access| access.old_authority)
        .map(|access| access.name)
        .collect();
    Ok(if names.is_empty() {
        String::new()
    } else {
        format!(
            " Identities of the old authority are void; grant access anew to: {}.",
            names.join(", ")
        )
    })
}

/// How far a rotation is.
fn words(rotation: &Rotation) -> String {
    let begun = "A rotation of the certificate authority is under way";
    match (&rotation.not_trusting[..], &rotation.not_using[..]) {
        ([], []) => format!(
            "{begun}: every node has moved. End it with `holdfast cluster rotate-ca --finish`."
        ),
        ([], using) => format!("{begun}: {} not moved yet.", names(using)),
        (trusting, _) => format!("{begun}: {} not told yet.", names(trusting)),
    }
}

pub(super) fn to_wire(rotation: &Rotation) -> wire::Rotation {
    let names = |members: &[Member]| members.iter().map(|member| member.name.clone()).collect();
    wire::Rotation {
        since_ms: rotation.since.0,
        not_trusting: names(&rotation.not_trusting),
        not_using: names(&rotation.not_using),
    }
}

/// What is to be said of certificates when somebody asks how the cluster is; empty if nothing is.
pub(super) fn health(
    rotation: Option<&Rotation>,
    nodes: &[wire::NodeStatus],
    now: Timestamp,
) -> String {
    let mut said = Vec::new();
    for node in nodes.iter().filter(|node| node.certificate_late) {
        let days = node.certificate_ends_ms.saturating_sub(now.0) / 86_400_000;
        said.push(format!(
            "The certificate of {} ends in {days} days and was not renewed: see its log.",
            node.name
        ));
    }
    said.extend(rotation.map(words));
    said.join(" ")
}

#[cfg(test)]
mod tests {
    use holdfast_mail::NodeId;

    use super::*;

    fn member(name: &str) -> Member {
        Member {
            id: NodeId(1),
            name: name.into(),
            region: String::new(),
            cluster_address: String::new(),
            smtp_name: String::new(),
            smtp_address: String::new(),
        }
    }

    fn rotation(not_trusting: &[&str], not_using: &[&str]) -> Rotation {
        let members = |names: &[&str]| names.iter().map(|name| member(name)).collect();
        Rotation {
            authority: [1; 32],
            certificate: vec![],
            key: vec![],
            cross: vec![],
            since: Timestamp(0),
            not_trusting: members(not_trusting),
            not_using: members(not_using),
        }
    }

    #[test]
    fn a_rotation_is_not_finished_while_a_node_is_on_the_old_authority_and_it_is_named() {
        let status = may_finish(&rotation(&[], &["n2", "n3"])).unwrap_err();
        assert!(status.message().starts_with("n2, n3 still on the old"));
        assert!(may_finish(&rotation(&[], &[])).is_ok());
    }

    #[test]
    fn the_health_tells_of_a_rotation_and_of_a_certificate_that_was_not_renewed() {
        let day = 86_400_000;
        let node = |ends, late| wire::NodeStatus {
            name: "n2".into(),
            certificate_ends_ms: ends,
            certificate_late: late,
            ..wire::NodeStatus::default()
        };
        let now = Timestamp(1_000 * day);
        assert_eq!(
            health(None, &[node(1_300 * day, false), node(0, false)], now),
            ""
        );
        assert_eq!(
            health(None, &[node(1_012 * day, true)], now),
            "The certificate of n2 ends in 12 days and was not renewed: see its log."
        );
        let told = health(Some(&rotation(&["n3"], &["n2", "n3"])), &[], now);
        assert!(told.ends_with("n3 not told yet."), "{told}");
        let told = health(Some(&rotation(&[], &[])), &[], now);
        assert!(told.contains("--finish"), "{told}");
    }
}
