//! Accounts of the people who look after domains, and their tokens.

use std::time::Duration;

use holdfast_ledger::account::{AccessToken, Account, AccountChange, Scopes, is_account_name};
use holdfast_ledger::{Command, Refusal, query};
use holdfast_proto::admin as wire;
use tonic::Status;

use super::{Admin, broken, domains, refused};
use crate::accounts::{NewToken, PASSWORD_OCTETS_MAX, PASSWORD_OCTETS_MIN};
use crate::replica::now;

/// Accounts read from the state at a time.
const PAGE: usize = 256;

/// Letters of a password that is made up: 32 of 32 kinds would be 160 bits; 20 are 100, and can be
/// read out over the telephone.
const MADE_UP_LETTERS: usize = 20;

/// Without those that look alike.
const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

pub(super) async fn set(
    admin: &Admin,
    request: wire::AccountSetRequest,
) -> Result<wire::AccountSetReply, Status> {
    let name = request.name.trim().to_lowercase();
    if !is_account_name(&name) {
        return Err(Status::invalid_argument(format!(
            "{:?} is no account name: letters, digits and ._@+- are allowed, such as ann@example.org",
            request.name
        )));
    }
    let domains = request
        .domains
        .iter()
        .map(|name| domains::parse(name))
        .collect::<Result<Vec<_>, _>>()?;
    let mut made_up = String::new();
    let hash = match request.password {
        Some(given) => {
            if given.is_empty() {
                made_up = make_up()?;
            } else if !(PASSWORD_OCTETS_MIN..=PASSWORD_OCTETS_MAX).contains(&given.len()) {
                return Err(Status::invalid_argument(format!(
                    "a password has {PASSWORD_OCTETS_MIN} to {PASSWORD_OCTETS_MAX} letters"
                )));
            }
            let password = if given.is_empty() { &made_up } else { &given };
            let hashed = admin.doorkeeper.hash(password).await;
            Some(hashed.map_err(|error| Status::unavailable(error.to_string()))?)
        }
        None => None,
    };
    let mut changes = Vec::new();
    if request.add {
        changes.push(AccountChange::Add {
            password: hash.unwrap_or_default(),
            domains,
        });
    } else if request.remove {
        changes.push(AccountChange::Remove);
    } else {
        changes.extend(hash.map(AccountChange::Password));
        if request.set_domains {
            changes.push(AccountChange::Domains(domains));
        }
        if let (Some(recipients), Some(bytes)) = (request.send_recipients, request.send_bytes) {
            changes.push(AccountChange::SendLimits { recipients, bytes });
        } else if request.send_recipients.is_some() || request.send_bytes.is_some() {
            // The other one stays.
            let known = query::account(&admin.cluster()?.view(), &name).map_err(broken)?;
            let known = known
                .ok_or_else(|| refused(&Refusal::UnknownAccount))?
                .send_limits;
            changes.push(AccountChange::SendLimits {
                recipients: request.send_recipients.unwrap_or(known.recipients),
                bytes: request.send_bytes.unwrap_or(known.bytes),
            });
        }
        for (asked, change) in [
            (
                request.without_second_factor,
                AccountChange::SecondFactor(None),
            ),
            (request.unlock, AccountChange::Unlock),
            (request.sign_out, AccountChange::SignOut),
        ] {
            changes.extend(asked.then_some(change));
        }
    }
    if changes.is_empty() {
        return Err(Status::invalid_argument("there is nothing to change"));
    }
    for change in changes {
        let name = name.clone();
        admin.propose(Command::OfAccount { name, change }).await?;
    }
    Ok(wire::AccountSetReply { password: made_up })
}

pub(super) fn list(admin: &Admin) -> Result<wire::AccountList, Status> {
    let view = admin.cluster()?.view();
    let mut accounts: Vec<wire::Account> = Vec::new();
    loop {
        let after = accounts.last().map(|account| account.name.as_str());
        let page = query::accounts(&view, after, PAGE).map_err(broken)?;
        if page.is_empty() {
            return Ok(wire::AccountList {
                accounts,
                now_ms: now().0,
            });
        }
        accounts.extend(page.into_iter().map(account_to_wire));
    }
}

pub(super) async fn add_token(
    admin: &Admin,
    request: wire::TokenAddRequest,
) -> Result<wire::TokenAddReply, Status> {
    let scopes =
        Scopes::from_names(request.scopes.iter().map(String::as_str)).map_err(|other| {
            Status::invalid_argument(format!(
                "{other:?} is none of read, deliver, mail, settings, send, fetch"
            ))
        })?;
    let valid_for = (request.valid_ms > 0).then(|| Duration::from_millis(request.valid_ms));
    let made =
        NewToken::draw(&request.label, scopes, valid_for, now()).map_err(Status::internal)?;
    let id = made.token.name();
    admin
        .propose(Command::OfAccount {
            name: request.account.to_lowercase(),
            change: AccountChange::AddToken(made.token),
        })
        .await?;
    Ok(wire::TokenAddReply {
        token: made.text,
        id,
    })
}

pub(super) async fn remove_token(
    admin: &Admin,
    request: wire::TokenRemoveRequest,
) -> Result<wire::Empty, Status> {
    let name = request.account.to_lowercase();
    let account = query::account(&admin.cluster()?.view(), &name).map_err(broken)?;
    let tokens = account.map(|account| account.tokens).unwrap_or_default();
    let token = tokens.iter().find(|token| token.name() == request.id);
    let id = token.map(|token| token.id).ok_or_else(|| {
        Status::not_found(format!(
            "{name} has no token {}; nothing was changed",
            request.id
        ))
    })?;
    let change = AccountChange::RemoveToken(id);
    admin.propose(Command::OfAccount { name, change }).await?;
    Ok(wire::Empty {})
}

fn account_to_wire(account: Account) -> wire::Account {
    wire::Account {
        second_factor: account.second_factor.is_some(),
        locked_until_ms: account.locked_until.map_or(0, |at| at.0),
        signed_in_at_ms: account.signed_in_at.map_or(0, |at| at.0),
        name: account.name,
        domains: account.domains.iter().map(ToString::to_string).collect(),
        signed_in_from: account.signed_in_from,
        created_at_ms: account.created_at.0,
        tokens: account.tokens.iter().map(token_to_wire).collect(),
        send_recipients: account.send_limits.recipients,
        send_bytes: account.send_limits.bytes,
    }
}

fn token_to_wire(token: &AccessToken) -> wire::Token {
    wire::Token {
        id: token.name(),
        label: token.label.clone(),
        scopes: token.scopes.names().map(str::to_owned).collect(),
        expires_at_ms: token.expires_at.map_or(0, |at| at.0),
    }
}

fn make_up() -> Result<String, Status> {
    let mut drawn = [0; MADE_UP_LETTERS];
    getrandom::fill(&mut drawn).map_err(|error| Status::internal(error.to_string()))?;
    let letters = drawn.map(|byte| char::from(LETTERS[usize::from(byte) % LETTERS.len()]));
    let groups: Vec<String> = letters.chunks(5).map(String::from_iter).collect();
    Ok(groups.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_that_is_made_up_is_long_and_new() {
        let one = make_up().unwrap();
        assert_eq!(one.len(), 23, "{one}");
        assert!(one.len() >= PASSWORD_OCTETS_MIN);
        assert_ne!(one, make_up().unwrap());
    }
}
