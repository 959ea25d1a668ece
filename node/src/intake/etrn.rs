//! ETRN (RFC 1985): a customer asks for the mail held for a domain.

use std::net::IpAddr;

use holdfast_mail::Domain;
use holdfast_smtp::reply::Reply;
use holdfast_smtp::request::Etrn;

use super::Shared;
use crate::release::{NotStarted, Pending, Wanted};

pub(super) async fn answer(shared: &Shared, client: IpAddr, etrn: Etrn) -> Reply {
    let (name, wanted) = match etrn {
        Etrn::Domain(domain) => (domain.to_string(), Wanted::Domain(domain)),
        Etrn::Below(domain) => (format!("@{domain}"), Wanted::Below(domain)),
        // Our queues have the names of their domains.
        Etrn::Queue(queue) => {
            let domain = Domain::parse(&queue);
            (queue, domain.map_or(Wanted::Nothing, Wanted::Domain))
        }
    };
    let asked = shared.release.ask(&shared.cluster, client, wanted, "etrn");
    match asked.await {
        Ok(Pending::Known(0)) => {
            let text = format!("OK, no messages waiting for node {name}");
            Reply::new(251, 0, 0, text)
        }
        Ok(Pending::Known(count)) => {
            let text = format!("OK, {count} pending messages for node {name} started");
            Reply::new(253, 0, 0, text)
        }
        Ok(Pending::Started) => {
            let text = format!("OK, pending messages for node {name} started");
            Reply::new(252, 0, 0, text)
        }
        // RFC 1985 section 5.3: "250 OK, queuing for node <x> started".
        Ok(Pending::Uncounted) => {
            let text = format!("OK, queuing for node {name} started");
            Reply::new(250, 0, 0, text)
        }
        Err(why @ NotStarted::NotAllowed) => {
            let text = format!("node {name} not allowed: {why}");
            Reply::new(459, 7, 1, text)
        }
        Err(why @ (NotStarted::TooOften | NotStarted::Unable(_))) => {
            let text = format!("unable to queue messages for node {name}: {why}");
            Reply::new(458, 3, 2, text)
        }
    }
}
