//! `holdfast events`: what is not well, and what changes.

use holdfast_proto::admin::{Event, EventsRequest};
use serde_json::{Value, json};

use crate::client::{self, Client};
use crate::failure::{Exit, Failure};
use crate::output::{self, Output};

pub(crate) async fn run(
    client: &mut Client,
    follow: bool,
    output: Output,
) -> Result<Exit, Failure> {
    let failed = "what happens is not known";
    let mut events = client
        .events(client::request(EventsRequest { follow }))
        .await
        .map_err(|status| Failure::from_status(failed, &status))?
        .into_inner();
    let mut exit = Exit::Done;
    while let Some(event) = events
        .message()
        .await
        .map_err(|status| Failure::from_status(failed, &status))?
    {
        if output.is_json() {
            output.json("event/v1", &as_json(&event))?;
        } else {
            output.line(line(&event))?;
        }
        if !event.good {
            exit = Exit::Unhealthy;
        }
    }
    if follow {
        return Err(Failure::new(failed, "the node has stopped telling")
            .exit(Exit::Unreachable)
            .fix("follow the events at another node"));
    }
    if exit == Exit::Done && !output.is_json() {
        eprintln!("All is well. `holdfast events --follow` tells what changes.");
    }
    Ok(exit)
}

fn line(event: &Event) -> String {
    let at = output::rfc3339(event.at_ms).unwrap_or_default();
    let mark = if event.good { "  " } else { "! " };
    let page = match event.alert.as_str() {
        "" => String::new(),
        alert => format!("  [{alert}]"),
    };
    output::plain(&format!("{at:<24}  {mark}{}{page}", event.text))
}

fn as_json(event: &Event) -> Value {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    json!({
        "at": output::rfc3339(event.at_ms),
        "kind": event.kind,
        "good": event.good,
        "text": event.text,
        "node": some(&event.node),
        "domain": some(&event.domain),
        "alert": some(&event.alert),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line_with_the_page_of_its_alert() {
        let event = Event {
            at_ms: 1_709_210_096_789,
            kind: "node_unreachable".to_owned(),
            text: "n3 does not answer: \u{1b}[2J".to_owned(),
            node: "n3".to_owned(),
            alert: "HoldfastNodeDown".to_owned(),
            ..Event::default()
        };
        assert_eq!(
            line(&event),
            "2024-02-29T12:34:56.789Z  ! n3 does not answer:  [2J  [HoldfastNodeDown]"
        );
        assert_eq!(as_json(&event)["domain"], Value::Null);
    }
}
