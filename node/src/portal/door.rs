//! Who asks: every page and form needs a session, every form its session's key.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
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

    async fn from_request(request: Request, portal: &Arc<Portal>) -> Result<Self, Problem> {
        if comes_from_elsewhere(request.headers()) {
            return Err(Problem::Foreign);
        }
        let kind = request.headers().get(header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).map(str::to_owned);
        if let Some(kind) = kind.filter(|kind| kind.starts_with("multipart/")) {
            let body = Bytes::from_request(request, portal).await;
            let body = body.map_err(|error| Problem::Wrong(error.to_string()))?;
            let fields = upload::fields(&kind, &body);
            let broken = || Problem::Wrong("the form arrived broken".to_owned());
            return fields.map(Self).ok_or_else(broken);
        }
        let form = Form::<Vec<(String, String)>>::from_request(request, portal).await;
        let Form(fields) = form.map_err(|error| Problem::Wrong(error.to_string()))?;
        Ok(Self(fields))
    }
}

impl FromRequest<Arc<Portal>> for Posted {
    type Rejection = Problem;

    async fn from_request(request: Request, portal: &Arc<Portal>) -> Result<Self, Problem> {
        let (mut parts, body) = request.into_parts();
        let who = SignedIn::from_request_parts(&mut parts, portal).await?;
        let fields = Fields::from_request(Request::from_parts(parts, body), portal).await?;
        if !Seal::is_form_key(&who.session, fields.get("key")) {
            return Err(Problem::Foreign);
        }
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
    use axum::http::HeaderValue;

    use super::*;

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
