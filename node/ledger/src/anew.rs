//! A cluster that is founded anew, from what another one knew.
//!
//! Domains, accounts, mail and what became of it stay; who belonged to the old cluster, its keys, its
//! invitations and its leases do not, so that none of its nodes can ever take part again.

use holdfast_mail::{Domain, Envelope, MessageId, NodeId};
use holdfast_proto::ledger as proto;

use crate::{
    Command, Disposal, Kv, KvError, KvRead, Logged, Member, Reply, Seq, apply, query, row, tables,
};

/// The new cluster.
#[derive(Clone, Debug)]
pub struct Founding {
    pub cluster_id: [u8; 16],
    pub ca_certificate: Vec<u8>,
    pub ca_key: Vec<u8>,
    /// Its only member, whose id no node of the old cluster had.
    pub first: Member,
    /// Its feature level.
    pub level: u32,
}

/// Rows looked at in one go.
const PAGE: usize = 1_000;

/// Makes the rows of an old cluster those of a new one.
///
/// # Errors
/// They cannot be read, or are of no cluster.
pub fn found_anew(kv: &mut dyn Kv, founding: Founding) -> Result<(), KvError> {
    if query::cluster(kv)?.is_none() {
        return Err(KvError("they are of no cluster".to_owned()));
    }
    for table in [
        tables::MEMBERS,
        tables::REMOVED,
        tables::TOKENS,
        tables::LEASES,
        tables::POST,
        tables::ROTATION,
        tables::TRUSTING,
        tables::GRANTS,
        // The keys of the old cluster; and the new one may be a copy beside it, on trial.
        tables::ACME,
        tables::ACME_ANSWERS,
        tables::ACME_ISSUED,
        tables::DRAINED,
        tables::ATTENDED,
    ] {
        for (key, _) in kv.scan(table, &[], usize::MAX)? {
            kv.delete(&key);
        }
    }
    let cluster = proto::ClusterRow {
        id: founding.cluster_id.to_vec().into(),
        ca_certificate: founding.ca_certificate.into(),
        ca_key: founding.ca_key.into(),
        ..proto::ClusterRow::default()
    };
    row::put(kv, tables::CLUSTER, &cluster);
    let level = proto::LevelRow {
        level: founding.level,
    };
    row::put(kv, tables::LEVEL, &level);
    let member = crate::wire::member_to(&founding.first);
    row::put(kv, &tables::member(founding.first.id), &member);
    Ok(())
}

/// What became of the mail.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sorted {
    /// Messages that were to be delivered, and are set aside until somebody decides.
    pub set_aside: u64,
    /// Notifications that senders are owed, or that are on their way to them. They go out in any case: the
    /// old cluster may have sent them, and a sender who hears of a failure twice is better off than one who
    /// never does.
    pub notifications: u64,
    /// Messages whose content is nowhere: they are given up.
    pub without_content: Vec<Envelope>,
}

/// Gives up messages without a body, and sets aside what waits for delivery, unless `keep_queued`: the
/// old cluster may have delivered it. `by` is what the audit says.
///
/// # Errors
/// The rows cannot be read.
pub fn sort_mail(
    kv: &mut dyn Kv,
    when: &mut Logged,
    by: &str,
    keep_queued: bool,
    has_body: &dyn Fn(MessageId) -> bool,
) -> Result<Sorted, KvError> {
    let without_content = give_up(kv, when, by, has_body)?;
    let set_aside = match keep_queued {
        true => 0,
        false => set_aside(kv, when, by)?,
    };
    Ok(Sorted {
        set_aside,
        notifications: notifications(kv)?,
        without_content,
    })
}

fn give_up(
    kv: &mut dyn Kv,
    when: &mut Logged,
    by: &str,
    has_body: &dyn Fn(MessageId) -> bool,
) -> Result<Vec<Envelope>, KvError> {
    let mut given_up = Vec::new();
    let mut after = None;
    loop {
        let page = query::bodies(kv, after, PAGE)?;
        let Some(last) = page.last() else {
            return Ok(given_up);
        };
        after = Some(last.id);
        for body in page.iter().filter(|body| !has_body(body.id)) {
            let Some(envelope) = query::envelope(kv, body.id)? else {
                continue;
            };
            // What is only owed, or a notification on its way, is in no domain's queue, and its
            // domain may be nobody's: nothing could be disposed of there.
            for domain in apply::give_up(kv, *when, body.id)? {
                dispose(kv, when, &domain, Disposal::Discard, &[body.id], by)?;
            }
            given_up.push(envelope);
        }
    }
}

/// Also of domains where nothing is to be delivered now: what was refused is tried again by itself.
fn set_aside(kv: &mut dyn Kv, when: &mut Logged, by: &str) -> Result<u64, KvError> {
    let mut set_aside = 0;
    let mut after: Option<Domain> = None;
    loop {
        let domains = query::domains_with_mail(kv, after.as_ref(), PAGE)?;
        let Some(last) = domains.last().cloned() else {
            return Ok(set_aside);
        };
        for domain in domains {
            let mut more = true;
            while more {
                let done = dispose(kv, when, &domain, Disposal::Hold, &[], by)?;
                set_aside += done.0;
                more = done.1;
            }
        }
        after = Some(last);
    }
}

fn notifications(kv: &dyn KvRead) -> Result<u64, KvError> {
    let owed = kv.scan(tables::OWED, &[], usize::MAX)?.len();
    let on_their_way = kv.scan(tables::REPORTS, &[], usize::MAX)?.len();
    Ok((owed + on_their_way) as u64)
}

/// What another survivor's messages came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Messages that were not known.
    pub taken: u64,
    /// Messages that were not known, and are too old to say whether they were delivered.
    pub refused: u64,
}

/// Takes messages that another survivor has, by their ids, with what is left of each there. Those that
/// are known, or known to be delivered or cancelled, stay as they are.
///
/// # Errors
/// The rows cannot be read.
pub fn take_messages(
    kv: &mut dyn Kv,
    when: &mut Logged,
    other: &dyn KvRead,
) -> Result<Taken, KvError> {
    let mut taken = Taken::default();
    let known_until = query::now(kv)?;
    let mut after = None;
    loop {
        let page = query::bodies(other, after, PAGE)?;
        let Some(last) = page.last() else {
            return Ok(taken);
        };
        after = Some(last.id);
        for body in page {
            let Some((was, envelope)) = query::message(other, body.id)? else {
                continue;
            };
            if query::message(kv, body.id)?.is_some() || query::marked_at(kv, body.id)?.is_some() {
                continue;
            }
            // It may have been delivered, and its mark swept. By logged time, as marks are: by the wall
            // clock all mail would be too old when a cluster is founded anew a day later.
            if apply::is_stale(body.id, known_until) {
                taken.refused += 1;
                continue;
            }
            when.step();
            let position = u16::try_from(when.position).unwrap_or(u16::MAX);
            let seq = Seq::new(when.index, position);
            apply::take_over(kv, *when, seq, &envelope, other, was)?;
            taken.taken += 1;
        }
    }
}

/// How many, and whether there are more.
fn dispose(
    kv: &mut dyn Kv,
    when: &mut Logged,
    domain: &Domain,
    how: Disposal,
    messages: &[MessageId],
    by: &str,
) -> Result<(u64, bool), KvError> {
    // Each has a place of its own in the audit.
    when.step();
    let command = Command::Dispose {
        domain: domain.clone(),
        how,
        messages: messages.to_vec(),
        // Hold is of what waits in any case.
        held: how != Disposal::Hold,
        by: by.to_owned(),
    };
    match apply(kv, *when, &command, &mut Vec::new())? {
        Reply::Disposed { messages, more } => Ok((messages, more && messages > 0)),
        other => Err(KvError(format!("mail was not sorted: {other:?}"))),
    }
}

/// A node id that no node of the old cluster had, nor will get: those are places in its log.
#[must_use]
pub fn first_node(last_index: u64) -> NodeId {
    NodeId(last_index + 1)
}

#[cfg(test)]
mod tests {
    use holdfast_mail::dsn::Kind;
    use holdfast_mail::{Address, BodyRef, BodyType, Recipient, ReversePath, Timestamp};

    use super::*;
    use crate::account::AccountChange;
    use crate::{MemoryKv, Outcome, Primary, Verdict};

    fn member(id: u64, name: &str) -> Member {
        Member {
            id: NodeId(id),
            name: name.to_owned(),
            region: String::new(),
            cluster_address: String::new(),
            smtp_name: String::new(),
            smtp_address: String::new(),
        }
    }

    fn message(number: u128) -> Envelope {
        let id = MessageId::new(Timestamp(1_000), number);
        Envelope {
            id,
            reverse_path: ReversePath::Null,
            recipients: vec![Recipient {
                address: Address::parse("joe@example.org", false).unwrap(),
                notify: None,
                orcpt: None,
            }],
            body: BodyRef {
                id,
                len: 1,
                digest: [0; 32],
            },
            received_at: Timestamp(1_000),
            body_type: BodyType::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
            helo: String::new(),
            client: String::new(),
        }
    }

    #[test]
    fn mail_and_domains_stay_and_whoever_belonged_to_the_old_cluster_goes() {
        let domain = Domain::parse("example.org").unwrap();
        let mut kv = MemoryKv::new();
        let mut when = Logged {
            index: 1,
            position: 0,
            at: Timestamp(1_000),
        };
        let mut enter = |kv: &mut MemoryKv, command: Command| {
            when.index += 1;
            let reply = apply(kv, when, &command, &mut Vec::new()).unwrap();
            assert!(
                !matches!(reply, Reply::Refused(_)),
                "{command:?}: {reply:?}"
            );
        };
        enter(
            &mut kv,
            Command::Bootstrap {
                cluster_id: [1; 16],
                ca_certificate: vec![1],
                ca_key: vec![1],
                first: member(1, "old"),
                level: crate::level::NEWEST,
            },
        );
        enter(
            &mut kv,
            Command::Invite {
                token_id: [2; 16],
                secret_hash: [2; 32],
                expires_at: Timestamp(u64::MAX),
            },
        );
        enter(
            &mut kv,
            Command::SetDomain {
                domain: domain.clone(),
                primary: Primary {
                    host: "mx.example.org".to_owned(),
                    port: 25,
                },
                must_be_new: true,
                must_exist: false,
            },
        );
        for number in 1..=3 {
            let envelope = message(number);
            enter(&mut kv, Command::Accept { envelope });
        }
        enter(
            &mut kv,
            Command::AcquireLease {
                domain: domain.clone(),
                node: NodeId(1),
                ttl_ms: 60_000,
            },
        );

        let mut later = Logged {
            index: 100,
            position: 0,
            at: Timestamp(2_000),
        };
        let has_body = |id| id != message(2).id;
        let sorted = sort_mail(&mut kv, &mut later, "restored", false, &has_body).unwrap();
        let lost: Vec<_> = sorted.without_content.iter().map(|it| it.id).collect();
        assert_eq!((sorted.set_aside, lost), (2, vec![message(2).id]));
        let founding = Founding {
            cluster_id: [9; 16],
            ca_certificate: vec![9],
            ca_key: vec![9],
            first: member(first_node(99).0, "new"),
            level: 1,
        };
        found_anew(&mut kv, founding).unwrap();

        let members = query::members(&kv).unwrap();
        let names: Vec<_> = members.iter().map(|member| member.name.as_str()).collect();
        assert_eq!((names, members[0].id), (vec!["new"], NodeId(100)));
        assert_eq!(query::cluster(&kv).unwrap().unwrap().id, [9; 16]);
        assert!(query::lease(&kv, &domain).unwrap().is_none());
        assert!(kv.scan(tables::TOKENS, &[], 9).unwrap().is_empty());
        assert!(query::domain(&kv, &domain).unwrap().is_some());
        assert_eq!(query::held(&kv, &domain, None, 9).unwrap(), []);
        for (number, is_there) in [(1, true), (2, false), (3, true)] {
            let envelope = query::envelope(&kv, message(number).id).unwrap();
            assert_eq!(envelope.is_some(), is_there, "message {number}");
        }
        // A member that joins later has a number that nobody had.
        assert!(first_node(99) > NodeId(99));
    }

    const ALONE: NodeId = NodeId(1);

    /// A cluster with the domain example.org, whose owner sends mail.
    struct Old {
        kv: MemoryKv,
        when: Logged,
    }

    impl Old {
        fn new() -> Self {
            let when = Logged {
                index: 1,
                position: 0,
                at: Timestamp(1_000),
            };
            let mut old = Self {
                kv: MemoryKv::new(),
                when,
            };
            old.enter(Command::Bootstrap {
                cluster_id: [1; 16],
                ca_certificate: vec![1],
                ca_key: vec![1],
                first: member(ALONE.0, "old"),
                level: crate::level::NEWEST,
            });
            old.enter(Command::SetDomain {
                domain: domain("example.org"),
                primary: Primary {
                    host: "mx.example.org".to_owned(),
                    port: 25,
                },
                must_be_new: true,
                must_exist: false,
            });
            old.enter(Command::OfAccount {
                name: "joe".to_owned(),
                change: AccountChange::Add {
                    password: "hash".to_owned(),
                    domains: vec![domain("example.org")],
                },
            });
            old
        }

        fn enter(&mut self, command: Command) -> Reply {
            self.when.index += 1;
            let reply = apply(&mut self.kv, self.when, &command, &mut Vec::new()).unwrap();
            assert!(
                !matches!(reply, Reply::Refused(_)),
                "{command:?}: {reply:?}"
            );
            reply
        }

        /// Joe sends a message to somebody at each of the domains.
        fn submit(&mut self, number: u128, to: &[&str]) {
            let recipient = |domain: &&str| Recipient {
                address: Address::parse(&format!("ann@{domain}"), false).unwrap(),
                notify: None,
                orcpt: None,
            };
            self.enter(Command::Submit {
                account: "joe".to_owned(),
                envelope: Envelope {
                    reverse_path: from("joe@example.org"),
                    recipients: to.iter().map(recipient).collect(),
                    ..message(number)
                },
            });
        }

        /// A server answered about one recipient.
        fn settle(&mut self, number: u128, at: &str, recipient: u32, verdict: Verdict) {
            let acquired = self.enter(Command::AcquireLease {
                domain: domain(at),
                node: ALONE,
                ttl_ms: 60_000,
            });
            let Reply::Lease { epoch, .. } = acquired else {
                panic!("{acquired:?}");
            };
            self.enter(Command::Settle {
                domain: domain(at),
                node: ALONE,
                epoch,
                outcomes: vec![Outcome {
                    message: message(number).id,
                    recipient,
                    verdict,
                    reply: "said".to_owned(),
                }],
            });
        }

        /// A stranger's message is given back; its notification is owed.
        fn give_back(&mut self, number: u128) {
            self.enter(Command::Accept {
                envelope: Envelope {
                    reverse_path: from("ann@stranger.example"),
                    ..message(number)
                },
            });
            self.enter(Command::Dispose {
                domain: domain("example.org"),
                how: Disposal::Bounce,
                messages: vec![message(number).id],
                held: true,
                by: String::new(),
            });
        }

        /// The notification is on its way to the stranger.
        fn report(&mut self, number: u128, about: u128) {
            let taken = self.enter(Command::TakePost {
                node: ALONE,
                ttl_ms: 60_000,
                epoch: 0,
            });
            let Reply::Lease { epoch, .. } = taken else {
                panic!("{taken:?}");
            };
            let about = message(about).id;
            let owed = query::owed_about(&self.kv, about, Kind::Failed).unwrap();
            self.enter(Command::Report {
                node: ALONE,
                epoch,
                about,
                kind: Kind::Failed,
                version: owed.unwrap().version,
                envelope: Envelope {
                    recipients: vec![Recipient {
                        address: Address::parse("ann@stranger.example", false).unwrap(),
                        notify: None,
                        orcpt: None,
                    }],
                    ..message(number)
                },
            });
        }
    }

    fn domain(name: &str) -> Domain {
        Domain::parse(name).unwrap()
    }

    fn from(address: &str) -> ReversePath {
        ReversePath::Mailbox(Address::parse(address, false).unwrap())
    }

    const LATER: Logged = Logged {
        index: 100,
        position: 0,
        at: Timestamp(2_000),
    };

    #[test]
    fn a_message_without_content_goes_whatever_is_left_of_it() {
        let mut old = Old::new();
        // Its sender is owed a word, and it is in no queue any more.
        old.give_back(1);
        // The same, and its domain was known by it alone.
        old.submit(2, &["stranger.example"]);
        old.settle(2, "stranger.example", 0, Verdict::Refused);
        // A notification on its way to a domain that is nobody's.
        old.give_back(3);
        old.report(4, 3);
        // One part is owed, and the other waits.
        old.submit(5, &["stranger.example", "elsewhere.example"]);
        old.settle(5, "stranger.example", 0, Verdict::Refused);
        let sorted = sort_mail(&mut old.kv, &mut { LATER }, "restored", false, &|_| false).unwrap();
        let lost: Vec<_> = sorted.without_content.iter().map(|it| it.id).collect();
        assert_eq!(lost, [1, 2, 4, 5].map(|number| message(number).id));
        assert_eq!(query::bodies(&old.kv, None, 9).unwrap(), []);
        assert_eq!(query::total(&old.kv).unwrap(), query::Counts::default());
        for table in [tables::OWED, tables::REPORTS, tables::HELD, tables::COUNTS] {
            assert_eq!(old.kv.scan(table, &[], 9).unwrap(), [], "{table:?}");
        }
    }

    #[test]
    fn what_was_refused_and_would_be_tried_again_is_set_aside_too() {
        let mut old = Old::new();
        let home = domain("example.org");
        let envelope = message(1);
        old.enter(Command::Accept { envelope });
        // Nobody knows yet whether the primary means it.
        old.settle(1, "example.org", 0, Verdict::Refused);
        assert_eq!(query::held(&old.kv, &home, None, 9).unwrap(), []);
        let refused = query::refused(&old.kv, &home, 9).unwrap();
        assert!(refused[0].retry_at.is_some(), "{refused:?}");
        let sorted = sort_mail(&mut old.kv, &mut { LATER }, "restored", false, &|_| true).unwrap();
        assert_eq!(sorted.set_aside, 1);
        assert_eq!(query::refused(&old.kv, &home, 9).unwrap(), []);
        let aside = query::aside(&old.kv, &home, None, 9).unwrap();
        assert!(aside[0].kept_back, "{aside:?}");
    }

    #[test]
    fn notifications_go_out_in_any_case_and_are_counted() {
        for keep_queued in [false, true] {
            let mut old = Old::new();
            // One is on its way, one is owed, and one has nobody to go to.
            old.give_back(1);
            old.report(2, 1);
            old.give_back(3);
            old.submit(4, &["stranger.example"]);
            old.settle(4, "stranger.example", 0, Verdict::Refused);
            let has_body = |id| id != message(4).id;
            let sorted = sort_mail(&mut old.kv, &mut { LATER }, "", keep_queued, &has_body);
            assert_eq!(sorted.unwrap().notifications, 2);
        }
    }

    #[test]
    fn a_message_of_another_survivor_is_taken_as_it_stands_there() {
        let mut old = Old::new();
        let mut other = Old::new();
        // One recipient has it.
        other.submit(1, &["stranger.example", "elsewhere.example"]);
        other.settle(1, "stranger.example", 0, Verdict::Delivered);
        // One was refused, and its sender is owed a word.
        other.submit(2, &["stranger.example"]);
        other.settle(2, "stranger.example", 0, Verdict::Refused);
        other.give_back(3);
        other.report(4, 3);
        // The one that goes further knows that this was delivered.
        for side in [&mut old, &mut other] {
            side.submit(5, &["stranger.example"]);
        }
        old.settle(5, "stranger.example", 0, Verdict::Delivered);
        let mut when = LATER;
        let taken = take_messages(&mut old.kv, &mut when, &other.kv).unwrap();
        assert_eq!((taken.taken, taken.refused), (3, 0));
        let again = take_messages(&mut old.kv, &mut when, &other.kv).unwrap();
        assert_eq!(again, Taken::default());

        assert_eq!(query::total(&old.kv).unwrap().messages, 3);
        let held = |at: &str| query::held(&old.kv, &domain(at), None, 9).unwrap();
        assert_eq!(held("stranger.example"), []);
        let waits = held("elsewhere.example");
        assert_eq!(waits.len(), 1);
        assert_eq!(
            (waits[0].message, &waits[0].pending[..]),
            (message(1).id, &[1][..])
        );
        let owed = query::owed_about(&old.kv, message(2).id, Kind::Failed).unwrap();
        assert_eq!(owed.unwrap().recipients.len(), 1);
        let reports = query::reports(&old.kv, None, 9).unwrap();
        assert_eq!(reports.len(), 1);
        let (seq, _) = query::message(&old.kv, message(4).id).unwrap().unwrap();
        assert_eq!(reports[0].seq, seq);
    }

    #[test]
    fn a_message_that_may_be_delivered_and_forgotten_is_not_taken() {
        let mut other = Old::new();
        other.submit(1, &["stranger.example"]);
        let mut kv = Old::new().kv;
        let batch = crate::Batch {
            at: Timestamp(1_000).plus(crate::MARK_KEPT * 2),
            commands: Vec::new(),
        };
        crate::apply_batch(&mut kv, 50, &batch, &mut Vec::new()).unwrap();
        let taken = take_messages(&mut kv, &mut { LATER }, &other.kv).unwrap();
        assert_eq!((taken.taken, taken.refused), (0, 1));
    }

    #[test]
    fn more_is_sorted_than_one_entry_has_places() {
        let mut when = Logged {
            position: u32::from(u16::MAX),
            ..LATER
        };
        when.step();
        assert_eq!((when.index, when.position), (LATER.index + 1, 0));
    }

    #[test]
    fn rows_of_no_cluster_are_refused() {
        let founding = Founding {
            cluster_id: [9; 16],
            ca_certificate: Vec::new(),
            ca_key: Vec::new(),
            first: member(1, "new"),
            level: 1,
        };
        assert!(found_anew(&mut MemoryKv::new(), founding).is_err());
    }
}
