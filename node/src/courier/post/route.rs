//! The way to a domain that is no customer's: by its MX records, or by a relay.

use std::time::Duration;

use holdfast_mail::Domain;
use holdfast_smtp::PORT;

use super::super::desk::jitter;
use super::Desk;
use crate::dial::{self, CONNECT_TIMEOUT, NoSession, Way};
use crate::talk::deliver::{Connection, Dialing};

/// A session with a host that takes the domain's mail.
pub(super) async fn open(desk: &Desk, domain: &Domain) -> Result<Connection, NoSession> {
    let helo = &desk.cluster.me().smtp_name;
    let dialing = Dialing::new(helo, CONNECT_TIMEOUT, Duration::MAX);
    let way = match &desk.via {
        Some((host, port)) => Way {
            hosts: vec![host.clone()],
            port: *port,
            private: true,
            ranked: false,
        },
        None => Way {
            hosts: dial::exchangers(&desk.cluster, &desk.resolver, domain, jitter()).await?,
            port: PORT,
            private: false,
            ranked: true,
        },
    };
    dial::dial(&desk.cluster, &desk.resolver, &dialing, &way).await
}
