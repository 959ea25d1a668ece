//! The certificate that is ordered for all nodes by ACME.

use holdfast_ledger::acme::{
    ACME_AUTHORITIES_OCTETS_MAX, ACME_CONTACT_OCTETS_MAX, ACME_CONTACTS_MAX, ACME_URL_OCTETS_MAX,
    AcmeChange, AcmeDirectory,
};
use holdfast_ledger::{Command, Refusal, query};
use holdfast_mail::Timestamp;
use holdfast_proto::admin as wire;
use tonic::Status;

use super::{Admin, broken};
use crate::acme::{self, Plan};
use crate::net::tls::Authorities;

/// What is asked for is looked at before anything is entered, also in a dry run.
pub(super) async fn set(
    admin: &Admin,
    request: wire::AcmeSetRequest,
) -> Result<wire::Empty, Status> {
    let view = admin.cluster()?.view();
    let change = match request.directory {
        Some(directory) => AcmeChange::Use(directory_from(directory)?),
        None => {
            if query::acme(&view).map_err(broken)?.is_none() {
                return Err(super::refused(&Refusal::NoAcme));
            }
            AcmeChange::Stop
        }
    };
    drop(view);
    if !request.dry_run {
        admin.propose(Command::Acme { change }).await?;
    }
    Ok(wire::Empty {})
}

fn directory_from(asked: wire::AcmeDirectory) -> Result<AcmeDirectory, Status> {
    let wrong = |why: String| Err(Status::invalid_argument(why));
    if !asked.url.starts_with("https://") || asked.url.len() > ACME_URL_OCTETS_MAX {
        return wrong(format!(
            "`{}` is no directory: that is an https:// URL of at most {ACME_URL_OCTETS_MAX} characters",
            asked.url
        ));
    }
    if asked.contacts.len() > ACME_CONTACTS_MAX {
        return wrong(format!(
            "an account has at most {ACME_CONTACTS_MAX} contacts"
        ));
    }
    for contact in &asked.contacts {
        let is_contact = contact.starts_with("mailto:") && contact.contains('@');
        if !is_contact || contact.len() > ACME_CONTACT_OCTETS_MAX {
            return wrong(format!(
                "`{contact}` is no contact, such as mailto:ops@example.org"
            ));
        }
    }
    if asked.authorities.len() > ACME_AUTHORITIES_OCTETS_MAX {
        return wrong(format!(
            "the authorities to trust have more than {ACME_AUTHORITIES_OCTETS_MAX} bytes"
        ));
    }
    if !asked.authorities.is_empty()
        && let Err(error) = Authorities::parse(&asked.authorities)
    {
        return wrong(format!("the authorities to trust cannot be read: {error}"));
    }
    Ok(AcmeDirectory {
        url: asked.url,
        contacts: asked.contacts,
        authorities: asked.authorities,
    })
}

pub(super) fn show(admin: &Admin) -> Result<wire::AcmeReply, Status> {
    let view = admin.cluster()?.view();
    let ordered = query::ordered(&view).map_err(broken)?;
    let certificate = ordered.map(|(issued, at)| wire::AcmeCertificate {
        ends_at_ms: acme::ends_at(&issued).map_or(0, |ends| ends.0),
        directory: issued.directory,
        names: issued.names,
        issued_at_ms: at.0,
    });
    let Some(plan) = Plan::of(&view).map_err(broken)? else {
        return Ok(wire::AcmeReply::default());
    };
    let time = |at: Option<Timestamp>| at.map_or(0, |at| at.0);
    let directory = plan.acme.directory;
    Ok(wire::AcmeReply {
        directory: Some(wire::AcmeDirectory {
            url: directory.url,
            contacts: directory.contacts,
            authorities: directory.authorities,
        }),
        has_account: plan.acme.credentials.is_some(),
        names: plan.names,
        certificate,
        tries: plan.acme.tries,
        tried_at_ms: time(plan.acme.tried_at),
        why: plan.acme.why,
        due_at_ms: plan.due_at.0,
    })
}
