//! Receiving mail at the machine one is signed in from, for whom every dial-up is another address; or at
//! the configured host, for whom a proxy or NAT stands between.
//!
//! The page is the session: it never ends by itself, and each piece of it tells how the mail drains.
//! When it is closed, or its connection dies, mail is held again within seconds. It needs no script.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use futures::stream::once;
use holdfast_ledger::query;
use tokio::time::{Instant, interval};

use super::door::{Posted, SignedIn};
use super::page::{Frame, Problem, count};
use super::{Portal, overview, told};
use crate::accounts::Seal;
use crate::attendance::{Attendance, NotThere, RENEW_EVERY};
use crate::explain;
use crate::public::is_public;
use crate::replica::{Served, now};

/// How often the page says how many wait, if that changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Where the frame goes on behind a page's own part.
const PAGE_END: &str = "</main>";

#[derive(Template)]
#[template(path = "receive.html")]
struct Head {
    frame: Frame,
    /// Where mail goes, in words.
    to: String,
    at_host: bool,
}

pub(super) async fn receive(
    State(portal): State<Arc<Portal>>,
    Path(name): Path<String>,
    posted: Posted,
) -> Result<Response, Problem> {
    let record = posted.who.domain(&portal, &name)?;
    let to = SocketAddr::new(posted.who.client.0.to_canonical(), record.primary.port);
    let view = portal.cluster.view();
    let route = query::route(&view, &record.name)?;
    let at_host = query::policy(&view, &record.name)?.at_host;
    if !at_host && !route.private && !is_public(to.ip()) {
        return Err(Problem::Wrong(format!(
            "You are signed in from {}, an address inside a network, which may be another machine's where mail is \
             delivered from. Nothing was changed. Sign in from the machine that receives the mail, and not through a \
             proxy; or have the operator allow it: domain route {1} --private-addresses allow; or have mail go to your \
             server by its name while you are signed in: domain set {1} --deliver signed-in-host",
            to.ip(),
            record.name
        )));
    }
    let cluster = portal.cluster.clone();
    let account = &posted.who.session.account.name;
    let session = Attendance::begin(cluster, record.name.clone(), account, to, None);
    let session = session.await?;
    let to = match at_host {
        true => explain::whither(&view, &record)?,
        false => to.to_string(),
    };
    drop(view);
    tracing::info!(domain = %record.name, %to, account = session.account, "its owner is signed in: mail goes there");
    let head = Head {
        frame: Frame::of(&posted.who, record.name.as_str(), "overview"),
        to,
        at_host,
    };
    let head = head.render().map_err(|e| Problem::Unable(e.to_string()))?;
    // The page stays open at the end of its main part.
    let (head, tail) = head.split_once(PAGE_END).unwrap_or((&head, ""));
    let (head, tail) = (head.to_owned(), format!("{PAGE_END}{tail}"));
    let pieces = once(async move { head })
        .chain(lines(portal.clone(), session, posted.who, at_host))
        .chain(once(async move { tail }));
    let body = Body::from_stream(pieces.map(|piece| Ok::<_, Infallible>(Bytes::from(piece))));
    // Whatever stands between must hand on each piece at once.
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, body).into_response())
}

impl From<NotThere> for Problem {
    fn from(why: NotThere) -> Self {
        match why {
            NotThere::Refused(refusal) => Self::Wrong(refusal.to_string()),
            NotThere::Unable(why) => Self::Unable(why),
        }
    }
}

struct On {
    portal: Arc<Portal>,
    session: Attendance,
    who: SignedIn,
    at_host: bool,
    look: tokio::time::Interval,
    renewed: Instant,
    told: Option<u64>,
    /// The node is not stopped under them.
    _served: Served,
}

impl On {
    /// Whether they are still signed in, and the domain is still theirs.
    fn may_stay(&self) -> bool {
        let portal = &self.portal;
        let read = |seal: &Seal| seal.read(&portal.cluster, &self.who.session.text, now());
        let session = portal
            .seal()
            .ok()
            .and_then(|seal| read(&seal).ok().flatten());
        session.is_some_and(|session| session.account.domains.contains(&self.session.domain))
    }

    /// Whether mail still goes where the page says.
    fn is_true(&self) -> bool {
        let view = self.portal.cluster.view();
        query::policy(&view, &self.session.domain)
            .is_ok_and(|policy| policy.at_host == self.at_host)
    }

    /// Messages that are still to come.
    fn waiting(&self) -> Option<u64> {
        let portal = &self.portal;
        let record = query::domain(&portal.cluster.view(), &self.session.domain).ok()??;
        overview::picture(portal, &record)
            .ok()
            .map(|picture| picture.held)
    }
}

/// What the page says as time goes on; its last line says why it ended.
fn lines(
    portal: Arc<Portal>,
    session: Attendance,
    who: SignedIn,
    at_host: bool,
) -> impl futures::Stream<Item = String> {
    let served = portal.cluster.serve_somebody();
    let on = On {
        portal,
        session,
        who,
        at_host,
        look: interval(LOOK_EVERY),
        renewed: Instant::now(),
        told: None,
        _served: served,
    };
    futures::stream::unfold(Some(on), |on| async move {
        let mut on = on?;
        let mut stopping = on.portal.stopping.clone();
        loop {
            tokio::select! {
                _ = on.look.tick() => {}
                () = told(&mut stopping) => {
                    return Some((line("This node stops. Sign in again: another one answers."), None));
                }
            }
            if on.renewed.elapsed() >= RENEW_EVERY {
                if !on.may_stay() {
                    return Some((line("You were signed out. Mail is held again."), None));
                }
                if !on.is_true() {
                    let text = "Where mail goes was changed. Mail is held again; open this page anew.";
                    return Some((line(text), None));
                }
                if let Err(why) = on.session.renew().await {
                    return Some((line(&format!("Mail is held again. {why}")), None));
                }
                on.renewed = Instant::now();
                // A sign of life, so that a dead connection is noticed.
                return Some(("\n".to_owned(), Some(on)));
            }
            if let Some(waiting) = on.waiting().filter(|waiting| on.told != Some(*waiting)) {
                let text = match waiting {
                    0 => "Nothing waits. What arrives is passed on at once.".to_owned(),
                    number => format!("{} still to come.", count(number, "message")),
                };
                on.told = Some(waiting);
                return Some((line(&text), Some(on)));
            }
        }
    })
    .fuse()
}

fn line(text: &str) -> String {
    let escaped = askama::filters::escape(text, askama::filters::Html)
        .map_or_else(|_| String::new(), |safe| safe.to_string());
    format!("<p class=\"step\">{escaped}</p>\n")
}
