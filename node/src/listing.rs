//! Mail, page by page: what waits, what was refused, what was set aside.

mod walk;

use holdfast_ledger::query::{self, Held};
use holdfast_ledger::{KvError, KvRead, Seq};
use holdfast_mail::{Domain, Envelope, MessageId, Timestamp};

pub use walk::{Found, Walk};

/// Rows of one queue read at once.
const PAGE: usize = 256;

/// Rows looked at for one page, so that a search that finds little does not walk a long queue in
/// one go.
const LOOKED_AT_MAX: usize = 8 * PAGE;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It waits for delivery.
    Held,
    /// The primary refused it, and it is kept.
    Refused,
    /// Somebody keeps it back.
    Aside,
    /// Somebody deleted it; it can be had back.
    Deleted,
}

impl State {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Refused => "refused",
            Self::Aside => "kept back",
            Self::Deleted => "deleted",
        }
    }
}

/// Which mail is looked for. Empty texts, none and zero are no condition.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub states: Vec<State>,
    /// Part of the reverse-path, in whatever case.
    pub from: String,
    /// Part of a recipient's address, in whatever case.
    pub to: String,
    /// Part of either.
    pub text: String,
    pub received_before: Option<Timestamp>,
    pub received_after: Option<Timestamp>,
    /// Bytes.
    pub larger_than: u64,
    /// Bytes.
    pub smaller_than: Option<u64>,
    /// Part of what the primary last said, in whatever case.
    pub reply: String,
}

#[derive(Clone, Debug)]
pub struct Listed {
    pub state: State,
    pub row: Held,
    pub envelope: Envelope,
}

impl Listed {
    /// Those it is still about, of the envelope's recipients.
    pub fn recipients(&self) -> impl Iterator<Item = String> {
        self.row
            .pending
            .iter()
            .filter_map(|at| self.envelope.recipients.get(*at as usize))
            .map(|recipient| recipient.address.to_string())
    }
}

/// A page of mail in the order of acceptance.
#[derive(Debug, Default)]
pub struct Page {
    pub mail: Vec<Listed>,
    /// What to ask for next; `None`: that was all. A page may be short, or empty, and not the
    /// last.
    pub next: Option<Seq>,
}

/// At most `limit` of the domain's messages behind `after`.
///
/// # Errors
/// The rows cannot be read.
pub fn page(
    view: &dyn KvRead,
    domain: &Domain,
    wanted: &Wanted,
    after: Option<Seq>,
    limit: usize,
) -> Result<Page, KvError> {
    let mut found = Page::default();
    let (mut after, mut looked_at) = (after, 0);
    while looked_at < LOOKED_AT_MAX {
        let (rows, more) = rows(view, domain, &wanted.states, after)?;
        for (state, row) in rows {
            // A message may be in two queues: both are on the same page.
            let is_next = after != Some(row.seq);
            if is_next && found.mail.len() >= limit {
                found.next = after;
                return Ok(found);
            }
            looked_at += 1;
            after = Some(row.seq);
            if !wanted.states.is_empty() && !wanted.states.contains(&state) {
                continue;
            }
            // It may have gone since the row was read from another view; not from this one.
            let Some(envelope) = query::envelope(view, row.message)? else {
                continue;
            };
            let listed = Listed {
                state,
                row,
                envelope,
            };
            if wanted.includes(&listed) {
                found.mail.push(listed);
            }
        }
        if !more {
            return Ok(found);
        }
    }
    found.next = after;
    Ok(found)
}

/// The next rows of all queues that may hold what is wanted, in order; and whether there are more.
fn rows(
    view: &dyn KvRead,
    domain: &Domain,
    states: &[State],
    after: Option<Seq>,
) -> Result<(Vec<(State, Held)>, bool), KvError> {
    let wants = |some: &[State]| states.is_empty() || states.iter().any(|s| some.contains(s));
    let mut rows: Vec<(State, Held)> = Vec::new();
    // Rows behind the end of a page that was full are not known yet.
    let mut known_to: Option<Seq> = None;
    let mut add = |page: Vec<Held>, state: fn(&Held) -> State| {
        if let Some(end) = page.get(PAGE - 1).map(|row| row.seq) {
            known_to = Some(known_to.map_or(end, |known| known.min(end)));
        }
        rows.extend(page.into_iter().map(|row| (state(&row), row)));
    };
    if wants(&[State::Held]) {
        add(query::held(view, domain, after, PAGE)?, |_| State::Held);
    }
    if wants(&[State::Refused]) {
        add(query::refused_after(view, domain, after, PAGE)?, |_| {
            State::Refused
        });
    }
    if wants(&[State::Aside, State::Deleted]) {
        add(query::aside(view, domain, after, PAGE)?, aside);
    }
    rows.sort_by_key(|(_, row)| row.seq);
    if let Some(end) = known_to {
        rows.retain(|(_, row)| row.seq <= end);
    }
    Ok((rows, known_to.is_some()))
}

/// What is kept of one message, in all domains and queues.
///
/// # Errors
/// The rows cannot be read.
pub fn places(view: &dyn KvRead, id: MessageId) -> Result<Vec<(Domain, Listed)>, KvError> {
    let Some((seq, envelope)) = query::message(view, id)? else {
        return Ok(Vec::new());
    };
    let before = seq.0.checked_sub(1).map(Seq);
    let mut found = Vec::new();
    for domain in envelope.domains() {
        let held = query::held(view, &domain, before, 1)?.into_iter();
        let refused = query::refused_after(view, &domain, before, 1)?.into_iter();
        let others = query::aside(view, &domain, before, 1)?.into_iter();
        let rows = held
            .map(|row| (State::Held, row))
            .chain(refused.map(|row| (State::Refused, row)))
            .chain(others.map(|row| (aside(&row), row)));
        for (state, row) in rows.filter(|(_, row)| row.seq == seq) {
            let listed = Listed {
                state,
                row,
                envelope: envelope.clone(),
            };
            found.push((domain.clone(), listed));
        }
    }
    Ok(found)
}

fn aside(row: &Held) -> State {
    match row.discard_at {
        None => State::Aside,
        Some(_) => State::Deleted,
    }
}

impl Wanted {
    fn includes(&self, mail: &Listed) -> bool {
        let recipients: Vec<String> = mail.recipients().collect();
        self.fits(&mail.envelope, &recipients, &mail.row.last_reply)
    }

    /// The states apart.
    fn fits(&self, envelope: &Envelope, recipients: &[String], reply: &str) -> bool {
        let has = |text: &str, part: &str| {
            part.is_empty() || text.to_lowercase().contains(&part.to_lowercase())
        };
        let from = envelope.reverse_path.as_str();
        let to = |part: &str| recipients.iter().any(|address| has(address, part));
        let (at, len) = (envelope.received_at, envelope.body.len);
        has(from, &self.from)
            && to(&self.to)
            && (has(from, &self.text) || to(&self.text))
            && has(reply, &self.reply)
            && self.received_before.is_none_or(|before| at < before)
            && self.received_after.is_none_or(|after| at >= after)
            && len >= self.larger_than
            && self.smaller_than.is_none_or(|most| len < most)
    }
}

#[cfg(test)]
mod tests {
    use holdfast_ledger::account::AccountChange;
    use holdfast_ledger::{Batch, Command, Disposal, Member, MemoryKv, Primary, apply_batch};
    use holdfast_mail::{Address, BodyRef, BodyType, MessageId, NodeId, Recipient, ReversePath};

    use super::*;

    /// More than the rows read at once.
    const MESSAGES: u64 = 3 * PAGE as u64 + 7;

    fn domain() -> Domain {
        Domain::parse("example.org").unwrap()
    }

    fn id(n: u64) -> MessageId {
        MessageId::new(Timestamp(n), u128::from(n))
    }

    fn envelope(n: u64) -> Envelope {
        let address = |text: String| Address::parse(&text, false).unwrap();
        Envelope {
            id: id(n),
            reverse_path: ReversePath::Mailbox(address(format!("From{n}@sender.example"))),
            recipients: vec![Recipient {
                address: address(format!("to{}@example.org", n % 2)),
                notify: None,
                orcpt: None,
            }],
            body: BodyRef {
                id: id(n),
                len: n,
                digest: [0; 32],
            },
            received_at: Timestamp(n),
            body_type: BodyType::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
            helo: String::new(),
            client: String::new(),
        }
    }

    /// Message n was received at n and is n bytes long; of ten, one is kept back and one deleted.
    fn ledger() -> MemoryKv {
        let dispose = |how, n| Command::Dispose {
            domain: domain(),
            how,
            messages: vec![id(n)],
            held: false,
            by: String::new(),
        };
        let mut commands = vec![
            Command::Bootstrap {
                cluster_id: [0; 16],
                ca_certificate: vec![],
                ca_key: vec![],
                first: Member {
                    id: NodeId(1),
                    name: "oslo".to_owned(),
                    region: String::new(),
                    cluster_address: String::new(),
                    smtp_name: String::new(),
                    smtp_address: String::new(),
                },
                level: holdfast_ledger::level::NEWEST,
            },
            Command::SetDomain {
                domain: domain(),
                primary: Primary {
                    host: "mx.example".to_owned(),
                    port: 25,
                },
                must_be_new: true,
                must_exist: false,
            },
        ];
        for n in 1..=MESSAGES {
            commands.push(Command::Accept {
                envelope: envelope(n),
            });
            match n % 10 {
                3 => commands.push(dispose(Disposal::Hold, n)),
                7 => commands.push(dispose(Disposal::Delete, n)),
                _ => {}
            }
        }
        let mut kv = MemoryKv::new();
        for (index, command) in (1..).zip(commands) {
            let batch = Batch {
                at: Timestamp(MESSAGES + index),
                commands: vec![command],
            };
            apply_batch(&mut kv, index, &batch, &mut Vec::new()).unwrap();
        }
        kv
    }

    /// The lengths, page by page, which are the messages' numbers.
    fn all(kv: &MemoryKv, wanted: &Wanted, limit: usize) -> Vec<(State, u64)> {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = page(kv, &domain(), wanted, after, limit).unwrap();
            assert!(page.mail.len() <= limit);
            let of = |mail: &Listed| (mail.state, mail.envelope.body.len);
            found.extend(page.mail.iter().map(of));
            after = page.next;
            if after.is_none() {
                return found;
            }
        }
    }

    fn state_of(n: u64) -> State {
        match n % 10 {
            3 => State::Aside,
            7 => State::Deleted,
            _ => State::Held,
        }
    }

    #[test]
    fn pages_of_any_size_show_every_message_once_and_in_order() {
        let kv = ledger();
        let expected: Vec<_> = (1..=MESSAGES).map(|n| (state_of(n), n)).collect();
        for limit in [1, 10, PAGE - 1, PAGE, PAGE + 1, 5000] {
            assert_eq!(
                all(&kv, &Wanted::default(), limit),
                expected,
                "{limit} a page"
            );
        }
    }

    #[test]
    fn only_what_is_wanted_is_shown() {
        let kv = ledger();
        let expect = |wanted: Wanted, is: &dyn Fn(u64) -> bool| {
            let expected: Vec<_> = (1..=MESSAGES)
                .filter(|n| is(*n))
                .map(|n| (state_of(n), n))
                .collect();
            assert!(!expected.is_empty());
            assert_eq!(all(&kv, &wanted, 50), expected, "{wanted:?}");
        };
        let any = Wanted::default;
        let states = vec![State::Aside];
        expect(Wanted { states, ..any() }, &|n| n % 10 == 3);
        let states = vec![State::Deleted, State::Held];
        expect(Wanted { states, ..any() }, &|n| n % 10 != 3);
        let from = "from77".to_owned();
        expect(Wanted { from, ..any() }, &|n| {
            n.to_string().starts_with("77")
        });
        let to = "TO1@".to_owned();
        expect(Wanted { to, ..any() }, &|n| n % 2 == 1);
        let text = "from500@".to_owned();
        expect(Wanted { text, ..any() }, &|n| n == 500);
        let text = "to0@".to_owned();
        expect(Wanted { text, ..any() }, &|n| n % 2 == 0);
        let larger_than = 700;
        expect(
            Wanted {
                larger_than,
                ..any()
            },
            &|n| n >= 700,
        );
    }

    fn walked(kv: &MemoryKv, wanted: Wanted, only: Option<&str>) -> Vec<(String, u64)> {
        let only = only.map(|name| Domain::parse(name).unwrap());
        let mut walk = Walk::new(wanted, only);
        let mut found = Vec::new();
        while let Some(page) = walk.next(kv, 50).unwrap() {
            assert!(page.len() <= 50);
            found.extend(page.into_iter().map(|found| match found {
                Found::Mail { domain, mail } => (domain.to_string(), mail.envelope.body.len),
                Found::Notification { domain, .. } => (domain.to_string(), 0),
            }));
        }
        found
    }

    #[test]
    fn a_walk_finds_the_mail_of_every_domain_once_also_of_one_without_a_record() {
        let mut kv = ledger();
        let add = Command::OfAccount {
            name: "ann".to_owned(),
            change: AccountChange::Add {
                password: String::new(),
                domains: vec![domain()],
            },
        };
        let mut envelope = envelope(MESSAGES + 1);
        let to = |text: &str| Recipient {
            address: Address::parse(text, false).unwrap(),
            notify: None,
            orcpt: None,
        };
        envelope.recipients = vec![to("a@zzz.example"), to("b@example.org")];
        envelope.reverse_path =
            ReversePath::Mailbox(Address::parse("ann@example.org", false).unwrap());
        let both = envelope.id;
        let submit = Command::Submit {
            account: "ann".to_owned(),
            envelope,
        };
        for (index, command) in (MESSAGES * 3..).zip([add, submit]) {
            let batch = Batch {
                at: Timestamp(MESSAGES * 3),
                commands: vec![command],
            };
            apply_batch(&mut kv, index, &batch, &mut Vec::new()).unwrap();
        }
        let mut expected: Vec<(String, u64)> = (1..=MESSAGES + 1)
            .map(|n| ("example.org".to_owned(), n))
            .collect();
        expected.push(("zzz.example".to_owned(), MESSAGES + 1));
        assert_eq!(walked(&kv, Wanted::default(), None), expected);
        let of_one = walked(&kv, Wanted::default(), Some("zzz.example"));
        assert_eq!(of_one, expected[expected.len() - 1..]);
        let small = Wanted {
            smaller_than: Some(3),
            ..Wanted::default()
        };
        assert_eq!(walked(&kv, small, None), expected[..2]);
        let new = Wanted {
            received_after: Some(Timestamp(MESSAGES * 3)),
            ..Wanted::default()
        };
        assert_eq!(walked(&kv, new, None), expected[expected.len() - 2..]);

        let places = places(&kv, both).unwrap();
        let of: Vec<&str> = places.iter().map(|(domain, _)| domain.as_str()).collect();
        assert_eq!(of, ["example.org", "zzz.example"]);
        assert!(places.iter().all(|(_, mail)| mail.row.pending.len() == 1));
    }
}
