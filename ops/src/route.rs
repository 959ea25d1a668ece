//! `holdfast domain route`: how mail goes to a domain's primary.

use std::fs;

use holdfast_proto::admin::{Route, RouteSetRequest};
use serde_json::json;

use crate::cli::{self, Hosts, Permission, Protocol, To};
use crate::client::{self, Client};
use crate::failure::Failure;
use crate::output::Output;

/// Changes what is named, and prints what holds then.
pub(crate) async fn route(
    client: &mut Client,
    asked: cli::Route,
    output: Output,
) -> Result<(), Failure> {
    let failed = format!("the route of {} was not changed", asked.name);
    let mut secret = String::new();
    if let Some(file) = &asked.secret_file {
        let text = if file.as_os_str() == "-" {
            std::io::read_to_string(std::io::stdin())
        } else {
            fs::read_to_string(file)
        };
        let text = text.map_err(|error| {
            Failure::new(&failed, format!("{}: {error}", file.display()))
                .fix("name a file with the secret as its only line, or - for standard input")
        })?;
        text.trim_end_matches(['\r', '\n']).clone_into(&mut secret);
    }
    let request = RouteSetRequest {
        domain: asked.name.clone(),
        by_mx: asked.to.map(|to| to == To::Mx),
        lmtp: asked.protocol.map(|protocol| protocol == Protocol::Lmtp),
        tls: asked.tls.map(|tls| tls.name().to_owned()),
        user: asked.login.or(asked.no_login.then(String::new)),
        secret,
        private: asked
            .private_addresses
            .map(|permission| permission == Permission::Allow),
        direct: asked.hosts.map(|hosts| hosts == Hosts::Direct),
        key: asked.pin.or(asked.no_pin.then(String::new)),
    };
    let route = client::answer(&failed, client.route_set(client::request(request))).await?;
    if output.is_json() {
        let mut value = as_json(&route);
        value["name"] = asked.name.into();
        output.json("domain-route/v1", &value)?;
        return Ok(());
    }
    for line in lines(&route) {
        output.line(line)?;
    }
    Ok(())
}

pub(crate) fn as_json(route: &Route) -> serde_json::Value {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    json!({
        "to": if route.by_mx { "mx" } else { "primary" },
        "protocol": if route.lmtp { "lmtp" } else { "smtp" },
        "tls": route.tls,
        "login": text(&route.user),
        "pin": text(&route.key),
        "hosts": if route.direct { "direct" } else { "refuse" },
        "private_addresses": if route.private { "allow" } else { "refuse" },
    })
}

fn lines(route: &Route) -> Vec<String> {
    let to = if route.by_mx {
        "to the hosts that the domain's MX records name before ours"
    } else {
        "to the configured primary"
    };
    let protocol = if route.lmtp { "LMTP" } else { "SMTP" };
    let tls = match (route.tls.as_str(), route.key.as_str()) {
        ("opportunistic", _) => "under TLS where it is offered".to_owned(),
        (_, key) if !key.is_empty() => format!("only under TLS, to the key {key}"),
        ("required", _) => "only under TLS, whatever the certificate".to_owned(),
        _ => "only under TLS, with a certificate that is good for the host's name".to_owned(),
    };
    let mut lines = vec![format!("Mail goes {to}, by {protocol}, {tls}.")];
    if !route.user.is_empty() {
        lines.push(format!("We log in there as {}.", route.user));
    }
    if route.direct {
        lines.push(
            "Mail for hosts below the domain is taken too, and goes to the host it names."
                .to_owned(),
        );
    }
    if route.private {
        lines.push("A host's name may lead to a private address.".to_owned());
    }
    lines
}
