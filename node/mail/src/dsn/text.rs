//! The first part: what happened, and what to do, in plain words.

use std::time::Duration;

use super::returned::quoted_printable;
use super::{Kind, Report, Told, Why, said, words};

/// Recipients that are named one by one; the second part has all of them.
const NAMED_MAX: usize = 50;

/// Octets of a line of prose.
const PROSE_OCTETS_MAX: usize = 72;

pub(super) fn write(report: &Report<'_>, out: &mut String) {
    let mut text = String::new();
    for told in report.told.iter().take(NAMED_MAX) {
        one(report, told, &mut text);
    }
    if report.told.len() > NAMED_MAX {
        let more = format!(
            "and for {} more recipients; see below.",
            report.told.len() - NAMED_MAX
        );
        prose(&more, &mut text);
    }
    let end = match report.kind {
        Kind::Failed => format!(
            "Nothing more will be tried for the recipients named above. This was written by the \
             backup mail server {}, which keeps mail while the recipient's own mail server is \
             away.",
            report.reporting
        ),
        Kind::Delayed => format!(
            "You need not do anything: do not send it again. This was written by the backup mail \
             server {}, which keeps mail while the recipient's own mail server is away.",
            report.reporting
        ),
    };
    prose(&end, &mut text);
    let (charset, encoding, text) = if text.is_ascii() {
        ("us-ascii", "7bit", text)
    } else {
        (
            "utf-8",
            "quoted-printable",
            quoted_printable(text.as_bytes()),
        )
    };
    out.push_str(&format!(
        "Content-Type: text/plain; charset={charset}\r\n\
         Content-Description: For people\r\n\
         Content-Transfer-Encoding: {encoding}\r\n\r\n{text}"
    ));
}

fn one(report: &Report<'_>, told: &Told<'_>, out: &mut String) {
    let address = told.recipient.address.as_str();
    let server = told.remote.unwrap_or("the recipient's mail server");
    let age = span(report.at.since(report.original.received_at));
    let domain = told
        .recipient
        .address
        .domain()
        .map_or("that domain", |d| d.as_str());
    out.push_str(match report.kind {
        Kind::Failed => "Your message could not be delivered to\r\n\r\n",
        Kind::Delayed => "Your message has not been delivered yet to\r\n\r\n",
    });
    out.push_str(&format!("    {address}\r\n\r\n"));
    let why = match told.why {
        Why::Refused => format!("because {server} refused it."),
        Why::Expired => format!(
            "because the mail server of {domain} did not take it for {age}, which is as long as \
             mail for {domain} is kept."
        ),
        Why::Returned => format!("because the people who run the mail of {domain} returned it."),
        Why::Delayed => format!(
            "because the mail server of {domain} has not taken it for {age}. It is kept safely \
             and tried again and again{}.",
            told.will_retry_until.map_or(String::new(), |until| format!(
                ", until {}",
                until.rfc5322()
            ))
        ),
    };
    prose(&why, out);
    if !told.reply.is_empty() {
        prose(
            &match told.why {
                Why::Refused => "It said:".to_owned(),
                _ => format!("The last answer of {server} was:"),
            },
            out,
        );
        let reply = wrapped(told.reply, "\r\n    ");
        out.push_str(&format!("    {reply}\r\n\r\n"));
    }
    if report.kind == Kind::Failed {
        prose(advice(told), out);
    }
}

/// What the sender can do.
fn advice(told: &Told<'_>) -> &'static str {
    match (
        told.why,
        said(told.reply).map(|s| (s.class, s.subject, s.detail)),
    ) {
        (Why::Expired, _) => {
            "What you can do: reach the recipient in another way, and send the message again \
             once their mail works."
        }
        (Why::Returned, _) => "What you can do: ask the recipient in another way where to send it.",
        (_, Some((5, 1, _))) => {
            "What you can do: check the address for a typing error, or ask the recipient for the \
             right one, and send the message again."
        }
        (_, Some((5, 2, 2))) => {
            "What you can do: the recipient's mailbox is full; tell them in another way, and send \
             the message again later."
        }
        (_, Some((5, 2 | 3, 3 | 4))) => {
            "What you can do: the message is too large for this recipient; send it without \
             attachments, or in parts."
        }
        (_, Some((5, 7, _))) => {
            "What you can do: the recipient's mail server has a rule against this message; show \
             its answer to the recipient, or to whoever runs your mail."
        }
        _ => {
            "What you can do: check the address; if it is right, show this answer to the \
             recipient, in another way, or to whoever runs your mail."
        }
    }
}

/// A paragraph.
fn prose(text: &str, out: &mut String) {
    out.push_str(&wrapped(text, "\r\n"));
    out.push_str("\r\n\r\n");
}

/// Lines broken at spaces.
fn wrapped(text: &str, line_break: &str) -> String {
    let mut out = String::new();
    let mut column = 0;
    for word in words(text) {
        if column > 0 && column + 1 + word.len() > PROSE_OCTETS_MAX {
            out.push_str(line_break);
            column = 0;
        }
        if column > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += word.len();
    }
    out
}

/// A span of time in the largest unit that fits.
fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let (number, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7_200 => (seconds / 60, "minute"),
        7_200..172_800 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{number} {unit}{}", if number == 1 { "" } else { "s" })
}
