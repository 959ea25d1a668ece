//! One's own account: password, second factor, tokens.

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::{Query, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Redirect, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use holdfast_ledger::Command;
use holdfast_ledger::account::{Account, AccountChange, Scopes};
use qrcode::QrCode;
use qrcode::render::svg;

use super::Portal;
use super::door::{Posted, SignedIn};
use super::page::{Frame, Problem, render};
use super::sign_in;
use crate::accounts::{
    Attempt, Enrolment, NewToken, PASSWORD_OCTETS_MAX, PASSWORD_OCTETS_MIN, code_fits,
};
use crate::replica::now;

/// The longest that a token made here is good.
const TOKEN_DAYS_MAX: u64 = 366;

struct TokenLine {
    id: String,
    label: String,
    scopes: String,
    expires: String,
}

#[derive(Template)]
#[template(path = "account.html")]
struct Page {
    frame: Frame,
    has_codes: bool,
    signed_in: String,
    tokens: Vec<TokenLine>,
    said: &'static str,
    /// A token just made, shown once.
    made: String,
    /// The secret on offer, for typing, and as a picture.
    offer: Option<Offer>,
    password_min: usize,
}

struct Offer {
    text: String,
    secret: String,
    picture: String,
}

#[derive(serde::Deserialize)]
pub(super) struct Said {
    #[serde(default)]
    done: String,
}

impl Page {
    fn of(who: &SignedIn, account: &Account) -> Self {
        let tokens = account.tokens.iter().map(|token| TokenLine {
            id: token.name(),
            label: token.label.clone(),
            scopes: token.scopes.names().collect::<Vec<_>>().join(", "),
            expires: token
                .expires_at
                .map_or_else(|| "never".to_owned(), |at| at.minute()),
        });
        Self {
            frame: Frame::of(who, "", "account"),
            has_codes: account.second_factor.is_some(),
            signed_in: account.signed_in_at.map_or_else(String::new, |at| {
                format!("{} from {}", at.minute(), account.signed_in_from)
            }),
            tokens: tokens.collect(),
            said: "",
            made: String::new(),
            offer: None,
            password_min: PASSWORD_OCTETS_MIN,
        }
    }
}

pub(super) async fn show(who: SignedIn, Query(said): Query<Said>) -> Result<Response, Problem> {
    let mut page = Page::of(&who, &who.session.account);
    page.said = match said.done.as_str() {
        "password" => "Your password was changed. All other browsers were signed out.",
        "codes-on" => "From now on a code is asked for when you sign in.",
        "codes-off" => "Codes are no longer asked for.",
        "removed" => "The token was removed. It is refused from now on.",
        _ => "",
    };
    render(&page)
}

/// Whether whoever holds the browser is the account's person, and not just somebody who found it
/// open. Counts as a sign-in: so guessing is stopped alike.
async fn confirm(portal: &Portal, posted: &Posted) -> Result<(), Problem> {
    let attempt = Attempt {
        name: &posted.who.session.account.name,
        password: posted.fields.exact("current"),
        code: posted.fields.get("code"),
        from: posted.who.client.0,
    };
    portal.doorkeeper.sign_in(&portal.cluster, &attempt).await?;
    Ok(())
}

pub(super) async fn password(
    State(portal): State<Arc<Portal>>,
    posted: Posted,
) -> Result<Response, Problem> {
    let new = posted.fields.exact("new");
    if !(PASSWORD_OCTETS_MIN..=PASSWORD_OCTETS_MAX).contains(&new.len()) {
        return Err(Problem::Wrong(format!(
            "a password has {PASSWORD_OCTETS_MIN} to {PASSWORD_OCTETS_MAX} letters"
        )));
    }
    confirm(&portal, &posted).await?;
    let hash = portal.doorkeeper.hash(new).await?;
    change(&portal, &posted.who, AccountChange::Password(hash)).await?;
    back(&portal, &posted.who, "password")
}

/// Offers a secret, switches codes on once the device shows that it knows it, or off.
pub(super) async fn codes(
    State(portal): State<Arc<Portal>>,
    posted: Posted,
) -> Result<Response, Problem> {
    let account = &posted.who.session.account;
    match posted.fields.get("do") {
        "offer" => offer(&posted.who, None),
        "on" => {
            let secret = URL_SAFE_NO_PAD
                .decode(posted.fields.get("secret"))
                .map_err(|_| Problem::Wrong("the form was damaged".to_owned()))?;
            if code_fits(&secret, posted.fields.get("code")).is_none() {
                return offer(&posted.who, Some(secret));
            }
            // The code in the form is the new device's. It is used up: whoever looked on cannot sign in
            // with it.
            let attempt = Attempt {
                name: &account.name,
                password: posted.fields.exact("current"),
                code: posted.fields.get("code"),
                from: posted.who.client.0,
            };
            let enrolled = portal.doorkeeper.enrol(&portal.cluster, &attempt, &secret);
            enrolled.await?;
            let on = AccountChange::SecondFactor(Some(secret));
            change(&portal, &posted.who, on).await?;
            back(&portal, &posted.who, "codes-on")
        }
        "off" => {
            confirm(&portal, &posted).await?;
            change(&portal, &posted.who, AccountChange::SecondFactor(None)).await?;
            back(&portal, &posted.who, "codes-off")
        }
        _ => Err(Problem::NotFound),
    }
}

fn offer(who: &SignedIn, secret: Option<Vec<u8>>) -> Result<Response, Problem> {
    let account = &who.session.account;
    let again = secret.is_some();
    let offered = match secret {
        Some(secret) => Enrolment::of(secret, &account.name, "Holdfast"),
        None => Enrolment::new(&account.name, "Holdfast").map_err(Problem::Unable)?,
    };
    let code = QrCode::new(&offered.uri).map_err(|e| Problem::Unable(e.to_string()))?;
    let drawn = code
        .render::<svg::Color<'_>>()
        .min_dimensions(200, 200)
        .build();
    let mut page = Page::of(who, account);
    if again {
        page.said = "The code does not fit. Nothing was changed; try the next one.";
    }
    let encoded = base64::engine::general_purpose::STANDARD.encode(drawn);
    page.offer = Some(Offer {
        text: offered.text,
        secret: URL_SAFE_NO_PAD.encode(&offered.secret),
        picture: format!("data:image/svg+xml;base64,{encoded}"),
    });
    render(&page)
}

pub(super) async fn tokens(
    State(portal): State<Arc<Portal>>,
    posted: Posted,
) -> Result<Response, Problem> {
    let fields = &posted.fields;
    let account = &posted.who.session.account;
    if fields.get("do") == "remove" {
        let asked = fields.get("id");
        let token = account.tokens.iter().find(|token| token.name() == asked);
        let id = token.ok_or(Problem::NotFound)?.id;
        change(&portal, &posted.who, AccountChange::RemoveToken(id)).await?;
        return Ok(Redirect::to("/account?done=removed").into_response());
    }
    let scopes = Scopes::from_names(fields.all("scope"))
        .map_err(|word| Problem::Wrong(format!("{word:?} is nothing a token can do")))?;
    if scopes == Scopes::default() {
        return Err(Problem::Wrong("choose what the token may do".to_owned()));
    }
    let days: u64 = fields.get("days").parse().unwrap_or(0);
    if !(1..=TOKEN_DAYS_MAX).contains(&days) {
        let text = format!("a token is good for 1 to {TOKEN_DAYS_MAX} days");
        return Err(Problem::Wrong(text));
    }
    confirm(&portal, &posted).await?;
    let valid_for = Some(Duration::from_secs(days * 86_400));
    let made =
        NewToken::draw(fields.get("label"), scopes, valid_for, now()).map_err(Problem::Unable)?;
    let text = made.text;
    change(&portal, &posted.who, AccountChange::AddToken(made.token)).await?;
    let mut page = Page::of(&posted.who, account);
    page.made = text;
    render(&page)
}

async fn change(portal: &Portal, who: &SignedIn, change: AccountChange) -> Result<(), Problem> {
    let name = who.session.account.name.clone();
    let command = Command::OfAccount { name, change };
    portal.change(&who.person(), command).await?;
    Ok(())
}

/// To the account's page, with a session that goes on where the change ended all.
fn back(portal: &Portal, who: &SignedIn, done: &str) -> Result<Response, Problem> {
    let mut response = Redirect::to(&format!("/account?done={done}")).into_response();
    if let Some(cookie) = sign_in::renewed(portal, who)? {
        let value = HeaderValue::from_str(&cookie).map_err(|e| Problem::Unable(e.to_string()))?;
        response.headers_mut().insert(header::SET_COOKIE, value);
    }
    Ok(response)
}
