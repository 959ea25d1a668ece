//! `holdfast audit`: who did what, when, and from where.

use holdfast_proto::admin::{Audited, Empty};
use serde_json::json;

use crate::cli::{Audit, Global};
use crate::client;
use crate::failure::{Exit, Failure};
use crate::output::{self, Output};

pub(crate) async fn run(global: &Global, which: Audit, output: Output) -> Result<Exit, Failure> {
    let failed = "the audit could not be read";
    let mut client = client::connect(global).await?;
    let mut pages = client
        .audit(client::request(Empty {}))
        .await
        .map_err(|status| Failure::from_status(failed, &status))?
        .into_inner();
    let wanted = |entry: &&Audited| {
        let is = |asked: &Option<String>, text: &str| asked.as_ref().is_none_or(|a| a == text);
        is(&which.domain, &entry.domain) && is(&which.by, &entry.by)
    };
    let columns = ["WHEN", "WHO", "FROM", "DOMAIN", "WHAT", "MESSAGES"];
    let mut table = output::table(&columns, &["MESSAGES"]);
    while let Some(page) = pages
        .message()
        .await
        .map_err(|status| Failure::from_status(failed, &status))?
    {
        for entry in page.entries.iter().filter(wanted) {
            if output.is_json() {
                output.json(
                    "audit/v1",
                    &json!({
                        "at": output::rfc3339(entry.at_ms),
                        "by": entry.by,
                        "from": entry.from,
                        "what": entry.what,
                        "domain": entry.domain,
                        "messages": entry.ids,
                    }),
                )?;
            } else {
                table.add_row(vec![
                    output::rfc3339(entry.at_ms).unwrap_or_default(),
                    output::plain(&entry.by),
                    output::plain(&entry.from),
                    entry.domain.clone(),
                    output::plain(&entry.what),
                    match entry.ids.len() {
                        0 => String::new(),
                        count => count.to_string(),
                    },
                ]);
            }
        }
    }
    if !output.is_json() {
        if table.is_empty() {
            eprintln!("Nothing such was done yet.");
        } else {
            output.table(&table)?;
        }
    }
    Ok(Exit::Done)
}
