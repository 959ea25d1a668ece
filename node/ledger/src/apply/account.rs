//! OfAccount: people who look after domains, their passwords, sign-ins and tokens.

use holdfast_mail::Domain;
use holdfast_proto::ledger as proto;

use super::sign_in::{Tried, sign_in, unlock};
use super::{Logged, refuse};
use crate::account::{
    ACCOUNT_TOKENS_MAX, AccessToken, AccountChange, Scopes, TOKEN_LABEL_OCTETS_MAX, is_account_name,
};
use crate::{Kv, KvError, KvRead, Refusal, Reply, level, query, row, tables};

/// Octets of a password's hash, of a second factor's secret and of a client's address.
pub(super) const TEXT_OCTETS_MAX: usize = 512;

pub(super) fn change(
    kv: &mut dyn Kv,
    when: Logged,
    name: &str,
    change: &AccountChange,
) -> Result<Reply, KvError> {
    if !is_account_name(name) {
        return refuse(Refusal::Malformed);
    }
    let key = tables::account(name);
    let row: Option<proto::AccountRow> = row::get(kv, &key)?;
    if let AccountChange::Add { password, domains } = change {
        if row.is_some() {
            return refuse(Refusal::AccountExists);
        }
        if password.len() > TEXT_OCTETS_MAX {
            return refuse(Refusal::Malformed);
        }
        if !all_known(kv, domains)? {
            return refuse(Refusal::UnknownDomain);
        }
        let row = proto::AccountRow {
            password: password.clone(),
            domains: names(domains),
            created_at_ms: when.at.0,
            epoch: when.index,
            ..proto::AccountRow::default()
        };
        row::put(kv, &key, &row);
        return Ok(Reply::Done);
    }
    let Some(mut row) = row else {
        return refuse(Refusal::UnknownAccount);
    };
    match change {
        AccountChange::Add { .. } => {}
        AccountChange::Remove => {
            kv.delete(&tables::sent(name));
            for token in &row.tokens {
                forget_token(kv, &token.id);
            }
            kv.delete(&key);
            return Ok(Reply::Done);
        }
        AccountChange::Password(hash) => {
            if hash.len() > TEXT_OCTETS_MAX {
                return refuse(Refusal::Malformed);
            }
            row.password.clone_from(hash);
            row.epoch = when.index;
        }
        AccountChange::SecondFactor(secret) => {
            let secret = secret.as_deref().unwrap_or_default();
            if secret.len() > TEXT_OCTETS_MAX {
                return refuse(Refusal::Malformed);
            }
            row.second_factor = secret.to_vec().into();
            // A code is used by the time it is for, whichever device made it.
            if query::level(kv)? < level::CODES_STAY_USED {
                row.last_step = 0;
            }
            row.epoch = when.index;
        }
        AccountChange::Domains(domains) => {
            if !all_known(kv, domains)? {
                return refuse(Refusal::UnknownDomain);
            }
            row.domains = names(domains);
        }
        AccountChange::SignOut => row.epoch = when.index,
        AccountChange::Unlock => unlock(&mut row),
        AccountChange::SignIn { good, step, from } => {
            let tried = Tried {
                good: *good,
                step: *step,
                from,
            };
            if let Some(refusal) = sign_in(&mut row, when, query::level(kv)?, &tried) {
                return refuse(refusal);
            }
        }
        AccountChange::SendLimits { recipients, bytes } => {
            row.send_limits = Some(proto::SendLimits {
                recipients: *recipients,
                bytes: *bytes,
            });
        }
        AccountChange::AddToken(token) => return add_token(kv, name, row, token),
        AccountChange::RemoveToken(id) => {
            let tokens = row.tokens.len();
            row.tokens.retain(|token| token.id[..] != id[..]);
            // Another account's is none of theirs.
            if row.tokens.len() < tokens {
                kv.delete(&tables::token_id(id));
            }
        }
    }
    row::put(kv, &key, &row);
    Ok(Reply::Done)
}

fn add_token(
    kv: &mut dyn Kv,
    name: &str,
    mut row: proto::AccountRow,
    token: &AccessToken,
) -> Result<Reply, KvError> {
    let key = tables::token_id(&token.id);
    // Drawn at random from 128 bits: the same one again is no accident.
    if token.label.len() > TOKEN_LABEL_OCTETS_MAX || row::exists(kv, &key)? {
        return refuse(Refusal::Malformed);
    }
    if row.tokens.len() >= ACCOUNT_TOKENS_MAX {
        return refuse(Refusal::TooManyTokens);
    }
    row.tokens.push(token.to_proto());
    let account = name.to_owned();
    row::put(kv, &key, &proto::TokenOfRow { account });
    row::put(kv, &tables::account(name), &row);
    Ok(Reply::Done)
}

/// Nobody looks after a domain that is gone: whoever adds it anew may be another customer.
pub(super) fn forget_domain(kv: &mut dyn Kv, domain: &Domain) -> Result<(), KvError> {
    for (key, value) in kv.scan(tables::ACCOUNTS, &[], usize::MAX)? {
        let mut row: proto::AccountRow = row::decode(&key, &value)?;
        if row.domains.iter().any(|name| name == domain.as_str()) {
            row.domains.retain(|name| name != domain.as_str());
            row::put(kv, &key, &row);
        }
    }
    Ok(())
}

/// Tokens that could be used for ATRN because they ask for delivery may still: else an upgrade would keep
/// customers from their mail.
pub(super) fn let_deliver_fetch(kv: &mut dyn Kv) -> Result<(), KvError> {
    for (key, value) in kv.scan(tables::ACCOUNTS, &[], usize::MAX)? {
        let mut row: proto::AccountRow = row::decode(&key, &value)?;
        for token in &mut row.tokens {
            let scopes = Scopes::from_bits(token.scopes);
            let fetch = scopes.fetch || scopes.deliver;
            token.scopes = Scopes { fetch, ..scopes }.bits();
        }
        row::put(kv, &key, &row);
    }
    Ok(())
}

fn forget_token(kv: &mut dyn Kv, id: &[u8]) {
    if let Ok(id) = id.try_into() {
        kv.delete(&tables::token_id(id));
    }
}

fn all_known(kv: &dyn KvRead, domains: &[Domain]) -> Result<bool, KvError> {
    for domain in domains {
        if !row::exists(kv, &tables::domain(domain))? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn names(domains: &[Domain]) -> Vec<String> {
    let mut names: Vec<_> = domains.iter().map(Domain::to_string).collect();
    names.sort_unstable();
    names.dedup();
    names
}
