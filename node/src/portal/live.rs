//! The state of a domain while one looks: server-sent events, one whenever something changed.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::Stream;
use tokio::time::interval;

use super::door::{SignedIn, domain_of};
use super::overview;
use super::page::Problem;
use super::{Portal, told};

/// How often it is looked whether something changed. A person sees no difference below it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A sign of life for whatever stands between us and the browser, and for us: a connection that is
/// dead is noticed by it.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(5);

pub(super) async fn stream(
    State(portal): State<Arc<Portal>>,
    who: SignedIn,
    Path(name): Path<String>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    who.domain(&portal, &name)?;
    let ticks = interval(LOOK_EVERY);
    let begin = (portal, who, name, ticks, String::new());
    let events =
        futures::stream::unfold(begin, |(portal, who, name, mut ticks, shown)| async move {
            let mut stopping = portal.stopping.clone();
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    // The browser comes back, to a node that runs.
                    () = told(&mut stopping) => return None,
                }
                // Whoever was signed out sees no more, and a domain may be taken away.
                let now = crate::replica::now();
                let seal = portal.seal().ok()?;
                let session = seal.read(&portal.cluster, &who.session.text, now);
                let Ok(Some(session)) = session else {
                    return None;
                };
                let part = domain_of(&portal, &session.account.domains, &name)
                    .and_then(|record| overview::part(&portal, &record));
                let Ok(part) = part else { return None };
                if part != shown {
                    let event = Event::default().event("picture").data(&part);
                    return Some((Ok(event), (portal, who, name, ticks, part)));
                }
            }
        });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE_EVERY)))
}
