//! `holdfast account …`: the people who look after domains, and their tokens.

use std::path::Path;

use holdfast_proto::admin::{
    Account as Shown, AccountSetRequest, Empty, TokenAddRequest, TokenRemoveRequest,
};
use serde_json::json;

use crate::cli::{Account, Global, Token};
use crate::client::{self, Client};
use crate::failure::{Exit, Failure};
use crate::output::{self, Now, Output};

pub(crate) async fn run(
    global: &Global,
    command: Account,
    output: Output,
) -> Result<Exit, Failure> {
    let mut client = client::connect(global).await?;
    match command {
        Account::Add {
            name,
            domains,
            password_file,
        } => {
            let request = AccountSetRequest {
                name: name.clone(),
                add: true,
                password: Some(password(password_file.as_deref())?),
                domains,
                ..AccountSetRequest::default()
            };
            let said = format!("Account {name} added.");
            set(&mut client, &name, request, "added", &said, output).await?;
        }
        Account::Set {
            name,
            domains,
            without_second_factor,
            send_recipients,
            send_bytes,
        } => {
            let request = AccountSetRequest {
                name: name.clone(),
                set_domains: !domains.is_empty(),
                // One name that no domain has: none.
                domains: if domains == ["none"] { vec![] } else { domains },
                without_second_factor,
                send_recipients,
                send_bytes,
                ..AccountSetRequest::default()
            };
            let said = format!("Account {name} changed.");
            set(&mut client, &name, request, "changed", &said, output).await?;
        }
        Account::Password {
            name,
            password_file,
        } => {
            let request = AccountSetRequest {
                name: name.clone(),
                password: Some(password(password_file.as_deref())?),
                ..AccountSetRequest::default()
            };
            let said = format!("{name} has a new password and is signed out everywhere.");
            set(&mut client, &name, request, "changed", &said, output).await?;
        }
        Account::Unlock { name } => {
            let request = AccountSetRequest {
                name: name.clone(),
                unlock: true,
                ..AccountSetRequest::default()
            };
            let said = format!("{name} may try to sign in again.");
            set(&mut client, &name, request, "unlocked", &said, output).await?;
        }
        Account::SignOut { name } => {
            let request = AccountSetRequest {
                name: name.clone(),
                sign_out: true,
                ..AccountSetRequest::default()
            };
            let said = format!("{name} is signed out everywhere. Tokens stay good.");
            set(&mut client, &name, request, "signed out", &said, output).await?;
        }
        Account::Remove { name } => {
            let request = AccountSetRequest {
                name: name.clone(),
                remove: true,
                ..AccountSetRequest::default()
            };
            let said = format!("Account {name} removed, with its sessions and tokens.");
            set(&mut client, &name, request, "removed", &said, output).await?;
        }
        Account::List => list(&mut client, output).await?,
        Account::Token(command) => token(&mut client, command, output).await?,
    }
    Ok(Exit::Done)
}

/// What the file says, or nothing: then one is made up.
fn password(file: Option<&Path>) -> Result<String, Failure> {
    let Some(file) = file else {
        return Ok(String::new());
    };
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::new(format!("{} cannot be read", file.display()), error))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(Failure::new(
            format!("{} holds no password", file.display()),
            "its first line is empty",
        )),
        password => Ok(password.to_owned()),
    }
}

async fn set(
    client: &mut Client,
    name: &str,
    request: AccountSetRequest,
    done: &str,
    said: &str,
    output: Output,
) -> Result<(), Failure> {
    let failed = format!("the account {name} was not {done}");
    let reply = client::answer(&failed, client.account_set(client::request(request))).await?;
    if output.is_json() {
        let made_up = (!reply.password.is_empty()).then_some(reply.password);
        let value = json!({"name": name, "done": done, "password": made_up});
        return Ok(output.json("account-set/v1", &value)?);
    }
    output.line(said)?;
    if !reply.password.is_empty() {
        output.line(format!("Password (shown once): {}", reply.password))?;
    }
    Ok(())
}

async fn list(client: &mut Client, output: Output) -> Result<(), Failure> {
    let list = client::answer(
        "the accounts are not known",
        client.accounts(client::request(Empty {})),
    )
    .await?;
    let columns = ["NAME", "DOMAINS", "STATE", "CODES", "TOKENS", "SIGNED IN"];
    let mut table = output::table(&columns, &["TOKENS"]);
    for account in &list.accounts {
        if output.is_json() {
            output.json("account/v1", &as_json(account))?;
        } else {
            let now = Now(list.now_ms);
            let age = now.age(account.signed_in_at_ms);
            table.add_row(vec![
                account.name.clone(),
                account.domains.join(", "),
                match account.locked_until_ms {
                    until if now.is_past(until) => "open".to_owned(),
                    until => format!("locked for {}", now.until(until)),
                },
                if account.second_factor { "yes" } else { "no" }.to_owned(),
                account.tokens.len().to_string(),
                match account.signed_in_at_ms {
                    0 => "never".to_owned(),
                    _ => format!("{age} ago from {}", output::plain(&account.signed_in_from)),
                },
            ]);
        }
    }
    if output.is_json() {
        return Ok(());
    }
    if table.is_empty() {
        eprintln!("No account yet. Add one: holdfast account add NAME --domain DOMAIN");
        return Ok(());
    }
    Ok(output.table(&table)?)
}

async fn token(client: &mut Client, command: Token, output: Output) -> Result<(), Failure> {
    match command {
        Token::Add {
            account,
            label,
            scopes,
            valid_ms,
        } => {
            let request = TokenAddRequest {
                account: account.clone(),
                label,
                scopes,
                valid_ms: valid_ms.unwrap_or(0),
            };
            let failed = "no token was made";
            let made = client::answer(failed, client.token_add(client::request(request))).await?;
            if output.is_json() {
                let value = json!({"account": account, "id": made.id, "token": made.token});
                return Ok(output.json("token-add/v1", &value)?);
            }
            output.line(format!("Token {} (shown once):", made.id))?;
            Ok(output.line(made.token)?)
        }
        Token::List { account } => {
            let list = client::answer(
                "the tokens are not known",
                client.accounts(client::request(Empty {})),
            )
            .await?;
            let mut table = output::table(&["ID", "LABEL", "SCOPES", "EXPIRES"], &[]);
            let found = list.accounts.iter().find(|found| found.name == account);
            let Some(found) = found else {
                return Err(
                    Failure::new("there are no tokens", format!("no account {account}"))
                        .exit(Exit::NotFound)
                        .fix("see `holdfast account list`"),
                );
            };
            for token in &found.tokens {
                if output.is_json() {
                    output.json("token/v1", &token_json(token))?;
                } else {
                    table.add_row(vec![
                        token.id.clone(),
                        output::plain(&token.label),
                        token.scopes.join(", "),
                        match token.expires_at_ms {
                            0 => "never".to_owned(),
                            at => output::rfc3339(at).unwrap_or_default(),
                        },
                    ]);
                }
            }
            if output.is_json() {
                return Ok(());
            }
            if table.is_empty() {
                eprintln!("{account} has no token.");
                return Ok(());
            }
            Ok(output.table(&table)?)
        }
        Token::Remove { account, id } => {
            let failed = "the token was not removed";
            let request = TokenRemoveRequest {
                account: account.clone(),
                id: id.clone(),
            };
            client::answer(failed, client.token_remove(client::request(request))).await?;
            if output.is_json() {
                return Ok(output.json("token-remove/v1", &json!({"account": account, "id": id}))?);
            }
            Ok(output.line(format!("Token {id} removed; it is refused from now on."))?)
        }
    }
}

fn as_json(account: &Shown) -> serde_json::Value {
    let time = |ms: u64| (ms != 0).then(|| output::rfc3339(ms));
    json!({
        "name": account.name,
        "domains": account.domains,
        "second_factor": account.second_factor,
        "locked_until": time(account.locked_until_ms),
        "signed_in_at": time(account.signed_in_at_ms),
        "signed_in_from": account.signed_in_from,
        "created_at": time(account.created_at_ms),
        "send_recipients": account.send_recipients,
        "send_bytes": account.send_bytes,
        "tokens": account.tokens.iter().map(token_json).collect::<Vec<_>>(),
    })
}

fn token_json(token: &holdfast_proto::admin::Token) -> serde_json::Value {
    json!({
        "id": token.id,
        "label": token.label,
        "scopes": token.scopes,
        "expires_at": (token.expires_at_ms != 0).then(|| output::rfc3339(token.expires_at_ms)),
    })
}
