//! Who did what with a domain and its mail, and who signed in to look after it.

use std::collections::BTreeMap;
use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, State};
use axum::response::Response;
use holdfast_ledger::query::{self, Audited, DomainRecord};
use holdfast_ledger::{KvError, KvRead};

use super::Portal;
use super::door::SignedIn;
use super::page::{Frame, Problem, count, render};
use crate::person;

/// The latest that are shown.
const SHOWN_MAX: usize = 200;

struct Line {
    at: String,
    by: String,
    from: String,
    what: String,
}

#[derive(Template)]
#[template(path = "log.html")]
struct Page {
    frame: Frame,
    lines: Vec<Line>,
}

pub(super) async fn show(
    State(portal): State<Arc<Portal>>,
    who: SignedIn,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let record = who.domain(&portal, &name)?;
    let lines = lines(&portal.cluster.view(), &record)?;
    render(&Page {
        frame: Frame::of(&who, record.name.as_str(), "log"),
        lines,
    })
}

/// The latest first. What was done before the domain was set up, is about somebody else's domain of the
/// same name: where they signed in from, and what they did, is nobody's business.
fn lines(view: &dyn KvRead, record: &DomainRecord) -> Result<Vec<Line>, KvError> {
    let all = query::audit(view)?;
    // Who looks after it now, of those who tried to sign in.
    let mut looks_after = BTreeMap::new();
    let mut lines = Vec::new();
    for entry in all.iter().rev() {
        if entry.at < record.created_at || lines.len() == SHOWN_MAX {
            break;
        }
        if entry.domain == record.name.as_str() {
            lines.push(line(entry));
        } else if let Some(what) = person::signed_in(entry) {
            let is_theirs = match looks_after.get(&entry.by) {
                Some(known) => *known,
                None => {
                    let account = query::account(view, &entry.by)?;
                    let is_theirs = account.is_some_and(|it| it.domains.contains(&record.name));
                    looks_after.insert(entry.by.clone(), is_theirs);
                    is_theirs
                }
            };
            if is_theirs {
                let what = what.to_owned();
                lines.push(Line {
                    what,
                    ..line(entry)
                });
            }
        }
    }
    Ok(lines)
}

fn line(entry: &Audited) -> Line {
    Line {
        at: entry.at.minute(),
        by: entry.by.clone(),
        from: entry.from.clone(),
        what: match entry.messages.len() {
            0 => entry.what.clone(),
            number => format!("{} {}", entry.what, count(number as u64, "message")),
        },
    }
}

#[cfg(test)]
mod tests {
    use holdfast_ledger::account::AccountChange;
    use holdfast_ledger::{Batch, Command, MemoryKv, Primary, Reply, apply_batch};
    use holdfast_mail::{Domain, Timestamp};

    use super::*;
    use crate::person::Person;

    fn told(kv: &MemoryKv, domain: &Domain) -> Vec<(String, String)> {
        let record = query::domain(kv, domain).unwrap().unwrap();
        let lines = lines(kv, &record).unwrap();
        lines.into_iter().map(|it| (it.by, it.what)).collect()
    }

    #[test]
    fn what_was_done_with_a_domain_of_the_same_name_is_its_former_owners_affair() {
        let mut kv = MemoryKv::new();
        let domain = Domain::parse("a.example").unwrap();
        let mut minute = 0;
        let mut give = |kv: &mut MemoryKv, who: &str, command: Command| {
            minute += 1;
            let person = Person {
                who: who.to_owned(),
                from: "192.0.2.1".to_owned(),
            };
            let batch = Batch {
                at: Timestamp(1_800_000_000_000 + minute * 60_000),
                commands: vec![person.gives(command)],
            };
            let replies = apply_batch(kv, minute, &batch, &mut Vec::new()).unwrap();
            assert_eq!(replies, [Reply::Done], "{who}");
        };
        let set_up = || Command::SetDomain {
            domain: domain.clone(),
            primary: Primary {
                host: "mail.a.example".to_owned(),
                port: 25,
            },
            must_be_new: true,
            must_exist: false,
        };
        let of_account = |name: &str, change| Command::OfAccount {
            name: name.to_owned(),
            change,
        };
        let signs_in = || AccountChange::SignIn {
            good: true,
            step: 0,
            from: "192.0.2.1".to_owned(),
        };
        let looks_after = || AccountChange::Add {
            password: "hash".to_owned(),
            domains: vec![domain.clone()],
        };
        give(&mut kv, "op", set_up());
        for name in ["ann", "bob"] {
            give(&mut kv, "op", of_account(name, looks_after()));
            give(&mut kv, name, of_account(name, signs_in()));
        }
        assert_eq!(told(&kv, &domain).len(), 3);

        // Bob looks after it for its new owner, too.
        let removed = Command::RemoveDomain {
            domain: domain.clone(),
        };
        give(&mut kv, "op", removed);
        give(&mut kv, "op", set_up());
        let again = AccountChange::Domains(vec![domain.clone()]);
        give(&mut kv, "op", of_account("bob", again));
        let line = |by: &str, what: &str| (by.to_owned(), what.to_owned());
        let set = line("op", "primary set to mail.a.example, port 25");
        assert_eq!(told(&kv, &domain), std::slice::from_ref(&set));
        give(&mut kv, "bob", of_account("bob", signs_in()));
        assert_eq!(told(&kv, &domain), [line("bob", "signed in"), set]);
    }
}
