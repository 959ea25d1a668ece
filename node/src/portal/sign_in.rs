//! Signing in and out.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use holdfast_ledger::account::AccountChange;
use holdfast_ledger::{Command, query};

use super::door::{COOKIE, Fields, Posted, SignedIn};
use super::page::{Frame, Problem, render};
use super::{Client, Portal};
use crate::accounts::{Attempt, NotSignedIn, SESSION_TIME};
use crate::replica::now;

#[derive(Template)]
#[template(path = "sign_in.html")]
struct Page {
    frame: Frame,
    name: String,
    problem: String,
}

pub(super) async fn form(who: Result<SignedIn, Problem>) -> Result<Response, Problem> {
    if who.is_ok() {
        return Ok(Redirect::to("/").into_response());
    }
    page(String::new(), String::new())
}

fn page(name: String, problem: String) -> Result<Response, Problem> {
    render(&Page {
        frame: Frame::of_nobody(),
        name,
        problem,
    })
}

pub(super) async fn submit(
    State(portal): State<Arc<Portal>>,
    Client(from): Client,
    fields: Fields,
) -> Result<Response, Problem> {
    let attempt = Attempt {
        name: fields.get("name"),
        password: fields.exact("password"),
        code: fields.get("code"),
        from,
    };
    let account = match portal.doorkeeper.sign_in(&portal.cluster, &attempt).await {
        Ok(account) => account,
        Err(error) => {
            let status = match error {
                NotSignedIn::Wrong => StatusCode::UNAUTHORIZED,
                NotSignedIn::TooOften => StatusCode::TOO_MANY_REQUESTS,
                NotSignedIn::Unable(_) => StatusCode::SERVICE_UNAVAILABLE,
            };
            let page = page(attempt.name.to_owned(), error.to_string())?;
            return Ok((status, page).into_response());
        }
    };
    let text = portal.seal()?.begin(&account, now());
    with_cookie(&cookie(&text))
}

fn cookie(text: &str) -> String {
    format!(
        "{COOKIE}={text}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age={}",
        SESSION_TIME.as_secs()
    )
}

/// Ends all of somebody's sessions: a browser that was left somewhere is signed out too.
pub(super) async fn out(
    State(portal): State<Arc<Portal>>,
    posted: Posted,
) -> Result<Response, Problem> {
    let name = posted.who.session.account.name.clone();
    let change = AccountChange::SignOut;
    let command = Command::OfAccount { name, change };
    portal.change(&posted.who.person(), command).await?;
    with_cookie(&format!(
        "{COOKIE}=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0"
    ))
}

/// A session goes on under a new epoch, which a change of its own account brought.
pub(super) fn renewed(portal: &Portal, who: &SignedIn) -> Result<Option<String>, Problem> {
    let account = query::account(&portal.cluster.view(), &who.session.account.name)?;
    let Some(account) = account else {
        return Ok(None);
    };
    let text = portal.seal()?.begin(&account, now());
    Ok(Some(cookie(&text)))
}

fn with_cookie(cookie: &str) -> Result<Response, Problem> {
    let value = HeaderValue::from_str(cookie).map_err(|e| Problem::Unable(e.to_string()))?;
    let mut response = Redirect::to("/").into_response();
    response.headers_mut().insert(header::SET_COOKIE, value);
    Ok(response)
}
