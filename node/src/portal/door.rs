//! Who asks: every page and form needs a session, every form its session's key.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Form, FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use holdfast_ledger::query::{self, DomainRecord};
use holdfast_ledger::{Command, Reply};
use holdfast_mail::Domain;
use tokio::time::Instant;

use super::page::Problem;
use super::{Client, Portal, upload};
use crate::accounts::{Seal, Session};
use crate::person::Person;
use crate::replica::now;

/// `__Host-`: browsers take it only over TLS, for this host and all its pages.
pub(super) const COOKIE: &str = "__Host-holdfast";

/// How long a change may wait for a quorum.
const CHANGE_TIME_MAX: Duration = Duration::from_secs(15);

/// How long a stranger may take to send a form: who is slower takes others' places.
const STRANGERS_BODY_TIME_MAX: Duration = Duration::from_secs(15);

/// How long somebody may take whom we know: the longest list, over a slow line.
pub(super) const BODY_TIME_MAX: Duration = Duration::from_secs(60);

/// Fields of a form: those of a page of mail with all its messages ticked, twice over. Each costs some
/// forty times the octet that it may have.
const FIELDS_MAX: usize = 512;

/// Somebody who signed in.
pub(super) struct SignedIn {
    pub(super) session: Session,
    pub(super) client: Client,
}

/// A form that somebody sent who signed in.
pub(super) struct Posted {
    pub(super) who: SignedIn,
    pub(super) fields: Fields,
}

/// The fields of a form, in its order; a name may come more than once.
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    /// The first of that name, without blanks around it.
    pub(super) fn get(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value.trim())
    }

    /// As it was typed.
    pub(super) fn exact(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value)
    }

    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let of = self.0.iter().filter(move |(key, _)| key == name);
        of.map(|(_, value)| value.as_str())
    }
}

impl FromRequestParts<Arc<Portal>> for Client {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Portal>) -> Result<Self, Problem> {
        let client = parts.extensions.get::<Self>().copied();
        client.ok_or_else(|| Problem::Unable("the connection has no address".to_owned()))
    }
}

impl FromRequestParts<Arc<Portal>> for SignedIn {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, portal: &Arc<Portal>) -> Result<Self, Problem> {
        let client = Client::from_request_parts(parts, portal).await?;
        let text = cookie(&parts.headers).ok_or(Problem::NotSignedIn)?;
        let session = portal.seal()?.read(&portal.cluster, text, now())?;
        let session = session.ok_or(Problem::NotSignedIn)?;
        Ok(Self { session, client })
    }
}

impl FromRequest<Arc<Portal>> for Fields {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &Arc<Portal>) -> Result<Self, Problem> {
        Self::read(request, STRANGERS_BODY_TIME_MAX).await
    }
}

impl Fields {
    async fn read(request: Request, patience: Duration) -> Result<Self, Problem> {
        if comes_from_elsewhere(request.headers()) {
            return Err(Problem::Foreign);
        }
        let kind = request.headers().get(header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).map(str::to_owned);
        let (parts, body) = whole(request, patience).await?;
        if let Some(kind) = kind.filter(|kind| kind.starts_with("multipart/")) {
            let fields = upload::fields(&kind, &body);
            let broken = || Problem::Wrong("the form arrived broken".to_owned());
            return fields.map(Self).ok_or_else(broken);
        }
        if body.iter().filter(|octet| **octet == b'&').count() >= FIELDS_MAX {
            return Err(Problem::Wrong("the form has too many fields".to_owned()));
        }
        let request = Request::from_parts(parts, Body::from(body));
        let form = Form::<Vec<(String, String)>>::from_request(request, &()).await;
        let Form(fields) = form.map_err(|error| Problem::Wrong(error.to_string()))?;
        Ok(Self(fields))
    }
}

/// A request with all of its body, if that comes in time.
pub(super) async fn whole(request: Request, patience: Duration) -> Result<(Parts, Bytes), Problem> {
    let (parts, body) = request.into_parts();
    let reading = Bytes::from_request(Request::from_parts(parts.clone(), body), &());
    let read = tokio::time::timeout(patience, reading).await;
    let read = read.map_err(|_| Problem::Wrong("what was sent took too long".to_owned()))?;
    let body = read.map_err(|error| Problem::Wrong(error.to_string()))?;
    Ok((parts, body))
}

impl FromRequest<Arc<Portal>> for Posted {
    type Rejection = Problem;

    async fn from_request(request: Request, portal: &Arc<Portal>) -> Result<Self, Problem> {
        let (mut parts, body) = request.into_parts();
        let who = SignedIn::from_request_parts(&mut parts, portal).await?;
        let fields = Fields::read(Request::from_parts(parts, body), BODY_TIME_MAX).await?;
        if !Seal::is_form_key(&who.session, fields.get("key")) {
            return Err(Problem::Foreign);
        }
        portal.may_change(&who.session.account.name)?;
        Ok(Self { who, fields })
    }
}

impl SignedIn {
    pub(super) fn person(&self) -> Person {
        Person {
            who: self.session.account.name.clone(),
            from: self.client.0.to_string(),
        }
    }

    /// The domain, if it is one of theirs. Whether others have it is not told.
    pub(super) fn domain(&self, portal: &Portal, name: &str) -> Result<DomainRecord, Problem> {
        domain_of(portal, &self.session.account.domains, name)
    }
}

pub(super) fn domain_of(
    portal: &Portal,
    domains: &[Domain],
    name: &str,
) -> Result<DomainRecord, Problem> {
    let domain = domains.iter().find(|domain| domain.as_str() == name);
    let domain = domain.ok_or(Problem::NotFound)?;
    query::domain(&portal.cluster.view(), domain)?.ok_or(Problem::NotFound)
}

impl Portal {
    /// Changes something for somebody.
    pub(super) async fn change(&self, person: &Person, command: Command) -> Result<Reply, Problem> {
        let until = Instant::now() + CHANGE_TIME_MAX;
        match person.propose(&self.cluster, command, until).await {
            Ok(Reply::Refused(refusal)) => Err(Problem::Wrong(refusal.to_string())),
            Ok(reply) => Ok(reply),
            Err(error) => Err(Problem::Unable(error.to_string())),
        }
    }
}

/// The session's text, from among the cookies.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(name, value)| (name == COOKIE).then_some(value))
}

/// Browsers say so where a form was sent by another site's page. Those that do not say are held
/// back by the form's key.
fn comes_from_elsewhere(headers: &HeaderMap) -> bool {
    headers
        .get("sec-fetch-site")
        .is_some_and(|site| site != "same-origin" && site != "none")
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::http::HeaderValue;

    use super::*;

    fn posted(body: Body) -> Request {
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        let mut request = Request::new(body);
        *request.method_mut() = axum::http::Method::POST;
        request.headers_mut().insert(header::CONTENT_TYPE, form);
        request
    }

    #[tokio::test(start_paused = true)]
    async fn a_form_that_stalls_is_given_up() {
        let begun = Instant::now();
        let stalls = futures::stream::pending::<Result<Bytes, Infallible>>();
        let read = Fields::read(posted(Body::from_stream(stalls)), STRANGERS_BODY_TIME_MAX);
        assert!(matches!(read.await, Err(Problem::Wrong(_))));
        assert_eq!(begun.elapsed(), STRANGERS_BODY_TIME_MAX);
    }

    #[tokio::test]
    async fn a_form_has_as_many_fields_as_a_page_needs() {
        let of = async |fields: usize| {
            let body = vec!["a"; fields].join("&");
            let read = Fields::read(posted(Body::from(body)), STRANGERS_BODY_TIME_MAX).await;
            read.map(|fields| fields.0.len())
        };
        assert_eq!(of(FIELDS_MAX).await.unwrap(), FIELDS_MAX);
        assert!(matches!(of(FIELDS_MAX + 1).await, Err(Problem::Wrong(_))));
    }

    #[test]
    fn a_session_is_found_among_other_cookies() {
        let mut headers = HeaderMap::new();
        assert_eq!(cookie(&headers), None);
        let text = "a=b; __Host-holdfast=abc-_; holdfast=no";
        headers.insert(header::COOKIE, HeaderValue::from_static(text));
        assert_eq!(cookie(&headers), Some("abc-_"));
    }

    #[test]
    fn a_form_that_another_site_sent_is_known() {
        let mut headers = HeaderMap::new();
        assert!(!comes_from_elsewhere(&headers));
        for (site, elsewhere) in [
            ("same-origin", false),
            ("none", false),
            ("same-site", true),
            ("cross-site", true),
        ] {
            headers.insert("sec-fetch-site", HeaderValue::from_static(site));
            assert_eq!(comes_from_elsewhere(&headers), elsewhere, "{site}");
        }
    }
}
