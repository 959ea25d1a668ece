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
        let domain = which.domain.as_deref();
        let by = which.by.as_deref();
        domain.is_none_or(|domain| entry.domain.eq_ignore_ascii_case(domain))
            && by.is_none_or(|name| is_by(name, &entry.by))
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

/// Whether an entry is of that person: `ann (operator)` used access from elsewhere, `root (uid 0)` a
/// node's own socket, and `ann (root (uid 0)), at n1` is both, for root ran it on the word of ann.
fn is_by(name: &str, entry: &str) -> bool {
    let mut who = entry.rsplit_once(", at ").map_or(entry, |(who, _)| who);
    while let Some((first, rest)) = who.split_once(" (") {
        let inner = rest.strip_suffix(')').unwrap_or(rest);
        if first == name {
            return true;
        }
        // What somebody may do is no name.
        if ["viewer", "operator", "admin"].contains(&inner) {
            return false;
        }
        who = inner;
    }
    who == name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_found_by_each_name_in_it_and_by_no_role() {
        for (entry, names) in [
            ("ann (operator)", &["ann"][..]),
            ("root (uid 0)", &["root", "uid 0"]),
            ("ann (root (uid 0)), at n1", &["ann", "root", "uid 0"]),
            ("bob (ann (admin)), at n1", &["bob", "ann"]),
            ("operator (uid 11)", &["operator", "uid 11"]),
            ("uid 4711, at n1", &["uid 4711"]),
            ("ann@example.org", &["ann@example.org"]),
        ] {
            for name in [
                "ann",
                "an",
                "bob",
                "root",
                "operator",
                "admin",
                "n1",
                "uid 0",
                "uid 11",
                "uid 4711",
                "ann@example.org",
            ] {
                assert_eq!(is_by(name, entry), names.contains(&name), "{name}: {entry}");
            }
        }
    }
}
