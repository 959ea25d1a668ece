//! Whose mail a domain takes, and changing the list of its recipients.

use std::collections::BTreeSet;

use holdfast_ledger::{
    Command, KvError, KvRead, Policy, PolicyChange, RECIPIENTS_PER_COMMAND_MAX, query,
};
use holdfast_mail::address::LOCAL_PART_OCTETS_MAX;
use holdfast_mail::{Address, Domain};

/// Whose mail is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Any,
    Listed,
    /// Whom the primary says it has.
    Verify,
}

impl Mode {
    const ALL: [Self; 3] = [Self::Any, Self::Listed, Self::Verify];

    #[must_use]
    pub fn of(policy: &Policy) -> Self {
        match policy {
            Policy { verify: true, .. } => Self::Verify,
            Policy {
                listed_only: true, ..
            } => Self::Listed,
            _ => Self::Any,
        }
    }

    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Listed => "listed",
            Self::Verify => "verify",
        }
    }

    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }

    #[must_use]
    pub fn change(self) -> PolicyChange {
        PolicyChange {
            listed_only: Some(self == Self::Listed),
            verify: Some(self == Self::Verify),
            ..PolicyChange::default()
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is neither a name, an address of {domain}, nor `*` for everyone")]
pub struct NotARecipient {
    text: String,
    domain: Domain,
}

/// A local part, an address of the domain, or `*`.
///
/// # Errors
/// It is none of these.
pub fn parse(text: &str, domain: &Domain) -> Result<String, NotARecipient> {
    if text == "*" {
        return Ok(text.to_owned());
    }
    let whole = if text.contains('@') {
        text.to_owned()
    } else {
        format!("{text}@{domain}")
    };
    Address::parse(&whole, true)
        .ok()
        .filter(|address| address.domain() == Some(domain))
        // The list has no longer ones: one of them would have all that are added with it refused.
        .filter(|address| address.local().len() <= LOCAL_PART_OCTETS_MAX)
        .map(|address| address.local().to_owned())
        .ok_or_else(|| NotARecipient {
            text: text.to_owned(),
            domain: domain.clone(),
        })
}

/// What to propose, one after the other, so that the list has these and lacks those; `clear`: and
/// nobody else.
///
/// # Errors
/// The list as it is cannot be read.
pub fn commands(
    view: &dyn KvRead,
    domain: &Domain,
    add: Vec<String>,
    mut remove: Vec<String>,
    mut clear: bool,
) -> Result<Vec<Command>, KvError> {
    if clear && add.len() > RECIPIENTS_PER_COMMAND_MAX {
        // Too many for one step: between two, nobody who is on both lists may be shut out.
        let new: BTreeSet<String> = add.iter().map(|name| name.to_lowercase()).collect();
        let old = query::recipients(view, domain, None, usize::MAX)?;
        remove.extend(old.into_iter().filter(|name| !new.contains(name)));
        clear = false;
    }
    let mut pieces: Vec<(Vec<String>, Vec<String>)> = Vec::new();
    let added = add.chunks(RECIPIENTS_PER_COMMAND_MAX);
    pieces.extend(added.map(|list| (list.to_vec(), vec![])));
    let removed = remove.chunks(RECIPIENTS_PER_COMMAND_MAX);
    pieces.extend(removed.map(|list| (vec![], list.to_vec())));
    // What changes nothing is no command: it would be an entry of the log, and a line of the audit.
    if pieces.is_empty() && clear {
        pieces.push((vec![], vec![]));
    }
    let command = |(add, remove)| Command::SetRecipients {
        domain: domain.clone(),
        add,
        remove,
        clear: std::mem::take(&mut clear),
    };
    Ok(pieces.into_iter().map(command).collect())
}

#[cfg(test)]
mod tests {
    use holdfast_ledger::MemoryKv;

    use super::*;

    fn domain() -> Domain {
        Domain::parse("a.example").unwrap()
    }

    #[test]
    fn a_recipient_is_named_with_or_without_the_domain() {
        for (text, expected) in [("joe", "joe"), ("joe@A.example", "joe"), ("*", "*")] {
            assert_eq!(parse(text, &domain()).unwrap(), expected);
        }
        let long = "a".repeat(LOCAL_PART_OCTETS_MAX + 1);
        for text in ["joe@b.example", "", "a b", "@a.example", &*long] {
            assert!(parse(text, &domain()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_long_list_is_changed_in_pieces_and_cleared_once() {
        let many: Vec<String> = (0..RECIPIENTS_PER_COMMAND_MAX)
            .map(|n| n.to_string())
            .collect();
        let kv = MemoryKv::new();
        let shape = |add: Vec<String>, remove, clear| -> Vec<_> {
            let commands = commands(&kv, &domain(), add, remove, clear).unwrap();
            let shape = |command: &Command| match command {
                Command::SetRecipients {
                    add, remove, clear, ..
                } => (add.len(), remove.len(), *clear),
                other => panic!("{other:?}"),
            };
            commands.iter().map(shape).collect()
        };
        let max = RECIPIENTS_PER_COMMAND_MAX;
        assert_eq!(shape(vec![], vec![], true), [(0, 0, true)]);
        assert_eq!(shape(vec![], vec![], false), [], "nothing for nothing");
        assert_eq!(
            shape(many.clone(), many.clone(), true),
            [(max, 0, true), (0, max, false)]
        );
        let one_more = [many, vec!["x".to_owned()]].concat();
        assert_eq!(
            shape(one_more, vec![], true),
            [(max, 0, false), (1, 0, false)],
            "nobody is shut out between the two"
        );
    }
}
