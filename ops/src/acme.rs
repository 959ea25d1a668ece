//! `holdfast cluster acme …`: the certificate that is ordered for all nodes.

use std::fs;
use std::path::Path;

use holdfast_proto::admin::{AcmeDirectory, AcmeReply, AcmeSetRequest, Empty};
use serde_json::json;

use crate::cli::Acme;
use crate::client::{self, Client};
use crate::failure::{Exit, Failure};
use crate::output::{self, Output};

pub(crate) async fn run(
    client: &mut Client,
    command: Acme,
    output: Output,
) -> Result<Exit, Failure> {
    match command {
        Acme::Use {
            directory,
            contacts,
            agree: _,
            ca_file,
            dry_run,
        } => {
            let authorities = ca_file.as_deref().map(read).transpose()?;
            let asked = AcmeSetRequest {
                directory: Some(AcmeDirectory {
                    url: directory.clone(),
                    contacts,
                    authorities: authorities.unwrap_or_default(),
                }),
                dry_run,
            };
            set(
                client,
                "certificates are ordered as before, or not at all",
                asked,
            )
            .await?;
            if output.is_json() {
                let told = json!({"directory": directory, "dry_run": dry_run});
                output.json("cluster-acme-use/v1", &told)?;
            } else if dry_run {
                output.line("A certificate would be ordered there. Nothing was changed.")?;
            } else {
                output.line(format!(
                    "A certificate for every node's name is ordered at {directory}."
                ))?;
                eprintln!(
                    "Each name must lead to a node that has [acme] listen on port 80 in its file. How it goes: \
                     holdfast cluster acme show"
                );
            }
        }
        Acme::Show => show(client, output).await?,
        Acme::Stop { dry_run } => {
            let asked = AcmeSetRequest {
                directory: None,
                dry_run,
            };
            set(
                client,
                "the certificate and its orders stay as they were",
                asked,
            )
            .await?;
            if output.is_json() {
                output.json("cluster-acme-stop/v1", &json!({"dry_run": dry_run}))?;
            } else if dry_run {
                output.line("No certificate would be ordered any more. Nothing was changed.")?;
            } else {
                output.line("No certificate is ordered any more; account, certificate and key are forgotten.")?;
                eprintln!(
                    "Nodes without smtp.tls_cert and smtp.tls_key show self-signed certificates from now on: mail from \
                     senders that check them waits at the senders."
                );
            }
        }
    }
    Ok(Exit::Done)
}

fn read(file: &Path) -> Result<String, Failure> {
    let unfit = |why: String| {
        let why = format!("{}: {why}", file.display());
        Failure::new("nothing was changed", why)
            .fix("name a PEM file with the authority's certificates with --ca-file")
    };
    let text = fs::read_to_string(file).map_err(|error| unfit(error.to_string()))?;
    // Without one, all that the machine trusts would do.
    if !text.contains("-----BEGIN CERTIFICATE-----") {
        return Err(unfit("there is no certificate in it".to_owned()));
    }
    Ok(text)
}

async fn set(client: &mut Client, failed: &str, asked: AcmeSetRequest) -> Result<(), Failure> {
    client::answer(failed, client.acme_set(client::request(asked))).await?;
    Ok(())
}

async fn show(client: &mut Client, output: Output) -> Result<(), Failure> {
    let shown = client::answer(
        "how certificates are ordered is not known",
        client.acme_show(client::request(Empty {})),
    )
    .await?;
    if output.is_json() {
        let certificate = shown.certificate.as_ref().map(|certificate| {
            json!({
                "directory": certificate.directory,
                "names": certificate.names,
                "issued_at": output::rfc3339(certificate.issued_at_ms),
                "ends_at": output::rfc3339(certificate.ends_at_ms),
            })
        });
        let directory = shown.directory.as_ref();
        output.json(
            "cluster-acme/v1",
            &json!({
                "directory": directory.map(|it| &it.url),
                "contacts": directory.map(|it| &it.contacts),
                "own_authorities": directory.is_some_and(|it| !it.authorities.is_empty()),
                "has_account": shown.has_account,
                "names": shown.names,
                "certificate": certificate,
                "tries": shown.tries,
                "tried_at": time(shown.tried_at_ms),
                "why": (!shown.why.is_empty()).then_some(&shown.why),
                "due_at": time(shown.due_at_ms),
            }),
        )?;
        return Ok(());
    }
    let Some(directory) = &shown.directory else {
        eprintln!("No certificate is ordered by ACME. holdfast cluster acme use begins it.");
        return Ok(());
    };
    let mut table = output::table(&["WHAT", "VALUE"], &[]);
    let mut row = |what: &str, value: String| {
        table.add_row(vec![what.to_owned(), value]);
    };
    row("directory", directory.url.clone());
    row("contacts", directory.contacts.join(", "));
    if !directory.authorities.is_empty() {
        row(
            "trusted",
            "only the authorities of the file that was given".to_owned(),
        );
    }
    row("names of the nodes", shown.names.join(", "));
    let at = |ms| time(ms).unwrap_or_default();
    match &shown.certificate {
        Some(certificate) => {
            row("certificate for", certificate.names.join(", "));
            row("ordered at", certificate.directory.clone());
            row("issued", at(certificate.issued_at_ms));
            row("ends", at(certificate.ends_at_ms));
        }
        None => row("certificate", "none yet".to_owned()),
    }
    row("next order", next(&shown));
    output.table(&table)?;
    if !shown.why.is_empty() {
        eprintln!(
            "The last order, at {}, failed: {}\nThe certificate before stays in force. Mend that; it is tried again by \
             itself, and at once after `holdfast cluster acme use`.",
            at(shown.tried_at_ms),
            shown.why
        );
    }
    Ok(())
}

/// Nothing where there was none, or is none to come.
fn time(ms: u64) -> Option<String> {
    output::rfc3339(ms).filter(|_| ms > 0)
}

fn next(shown: &AcmeReply) -> String {
    let due = time(shown.due_at_ms);
    match (due, shown.tries, shown.why.is_empty()) {
        (None, ..) => "now".to_owned(),
        (Some(due), 0, _) => due,
        (Some(due), _, true) => format!("under way; if nothing comes of it, {due}"),
        (Some(due), tries, false) => format!(
            "{due}, after {} that failed",
            output::count(tries.into(), "order")
        ),
    }
}
