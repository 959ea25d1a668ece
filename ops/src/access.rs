//! `holdfast access …`: who may ask and order from elsewhere.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use holdfast_node::net::authority;
use holdfast_node::net::pass::Pass;
use holdfast_proto::admin::{Empty, GrantRequest, RevokeRequest};
use serde_json::json;

use crate::cli::{Access, Global};
use crate::client::{self, Client};
use crate::failure::{Exit, Failure};
use crate::output::{self, Output};

pub(crate) async fn run(global: &Global, command: Access, output: Output) -> Result<Exit, Failure> {
    let mut client = client::connect(global).await?;
    match command {
        Access::Grant {
            name,
            role,
            out,
            valid_ms,
        } => grant(&mut client, (name, role), &out, valid_ms, output).await?,
        Access::List => list(&mut client, output).await?,
        Access::Revoke { name, dry_run } => {
            let asked = RevokeRequest {
                name: name.clone(),
                dry_run,
            };
            client::answer(
                &format!("{name} keeps what access there was"),
                client.access_revoke(client::request(asked)),
            )
            .await?;
            if output.is_json() {
                output.json(
                    "access-revoke/v1",
                    &json!({"name": name, "dry_run": dry_run}),
                )?;
            } else if dry_run {
                output.line(format!("{name} would have no access. Nothing was changed."))?;
            } else {
                output.line(format!("{name} has no access any more."))?;
            }
        }
    }
    Ok(Exit::Done)
}

/// The key is made here and goes to nobody: a node is only sent the request for a certificate.
async fn grant(
    client: &mut Client,
    (name, role): (String, String),
    out: &Path,
    valid_ms: u64,
    output: Output,
) -> Result<(), Failure> {
    let failed = format!("{name} was given no access");
    let unwritten = |error: std::io::Error| {
        Failure::new(&failed, format!("{}: {error}", out.display()))
            .fix("name a file that does not exist yet, in a folder of yours, with --out")
    };
    // First: access without the file would be of no use to anybody.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(out)
        .map_err(unwritten)?;
    let granted = async {
        let (key, request) = authority::request().map_err(|error| Failure::new(&failed, error))?;
        let asked = GrantRequest {
            name: name.clone(),
            role: role.clone(),
            valid_seconds: (valid_ms / 1000).max(1),
            certificate_request: request.into(),
        };
        let reply = client::answer(&failed, client.access_grant(client::request(asked))).await?;
        Ok::<_, Failure>((key, reply))
    };
    let (key, reply) = match granted.await {
        Ok(granted) => granted,
        Err(failure) => {
            // Empty, and ours.
            let _gone = fs::remove_file(out);
            return Err(failure);
        }
    };
    let pass = Pass {
        certificate: reply.certificate.to_vec(),
        key,
        authority: reply.ca_certificate.to_vec(),
    };
    file.write_all(pass.to_pem().as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(unwritten)?;
    let expires_at = output::rfc3339(reply.expires_at_ms);
    if output.is_json() {
        output.json(
            "access-grant/v1",
            &json!({
                "name": name,
                "role": role,
                "file": out,
                "expires_at": expires_at,
                "replaced": reply.replaced,
            }),
        )?;
        return Ok(());
    }
    output.line(format!(
        "{name} has access as {role} until {}, with {}.",
        expires_at.unwrap_or_default(),
        out.display()
    ))?;
    if reply.replaced {
        eprintln!("The file that {name} had before is void.");
    }
    eprintln!(
        "Whoever has the file is {name}: hand it over as you would a password. They type: holdfast --node HOST:PORT \
         --identity {} status",
        out.display()
    );
    Ok(())
}

async fn list(client: &mut Client, output: Output) -> Result<(), Failure> {
    let list = client::answer(
        "who has access is not known",
        client.accesses(client::request(Empty {})),
    )
    .await?
    .list;
    let mut table = output::table(&["NAME", "ROLE", "SINCE", "UNTIL", "REMARK"], &[]);
    for access in &list {
        let (since, until) = (
            output::rfc3339(access.granted_at_ms),
            output::rfc3339(access.expires_at_ms),
        );
        if output.is_json() {
            output.json(
                "access/v1",
                &json!({
                    "name": access.name,
                    "role": access.role,
                    "granted_at": since,
                    "expires_at": until,
                    "old_authority": access.old_authority,
                }),
            )?;
        } else {
            table.add_row(vec![
                access.name.clone(),
                access.role.clone(),
                since.unwrap_or_default(),
                until.unwrap_or_default(),
                if access.old_authority {
                    "of the old authority: grant anew".to_owned()
                } else {
                    String::new()
                },
            ]);
        }
    }
    if !output.is_json() {
        if list.is_empty() {
            eprintln!("Nobody has access from elsewhere. holdfast access grant gives it.");
        } else {
            output.table(&table)?;
        }
    }
    Ok(())
}
