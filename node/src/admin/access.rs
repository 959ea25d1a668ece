//! Who may use this API from afar.

use std::time::Duration;

use holdfast_ledger::{Command, PERSON_NAME_OCTETS_MAX, Role, is_person_name, query};
use holdfast_proto::admin as wire;
use tonic::Status;

use super::{Admin, broken};
use crate::net::authority::{self, Authority};
use crate::replica;

/// How long an identity is good when nobody says otherwise: people change more often than machines.
const VALID: Duration = Duration::from_secs(90 * 86_400);

/// No identity is good longer.
const VALID_MAX: Duration = Duration::from_secs(366 * 86_400);

pub(super) async fn grant(
    admin: &Admin,
    request: wire::GrantRequest,
) -> Result<wire::GrantReply, Status> {
    let cluster = admin.cluster()?;
    let name = request.name;
    if !is_person_name(&name) {
        return Err(Status::invalid_argument(format!(
            "`{name}` is no name: it takes at most {PERSON_NAME_OCTETS_MAX} lower-case letters, digits and hyphens, a \
             letter first"
        )));
    }
    let role = Role::parse(&request.role)
        .ok_or_else(|| Status::invalid_argument("a role is viewer, operator or admin"))?;
    let valid = match request.valid_seconds {
        0 => VALID,
        seconds => Duration::from_secs(seconds),
    };
    if valid > VALID_MAX {
        return Err(Status::invalid_argument(
            "an identity is good for a year at most",
        ));
    }
    let view = cluster.view();
    let known = query::cluster(&view).map_err(broken)?;
    let known = known.ok_or_else(|| Status::unavailable("this node is still catching up"))?;
    let replaced = query::granted(&view, &name).map_err(broken)?.is_some();
    // While the authority is rotated, by the new one as soon as all nodes trust it.
    let signer = match query::rotation(&view).map_err(broken)? {
        Some(rotation) if rotation.not_trusting.is_empty() => Authority {
            certificate: rotation.certificate,
            key: rotation.key,
        },
        _ => Authority {
            certificate: known.ca_certificate,
            key: known.ca_key,
        },
    };
    let unfit = |e: authority::AuthorityError| Status::invalid_argument(e.to_string());
    let certificate = signer
        .sign_person(&request.certificate_request, &name, known.id, valid)
        .map_err(unfit)?;
    let expires_at = replica::now().plus(valid);
    let command = Command::Grant {
        name,
        role,
        certificate: authority::digest(&certificate),
        authority: authority::fingerprint(&signer.certificate).map_err(unfit)?,
        expires_at,
    };
    admin.propose(command).await?;
    Ok(wire::GrantReply {
        certificate: certificate.into(),
        ca_certificate: signer.certificate.into(),
        expires_at_ms: expires_at.0,
        replaced,
    })
}

pub(super) async fn revoke(
    admin: &Admin,
    request: wire::RevokeRequest,
) -> Result<wire::Empty, Status> {
    let view = admin.cluster()?.view();
    if query::granted(&view, &request.name)
        .map_err(broken)?
        .is_none()
    {
        return Err(super::refused(&holdfast_ledger::Refusal::NotGranted));
    }
    if !request.dry_run {
        let name = request.name;
        admin.propose(Command::Revoke { name }).await?;
    }
    Ok(wire::Empty {})
}

pub(super) fn list(admin: &Admin) -> Result<wire::AccessList, Status> {
    let view = admin.cluster()?.view();
    let rotation = query::rotation(&view).map_err(broken)?;
    let known = query::cluster(&view).map_err(broken)?;
    let newest = match (&rotation, &known) {
        (Some(rotation), _) => Some(rotation.authority),
        (None, Some(known)) => authority::fingerprint(&known.ca_certificate).ok(),
        (None, None) => None,
    };
    let list = query::all_granted(&view).map_err(broken)?;
    Ok(wire::AccessList {
        list: list
            .into_iter()
            .map(|granted| wire::Access {
                name: granted.name,
                role: granted.role.to_string(),
                granted_at_ms: granted.granted_at.0,
                expires_at_ms: granted.expires_at.0,
                old_authority: Some(granted.authority) != newest,
            })
            .collect(),
    })
}
