//! The same for programs: JSON over HTTPS, with a token.
//!
//! `GET /api/v1/domains`, `GET /api/v1/domains/D`, `GET /api/v1/domains/D/mail`,
//! `POST /api/v1/domains/D/deliver`, `POST /api/v1/domains/D/mail`,
//! `GET` and `POST /api/v1/domains/D/recipients`. An error is
//! `{"error": "…"}` with a status that says whose fault it is.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use holdfast_ledger::account::{Account, Scopes};
use holdfast_ledger::query::{self, DomainRecord};
use holdfast_ledger::{Command, DISPOSE_MAX, Reply, Seq};
use holdfast_mail::MessageId;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::door::{BODY_TIME_MAX, domain_of, whole};
use super::find::{Search, find};
use super::page::Problem;
use super::{Client, Portal, mail, overview};
use crate::accounts::{TokenError, bearer};
use crate::explain;
use crate::listing::State as MailState;
use crate::person::Person;
use crate::recipients::{self, Mode};
use crate::release::{NotStarted, Pending};
use crate::replica::now;

/// Messages in one answer.
const PAGE_MAX: usize = 500;

pub(super) fn router() -> Router<Arc<Portal>> {
    Router::new()
        .route("/domains", get(domains))
        .route("/domains/{domain}", get(domain))
        .route("/domains/{domain}/deliver", axum::routing::post(deliver))
        .route("/domains/{domain}/mail", get(list).post(dispose))
        .route(
            "/domains/{domain}/recipients",
            get(listed).post(change_listed),
        )
        .fallback(async || Failure::from(Problem::NotFound))
}

/// An error as programs read it.
pub(super) struct Failure {
    status: StatusCode,
    text: String,
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self {
            status: problem.status(),
            text: problem.text(),
        }
    }
}

impl From<holdfast_ledger::KvError> for Failure {
    fn from(error: holdfast_ledger::KvError) -> Self {
        Problem::from(error).into()
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, Json(json!({"error": self.text}))).into_response()
    }
}

/// The token that a request shows, and where it comes from.
pub(super) struct Bearer {
    token: String,
    client: Client,
}

impl FromRequestParts<Arc<Portal>> for Bearer {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, portal: &Arc<Portal>) -> Result<Self, Failure> {
        let client = Client::from_request_parts(parts, portal).await?;
        let given = parts.headers.get(header::AUTHORIZATION);
        // RFC 6750 section 2.1.
        let token = given
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim().to_owned());
        let token = token.ok_or_else(|| Failure {
            status: StatusCode::UNAUTHORIZED,
            text: "show a token: Authorization: Bearer holdfast_…".to_owned(),
        })?;
        let asker = Self { token, client };
        // Before a body is read: a stranger's costs memory, and time.
        asker.account(portal, NONE)?;
        Ok(asker)
    }
}

/// What a request says, as JSON.
pub(super) struct Said<T>(T);

impl<T: DeserializeOwned> FromRequest<Arc<Portal>> for Said<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &Arc<Portal>) -> Result<Self, Failure> {
        let (parts, body) = whole(request, BODY_TIME_MAX).await?;
        let request = Request::from_parts(parts, Body::from(body));
        let read = Json::<T>::from_request(request, &()).await;
        let Json(said) = read.map_err(|rejection| Failure {
            status: rejection.status(),
            text: rejection.body_text(),
        })?;
        Ok(Self(said))
    }
}

impl Bearer {
    fn account(&self, portal: &Portal, wanted: Scopes) -> Result<Account, Failure> {
        let found = bearer(&portal.cluster, &self.token, wanted, now());
        found.map(|(account, _)| account).map_err(|error| Failure {
            status: match error {
                TokenError::Unknown => StatusCode::UNAUTHORIZED,
                TokenError::Scope => StatusCode::FORBIDDEN,
                TokenError::Unreadable => StatusCode::SERVICE_UNAVAILABLE,
            },
            text: error.to_string(),
        })
    }

    /// Who changes something.
    fn person(&self, portal: &Portal, account: Account) -> Result<Person, Failure> {
        portal.may_change(&account.name)?;
        Ok(Person {
            who: account.name,
            from: format!("{} (token)", self.client.0),
        })
    }

    fn domain(
        &self,
        portal: &Portal,
        wanted: Scopes,
        name: &str,
    ) -> Result<(Account, DomainRecord), Failure> {
        let account = self.account(portal, wanted)?;
        let record = domain_of(portal, &account.domains, name)?;
        Ok((account, record))
    }
}

const NONE: Scopes = Scopes {
    read: false,
    deliver: false,
    mail: false,
    settings: false,
    send: false,
    fetch: false,
};
const READ: Scopes = Scopes { read: true, ..NONE };
const DELIVER: Scopes = Scopes {
    deliver: true,
    ..NONE
};
const MAIL: Scopes = Scopes { mail: true, ..NONE };
const SETTINGS: Scopes = Scopes {
    settings: true,
    ..NONE
};

async fn domains(State(portal): State<Arc<Portal>>, asker: Bearer) -> Result<Json<Value>, Failure> {
    let account = asker.account(&portal, READ)?;
    let mut list = Vec::new();
    for name in &account.domains {
        if let Some(record) = query::domain(&portal.cluster.view(), name)? {
            list.push(shown(&portal, &record)?);
        }
    }
    Ok(Json(json!({"domains": list})))
}

async fn domain(
    State(portal): State<Arc<Portal>>,
    asker: Bearer,
    Path(name): Path<String>,
) -> Result<Json<Value>, Failure> {
    let (_, record) = asker.domain(&portal, READ, &name)?;
    Ok(Json(shown(&portal, &record)?))
}

fn shown(portal: &Portal, record: &DomainRecord) -> Result<Value, Failure> {
    let picture = overview::picture(portal, record)?;
    Ok(json!({
        "name": record.name.as_str(),
        "primary": explain::primary_of(&portal.cluster.view(), record)?,
        "held": picture.held,
        "bytes": picture.bytes,
        "refused": picture.refused,
        "kept_back": picture.aside,
        "deleted": picture.deleted,
        "quota_used_percent": picture.used,
        "says": picture.sentence,
    }))
}

async fn deliver(
    State(portal): State<Arc<Portal>>,
    asker: Bearer,
    Path(name): Path<String>,
) -> Result<Json<Value>, Failure> {
    let (_, record) = asker.domain(&portal, DELIVER, &name)?;
    match overview::start(&portal, asker.client.0, record.name).await {
        Ok(Pending::Known(messages)) => Ok(Json(json!({"messages": messages}))),
        Ok(Pending::Started | Pending::Uncounted) => {
            Ok(Json(json!({"messages": null, "started": "a moment ago"})))
        }
        Err(why @ NotStarted::TooOften) => Err(Failure {
            status: StatusCode::TOO_MANY_REQUESTS,
            text: why.to_string(),
        }),
        Err(why) => Err(Problem::Unable(why.to_string()).into()),
    }
}

#[derive(serde::Deserialize)]
pub(super) struct Asked {
    #[serde(default)]
    state: String,
    #[serde(default)]
    q: String,
    #[serde(default)]
    after: Option<u64>,
    #[serde(default)]
    limit: Option<usize>,
}

async fn list(
    State(portal): State<Arc<Portal>>,
    asker: Bearer,
    Path(name): Path<String>,
    Query(asked): Query<Asked>,
) -> Result<Json<Value>, Failure> {
    let (_, record) = asker.domain(&portal, READ, &name)?;
    let states = match asked.state.as_str() {
        "" => vec![],
        state => vec![mail::state(state)],
    };
    let search = Search {
        states,
        text: asked.q,
        after: asked.after.map(Seq),
        limit: asked.limit.unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX),
    };
    let found = find(&portal, &record.name, &search).await?;
    let next_try = portal.copies.next_try(&record.name, now());
    let list: Vec<Value> = found
        .mail
        .iter()
        .map(|(mail, subject)| {
            let next_try_at = match mail.state {
                MailState::Held => next_try,
                _ => mail.row.retry_at,
            };
            json!({
                "id": mail.row.message.to_string(),
                "state": mail.state.as_str(),
                "from": mail.envelope.reverse_path.as_str(),
                "to": mail.recipients().collect::<Vec<_>>(),
                "subject": subject,
                "bytes": mail.envelope.body.len,
                "received_at": mail.envelope.received_at.rfc3339(),
                "attempts": mail.row.attempts,
                "last_reply": mail.row.last_reply,
                "next_try_at": next_try_at.map(|at| at.rfc3339()),
                "retry_at": mail.row.retry_at.map(|at| at.rfc3339()),
                "discard_at": mail.row.discard_at.map(|at| at.rfc3339()),
            })
        })
        .collect();
    Ok(Json(
        json!({"mail": list, "after": found.next.map(|seq| seq.0)}),
    ))
}

#[derive(serde::Deserialize)]
pub(super) struct Order {
    how: String,
    ids: Vec<String>,
}

async fn dispose(
    State(portal): State<Arc<Portal>>,
    asker: Bearer,
    Path(name): Path<String>,
    Said(order): Said<Order>,
) -> Result<Json<Value>, Failure> {
    let (account, record) = asker.domain(&portal, MAIL, &name)?;
    let wrong = |why: String| Failure::from(Problem::Wrong(why));
    let how = mail::disposal(&order.how).ok_or_else(|| {
        wrong("how is one of hold, release, delete, undelete, requeue, bounce".to_owned())
    })?;
    let messages: Vec<MessageId> = order
        .ids
        .iter()
        .map(|id| id.parse())
        .collect::<Result<_, _>>()
        .map_err(|_| wrong("ids are those of the list".to_owned()))?;
    // None would be all of the domain.
    if messages.is_empty() || messages.len() > DISPOSE_MAX {
        return Err(wrong(format!("name 1 to {DISPOSE_MAX} messages")));
    }
    let person = asker.person(&portal, account)?;
    let command = Command::Dispose {
        domain: record.name,
        how,
        messages,
        held: false,
        by: person.who.clone(),
    };
    match portal.change(&person, command).await? {
        Reply::Disposed { messages, .. } => Ok(Json(json!({"messages": messages}))),
        other => Err(Problem::Unable(format!("unexpected: {other:?}")).into()),
    }
}

async fn listed(
    State(portal): State<Arc<Portal>>,
    asker: Bearer,
    Path(name): Path<String>,
) -> Result<Json<Value>, Failure> {
    let (_, record) = asker.domain(&portal, READ, &name)?;
    let view = portal.cluster.view();
    let names = query::recipients(&view, &record.name, None, usize::MAX)?;
    let mode = Mode::of(&query::policy(&view, &record.name)?).name();
    Ok(Json(json!({"mode": mode, "recipients": names})))
}

#[derive(serde::Deserialize)]
pub(super) struct Listing {
    #[serde(default)]
    add: Vec<String>,
    #[serde(default)]
    remove: Vec<String>,
    /// Forget the list as it was.
    #[serde(default)]
    clear: bool,
    /// `any`, `listed` or `verify`.
    mode: Option<String>,
}

async fn change_listed(
    State(portal): State<Arc<Portal>>,
    asker: Bearer,
    Path(name): Path<String>,
    Said(listing): Said<Listing>,
) -> Result<Json<Value>, Failure> {
    let (account, record) = asker.domain(&portal, SETTINGS, &name)?;
    let domain = record.name;
    let names = |list: &[String]| {
        let parse = |text: &String| recipients::parse(text, &domain);
        let parsed = list.iter().map(parse).collect::<Result<Vec<_>, _>>();
        parsed.map_err(|why| Failure::from(Problem::Wrong(why.to_string())))
    };
    let (add, remove) = (names(&listing.add)?, names(&listing.remove)?);
    let mode = listing.mode.map(|mode| {
        let wrong = || Problem::Wrong(format!("{mode:?} is not any, listed or verify"));
        Mode::named(&mode).ok_or_else(wrong)
    });
    let mode = mode.transpose()?;
    let (added, removed) = (add.len(), remove.len());
    let view = portal.cluster.view();
    let person = asker.person(&portal, account)?;
    for command in recipients::commands(&view, &domain, add, remove, listing.clear)? {
        portal.change(&person, command).await?;
    }
    if let Some(mode) = mode {
        let change = mode.change();
        let command = Command::SetPolicy { domain, change };
        portal.change(&person, command).await?;
    }
    Ok(Json(json!({"added": added, "removed": removed})))
}
