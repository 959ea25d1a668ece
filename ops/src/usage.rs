//! `holdfast usage`: what domains used in a month, and what is to be paid for it.

use std::collections::BTreeMap;

use holdfast_proto::admin::{Usage as Used, UsagePage, UsageRequest};
use serde_json::{Value, json};

use crate::cli::{Global, Usage};
use crate::client;
use crate::failure::{Exit, Failure};
use crate::money;
use crate::output::{self, Output};

/// The columns of a CSV file; programs rely on their names and their order.
const COLUMNS: [&str; 16] = [
    "month",
    "domain",
    "plan",
    "extra_steps",
    "currency",
    "amount",
    "accepted_messages",
    "accepted_bytes",
    "delivered_messages",
    "delivered_bytes",
    "returned_messages",
    "returned_bytes",
    "discarded_messages",
    "discarded_bytes",
    "peak_bytes",
    "byte_days",
];

pub(crate) async fn run(global: &Global, asked: Usage, output: Output) -> Result<Exit, Failure> {
    let failed = "the usage is not known";
    let mut client = client::connect(global).await?;
    let request = UsageRequest {
        month: asked.month.unwrap_or_default(),
        domain: asked.domain.unwrap_or_default(),
    };
    let mut pages = client::answer(failed, client.usage_of(client::request(request))).await?;
    let columns = [
        "DOMAIN",
        "PLAN",
        "AMOUNT",
        "ACCEPTED",
        "BYTES",
        "DELIVERED",
        "RETURNED",
        "DISCARDED",
        "PEAK",
        "BYTE-DAYS",
    ];
    let mut table = output::table(&columns, &columns[2..]);
    if asked.csv {
        output.line(record(&COLUMNS.map(str::to_owned)))?;
    }
    let mut head = UsagePage::default();
    let mut sums: BTreeMap<String, u128> = BTreeMap::new();
    loop {
        let page = pages.message().await;
        let Some(page) = page.map_err(|status| Failure::from_status(failed, &status))? else {
            break;
        };
        for used in &page.usages {
            if asked.csv {
                output.line(record(&as_record(&page.month, used)))?;
            } else if output.is_json() {
                output.json("usage/v1", &as_json(&page, used))?;
            } else {
                table.add_row(as_row(used));
                if !used.plan.is_empty() {
                    *sums.entry(used.currency.clone()).or_default() += u128::from(used.amount);
                }
            }
        }
        head = UsagePage {
            usages: Vec::new(),
            ..page
        };
    }
    if !asked.csv && !output.is_json() {
        if !table.is_empty() {
            output.table(&table)?;
        }
        eprintln!("{}", summary(&head, &sums, table.is_empty()));
    }
    Ok(Exit::Done)
}

fn summary(head: &UsagePage, sums: &BTreeMap<String, u128>, is_empty: bool) -> String {
    let Some(since) = output::rfc3339(head.since_ms).filter(|_| head.since_ms > 0) else {
        return "Usage is counted from the first plan on. Add one: holdfast plan add NAME --price \
                \"5.00 EUR\""
            .to_owned();
    };
    let month = &head.month;
    if is_empty {
        return format!("Nothing was used in {month}. Usage is counted since {since}.");
    }
    let so_far = if head.is_over {
        ""
    } else {
        ", which is not over"
    };
    if sums.is_empty() {
        return format!("Nothing to bill in {month}{so_far}: no domain was on a plan.");
    }
    let sums: Vec<_> = sums
        .iter()
        .map(|(currency, sum)| format!("{} {currency}", money::decimal(*sum, currency)))
        .collect();
    format!("To bill in {month}{so_far}: {}.", sums.join(" and "))
}

fn as_row(used: &Used) -> Vec<String> {
    let (plan, amount) = match (&used.plan[..], used.extra_steps) {
        ("", _) => ("-".to_owned(), "-".to_owned()),
        (plan, 0) => (plan.to_owned(), money::amount(used.amount, &used.currency)),
        (plan, steps) => (
            format!("{plan} +{steps}"),
            money::amount(used.amount, &used.currency),
        ),
    };
    vec![
        used.domain.clone(),
        plan,
        amount,
        used.accepted_messages.to_string(),
        output::bytes(used.accepted_bytes),
        used.delivered_messages.to_string(),
        used.returned_messages.to_string(),
        used.discarded_messages.to_string(),
        output::bytes(used.peak_bytes),
        output::bytes(used.byte_days),
    ]
}

/// In the order of [`COLUMNS`]; without a plan there is nothing in its columns.
fn as_record(month: &str, used: &Used) -> [String; COLUMNS.len()] {
    let on_plan = |text: String| {
        if used.plan.is_empty() {
            String::new()
        } else {
            text
        }
    };
    [
        month.to_owned(),
        used.domain.clone(),
        used.plan.clone(),
        on_plan(used.extra_steps.to_string()),
        used.currency.clone(),
        on_plan(money::decimal(used.amount.into(), &used.currency)),
        used.accepted_messages.to_string(),
        used.accepted_bytes.to_string(),
        used.delivered_messages.to_string(),
        used.delivered_bytes.to_string(),
        used.returned_messages.to_string(),
        used.returned_bytes.to_string(),
        used.discarded_messages.to_string(),
        used.discarded_bytes.to_string(),
        used.peak_bytes.to_string(),
        used.byte_days.to_string(),
    ]
}

/// One record of RFC 4180, but for the LF at its end.
fn record(fields: &[String]) -> String {
    let quoted = fields.iter().map(|field| {
        if field.contains(['"', ',', '\r', '\n']) {
            format!("\"{}\"", field.replace('"', "\"\""))
        } else {
            field.clone()
        }
    });
    format!("{}\r", quoted.collect::<Vec<_>>().join(","))
}

fn as_json(page: &UsagePage, used: &Used) -> Value {
    let amount = |messages: u64, bytes: u64| json!({"messages": messages, "bytes": bytes});
    let bill = (!used.plan.is_empty()).then(|| {
        json!({
            "plan": used.plan,
            "extra_steps": used.extra_steps,
            "currency": used.currency,
            "amount": money::decimal(used.amount.into(), &used.currency),
        })
    });
    json!({
        "month": page.month,
        "is_over": page.is_over,
        "domain": used.domain,
        "bill": bill,
        "accepted": amount(used.accepted_messages, used.accepted_bytes),
        "delivered": amount(used.delivered_messages, used.delivered_bytes),
        "returned": amount(used.returned_messages, used.returned_bytes),
        "discarded": amount(used.discarded_messages, used.discarded_bytes),
        "peak_bytes": used.peak_bytes,
        "byte_days": used.byte_days,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used() -> Used {
        Used {
            domain: "example.org".to_owned(),
            plan: "basic".to_owned(),
            extra_steps: 2,
            currency: "EUR".to_owned(),
            amount: 1250,
            accepted_messages: 1,
            accepted_bytes: 2,
            delivered_messages: 3,
            delivered_bytes: 4,
            returned_messages: 5,
            returned_bytes: 6,
            discarded_messages: 7,
            discarded_bytes: 8,
            peak_bytes: 9,
            byte_days: 10,
        }
    }

    #[test]
    fn a_csv_record_is_that_of_rfc_4180() {
        let fields = ["a", "b,c", "d\"e", "", "f\ng"].map(str::to_owned);
        assert_eq!(record(&fields), "a,\"b,c\",\"d\"\"e\",,\"f\ng\"\r");
        assert_eq!(
            record(&as_record("2026-11", &used())),
            "2026-11,example.org,basic,2,EUR,12.50,1,2,3,4,5,6,7,8,9,10\r"
        );
        let free = Used {
            plan: String::new(),
            currency: String::new(),
            ..used()
        };
        assert_eq!(
            record(&as_record("2026-11", &free)),
            "2026-11,example.org,,,,,1,2,3,4,5,6,7,8,9,10\r"
        );
    }

    #[test]
    fn the_sums_are_told_by_currency() {
        let head = UsagePage {
            month: "2026-11".to_owned(),
            is_over: false,
            since_ms: 1,
            usages: Vec::new(),
        };
        let sums = BTreeMap::from([("EUR".to_owned(), 1250), ("JPY".to_owned(), 900)]);
        assert_eq!(
            summary(&head, &sums, false),
            "To bill in 2026-11, which is not over: 12.50 EUR and 900 JPY."
        );
        let nothing = BTreeMap::new();
        assert!(summary(&head, &nothing, true).starts_with("Nothing was used in 2026-11."));
        assert!(summary(&head, &nothing, false).contains("no domain was on a plan"));
        let before = UsagePage::default();
        assert!(summary(&before, &nothing, true).contains("from the first plan on"));
    }
}
