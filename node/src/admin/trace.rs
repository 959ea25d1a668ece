//! The whole story of messages: what each member saw, and what was done by hand.

use std::collections::BTreeSet;

use holdfast_ledger::query;
use holdfast_mail::{MessageId, Timestamp};
use holdfast_proto::admin as wire;
use holdfast_proto::cluster::{Happening, TraceRequest};
use tonic::Status;

use super::{Admin, broken, mail};
use crate::replica::{Cluster, Seen, now};

/// Messages whose whole story is told when they were found by an address.
const MESSAGES_MAX: usize = 500;

pub(super) async fn trace(
    admin: &Admin,
    request: &wire::MailTraceRequest,
) -> Result<wire::MailTraceReply, Status> {
    let cluster = admin.cluster()?;
    let at = now();
    let ago = |ms: u64| Timestamp(at.0.saturating_sub(ms));
    let mut ids = BTreeSet::new();
    for id in &request.ids {
        ids.insert(mail::id(id)?);
    }
    if ids.is_empty()
        && [
            &request.from,
            &request.to,
            &request.client,
            &request.header_id,
        ]
        .iter()
        .all(|s| s.is_empty())
    {
        return Err(Status::invalid_argument(
            "name messages, or whose mail is meant: by sender, recipient, client or Message-ID",
        ));
    }
    let asked = TraceRequest {
        messages: wire_ids(&ids),
        from: request.from.clone(),
        to: request.to.clone(),
        client: request.client.clone(),
        header_id: request.header_id.trim_matches(['<', '>']).to_owned(),
        since_ms: if request.since_ms == 0 {
            0
        } else {
            ago(request.since_ms).0
        },
        until_ms: if request.until_ms == 0 {
            0
        } else {
            ago(request.until_ms).0
        },
        ..TraceRequest::default()
    };
    let mut story = Story::default();
    story.add(cluster.trace_everywhere(&asked).await);
    // What was found by an address names messages; a notification, the message it is about.
    let found: BTreeSet<MessageId> = story.messages().difference(&ids).copied().collect();
    let found: BTreeSet<MessageId> = found.into_iter().take(MESSAGES_MAX).collect();
    if !found.is_empty() {
        let asked = TraceRequest {
            messages: wire_ids(&found),
            ..TraceRequest::default()
        };
        story.add(cluster.trace_everywhere(&asked).await);
    }
    // Of messages that were named: why they waited.
    if !(ids.is_empty() && request.header_id.is_empty())
        && let Some(asked) = story.waits()
    {
        story.add(cluster.trace_everywhere(&asked).await);
    }
    let told: BTreeSet<MessageId> = ids.union(&found).copied().collect();
    let acts = acts(&cluster, &told)?;
    Ok(story.told(acts, at))
}

fn wire_ids(ids: &BTreeSet<MessageId>) -> Vec<bytes::Bytes> {
    ids.iter().map(|id| id.to_bytes().to_vec().into()).collect()
}

/// Domains whose primaries are told of.
const DOMAINS_MAX: usize = 20;

/// What the members saw, put together.
#[derive(Default)]
struct Story {
    seen: Vec<(String, Happening)>,
    silent: Vec<wire::Silent>,
    cut: BTreeSet<String>,
    /// By node: a second answer says it again.
    lost: std::collections::BTreeMap<String, u64>,
}

impl Story {
    fn add(&mut self, answers: Vec<Seen>) {
        for Seen { node, reply } in answers {
            match reply {
                Ok(reply) => {
                    if reply.more {
                        self.cut.insert(node.clone());
                    }
                    self.lost.insert(node.clone(), reply.lost);
                    let found = reply.found.into_iter();
                    self.seen.extend(found.map(|seen| (node.clone(), seen)));
                }
                Err(why) => {
                    if !self.silent.iter().any(|silent| silent.node == node) {
                        self.silent.push(wire::Silent { node, why });
                    }
                }
            }
        }
    }

    fn messages(&self) -> BTreeSet<MessageId> {
        self.seen
            .iter()
            .flat_map(|(_, seen)| [&seen.message, &seen.other])
            .filter_map(|id| MessageId::from_bytes(id))
            .collect()
    }

    /// What to ask about the primaries that the messages waited for.
    fn waits(&self) -> Option<TraceRequest> {
        let mail = || self.seen.iter().map(|(_, seen)| seen);
        let of = |address: &String| {
            address
                .rsplit_once('@')
                .map(|(_, domain)| domain.to_owned())
        };
        let domains: BTreeSet<String> = mail().flat_map(|seen| &seen.to).filter_map(of).collect();
        let is_last = |seen: &&Happening| seen.kind == "completed";
        let over = mail().filter(is_last).map(|seen| seen.at_ms).max();
        Some(TraceRequest {
            domains: domains.into_iter().take(DOMAINS_MAX).collect(),
            since_ms: mail().map(|seen| seen.at_ms).min()?,
            until_ms: over.unwrap_or(0),
            ..TraceRequest::default()
        })
        .filter(|asked| !asked.domains.is_empty())
    }

    fn told(self, acts: Vec<wire::Traced>, at: Timestamp) -> wire::MailTraceReply {
        let mut story: Vec<wire::Traced> = self
            .seen
            .into_iter()
            .map(|(node, seen)| traced(node, seen))
            .chain(acts)
            .collect();
        // Clocks of nodes differ by little; what one node saw stays in its order.
        story.sort_by_key(|told| told.at_ms);
        let mut unique: Vec<wire::Traced> = Vec::with_capacity(story.len());
        for told in story {
            let same_time = unique
                .iter()
                .rev()
                .take_while(|one| one.at_ms == told.at_ms);
            if !{ same_time }.any(|one| *one == told) {
                unique.push(told);
            }
        }
        wire::MailTraceReply {
            story: unique,
            silent: self.silent,
            now_ms: at.0,
            cut: self.cut.into_iter().collect(),
            lost: self.lost.values().sum(),
        }
    }
}

fn traced(node: String, seen: Happening) -> wire::Traced {
    let id =
        |bytes: &[u8]| MessageId::from_bytes(bytes).map_or_else(String::new, |id| id.to_string());
    wire::Traced {
        at_ms: seen.at_ms,
        node,
        kind: seen.kind,
        id: id(&seen.message),
        from: seen.from,
        to: seen.to,
        client: seen.client,
        text: seen.text,
        bytes: seen.bytes,
        domain: seen.domain,
        primary: seen.primary,
        other: id(&seen.other),
        by: String::new(),
        header_id: seen.header_id,
    }
}

/// What was done with the messages by hand, from the audit, which every node has.
fn acts(cluster: &Cluster, ids: &BTreeSet<MessageId>) -> Result<Vec<wire::Traced>, Status> {
    let mut acts = Vec::new();
    for entry in query::audit(&cluster.view()).map_err(broken)? {
        for message in entry.messages.iter().filter(|id| ids.contains(id)) {
            acts.push(wire::Traced {
                at_ms: entry.at.0,
                kind: entry.what.clone(),
                id: message.to_string(),
                domain: entry.domain.clone(),
                by: entry.by.clone(),
                ..wire::Traced::default()
            });
        }
    }
    Ok(acts)
}

#[cfg(test)]
mod tests {
    use holdfast_proto::cluster::TraceReply;

    use super::*;
    use crate::history::about;

    fn seen(node: &str, found: Vec<Happening>) -> Seen {
        Seen {
            node: node.to_owned(),
            reply: Ok(TraceReply {
                found,
                lost: 2,
                ..TraceReply::default()
            }),
        }
    }

    fn at(at_ms: u64, kind: &str) -> Happening {
        Happening {
            at_ms,
            ..about(kind, MessageId(7))
        }
    }

    #[test]
    fn a_story_is_in_the_order_of_time_says_nothing_twice_and_names_who_is_silent() {
        let mut story = Story::default();
        story.add(vec![
            seen("n1", vec![at(1, "accepted"), at(9, "completed")]),
            seen("n2", vec![at(4, "delivered")]),
            Seen {
                node: "n3".to_owned(),
                reply: Err("no answer in time".to_owned()),
            },
        ]);
        assert_eq!(story.messages(), BTreeSet::from([MessageId(7)]));
        // Found again by the message.
        story.add(vec![
            seen("n1", vec![at(1, "accepted"), at(9, "completed")]),
            seen("n2", vec![]),
            Seen {
                node: "n3".to_owned(),
                reply: Err("no answer in time".to_owned()),
            },
        ]);
        assert_eq!(story.waits(), None, "nobody is named as recipient");
        story.seen[0].1.to = vec!["a@example.org".to_owned()];
        let waits = story.waits().unwrap();
        assert_eq!(waits.domains, ["example.org"]);
        assert_eq!((waits.since_ms, waits.until_ms), (1, 9));
        story.seen[0].1.to.clear();
        let by_hand = wire::Traced {
            at_ms: 3,
            kind: "release".to_owned(),
            ..wire::Traced::default()
        };
        let told = story.told(vec![by_hand], Timestamp(10));
        let words: Vec<(u64, &str, &str)> = told
            .story
            .iter()
            .map(|told| (told.at_ms, told.node.as_str(), told.kind.as_str()))
            .collect();
        assert_eq!(
            words,
            [
                (1, "n1", "accepted"),
                (3, "", "release"),
                (4, "n2", "delivered"),
                (9, "n1", "completed"),
            ]
        );
        assert_eq!(told.silent.len(), 1);
        assert_eq!(told.lost, 4, "once for each node");
    }
}
